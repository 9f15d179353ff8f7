"""The fast tier: invariants on random and extreme problems, near-optimal on tiny ones."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.routing.pack import pack, place_window, swap
from qstream.routing.replicate import replica_counts
from qstream.routing.score import balancedness, gpu_loads, violations


@st.composite
def problems(draw: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Any load and any replica counts for which a plan exists."""
    gpus, experts = draw(st.integers(1, 7)), draw(st.integers(1, 12))
    slots = draw(st.integers(-(-experts // gpus), experts)) * gpus
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = np.ones((3, experts), np.int32)
    for row in counts:
        for _ in range(slots - experts):
            row[rng.choice(np.flatnonzero(row < gpus))] += 1
    load = draw(st.sampled_from([rng.random, lambda shape: rng.lognormal(0, 3, shape), np.zeros, np.ones]))((3, experts))
    if draw(st.booleans()):
        load[:, rng.integers(experts)] = 1e9
    return load, counts, gpus


@settings(max_examples=300)
@given(problems())
def test_every_problem_that_has_a_plan_gets_one_without_violations(problem: tuple[np.ndarray, np.ndarray, int]) -> None:
    load, counts, gpus = problem
    packed = pack(load, counts, gpus)
    swapped = swap(packed, load, gpus)
    for plan in (packed, swapped):
        assert plan.shape == (3, counts[0].sum())
        assert violations(plan, load.shape[1], gpus) == 0
        assert all((np.bincount(row, minlength=load.shape[1]) == want).all() for row, want in zip(plan, counts, strict=True))
    before, after = gpu_loads(packed, load, gpus).max(1), gpu_loads(swapped, load, gpus).max(1)
    assert (after <= before * (1 + 1e-12)).all()
    assert swapped.tobytes() == swap(pack(load, counts, gpus), load, gpus).tobytes()


def test_swap_leaves_no_improving_exchange_at_the_fullest_gpu() -> None:
    load = np.random.default_rng(0).lognormal(0, 1, (1, 10))
    plan = place_window(load, 3, 12)
    fullest = gpu_loads(plan, load, 3).max()
    full = int(gpu_loads(plan, load, 3)[0].argmax())
    for i in range(full * 4, full * 4 + 4):
        for j in range(12):
            other = plan.copy()
            other[0, [i, j]] = other[0, [j, i]]
            if j // 4 != full and violations(other, 10, 3) == 0:
                assert gpu_loads(other, load, 3)[0, [full, j // 4]].max() >= fullest * (1 - 1e-9)


def test_tiny_plans_are_within_graham_of_the_exhaustive_optimum_and_mostly_optimal() -> None:
    rng = np.random.default_rng(0)
    layouts = np.array([p for p in permutations(range(6)) if p[0] < p[1] and p[2] < p[3] and p[4] < p[5]])
    load = rng.lognormal(0, 1, (60, 6))
    optimum = load[:, layouts].reshape(60, len(layouts), 3, 2).sum(3).max(2).min(1)
    found = gpu_loads(place_window(load, 3, 6), load, 3).max(1)
    assert (found <= optimum * 4 / 3).all()
    assert np.isclose(found, optimum).mean() > 0.9


def test_a_full_mesh_puts_every_expert_on_every_gpu() -> None:
    plan = place_window(np.array([[5.0, 1.0, 0.0]]), 4, 12)
    assert np.sort(plan.reshape(4, 3)).tolist() == [[0, 1, 2]] * 4


def test_large_skewed_layers_are_balanced_to_a_thousandth() -> None:
    load = np.random.default_rng(0).lognormal(0, 1, (58, 256))
    plan = place_window(load, 32, 288)
    assert violations(plan, 256, 32) == 0
    assert balancedness(plan, load, 32) >= 0.999


def test_bad_input_is_named() -> None:
    load = np.ones((2, 4))
    good = replica_counts(load, 6, 2)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: pack(load, good[:1], 2), "counts"),
        (lambda: pack(load, good * 2, 2), "counts"),
        (lambda: pack(load, np.array([[1, 1, 1, 1], [2, 2, 1, 1]], np.int32), 2), "counts"),
        (lambda: pack(load * np.nan, good, 2), "load"),
        (lambda: pack(load, good, 4), "num_gpus"),
        (lambda: swap(np.array([[0, 1, 2, 2]] * 2, np.int32), load, 2), "physical_to_logical"),
        (lambda: swap(np.array([[0, 1, 2, 3]], np.int32), load, 2), "physical_to_logical"),
    ]
    for call, field in cases:
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()


def test_when_all_room_is_beside_the_first_replica_an_expert_makes_way_for_the_second() -> None:
    load = np.array([[100.0, 2.0, 2.0, 2.0, 2.0]])
    plan = pack(load, np.array([[1, 1, 1, 1, 2]], np.int32), 2)
    assert np.sort(plan.reshape(2, 3)).tolist() == [[0, 1, 4], [2, 3, 4]]
