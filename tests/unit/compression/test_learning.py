"""What a series of blocks teaches: a basis that travels with anchors, steps for a target, options that do not pay."""

from __future__ import annotations

from threading import Event
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qstream.ahead import Ahead
from qstream.compression.header import digest
from qstream.compression.learned import width_of
from qstream.compression.processor import CompressionProcessor, DecompressionProcessor
from qstream.compression.stream_options import DecodeOptions, EncodeOptions
from qstream.contract import Batch
from qstream.errors import NotYet
from qstream.state.fields import MAX_CHUNK_BYTES, pack
from qstream.testing.checks import check_processor
from qstream.testing.feed import Feed
from schemas.tensors import CompressedBlock, TensorBlock, TensorSkip

CACHE = {"mode": "bounded", "bound_kind": "l2", "bound": 0.05, "plan_ms": 50.0, "anchor_every": 3}
COLUMNS = 16


def block(matrix: np.ndarray, step: int, **more: Any) -> TensorBlock:
    """A whole matrix, 100 ms after the one before."""
    data = np.ascontiguousarray(matrix).reshape(-1).view(np.uint8)
    own = {"tensor_id": "m/k", "model": "m", "role": "kv_cache", "step": step, "ts_ns": step * 100_000_000}
    what = {"dtype": str(matrix.dtype), "shape": matrix.shape, "count": matrix.size, "digest": digest(data), "data": data}
    return TensorBlock(**(own | what | more))


