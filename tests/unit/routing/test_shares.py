"""Dispatch shares: invariants on random plans, the optimum of the linear program, balance under a task switch."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from qstream.errors import ProblemError
from qstream.routing.pack import place_window
from qstream.routing.score import balancedness, gpu_loads
from qstream.routing.shares import dispatch_shares
from schemas.experts import ExpertTopology
from tests.benchmarks.stick import TRACE

Problem = tuple[np.ndarray, np.ndarray, ExpertTopology]


def topology(experts: int, gpus: int, slots: int, capacity: np.ndarray | None = None) -> ExpertTopology:
    given_capacity = None if capacity is None else capacity.astype(np.float32)
    return ExpertTopology(
        num_layers=2, num_logical_experts=experts, num_gpus=gpus, slots_per_gpu=slots, gpu_capacity=given_capacity
    )


@st.composite
def problems(draw: Any) -> Problem:
    """Plans in which every expert has a slot, duplicates on a GPU allowed, with skewed or empty loads and uneven GPUs."""
    gpus, experts = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    slots = draw(st.integers(-(-experts // gpus), experts))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    plan = np.stack(
        [rng.permutation(np.r_[np.arange(experts), rng.integers(0, experts, gpus * slots - experts)]) for _ in range(2)]
    )
    load = draw(st.sampled_from([rng.random, lambda shape: rng.lognormal(0, 3, shape), np.zeros, np.ones]))((2, experts))
    load[:, rng.integers(experts)] *= draw(st.sampled_from([0.0, 1.0, 1e9]))
    capacity = draw(st.sampled_from([None, rng.uniform(0.2, 1, gpus)]))
    return load, plan.astype(np.int32), topology(experts, gpus, slots, capacity)


def fullest_level(load: np.ndarray, plan: np.ndarray, top: ExpertTopology, shares: np.ndarray) -> np.ndarray:
    capacity = np.ones(top.num_gpus) if top.gpu_capacity is None else top.gpu_capacity
    level: np.ndarray = (gpu_loads(plan, load, top.num_gpus, shares.astype(np.float64)) / capacity).max(1)
    return level


def optimum(load: np.ndarray, row: np.ndarray, top: ExpertTopology) -> float:
    """min z such that every expert's tokens are served and no GPU has more than capacity * z."""
    gpus, slots = top.num_gpus, len(row)
    on_gpu = np.zeros((gpus, slots + 1))
    on_gpu[np.arange(slots) // top.slots_per_gpu, np.arange(slots)] = 1
    on_gpu[:, -1] = -1.0 if top.gpu_capacity is None else -top.gpu_capacity
    of_expert = np.zeros((len(load), slots + 1))
    of_expert[row, np.arange(slots)] = 1
    cost = np.zeros(slots + 1)
    cost[-1] = 1
    unit = max(load.max(), 1e-300)
    found = linprog(cost, A_ub=on_gpu, b_ub=np.zeros(gpus), A_eq=of_expert, b_eq=load / unit, method="highs")
    return float(found.fun) * float(unit)


@settings(max_examples=60)
@given(problems())
def test_shares_of_an_expert_sum_to_one_and_the_fullest_gpu_is_at_the_optimum_of_the_linear_program(problem: Problem) -> None:
    load, plan, top = problem
    shares = dispatch_shares(load, plan, top)
    assert shares.dtype == np.float32
    assert shares.shape == plan.shape
    assert shares.min() >= 0
    for row, part in zip(plan, shares, strict=True):
        assert np.allclose(np.bincount(row, part, minlength=load.shape[1]), 1, atol=1e-5)
    for layer, level in enumerate(fullest_level(load, plan, top, shares)):
        assert level <= optimum(load[layer], plan[layer], top) * 1.01 + 1e-12
    assert shares.tobytes() == dispatch_shares(load, plan, top).tobytes()


@settings(max_examples=60)
@given(problems(), st.integers(0, 2**32 - 1))
def test_any_start_leads_to_the_optimum(problem: Problem, seed: int) -> None:
    load, plan, top = problem
    rng = np.random.default_rng(seed)
    start = (rng.random(plan.shape) * (rng.random(plan.shape) < 0.7)).astype(np.float32)
    shares = dispatch_shares(load, plan, top, start)
    cold = fullest_level(load, plan, top, dispatch_shares(load, plan, top))
    assert (fullest_level(load, plan, top, shares) <= cold * 1.01 + 1e-12).all()


def test_slots_of_one_expert_on_one_gpu_count_as_one_and_share_evenly() -> None:
    shares = dispatch_shares(np.array([[90.0, 30.0]] * 2), np.array([[0, 0, 0, 1]] * 2, np.int32), topology(2, 2, 2))
    # GPU 1 also has 30 of expert 1: at 60 tokens each, GPU 0 serves 60 of 90 with two slots.
    assert np.allclose(shares, [[1 / 3, 1 / 3, 1 / 3, 1]] * 2, atol=2e-3)


def test_experts_without_tokens_are_shared_evenly() -> None:
    shares = dispatch_shares(np.array([[0.0, 8.0]] * 2), np.array([[0, 1, 0, 0]] * 2, np.int32), topology(2, 2, 2))
    assert np.allclose(shares, [[1 / 3, 1, 1 / 3, 1 / 3]] * 2)


def test_a_gpu_serves_in_proportion_to_its_capacity_and_a_dead_one_nothing() -> None:
    top = topology(1, 3, 1, np.array([1.0, 0.5, 0.0]))
    shares = dispatch_shares(np.array([[30.0]] * 2), np.zeros((2, 3), np.int32), top)
    assert np.allclose(shares, [[2 / 3, 1 / 3, 0]] * 2, atol=2e-3)
    assert np.allclose(dispatch_shares(np.zeros((2, 1)), np.zeros((2, 3), np.int32), top), [[0.5, 0.5, 0]] * 2)


def test_a_long_chain_of_shared_experts_is_levelled() -> None:
    gpus = 48
    row = np.stack([np.arange(gpus), (np.arange(gpus) + 1) % gpus], 1).reshape(1, -1).astype(np.int32)
    load = np.where(np.arange(gpus) < gpus // 2, 2.0, 1.0)[None]
    top = topology(gpus, gpus, 2)
    level = fullest_level(load, row, top, dispatch_shares(load, row, top))
    assert level[0] <= optimum(load[0], row[0], top) * 1.01


def test_shares_from_live_counts_balance_a_task_switch(stick: ModuleType) -> None:
    traces = stick.load(TRACE)
    both = stick.counts(np.concatenate([trace["ids"] for trace in traces.values()])).astype(np.float64)
    plan = place_window(both, 8, 80)
    top = ExpertTopology(num_layers=26, num_logical_experts=64, num_gpus=8, slots_per_gpu=10)
    for trace in traces.values():
        live = stick.counts(trace["ids"]).astype(np.float64)
        shares = dispatch_shares(live, plan, top)
        assert stick.balancedness(plan, live, 8) < 0.86
        assert stick.balancedness(plan, live, 8, shares) >= 0.98
        assert balancedness(plan, live, 8, shares) == pytest.approx(stick.balancedness(plan, live, 8, shares))


def test_bad_input_is_named() -> None:
    load, plan, top = np.ones((2, 2)), np.array([[0, 1, 0, 1]] * 2, np.int32), topology(2, 2, 2)
    dead = topology(2, 2, 1, np.array([1.0, 0.0]))
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: dispatch_shares(-load, plan, top), "load"),
        (lambda: dispatch_shares(load * np.nan, plan, top), "load"),
        (lambda: dispatch_shares(load, plan[:1], top), "physical_to_logical"),
        (lambda: dispatch_shares(load, plan + 1, top), "physical_to_logical"),
        (lambda: dispatch_shares(load, plan * 0, top), "load"),
        (lambda: dispatch_shares(load, plan[:, :2], dead), "load"),
        (lambda: dispatch_shares(load, plan[:, :3], top), "num_gpus"),
        (lambda: dispatch_shares(load, plan, top, np.ones((2, 3), np.float32)), "start"),
        (lambda: dispatch_shares(load, plan, top, -np.ones((2, 4), np.float32)), "start"),
    ]
    for call, field in cases:
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()


@pytest.mark.parametrize("unit", [1e-305, 1e-160, 1e200, 1e300])
def test_the_unit_of_the_loads_does_not_matter(unit: float) -> None:
    rng = np.random.default_rng(3)
    plan = np.stack([place_window(rng.random((1, 9)), 4, 16)[0] for _ in range(2)])
    load = rng.integers(1, 99, (2, 9)).astype(np.float64)
    top = topology(9, 4, 4)
    assert np.allclose(dispatch_shares(load * unit, plan, top), dispatch_shares(load, plan, top), atol=1e-4)
