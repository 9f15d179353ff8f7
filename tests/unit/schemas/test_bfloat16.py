"""bfloat16 in frames: safetensors' own code on the wire, bits in the array, and the conversion of numbers."""

from __future__ import annotations

import json
import struct
from typing import Annotated

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.bfloat16 import from_bfloat16, to_bfloat16
from schemas.frame import JSON, Axes, Frame, FrameError


class Block(Frame):
    name: str
    wide: Annotated[NDArray[np.float32], Axes("n")]
    values: Annotated[NDArray[np.uint16], Axes("n", wire="BF16")]
    half: Annotated[NDArray[np.float16], Axes("n")]
    counts: Annotated[NDArray[np.uint16], Axes("n")] | None = None


def block(values: list[int]) -> Block:
    few = np.zeros(len(values))
    return Block(name="w", wide=few.astype(np.float32), values=np.array(values, np.uint16), half=few.astype(np.float16))


def body(code: str, field: str = "values") -> bytes:
    """A body of one value a field, `field` under this code."""
    codes = {"wide": "F32", "values": "BF16", "half": "F16"} | {field: code}
    header, end = {"__metadata__": {"qstream": '{"name":"w"}'}}, 0
    for name, stored in codes.items():
        size = 4 if stored == "F32" else 2
        header[name] = {"dtype": stored, "shape": [1], "data_offsets": [end, end + size]}  # type: ignore[assignment]
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


@given(st.lists(st.integers(0, 65535), max_size=70))
def test_all_bits_survive_both_forms_even_nan_and_infinity(values):
    frame = block(values)
    assert Block.decode(frame.encode()) == frame
    assert Block.decode(frame.encode(JSON), JSON) == frame


def test_the_bytes_are_those_that_the_safetensors_library_writes():
    frame = block([16256, 49152])
    arrays = {
        name: safetensors.TensorSpec(dtype=dtype, shape=[2], data_ptr=array.ctypes.data, data_len=array.nbytes)
        for name, dtype in (("wide", "float32"), ("values", "bfloat16"), ("half", "float16"))
        for array in [getattr(frame, name)]
    }
    header = frame.model_dump_json(exclude=frame.array_names, exclude_none=True)
    assert frame.encode() == bytes(safetensors.serialize(arrays, {"qstream": header}))
    assert dict(safetensors.deserialize(frame.encode()))["values"]["dtype"] == "BF16"


def test_bits_under_the_dtypes_own_code_are_taken_and_others_are_not():
    assert Block.decode(body("U16")) == Block.decode(body("BF16")) == block([0])
    for code in ("F16", "I16"):
        with pytest.raises(FrameError, match=rf"Block\.v1\.values must be uint16 \(BF16\), got dtype {code}"):
            Block.decode(body(code))


def test_an_array_that_is_not_declared_so_is_not_read_as_bfloat16():
    with pytest.raises(FrameError, match=r"Block\.v1\.counts must be uint16, got dtype BF16"):
        Block.decode(body("BF16", "counts"))


def test_only_uint16_can_be_declared_so():
    with pytest.raises(TypeError, match=r"Wrong\.values must be an array of uint16, got float16"):

        class Wrong(Frame):
            values: Annotated[NDArray[np.float16], Axes("n", wire="BF16")]


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_a_number_becomes_the_nearest_bfloat16_with_ties_to_even(numbers):
    given_values = np.array(numbers, np.float32)
    bits = to_bfloat16(given_values)
    back = from_bfloat16(bits)
    finite = np.isfinite(given_values)
    assert np.array_equal(np.isnan(back), np.isnan(given_values))
    for value, code in zip(given_values[finite].tolist(), bits[finite].tolist(), strict=True):
        around = [code + step for step in (-1, 1) if (code + step) & 0x7F80 != 0x7F80 and 0 <= code + step < 65536]
        error = abs(float(_widened(code)) - value)
        assert all(
            error < abs(float(_widened(other)) - value) or (error == abs(float(_widened(other)) - value) and code % 2 == 0)
            for other in around
            if (other ^ code) < 0x8000
        )


@given(st.integers(0, 65535).filter(lambda code: code & 0x7F80 != 0x7F80 or not code & 0x7F))
def test_every_bfloat16_but_nan_survives_the_way_to_float32_and_back(code):
    assert to_bfloat16(from_bfloat16(np.array([code], np.uint16))).tolist() == [code]


def _widened(code: int) -> float:
    """The value as a wider number, in which infinity stands where the next finite number would be."""
    if code & 0x7FFF == 0x7F80:
        return float(2.0**128 * (-1 if code & 0x8000 else 1))
    return float(from_bfloat16(np.array([code], np.uint16))[0])
