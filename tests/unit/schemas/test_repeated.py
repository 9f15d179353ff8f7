"""Headers that come again with other numbers: what comes of a body is what it would be alone, and faults are named as ever."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.frame import HEADER_KEY, Axes, Count, Frame, FrameError, Name, Names, _read_safetensors
from schemas.repeated import read_repeated


class Reading(Frame):
    CHANGING: ClassVar[tuple[str, ...]] = ("ts_ns", "seq")

    node: Name
    ts_ns: Count
    seq: Count = 0
    names: Names = ()
    watts: Annotated[NDArray[np.float32], Axes("gpus")]
    counts: Annotated[NDArray[np.uint64], Axes("counters", "gpus")] | None = None


class Plain(Reading):
    """The same, always read the long way."""

    CHANGING: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def tag(cls) -> str:
        return Reading.tag()


Plain.name_and_version = Reading.tag()


def reading(number: int, **changed: Any) -> Reading:
    values: dict[str, Any] = {"watts": np.float32([number, 2]), "counts": np.uint64([[number, 2**63]])}
    return Reading(**{"node": "a", "ts_ns": 10**18 + number, "seq": number, "names": ("x", '"ts_ns":7'), **values, **changed})


def written(fields: str, *, shape: tuple[int, ...] = (1,)) -> bytes:
    arrays = {"watts": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}
    text = json.dumps({"__metadata__": {HEADER_KEY: fields}, **arrays}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + np.float32([1]).tobytes()


def read(data: bytes) -> Any:
    return read_repeated(Reading, data, _read_safetensors)


def outcome(cls: type[Frame], data: bytes) -> Any:
    """What a frame says of a body, its values or its fault."""
    try:
        return cls.decode(data).encode()
    except FrameError as exc:
        return str(exc)


@pytest.mark.parametrize("number", [0, 9, 10, 123_456, 2**62])
def test_a_header_that_differs_in_numbers_alone_gives_the_same_frame_as_on_the_long_way(number):
    for frame in (reading(1), reading(number), reading(number, counts=None), reading(number, node="b")):
        data = frame.encode()
        found = read(data)
        assert found == frame == _read_safetensors(Reading, data)
        assert found.encode() == data
        assert found.model_fields_set == _read_safetensors(Reading, data).model_fields_set
        for array in (found.watts, found.counts):
            assert array is None or (array.base is data and not array.flags.writeable)


def test_what_is_known_of_a_sender_is_shared_and_each_frame_has_its_own_numbers():
    first, second = read(reading(1).encode()), read(reading(2).encode())
    assert first.names is second.names
    assert (first.seq, second.seq, first.watts[0], second.watts[0]) == (1, 2, 1, 2)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param('{"node":"a","ts_ns":5,"seq":6,"ts_ns":7}', id="twice-in-an-object"),
        pytest.param('{"node":"a","ts_ns":5,"seq":6,"\\u0074s_ns":7}', id="twice-in-other-letters"),
        pytest.param('{"node":"a","ts_ns":5,"more":{"seq":6}}', id="in-another-object"),
        pytest.param('{"node":"a","more":{"ts_ns":1},"ts_ns":5,"seq":6}', id="in-an-object-before"),
        pytest.param('{"seq":6,"node":"a","ts_ns":5}', id="in-another-order"),
        pytest.param('{"node":"a","ts_ns":5}', id="without-one"),
        pytest.param('{"node":"a","ts_ns":5.0,"seq":6}', id="a-float"),
        pytest.param('{"node":"a","ts_ns":5e3,"seq":6}', id="an-exponent"),
        pytest.param('{"node":"a","ts_ns":05,"seq":6}', id="a-zero-before-it"),
        pytest.param('{"node":"a","ts_ns":-5,"seq":6}', id="negative"),
        pytest.param('{"node":"a","ts_ns":9223372036854775808,"seq":6}', id="too-large"),
        pytest.param('{"node":"a","ts_ns":92233720368547758070,"seq":6}', id="far-too-large"),
        pytest.param('{"node":"a","ts_ns":"5","seq":6}', id="text"),
        pytest.param('{"node":"","ts_ns":5,"seq":6}', id="another-field-at-fault"),
        pytest.param('{"node":"a","ts_ns":5,"seq":6', id="not-json"),
        pytest.param('{"frame":"Other.v1","node":"a","ts_ns":5,"seq":6}', id="another-frame"),
    ],
)
def test_a_header_in_which_the_numbers_are_not_those_fields_goes_the_long_way(fields):
    for data in (written(fields), written(fields.replace("6", "8"))):
        assert read(data) is None
        assert outcome(Reading, data) == outcome(Plain, data)


def test_faults_of_a_body_whose_header_is_known_are_named():
    good = reading(1).encode()
    assert read(good) is not None
    start = 8 + int.from_bytes(good[:8], "little")
    bad = bytearray(good)
    bad[-8:] = np.float32([np.nan, 1]).tobytes()
    for data, message in (
        (bytes(bad), "Reading.v1.watts must be finite numbers, got NaN or infinity"),
        (good[:-4], "not a safetensors file"),
        (good + b"\0" * 8, "not a safetensors file"),
        (good[:start], "not a safetensors file"),
    ):
        assert read(data) is None
        with pytest.raises(FrameError, match=message):
            Reading.decode(data)


def test_an_array_that_does_not_begin_on_its_alignment_goes_the_long_way():
    frame = reading(3)
    data = frame.encode()
    length = int.from_bytes(data[:8], "little")
    moved = (length + 4).to_bytes(8, "little") + data[8 : 8 + length] + b"    " + data[8 + length :]
    assert read(moved) is None
    assert Reading.decode(moved) == frame
