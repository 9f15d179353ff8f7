"""Prefix routing: sessions stay, hot prefixes spread, dead workers get nothing, and real conversations hit the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.routing.prefix import PrefixCache, PrefixRouter
from tests.benchmarks.bench_requests import HALF, MOONCAKE, cost_router, one_cache, ours, replay

SAMPLE = Path(__file__).parents[2] / "data" / "mooncake_2000.jsonl.gz"


def test_a_cache_counts_the_leading_blocks_and_forgets_the_oldest() -> None:
    cache = PrefixCache(3)
    assert cache.use([1, 2, 3]) == []
    assert [cache.overlap(prompt) for prompt in ([1, 2, 3, 4], [1, 9, 3], [2, 3], [])] == [3, 1, 2, 0]
    assert cache.use([1, 7]) == [3]  # the tail of the oldest prompt
    assert cache.overlap([1, 2, 3]) == 2
    assert cache.overlap([1, 7]) == 2


def test_the_router_knows_what_each_worker_holds() -> None:
    rng = np.random.default_rng(0)
    router, caches = PrefixRouter(3, 20), [PrefixCache(20) for _ in range(3)]
    for _ in range(2000):
        session, length = int(rng.integers(12)), int(rng.integers(1, 30))
        prompt = [100 * session + i for i in range(length)]
        assert router.overlap(prompt) == [cache.overlap(prompt) for cache in caches]
        worker = router.choose(prompt, 512.0 * length, 100.0, 0.0)
        caches[worker].use(prompt)


def test_a_lone_conversation_stays_on_its_worker() -> None:
    router = PrefixRouter(8, 4000)
    workers = {router.choose(range(20 + turn), 512.0 * (20 + turn), 300.0, 15.0 * turn) for turn in range(40)}
    assert len(workers) == 1


@pytest.mark.parametrize("shared", [1, 40])
def test_a_prefix_that_all_requests_share_is_soon_held_by_all_workers_and_their_work_is_even(shared: int) -> None:
    router, work = PrefixRouter(4, 4000), np.zeros(4)
    for number in range(4000):
        prompt = [*range(shared), 10_000 + number]
        overlap = router.overlap(prompt)
        worker = router.choose(prompt, 512.0 * len(prompt), 100.0, 0.01 * number)
        work[worker] += len(prompt) - overlap[worker]
    assert min(router.overlap(range(shared))) == shared
    assert work.max() <= 1.25 * work.mean() + 2 * (shared + 1)


def test_no_worker_that_is_far_above_the_mean_gets_a_request_whatever_it_holds() -> None:
    router, load, tokens = PrefixRouter(6, 4000), np.zeros(6), 512.0 * 201
    for number in range(2000):
        prompt = [*range(200), 1000 + number]
        overlap = router.overlap(prompt)
        worker = router.choose(prompt, tokens, 100.0, 0.0)
        assert load[worker] <= 1.25 * load.mean() + 2 * (tokens + 100) + 1e-3
        load[worker] += tokens - 512 * overlap[worker] + 100


def test_requests_without_a_common_prefix_are_spread_by_speed_and_a_dead_worker_gets_none() -> None:
    router, given = PrefixRouter(4, 100), np.zeros(4)
    for worker, speed in enumerate((2.0, 1.0, 1.0, 0.0)):
        router.set_speed(worker, speed)
    for number in range(4000):
        given[router.choose([number], 512, 0, 0.0)] += 1
    assert given / 1000 == pytest.approx([2, 1, 1, 0], abs=0.02)


def test_a_worker_that_was_taken_out_comes_back_empty() -> None:
    router = PrefixRouter(2, 100)
    prompt = [1, 2, 3]
    first = router.choose(prompt, 1536, 0, 0.0)
    router.set_speed(first, 0.0)
    assert router.overlap(prompt) == [0, 0]
    assert router.choose(prompt, 1536, 0, 1.0) == 1 - first
    router.set_speed(first, 1.0)
    assert router.overlap(prompt)[first] == 0


def test_requests_of_any_size_are_placed() -> None:
    router = PrefixRouter(3, 10)
    assert [router.choose([], tokens, tokens, 0.0) for tokens in (0, 0, 2**53, 2**53, 2**53)] == [0, 1, 2, 0, 1]


def test_the_unit_of_blocks_and_time_makes_no_difference() -> None:
    rng = np.random.default_rng(0)
    coarse, fine = PrefixRouter(5, 200), PrefixRouter(5, 200, block_tokens=1024, horizon_s=240.0)
    for number in range(1000):
        prompt = [int(rng.integers(30)), *range(1000 * number, 1000 * number + int(rng.integers(1, 9)))]
        tokens, out = 512.0 * len(prompt), float(rng.integers(512))
        assert coarse.choose(prompt, tokens, out, float(number)) == fine.choose(prompt, 2 * tokens, 2 * out, 2.0 * number)


@pytest.mark.parametrize("blocks", [1000, 2000])
def test_the_first_conversations_hit_the_cache_nearly_as_often_as_with_one_cache_for_all(blocks: int) -> None:
    mine, rival, one = (replay(make, 8, blocks, trace=SAMPLE) for make in (ours, cost_router(4.0), one_cache))
    assert len(mine.worker) == 2000
    assert mine.hit_rate(1000) >= 0.98 * one.hit_rate(1000)
    assert mine.hit_rate(1000) >= 1.03 * rival.hit_rate(1000)
    assert mine.fullest(1000) <= rival.fullest(1000)
    assert mine.max_over_mean(1000) <= 1.20


@pytest.mark.parametrize("workers", [4, 8, 16])
def test_conversations_hit_the_cache_nearly_as_often_as_with_one_cache_for_all(workers: int) -> None:
    if not MOONCAKE.exists():
        pytest.skip(f"{MOONCAKE.name} was not found: set QSTREAM_DATA")
    mine, rival = replay(ours, workers), replay(cost_router(4.0), workers)
    assert mine.hit_rate(HALF) >= 0.98 * replay(one_cache, workers).hit_rate(HALF)
    assert mine.hit_rate(HALF) >= 1.03 * rival.hit_rate(HALF)
    assert mine.fullest(HALF) <= rival.fullest(HALF)
    assert workers > 8 or mine.max_over_mean(HALF) <= 1.20  # 16 workers get too few requests a minute, however they are routed


def test_bad_input_is_named() -> None:
    router = PrefixRouter(1, 1)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: PrefixCache(0), "blocks"),
        (lambda: PrefixRouter(0, 1), "workers"),
        (lambda: PrefixRouter(1, 0), "blocks"),
        (lambda: PrefixRouter(1, 1, block_tokens=0), "block_tokens"),
        (lambda: PrefixRouter(1, 1, horizon_s=0.0), "horizon_s"),
        (lambda: router.choose([], -1, 0, 0.0), "prompt_tokens"),
        (lambda: router.choose([], 0, float("nan"), 0.0), "output_tokens"),
        (lambda: router.choose([], 0, 0, float("inf")), "now_s"),
        (lambda: router.set_speed(1, 1.0), "worker"),
        (lambda: router.set_speed(0, -1.0), "speed"),
    ]
    for call, field in cases:
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()
    router.set_speed(0, 0.0)
    with pytest.raises(ProblemError, match=r"^speed must be "):
        router.choose([], 1, 1, 0.0)