def cache(steps: int, seed: int = 1, rows: int = 256, columns: int = COLUMNS) -> list[TensorBlock]:
    """Rows near a plane of three directions, whose mean is not zero."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((3, columns))
    drawn = [rng.standard_normal((rows, 3)) @ mixing + 0.02 * rng.standard_normal((rows, columns)) + 5 for _ in range(steps)]
    return [block(x.astype(np.float32), step) for step, x in enumerate(drawn)]


def noise(steps: int, role: str = "activation") -> list[TensorBlock]:
    rng = np.random.default_rng(2)
    return [block(rng.standard_normal((64, COLUMNS)).astype(np.float32), step, role=role) for step in range(steps)]


def sent(feed: Feed[Any], frames: list[TensorBlock]) -> list[CompressedBlock]:
    return [feed.send(frame, 1000).events[0].frame for frame in frames]  # type: ignore[misc]


def coded(frames: list[TensorBlock], **options: Any) -> list[CompressedBlock]:
    return sent(Feed(CompressionProcessor(EncodeOptions(**options))), frames)


def test_a_basis_is_learnt_travels_with_anchors_and_what_lost_it_waits_for_the_next() -> None:
    frames = cache(9)
    found = coded(frames, **CACHE)
    assert ["transform" in each.ops for each in found] == [False, *8 * [True]]
    assert [each.anchor for each in found] == [True, True, False, False, True, False, False, True, False]
    named, alone = found[2], coded([frames[2]], **CACHE)[0]
    assert len(named.data) < 0.8 * len(alone.data)
    reader = Feed(DecompressionProcessor())
    for frame, each in zip(frames, found, strict=True):
        back = reader.send(each, 1000).events[0].frame
        x, y = (data.view(np.float32).astype(np.float64) for data in (frame.data, back.data))  # type: ignore[attr-defined]
        assert np.linalg.norm(x - y) <= 0.0501 * np.linalg.norm(x)
    late = Feed(DecompressionProcessor())
    reasons = [late.send(each, 1000).events[0].frame.skip_reason for each in found[2:6]]  # type: ignore[attr-defined]
    assert reasons == [TensorSkip.NO_BASIS, TensorSkip.NO_BASIS, None, None]


def test_a_basis_travels_with_a_block_that_would_be_smaller_by_itself() -> None:
    frames = [
        block(each.data.view(np.float32).reshape(each.shape).astype(ml_dtypes.bfloat16), each.step)
        for each in cache(8, rows=64, columns=64)
    ]
    found = coded(frames, **(CACHE | {"anchor_every": 64}))
    assert ["transform" in each.ops for each in found] == [*4 * [False], *4 * [True]]
    assert [each.anchor for each in found[4:]] == [True, False, False, False]
    assert len(found[4].data) > frames[4].nbytes / 2
    assert len(found[5].data) < len(found[3].data)


@pytest.mark.parametrize("options", [CACHE, {"mode": "rate", "target_bits": 3.0, "plan_ms": 50.0}, {"mode": "gradient"}])
def test_workers_that_follow_dead_ones_go_on_with_what_those_had_learnt(options: dict[str, Any]) -> None:
    frames = cache(6)
    without = coded(frames, **options)
    into, back = Feed(CompressionProcessor(EncodeOptions(**options))), Feed(DecompressionProcessor())
    found, came = [], []
    for frame in frames:
        found += sent(into, [frame])
        came += [event.frame for event in back.send(found[-1], 1000).events]
        into.restart(CompressionProcessor(EncodeOptions(**options)))
        back.restart(DecompressionProcessor())
    assert [each.data.tobytes() for each in found] == [each.data.tobytes() for each in without]
    assert ("transform" in found[-1].ops and not found[-1].anchor) == (options["mode"] != "gradient")
    assert [each.skip_reason for each in came] == 6 * [None]  # type: ignore[attr-defined]


def test_a_lost_state_begins_with_blocks_that_need_nothing() -> None:
    frames = cache(5)
    assert not coded(frames, **CACHE)[3].anchor
    assert coded(frames[3:4], **CACHE)[0].anchor


def test_any_split_into_batches_and_a_basis_from_a_thread_give_the_same_bytes() -> None:
    frames = cache(6)
    processor = CompressionProcessor(EncodeOptions(**CACHE))
    feed: Feed[Any] = Feed(processor)
    check_processor(processor, [feed.record(frame, 1000 + n) for n, frame in enumerate(frames)], splits=2)
    ahead: Ahead[Any] = Ahead()
    beside = Feed(CompressionProcessor(EncodeOptions(**CACHE), ahead=ahead))
    found = []
    for frame in frames:
        found += sent(beside, [frame])
        assert ahead.settle(60)
    assert [each.data.tobytes() for each in found] == [each.data.tobytes() for each in coded(frames, **CACHE)]


def test_a_record_whose_basis_is_late_waits() -> None:
    processor = CompressionProcessor(EncodeOptions(**CACHE), ahead=Ahead())
    feed: Feed[Any] = Feed(processor)
    first, second = cache(2, rows=64)
    state = processor.process(Batch("m/k", [feed.record(first, 1000)]), None, 0).state
    busy: Ahead[Any] = Ahead()
    over = Event()
    busy.start("other", 0, lambda: lambda: over.wait(600))
    fresh = CompressionProcessor(EncodeOptions(**CACHE), ahead=busy)  # as after a worker's death: nothing was begun here
    late = Batch("m/k", [feed.record(second, 1000)])
    with pytest.raises(NotYet):
        fresh.process(late, state, 0)
    over.set()
    assert busy.settle(60)
    assert "transform" in fresh.process(late, state, 0).events[0].frame.ops  # type: ignore[attr-defined]


def test_what_does_not_pay_is_left_out_for_some_blocks_and_costs_what_it_costs_without() -> None:
    frames = noise(8)
    found = coded(frames, mode="rate", target_bits=4.0, transform="klt", plan_ms=50.0)
    assert found[0].fallback_reason == "too_few_rows"
    assert found[-1].fallback_reason == "gain_below_gate"
    assert set(found[-1].switched_off) == {"basis", "spectral"}
    plain = coded(frames, mode="rate", target_bits=4.0, transform="none", spectral=False)
    assert [each.data.tobytes() for each in found[1:]] == [each.data.tobytes() for each in plain[1:]]


def test_options_that_pay_stay_on_and_are_tried_again_when_the_tensor_changes() -> None:
    rng = np.random.default_rng(4)
    low = [
        block((rng.standard_normal((64, 2)) @ rng.standard_normal((2, 64))).astype(np.float32), n, role="gradient")
        for n in range(40)
    ]
    wide = [block(rng.standard_normal((64, 64)).astype(np.float32), 0, role="gradient")]
    changed = [each.model_copy(update={"step": n, "ts_ns": n}) for n, each in enumerate(3 * wide + low)]
    found = coded(changed, mode="rate", target_bits=1.5, table=False)
    assert all("spectral" in each.switched_off for each in found[1:32])
    assert not any("spectral" in each.switched_off for each in found[33:])
    assert "spectral" in found[-1].ops


@pytest.mark.parametrize(("mode", "target"), [("rate", 4.0), ("gradient", 1.0)])
def test_bits_with_their_headers_come_to_the_target(mode: str, target: float) -> None:
    rng = np.random.default_rng(3)
    frames = [
        block((rng.standard_normal((128, 256)) * rng.gamma(1, 1, 256)).astype(np.float32), n, role="weight") for n in range(16)
    ]
    bits = [each.quality.bits_per_value for each in coded(frames, mode=mode, target_bits=target)]
    assert bits[0] > target + 0.05
    assert abs(np.mean(bits[6:]) - target) < 0.05


def test_a_circuit_s_basis_is_in_force_after_its_own_time_and_its_record_travels() -> None:
    found = coded(cache(4, columns=4), **(CACHE | {"qae": True, "qae_ms": 150.0, "dropout": True}))
    assert ["transform" in each.ops for each in found] == [False, False, True, True]
    assert found[0].fallback_reason == "too_few_rows"
    solver = found[2].solver
    assert solver is not None
    assert (solver.solver, solver.execution, solver.n, solver.depth) == ("qae", "simulated-statevector", 2, 16)
    assert solver.objective == pytest.approx(solver.twin, rel=0.01)


def test_pruned_blocks_are_checked_by_a_circuit_one_in_so_many_and_noise_is_not_pruned_again_and_again() -> None:
    options: dict[str, Any] = {"mode": "rate", "target_bits": 4.0, "dropout": True, "transform": "none"}
    into, back = (
        Feed(CompressionProcessor(EncodeOptions(**options))),
        Feed(DecompressionProcessor(DecodeOptions(hhl=True, sample_every=2, clock=10))),
    )
    found = sent(into, cache(3))
    assert all("prune" in each.ops for each in found)
    checks = [[r.name for r in back.send(each, 1000).events[0].frame.refined if r.n] for each in found]  # type: ignore[attr-defined]
    assert checks == [["hhl"], [], ["hhl"]]
    off = coded(noise(3), **options)
    assert [each.fallback_reason for each in off] == 3 * ["gain_below_gate"]
    assert "dropout" in off[-1].switched_off


def test_rows_too_wide_for_one_basis_are_turned_in_groups_of_columns() -> None:
    assert [width_of(n) for n in (16, 384, 512, 576, 768, 1024, 2048, 600)] == [16, 384, 512, 64, 256, 256, 128, 0]
    frames = cache(3, columns=576)
    found = coded(frames, **CACHE)
    assert ["transform" in each.ops for each in found] == [False, True, True]
    assert len(found[2].data) < 0.7 * len(found[0].data)
    reader = Feed(DecompressionProcessor())
    for frame, each in zip(frames, found, strict=True):
        back = reader.send(each, 1000).events[0].frame
        x, y = (data.view(np.float32).astype(np.float64) for data in (frame.data, back.data))  # type: ignore[attr-defined]
        assert np.linalg.norm(x - y) <= 0.0501 * np.linalg.norm(x)


@pytest.mark.parametrize("columns", [512, 2048])
def test_the_state_of_the_widest_rows_is_kept_in_small_fields(columns: int) -> None:
    feed: Feed[Any] = Feed(CompressionProcessor(EncodeOptions(**CACHE)))
    rng = np.random.default_rng(5)
    feed.send(block(rng.standard_normal((64, columns)).astype(np.float32), 0), 1000)
    fields = pack(feed.state("m/k"))
    assert max(map(len, fields.values())) <= MAX_CHUNK_BYTES
    assert sum(map(len, fields.values())) <= 2_500_000
