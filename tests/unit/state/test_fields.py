"""State frames as hash fields: nothing is lost, small changes are small, and damage is a named error."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pydantic import Field

from qstream.routing.memory import RoutingState
from qstream.state.fields import MAX_CHUNK_BYTES, pack, unpack
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.frame import Axes, Frame, FrameError
from schemas.placement import PlacementPlan


class Memory(Frame):
    name: str = ""
    count: int | None = 3
    rate: float = 0.0
    by_label: dict[str, int] | None = None
    table: Annotated[NDArray[np.int32], Axes("layers", "windows", "experts")] | None = None
    mean: Annotated[NDArray[np.float64], Axes("experts")] | None = None
    half: Annotated[NDArray[np.float16], Axes("x", "y")] | None = None
    seen: Annotated[NDArray[np.bool_], Axes("n")] | None = None
    seed: Annotated[NDArray[np.uint64], Axes("seeds")] | None = None


class MemoryV2(Memory):
    VERSION = 2


def shapes(rank: int, longest: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.integers(1, longest)] * rank)


def arrays(dtype: Any, shape: st.SearchStrategy[tuple[int, ...]], **elements: Any) -> st.SearchStrategy[Any]:
    return st.none() | hnp.arrays(dtype, shape, elements=elements or None)


finite = {"allow_nan": False, "allow_infinity": False}


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    experts = draw(st.integers(1, 40))
    return Memory(
        name=draw(st.text(max_size=20)),
        count=draw(st.none() | st.integers()),
        rate=draw(st.floats(**finite)),
        by_label=draw(st.none() | st.dictionaries(st.text(max_size=5), st.integers())),
        table=draw(arrays(np.int32, st.tuples(st.integers(1, 5), st.integers(1, 700), st.just(experts)))),
        mean=draw(arrays(np.float64, st.just((experts,)), **finite)),
        half=draw(arrays(np.float16, shapes(2, 300), **finite)),
        seen=draw(arrays(np.bool_, st.tuples(st.integers(0, 70_000)))),
        seed=draw(arrays(np.uint64, st.tuples(st.integers(0, 3)))),
    )


@given(memories())
def test_a_frame_survives_packing_and_no_field_is_over_the_limit(state: Memory) -> None:
    fields = pack(state)

    assert unpack(Memory, fields) == state
    assert all(len(value) <= MAX_CHUNK_BYTES for name, value in fields.items() if name != "h")


def test_a_frame_that_asks_for_smaller_chunks_writes_no_more_than_one_for_a_row() -> None:
    class Fine(Memory):
        CHUNK_BYTES = 1 << 10

    mean = np.zeros(400)
    before = pack(Fine(mean=mean))
    mean[-1] = 1
    after = pack(Fine(mean=mean))

    assert unpack(Fine, after) == Fine(mean=mean)
    assert max(len(value) for name, value in before.items() if name != "h") <= Fine.CHUNK_BYTES
    assert [name for name in before if before[name] != after[name]] == ["a:mean:3"]


@pytest.mark.parametrize("cls", [ExpertTopology, ExpertLoad, PlacementPlan])
def test_the_frames_of_the_wire_can_be_states(cls: type[Frame]) -> None:
    assert unpack(cls, pack(cls.example())) == cls.example()


@given(memories(), st.data())
def test_damage_is_a_frame_error_or_a_valid_frame_and_never_another_error(state: Memory, data: st.DataObject) -> None:
    fields = pack(state)
    name = data.draw(st.sampled_from(sorted(fields)))
    cut = data.draw(st.integers(0, len(fields[name])))
    fields[name] = fields[name][:cut] + data.draw(st.binary(max_size=3)) + fields[name][cut + data.draw(st.integers(0, 2)) :]
    if data.draw(st.booleans()):
        del fields[data.draw(st.sampled_from(sorted(fields)))]

    with contextlib.suppress(FrameError):
        assert isinstance(unpack(Memory, fields), Memory)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"{}",
        b'{"header": {}}',
        b'{"header": 3, "arrays": {}}',
        b'{"header": {}, "arrays": {"mean": 3}}',
        b'{"header": {}, "arrays": {"mean": ["<f8", 3]}}',
        b'{"header": {}, "arrays": {"mean": ["<f4", [1]]}}',
        b'{"header": {}, "arrays": {"mean": [">f8", [1]]}}',
        b'{"header": {}, "arrays": {"mean": ["<f8", [-1]]}}',
        b'{"header": {}, "arrays": {"mean": ["<f8", [1, 1]]}}',
        b'{"header": {}, "arrays": {"mean": ["<f8", ["1"]]}}',
        b'{"header": {}, "arrays": {"mean": ["<f8", [10000000000000000000000]]}}',
        b'{"header": {"rate": "x"}, "arrays": {}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_header_is_a_frame_error(header: bytes) -> None:
    with pytest.raises(FrameError, match=r"Memory\.v1"):
        unpack(Memory, {"h": header, "a:mean:0": bytes(8)})


def test_a_state_of_another_major_version_is_a_frame_error_that_names_both() -> None:
    with pytest.raises(FrameError, match=r"must be MemoryV2\.v2, got 'Memory\.v1'"):
        unpack(MemoryV2, pack(Memory()))


def test_what_a_newer_minor_version_added_is_ignored() -> None:
    newer = pack(Memory(name="a", mean=np.ones(3)))
    newer["h"] = newer["h"].replace(b'"name":"a"', b'"name":"a","cls":1,"self":2,"table":3')
    newer["h"] = newer["h"].replace(b'"arrays":{', b'"arrays":{"later":["|i1",[1]],')
    newer["a:later:0"] = b"\1"

    assert unpack(Memory, newer) == Memory(name="a", mean=np.ones(3))


def test_a_table_of_every_layer_is_one_chunk_a_layer_and_one_changed_cell_changes_one_chunk() -> None:
    table = np.arange(16 * 58 * 256, dtype=np.int32).reshape(16, 58, 256)
    before = pack(Memory(table=table))
    table = table.copy()
    table[7, 3, 5] = -1
    after = pack(Memory(table=table))

    assert [name for name in before if name != "h"] == [f"a:table:{i}" for i in range(16)]
    assert {len(value) for name, value in before.items() if name != "h"} == {58 * 256 * 4}
    assert [name for name in before if before[name] != after[name]] == ["a:table:7"]


def test_chunks_hold_whole_rows_and_only_a_row_over_the_limit_is_cut() -> None:
    whole = pack(Memory(half=np.zeros((10, 10_000), np.float16)))
    cut = pack(Memory(half=np.zeros((2, 50_000), np.float16)))

    assert [len(value) for name, value in whole.items() if name != "h"] == [60_000, 60_000, 60_000, 20_000]
    assert [len(value) for name, value in cut.items() if name != "h"] == [61_440, 61_440, 61_440, 15_680]


def test_bytes_are_little_endian() -> None:
    assert pack(Memory(seed=np.array([1], np.uint64)))["a:seed:0"] == b"\1" + bytes(7)


class Learner(Frame):
    steps: int = 0
    mean: Annotated[NDArray[np.float32], Axes("arms")]


class Hedge(Frame):
    rate: float = 0.5
    best: Learner | None = None
    weight: Annotated[NDArray[np.float64], Axes("experts")] | None = None


class Nest(Frame):
    """Frames in every place where a state may keep them."""

    closed: int = 0
    one: Learner
    maybe: Learner | Hedge | None = None
    row: tuple[Learner, ...] = ()
    pair: tuple[Hedge, Learner] | None = None
    several: list[Hedge | Learner] = Field(default_factory=list)
    named: dict[str, Learner] = Field(default_factory=dict)
    grid: dict[str, list[Learner]] | None = None
    note: tuple[str, ...] = Field(default=(), strict=False)


def learner(*mean: float, steps: int = 0) -> Learner:
    return Learner(steps=steps, mean=np.array(mean, np.float32))


def nests() -> st.SearchStrategy[Nest]:
    learners = st.builds(learner, *[st.floats(0, 1, width=16)] * 3, steps=st.integers(0, 9))
    weights = hnp.arrays(np.float64, st.tuples(st.integers(0, 5)), elements=finite)
    hedges = st.builds(Hedge, best=st.none() | learners, weight=st.none() | weights)
    names = st.text("a.:%é", max_size=4)
    return st.builds(
        Nest,
        one=learners,
        maybe=st.none() | learners | hedges,
        row=st.lists(learners, max_size=3).map(tuple),
        pair=st.none() | st.tuples(hedges, learners),
        several=st.lists(learners | hedges, max_size=3),
        named=st.dictionaries(names, learners, max_size=3),
        grid=st.none() | st.dictionaries(names, st.lists(learners, max_size=2), max_size=2),
        note=st.lists(st.text(max_size=3), max_size=2).map(tuple),
    )


@given(nests())
def test_frames_inside_a_frame_survive_wherever_they_are(state: Nest) -> None:
    assert unpack(Nest, pack(state)) == state


@given(nests())
def test_no_header_holds_the_header_or_the_arrays_of_another_frame(state: Nest) -> None:
    fields = pack(state)
    headers = {name: json.loads(value)["header"] for name, value in fields.items() if name.startswith("h")}

    assert all(("steps" in header) == (header["frame"] == "Learner.v1") for header in headers.values())
    assert not any(b"mean" in value for name, value in fields.items() if name == "h")
    assert all("mean" not in header for header in headers.values())


def test_a_small_change_of_one_inner_frame_writes_its_fields_alone() -> None:
    learners = [Learner(mean=np.full(5000, n, np.float32)) for n in range(50)]
    before = pack(Nest(one=learner(1), row=tuple(learners)))
    learners[7] = learners[7].model_copy(update={"steps": 1})
    after = pack(Nest(one=learner(1), row=tuple(learners)))

    assert len(before["h"]) < 3000
    assert [name for name in before if before[name] != after[name]] == ["h:row.7"]
    assert len(after["h:row.7"]) < 150


def test_a_state_with_a_large_topology_has_small_headers_and_a_small_change_writes_a_small_field() -> None:
    topology = ExpertTopology(
        num_layers=58,
        num_logical_experts=256,
        num_gpus=4096,
        slots_per_gpu=1,
        num_nodes=512,
        node_of_gpu=np.arange(4096, dtype=np.int32) // 8,
        gpu_capacity=np.ones(4096, np.float32),
    )
    state = RoutingState.example().model_copy(update={"topology": topology})
    before = pack(state)
    after = pack(state.model_copy(update={"open_tokens": state.open_tokens + 1}))
    capacity = topology.gpu_capacity.copy()
    capacity[9] = 0.5
    slow = pack(state.model_copy(update={"topology": topology.model_copy(update={"gpu_capacity": capacity})}))

    assert {name for name in before if name.startswith("h")} == {
        "h",
        "h:topology",
        "h:shares",
        "h:calibration",
        "h:calibration.miss",
    }
    assert max(len(value) for name, value in before.items() if name.startswith("h")) < 1024
    assert [name for name in before if before[name] != after[name]] == ["h"]
    assert [name for name in before if before[name] != slow[name]] == ["a:topology.gpu_capacity:0"]
    assert max(map(len, before.values())) <= MAX_CHUNK_BYTES


@given(nests(), st.data())
def test_damage_of_inner_frames_is_a_frame_error_or_a_valid_frame(state: Nest, data: st.DataObject) -> None:
    fields = pack(state)
    name = data.draw(st.sampled_from(sorted(fields)))
    cut = data.draw(st.integers(0, len(fields[name])))
    fields[name] = fields[name][:cut] + data.draw(st.binary(max_size=3)) + fields[name][cut + data.draw(st.integers(0, 2)) :]

    with contextlib.suppress(FrameError):
        assert isinstance(unpack(Nest, fields), Nest)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"one": {"frame": "Learner.v2"}}, r"field 'one' of the state must be Learner\.v1, got 'Learner\.v2'"),
        ({"one": {"frame": "Learner.v1"}, "row": [{"frame": "Hedge.v1"}]}, r"field 'row\.0' of the state must be Learner\.v1"),
        ({"one": {"frame": 3}}, r"Nest\.v1\.one\.frame must be a valid string, got 3"),
        ({"one": {"frame": "Learner.v1"}, "maybe": {"frame": "Hedge.v1"}}, r"Hedge\.v1: the state has no 'h:maybe'"),
        ({}, r"Nest\.v1\.one must be given, got nothing"),
    ],
    ids=str,
)
def test_an_inner_frame_that_is_another_or_lost_is_named(header: dict[str, Any], said: str) -> None:
    fields = pack(Nest(one=learner(1)))
    fields["h"] = json.dumps({"arrays": {}, "header": header}).encode()
    with pytest.raises(FrameError, match=said):
        unpack(Nest, fields)


def test_inner_frames_nested_without_end_are_a_frame_error() -> None:
    text = "[" * 900 + "]" * 900
    with pytest.raises(FrameError):
        unpack(Nest, {"h": f'{{"arrays":{{}},"header":{{"one":{text}}}}}'.encode()})
