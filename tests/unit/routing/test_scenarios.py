"""The scenario tier: never worse than its start, deterministic, few moves when they cost, better on real drift."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.routing.pack import place_window
from qstream.routing.scenarios import anneal, place_scenarios
from qstream.routing.score import gpu_loads, moved_experts, violations


def objective(plan: np.ndarray, scenarios: np.ndarray, gpus: int) -> float:
    """Mean over windows and layers of the fullest GPU over the mean GPU; a window without load counts 0."""
    loads = np.stack([gpu_loads(plan, window, gpus) for window in scenarios])
    mean = loads.mean(2)
    return float(np.divide(loads.max(2), mean, out=np.zeros_like(mean), where=mean > 0).mean())


@settings(max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 10)),
    gpus=st.integers(1, 6),
    cost=st.sampled_from([0.0, 0.001, 0.1]),
    seed=st.integers(-5, 2**63),
    data=st.data(),
)
def test_annealing_keeps_the_invariants_and_never_worsens_its_objective(
    shape: tuple[int, int, int], gpus: int, cost: float, seed: int, data: Any
) -> None:
    slots = data.draw(st.integers(-(-shape[2] // gpus), shape[2])) * gpus
    history = np.random.default_rng(abs(seed)).lognormal(0, 2, shape)
    history[0, 0] *= data.draw(st.sampled_from([0.0, 1.0]))
    start = place_window(history[-1], gpus, slots)
    plan = anneal(start, history, gpus, steps=200, seed=seed, move_cost=cost)
    assert violations(plan, shape[2], gpus) == 0
    layers = shape[1]
    price = cost * moved_experts(start, plan, gpus)
    assert objective(plan, history, gpus) + price <= objective(start, history, gpus) + 1e-9 * layers
    assert plan.tobytes() == anneal(start, history, gpus, steps=200, seed=seed, move_cost=cost).tobytes()


def test_tiny_plans_reach_the_exhaustive_optimum_of_the_average() -> None:
    history = np.random.default_rng(0).lognormal(0, 1, (4, 20, 6))
    layouts = np.array([p for p in permutations(range(6)) if p[0] < p[1] and p[2] < p[3] and p[4] < p[5]], np.int32)
    relative = history / (history.sum(2, keepdims=True) / 3)
    optimum = relative[:, :, layouts].reshape(4, 20, len(layouts), 3, 2).sum(4).max(3).mean(0).min(1)
    plan = place_scenarios(history, 3, 6, steps=5000)
    found = np.stack([gpu_loads(plan, window, 3).max(1) for window in relative]).mean(0)
    np.testing.assert_allclose(found, optimum, rtol=1e-9)


def test_a_prohibitive_price_moves_nothing_and_a_price_moves_less_than_none() -> None:
    history = np.random.default_rng(0).lognormal(0, 1, (8, 4, 24))
    start = place_window(np.ones((4, 24)), 4, 24)
    moved = [moved_experts(start, anneal(start, history, 4, steps=4000, move_cost=c), 4) for c in (0.0, 0.01, 10.0)]
    assert moved[0] > moved[1] > moved[2] == 0.0


def test_moves_are_priced_against_the_plan_in_force_not_the_start() -> None:
    history = np.random.default_rng(0).lognormal(0, 1, (8, 1, 24))
    in_force = place_window(np.ones((1, 24)), 4, 24)
    start = place_window(history.mean(0), 4, 24)
    priced = anneal(start, history, 4, steps=4000, move_cost=0.02, previous=in_force)
    assert moved_experts(in_force, priced, 4) < moved_experts(in_force, anneal(start, history, 4, steps=4000), 4)


def test_bad_input_is_named() -> None:
    history = np.ones((2, 1, 4))
    start = place_window(history[0], 2, 4)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: anneal(start, history[:0], 2, steps=1), "scenarios"),
        (lambda: anneal(start, -history, 2, steps=1), "scenarios"),
        (lambda: anneal(start, history, 2, steps=-1), "steps"),
        (lambda: anneal(start, history, 2, steps=1, move_cost=float("nan")), "move_cost"),
        (lambda: anneal(start * 0, history, 2, steps=1), "start"),
        (lambda: anneal(start, history, 2, steps=1, previous=np.repeat(start, 2, 0)), "previous"),
        (lambda: place_scenarios(history, 2, 4, steps=1, windows=0), "windows"),
        (lambda: place_scenarios(history[:0], 2, 4, steps=1), "history"),
    ]
    for call, field in cases:
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()


@pytest.mark.parametrize("slots", [72, 96])
def test_next_window_of_real_routing_is_better_balanced_than_by_the_last_window(stick: ModuleType, slots: int) -> None:
    windows = stick.window_counts(stick.stream(stick.load(), seed=0).ids)
    last = stick.next_window_score(lambda h, p, g: place_window(h[-1], g, p), windows, slots)
    scenarios = stick.next_window_score(lambda h, p, g: place_scenarios(h, g, p, steps=2000), windows, slots)
    assert scenarios["violations"] == last["violations"] == 0
    assert scenarios["balancedness"] > last["balancedness"] > 0.9
