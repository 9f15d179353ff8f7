"""Frames in general: their bytes, strict values, immutability, equality, and what importing them costs."""

import subprocess
import sys
from typing import Annotated

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import Field

from schemas import JSON, TOPICS, Frame, FrameError, RoutingPlan, TokenBatch
from schemas.frame import Axes, Inner

FRAMES = [topic.frame for topic in TOPICS]


HEADER = {"batch_id": "b", "ts_ns": 1, "model": "m"}


class Shapes(Frame):
    """Every kind of array: signed, unsigned, float and bool, of one to three axes."""

    flags: Annotated[NDArray[np.bool_], Axes("a")]
    half: Annotated[NDArray[np.float16], Axes("a", "b")] | None = None
    cube: Annotated[NDArray[np.int8], Axes("a", "b", "c")] | None = None
    note: str = Field(default="")


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
def test_every_example_survives_both_forms(frame, round_trip):
    round_trip(frame.example())


def test_the_binary_form_is_a_safetensors_file_that_the_library_alone_reads():
    batch = TokenBatch.example()
    arrays = safetensors.numpy.load(batch.encode())
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: getattr(batch, name).tolist() for name in batch.arrays if getattr(batch, name) is not None
    }


@given(text=st.text(max_size=30), rows=st.integers(1, 3))
def test_the_binary_form_is_what_the_library_would_write(text, rows):
    frame = Shapes(flags=[True] * rows, half=np.zeros((rows, 2)), cube=np.ones((rows, 2, 3), np.int8), note=text)
    batch = TokenBatch.example().model_copy(update={"model": text})
    for written in (frame, batch):
        arrays = {name: array for name in written.arrays if (array := getattr(written, name)) is not None}
        header = written.model_dump_json(exclude=set(written.arrays), exclude_none=True)
        assert written.encode() == safetensors.numpy.save(arrays, metadata={"qstream": header})


def test_a_frame_that_is_too_large_is_not_written():
    batch = TokenBatch(**HEADER, token_id=np.zeros(130_000, np.uint64))
    with pytest.raises(FrameError, match="must be at most 1000000 bytes, got"):
        batch.encode()


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/avro", "x" * 100_000])
def test_an_unknown_content_type_is_refused_both_ways(content_type):
    for attempt in (lambda: TokenBatch.decode(b"", content_type), lambda: TokenBatch.example().encode(content_type)):
        with pytest.raises(FrameError, match=r"must be application/vnd\.safetensors or application/json") as caught:
            attempt()
        assert len(str(caught.value)) < 300


def test_an_error_names_few_faults_and_counts_the_rest(refuse):
    message = refuse(RoutingPlan, b'{"ts_ns":"now"}', JSON)
    assert message.count(";") == 4
    assert message.endswith("more")


def test_constructing_copies_a_writable_array_and_leaves_it_as_it_was():
    ids = np.array([1, 2, 3], np.uint64)
    batch = TokenBatch(**HEADER, token_id=ids)
    assert ids.flags.writeable
    ids[0] = 99
    assert batch.token_id.tolist() == [1, 2, 3]


def test_constructing_shares_a_read_only_array():
    ids = np.array([1, 2, 3], np.uint64)
    ids.flags.writeable = False
    assert np.shares_memory(TokenBatch(**HEADER, token_id=ids).token_id, ids)


def test_arrays_and_fields_of_a_frame_cannot_be_written():
    for batch in (
        TokenBatch.example(),
        TokenBatch.decode(TokenBatch.example().encode(JSON), JSON),
        TokenBatch.decode(TokenBatch.example().encode()),
    ):
        with pytest.raises(ValueError, match="read-only"):
            batch.token_id[0] = 1
        with pytest.raises(ValueError, match="frozen"):
            batch.model = "other"


