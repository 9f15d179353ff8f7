"""Blocks in any order become whole tensors; what is lost is named, and memory is bounded."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.compression import BlockError, Incomplete, TensorAssembler, TensorPart, Whole
from qstream.compression import assembler as rooms
from schemas.tensors import RestoredBlock


def parts_of(x: np.ndarray, blocks: int, name: str = "m/w", step: int = 0) -> list[TensorPart]:
    raw, dtype = x.reshape(-1), str(x.dtype)
    cuts = np.linspace(0, raw.size, blocks + 1).astype(int)
    return [
        TensorPart(name, step, dtype, x.shape, n, blocks, int(a), raw[a:b].view(np.uint8))
        for n, (a, b) in enumerate(itertools.pairwise(cuts))
    ]


def test_blocks_in_any_order_and_repeated_become_the_tensor_once() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((30, 7)).astype(np.float32)
    for _ in range(20):
        assembler = TensorAssembler()
        parts = parts_of(x, 9)
        order = rng.permutation([*range(9), *range(9)])
        ended = [each for n in order for each in assembler.add(parts[n], 0.0)]
        assert [type(each) for each in ended] == [Whole]
        assert np.array_equal(ended[0].array, x)
        assert assembler.held_bytes == 0


def test_a_newer_step_or_time_closes_an_incomplete_one_and_names_what_is_missing() -> None:
    x, assembler = np.arange(12.0), TensorAssembler(timeout_s=5.0)
    for part in parts_of(x, 4)[1:3]:
        assert assembler.add(part, 0.0) == []
    assert assembler.add(parts_of(x, 4, step=1)[0], 1.0) == [Incomplete("m/w", 0, (0, 3))]
    assert assembler.add(parts_of(x, 4)[0], 1.0) == []  # late
    assert assembler.expire(5.9) == []
    assert assembler.expire(6.0) == [Incomplete("m/w", 1, (1, 2, 3))]


def test_the_oldest_is_closed_where_memory_or_count_would_be_exceeded() -> None:
    x = np.zeros(1000, np.float64)
    assembler = TensorAssembler(max_bytes=20_000, max_open=3)
    ended = []
    for n in range(50):
        ended += assembler.add(parts_of(x, 2, name=f"t{n}")[0], 0.0)
        assert assembler.held_bytes <= 20_000
    assert [each.tensor_id for each in ended] == [f"t{n}" for n in range(48)]
    with pytest.raises(BlockError, match=r"^limit: tensor 'big' must be at most 20000 bytes with 256 a block, got 8000512"):
        assembler.add(parts_of(np.zeros(1_000_000), 2, name="big")[0], 0.0)


def test_blocks_that_do_not_fit_are_refused() -> None:
    x, assembler = np.arange(12.0), TensorAssembler()
    first, second = parts_of(x, 2)
    assembler.add(first, 0.0)
    lies = (
        TensorPart("m/w", 0, "float64", (13,), 1, 2, 6, second.data),
        TensorPart("m/w", 0, "float64", (12,), 1, 2, 3, second.data),
        TensorPart("m/w", 0, "float64", (12,), 1, 2, 7, second.data),
        TensorPart("m/w", 0, "float64", (12,), 2, 2, 6, second.data),
        TensorPart("m/w", 0, "object", (12,), 1, 2, 6, second.data),
    )
    for lie in lies:
        with pytest.raises(BlockError):
            assembler.add(lie, 0.0)
    assert isinstance(assembler.add(second, 0.0)[0], Whole)


EVENT = st.tuples(
    st.integers(0, 2), st.integers(0, 2), st.integers(0, 3), st.sampled_from(["good", "good", "good", "damaged", "skipped"])
)
X = np.arange(20, dtype=np.float32).reshape(5, 4)


class Plain:
    """The same by sets of numbers: what an assembler owes, without arrays."""

    def __init__(self, max_open: int) -> None:
        self.max_open = max_open
        self.open: dict[str, tuple[int, set[int], set[int]]] = {}
        self.done: dict[str, int] = {}

    def close(self, name: str) -> tuple[str, int, tuple[int, ...]]:
        step, came, _ = self.open.pop(name)
        self.done[name] = step
        return name, step, tuple(sorted({0, 1, 2, 3} - came))

    def add(self, name: str, step: int, block: int, skipped: bool) -> list[tuple[str, int, tuple[int, ...]]]:
        ended = []
        if step <= self.done.get(name, -1) or (name in self.open and step < self.open[name][0]):
            return ended
        if name in self.open and step > self.open[name][0]:
            ended.append(self.close(name))
        if name not in self.open:
            if len(self.open) == self.max_open:
                ended.append(self.close(next(iter(self.open))))
            self.open[name] = (step, set(), set())
        _, came, left_out = self.open[name]
        (left_out if skipped else came).add(block)
        return [*ended, self.close(name)] if came | left_out == {0, 1, 2, 3} else ended


@settings(max_examples=150, deadline=None)
@given(events=st.lists(EVENT, max_size=60), max_open=st.integers(1, 3))
def test_whatever_comes_in_whatever_order_a_tensor_is_whole_and_right_or_reported_with_what_is_missing(
    events: list[tuple[int, int, int, str]], max_open: int
) -> None:
    assembler, plain, held = TensorAssembler(max_open=max_open), Plain(max_open), 80 + 4 * rooms.BLOCK_BYTES
    for tensor, step, block, kind in events:
        part = parts_of(X + 100 * tensor + step, 4, f"t{tensor}", step)[block]
        assert part.data is not None
        digest, wanted = xxhash.xxh3_64_hexdigest(part.data), []
        if kind == "damaged":
            part = dataclasses.replace(part, data=part.data ^ np.uint8(1))
            with pytest.raises(BlockError, match=r"^checksum: "):
                assembler.add(part, 0.0, digest=digest)
            continue
        skipped = kind == "skipped"
        wanted = plain.add(f"t{tensor}", step, block, skipped)
        ended = assembler.add(dataclasses.replace(part, data=None) if skipped else part, 0.0, digest=None if skipped else digest)
        assert [(one.tensor_id, one.step, getattr(one, "missing", ())) for one in ended] == wanted
        for one in ended:
            assert isinstance(one, Incomplete) == bool(getattr(one, "missing", ()))
            if isinstance(one, Whole):
                assert np.array_equal(one.array, X + 100 * int(one.tensor_id[1:]) + one.step)
        assert assembler.held_bytes == held * len(plain.open)
    assert [(one.tensor_id, one.step, one.missing) for one in assembler.expire(60.0)] == [
        plain.close(n) for n in list(plain.open)
    ]
    assert assembler.held_bytes == 0


def test_a_damaged_or_lying_block_changes_nothing_and_the_right_one_still_completes_the_tensor() -> None:
    assembler = TensorAssembler(max_open=1)
    first, second = parts_of(X, 2)
    assembler.add(first, 0.0)
    lies = {
        "checksum": dataclasses.replace(second, step=1),  # would close the open step
        "shape": dataclasses.replace(second, tensor_id="other", blocks=1, block=0),  # would close the oldest tensor
        "bad_frame": dataclasses.replace(second, data=second.data.astype(np.int64)),  # type: ignore[union-attr]
        "limit": dataclasses.replace(second, tensor_id="other", shape=(1 << 20, 1 << 20)),
    }
    for code, lie in lies.items():
        with pytest.raises(BlockError) as failure:
            assembler.add(lie, 0.0, digest="0" * 16 if code == "checksum" else None)
        assert failure.value.code == code
    (whole,) = assembler.add(second, 0.0)
    assert isinstance(whole, Whole)
    assert np.array_equal(whole.array, X)


def test_many_small_blocks_count_by_what_they_take_and_are_joined_in_any_order() -> None:
    x = np.arange(20_000, dtype=np.uint8)
    with pytest.raises(BlockError, match=r"^limit: "):
        TensorAssembler(max_bytes=1 << 20).add(parts_of(x, 20_000)[0], 0.0)
    parts, assembler = parts_of(x, 20_000), TensorAssembler()
    ended = [one for n in np.random.default_rng(0).permutation(20_000) for one in assembler.add(parts[n], 0.0)]
    assert [type(one) for one in ended] == [Whole]
    assert np.array_equal(ended[0].array, x)


def test_what_is_known_of_closed_tensors_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MAX_KNOWN", 10)
    assembler = TensorAssembler()
    for n in range(100):
        assert len(assembler.add(parts_of(X, 1, f"t{n}")[0], 0.0)) == 1
        assert len(assembler._done) <= 10
    assert assembler.add(parts_of(X, 1, "t99")[0], 0.0) == []


def test_a_frame_is_taken_as_it_is() -> None:
    frame = RestoredBlock.example()
    assembler = TensorAssembler()
    left = {"block": 0, "start": 0}
    assert assembler.add(frame.model_copy(update=left), 0.0) == []
    (whole,) = assembler.add(frame, 0.0)
    assert isinstance(whole, Whole)
    assert (whole.array.dtype.name, whole.array.shape) == ("bfloat16", (4, 3))
