"""Bodies that are read without a copy, and those that are left to the safetensors library."""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from schemas.frame import HEADER_KEY, Axes, Frame, Name
from schemas.layout import usual_layout


class Sample(Frame):
    node: Name
    watts: Annotated[NDArray[np.float32], Axes("gpus")]
    counts: Annotated[NDArray[np.int64], Axes("steps", "counters")]


SAMPLE = Sample(node="a", watts=np.float32([1, 2, 3]), counts=np.arange(6).reshape(2, 3))


def written(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def parts() -> tuple[dict[str, Any], bytes]:
    """The header of an encoded sample, and its arrays' bytes."""
    data = SAMPLE.encode()
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


def read(data: bytes) -> Any:
    return usual_layout(data, Sample.dtypes, Sample.codes)


def test_what_a_frame_writes_is_read_as_views_of_its_bytes():
    data = SAMPLE.encode()
    header, arrays = read(data)
    assert HEADER_KEY in header["__metadata__"]
    assert {name: array.tolist() for name, array in arrays.items()} == {"watts": [1, 2, 3], "counts": [[0, 1, 2], [3, 4, 5]]}
    for array in arrays.values():
        assert array.base is data
        assert array.flags.aligned
        assert not array.flags.writeable


def test_what_the_library_writes_is_read_so_too():
    arrays = {"watts": np.asarray(SAMPLE.watts), "counts": np.asarray(SAMPLE.counts)}
    assert read(safetensors.numpy.save(arrays, metadata={HEADER_KEY: "{}"})) is not None


def change(name: str, **fields: Any) -> bytes:
    header, body = parts()
    header[name] |= fields
    return written(header, body)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(SAMPLE.encode()[:-4], id="cut"),
        pytest.param(SAMPLE.encode() + b"\0" * 8, id="longer"),
        pytest.param((2**63).to_bytes(8, "little") + SAMPLE.encode()[8:], id="a-header-beyond-the-end"),
        pytest.param(change("counts", shape=[-1, 3]), id="negative-shape"),
        pytest.param(change("counts", shape=[2**62, 2**62]), id="a-shape-that-overflows"),
        pytest.param(change("counts", shape=[2, 3.0]), id="a-shape-of-floats"),
        pytest.param(change("counts", shape="ab"), id="a-shape-of-letters"),
        pytest.param(change("counts", shape=[2, 2]), id="a-shape-that-is-too-small"),
        pytest.param(change("counts", dtype="F64"), id="another-dtype"),
        pytest.param(change("counts", dtype=["I64"]), id="a-dtype-that-is-no-name"),
        pytest.param(change("watts", data_offsets=[0, 12]), id="an-array-over-another"),
        pytest.param(change("watts", data_offsets=None), id="no-offsets"),
        pytest.param(written({"__metadata__": {HEADER_KEY: 1}}, b""), id="metadata-that-is-no-text"),
        pytest.param(written({"__metadata__": [], "x": 1}, b""), id="metadata-that-is-a-list"),
        pytest.param(written({}, b""), id="no-metadata"),
    ],
)
def test_all_else_is_left_to_the_library(data):
    assert read(data) is None


def test_an_array_that_no_field_declares_is_left_to_the_library_and_the_frame_is_read():
    header, body = parts()
    header["new"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
    data = written(header, body + b"\0" * 4)
    assert read(data) is None
    assert Sample.decode(data) == SAMPLE


def test_an_array_that_begins_off_its_alignment_is_copied():
    fields = json.dumps({"frame": Sample.tag(), "node": "a"})
    header = {
        "__metadata__": {HEADER_KEY: fields},
        "watts": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "counts": {"dtype": "I64", "shape": [1, 1], "data_offsets": [4, 12]},
    }
    data = written(header, np.float32([7]).tobytes() + np.int64([8]).tobytes())
    assert read(data) is None
    frame = Sample.decode(data)
    assert (frame.watts.tolist(), frame.counts.tolist()) == ([7], [[8]])
    assert frame.counts.flags.aligned