def test_arrays_of_another_layout_keep_their_values():
    table = np.arange(24, dtype=">i8").reshape(4, 6)[:, ::2].T
    batch = TokenBatch(**HEADER, layer=0, token_id=np.arange(3, dtype=np.int16), topk_ids=table)
    assert batch.topk_ids.flags.c_contiguous
    assert batch.topk_ids.dtype == np.dtype("int32")
    assert batch.topk_ids.tolist() == table.tolist()


def test_lists_of_numpy_numbers_and_rows_are_taken():
    batch = TokenBatch.build(
        **HEADER, layer=0, token_id=[np.uint64(2**64 - 1), np.uint64(3)], topk_ids=[np.array([1, 2]), (3, np.int8(4))]
    )
    assert batch.token_id.tolist() == [2**64 - 1, 3]
    assert batch.topk_ids.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "ids",
    [
        [np.int64(-1)],
        [np.bool_(True)],
        [np.float64(1)],
        np.array([1.0]),
        np.array(["1"]),
        np.array([1], object),
        np.array([-1]),
        np.array([True]),
        np.array([1], "M8[s]"),
        np.array(1, np.uint64),
        np.zeros((1, 1), np.uint64),
        np.array([], np.uint64),
        pytest.param(iter([1]), id="an iterator"),
        {1},
    ],
    ids=str,
)
def test_python_values_that_would_change_are_refused(ids):
    with pytest.raises(FrameError, match=r"TokenBatch\.v1"):
        TokenBatch.build(**HEADER, token_id=ids)


def test_frames_are_equal_if_class_header_arrays_and_dtypes_are():
    batch = TokenBatch.example()
    same = TokenBatch.decode(batch.encode())
    assert batch == same
    assert batch != batch.model_copy(update={"model": "other"})
    assert batch != batch.model_copy(update={"label": None})
    assert batch != batch.model_copy(update={"token_id": np.array([11, 12, 14], np.uint64)})
    assert batch != batch.model_copy(update={"token_id": batch.token_id.astype(np.int64)})
    assert batch != RoutingPlan.example()
    assert batch != "batch"


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 2**32),
    note=st.text(max_size=20),
)
def test_arrays_of_every_kind_survive(shape, seed, note, round_trip):
    rng = np.random.default_rng(seed)
    round_trip(
        Shapes(
            flags=rng.random(shape[0]) < 0.5,
            half=rng.standard_normal(shape[:2]).astype(np.float16),
            cube=rng.integers(-128, 128, shape).astype(np.int8),
            note=note,
        )
    )


@pytest.mark.parametrize("flags", [[1, 0], ["true"], [None], np.array([1, 0])], ids=str)
def test_a_bool_array_takes_only_bools(flags):
    with pytest.raises(FrameError, match="flags must be bool"):
        Shapes.build(flags=flags)


def test_axes_of_one_name_have_one_length():
    with pytest.raises(FrameError, match="axis 'b' of cube must be as long as in half, 2, got 3"):
        Shapes.build(flags=[True], half=np.zeros((1, 2)), cube=np.zeros((1, 3, 1), np.int8))


def test_an_array_of_one_axis_may_be_empty(round_trip):
    round_trip(Shapes(flags=[]))


def test_a_frame_inside_another_is_checked_where_it_comes_from_outside():
    class Outer(Frame):
        part: Annotated[Shapes, Inner()]

    part = Shapes(flags=[True])
    frame = Outer(part=part)
    assert frame.part is part
    assert Outer.decode(frame.encode()) == Outer.decode(frame.encode(JSON), JSON) == frame
    for value in ({"flags": [1]}, TokenBatch.example()):
        with pytest.raises(FrameError, match="part"):
            Outer.build(part=value)


def test_a_frame_without_an_example_says_so():
    with pytest.raises(NotImplementedError, match="Shapes gives no example"):
        Shapes.example()


def test_importing_the_schemas_loads_nothing_heavy():
    code = "import sys, schemas, schemas.generate; print([n for n in sys.argv[1:] if n in sys.modules])"
    heavy = ["pandas", "torch", "pennylane", "numba", "qstream", "agents", "confluent_kafka", "redis", "faust"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
