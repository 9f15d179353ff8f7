"""Capacity-limited tokens: rules on random gates, and the gate mass next to the optimum of the linear program."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import coo_array, vstack

from qstream.errors import ProblemError
from qstream.routing.capacity import assign_candidates, assign_capacity, even_capacity
from tests.benchmarks.stick import TRACE


def optimum(gate: np.ndarray, capacity: np.ndarray, k: int, cost: np.ndarray, relaxed: bool = False) -> float:
    """Most gate mass of the linear program; relaxed: a token may take fewer than k, so that pairs without mass drop out."""
    token, expert = np.nonzero(gate if relaxed else np.ones_like(gate))
    pairs, tokens = np.arange(len(token)), len(gate)
    taken = coo_array((np.ones(len(token)), (token, pairs)), shape=(tokens, len(token))).tocsr()
    used = coo_array((cost[token], (expert, pairs)), shape=(len(capacity), len(token))).tocsr()
    limits = {"A_ub": vstack([used, taken]), "b_ub": np.r_[capacity, np.full(tokens, k)]}
    if not relaxed:
        limits = {"A_ub": used, "b_ub": capacity, "A_eq": taken, "b_eq": np.full(tokens, k)}
    return -float(linprog(-gate[token, expert], bounds=(0, 1), method="highs", **limits).fun)


def dense_gate(ids: np.ndarray, mass: np.ndarray, experts: int) -> np.ndarray:
    gate: np.ndarray = np.zeros((len(ids), experts), np.float32)
    gate[np.arange(len(ids))[:, None], ids] = mass
    return gate


@st.composite
def problems(draw: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Gates with and without ties, capacities from tight to roomy, one or more experts a token."""
    experts = draw(st.integers(1, 7))
    k, tokens = draw(st.integers(1, experts)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gate = rng.dirichlet(np.full(experts, 0.5), tokens).astype(np.float32)
    if draw(st.booleans()):
        gate = np.round(gate, 1)
    return gate, even_capacity(tokens, experts, draw(st.sampled_from([1.0, 1.05, 1.5])), k), k


@settings(max_examples=80)
@given(problems())
def test_choices_are_distinct_within_capacity_and_between_nearly_the_optimum_and_the_bound(
    problem: tuple[np.ndarray, np.ndarray, int],
) -> None:
    gate, capacity, k = problem
    plan = assign_capacity(gate, capacity, k=k)
    chosen = np.take_along_axis(gate, plan.assignment, 1)
    assert plan.assignment.shape == (len(gate), k)
    assert (np.diff(np.sort(plan.assignment, 1), axis=1) > 0).all()
    assert (np.diff(chosen, axis=1) <= 0).all()
    assert (np.bincount(plan.assignment.ravel(), minlength=len(capacity)) <= capacity).all()
    assert plan.over_capacity == 0
    assert plan.gate_mass == pytest.approx(chosen.sum(dtype=float))
    best = optimum(gate, capacity, k, np.ones(len(gate)))
    assert 0.97 * best <= plan.gate_mass <= best * (1 + 1e-5) <= plan.bound * (1 + 1e-4)
    again = assign_capacity(gate, capacity, k=k)
    assert plan.assignment.tobytes() == again.assignment.tobytes()


@pytest.mark.parametrize(("k", "uneven_cost"), [(1, False), (2, False), (1, True)])
def test_skewed_gates_keep_nearly_the_gate_mass_of_the_linear_program(k: int, uneven_cost: bool) -> None:
    rng = np.random.default_rng(3)
    gate = rng.dirichlet(rng.lognormal(-1, 1, 16), 1500).astype(np.float32)
    gate[gate < 0.02] = 0
    cost = rng.uniform(0.5, 2, 1500).astype(np.float32) if uneven_cost else np.ones(1500, np.float32)
    capacity = np.full(16, 1.05 * k * cost.sum() / 16) if uneven_cost else even_capacity(1500, 16, 1.05, k)
    plan = assign_capacity(gate, capacity, k=k, cost=cost if uneven_cost else None)
    assert plan.gate_mass >= (0.99 if uneven_cost else 0.995) * optimum(gate, capacity, k, cost, relaxed=True)
    load = np.bincount(plan.assignment.ravel(), np.repeat(cost, k), minlength=16)
    assert np.maximum(load - capacity, 0).sum() == pytest.approx(plan.over_capacity, abs=1e-3)
    assert plan.over_capacity <= 0.01 * load.sum()
    assert plan.max_over_mean == pytest.approx(load.max() / load.mean(), rel=1e-5)


def test_with_room_for_all_every_token_keeps_its_best_experts() -> None:
    gate = np.random.default_rng(0).random((50, 6)).astype(np.float32)
    plan = assign_capacity(gate, np.full(6, 50.0), k=2)
    assert (plan.assignment == np.argsort(-gate, axis=1)[:, :2]).all()
    assert plan.gate_kept == 1
    assert plan.off_candidate == 0


def test_an_expert_without_room_is_not_in_the_bound() -> None:
    gate = np.array([[0.9, 0.5, 0.1], [0.8, 0.2, 0.3]], np.float32)
    plan = assign_capacity(gate, np.array([0.0, 1.0, 1.0]))
    assert plan.assignment.tolist() == [[1], [2]]
    assert plan.gate_mass == pytest.approx(0.8)
    assert 0.8 <= plan.bound * (1 + 1e-6) <= 0.85


def test_when_each_expert_has_one_place_the_plan_is_the_best_matching() -> None:
    # Token 0 loses least by giving way: 0.5 + 0.9 beats 0.6 + 0.1.
    plan = assign_capacity(np.array([[0.6, 0.5], [0.9, 0.1]], np.float32), np.ones(2))
    assert plan.assignment.tolist() == [[1], [0]]


def test_candidates_give_the_plan_of_their_dense_gate_and_a_repeated_one_counts_once() -> None:
    rng = np.random.default_rng(5)
    ids = np.argsort(rng.random((300, 8)), axis=1)[:, :3].astype(np.int32)
    mass = rng.random((300, 3)).astype(np.float32)
    capacity = even_capacity(300, 8, 1.05, 2)
    found = assign_candidates(ids, mass, capacity, k=2)
    best = optimum(dense_gate(ids, mass, 8), capacity, 2, np.ones(300))
    assert 0.99 * best <= found.gate_mass <= best * (1 + 1e-5)
    padded = np.c_[ids, ids[:, :1], np.full(300, -1)].astype(np.int32)
    again = assign_candidates(padded, np.c_[mass, np.ones((300, 2), np.float32)], capacity, k=2)
    assert again.assignment.tolist() == found.assignment.tolist()
    assert again.gate_mass == found.gate_mass


def test_as_many_experts_as_candidates_keep_the_most_mass_of_each_expert() -> None:
    """Then each expert is a problem of its own, whose optimum is to keep the tokens of most mass."""
    rng = np.random.default_rng(6)
    ids = np.argsort(rng.random((2000, 64)) ** np.linspace(0.3, 3, 64), axis=1)[:, :6].astype(np.int32)
    mass = rng.dirichlet(np.ones(6), 2000).astype(np.float32)
    capacity = even_capacity(2000, 64, 1.05, 6)
    found = assign_candidates(ids, mass, capacity, k=6)
    room = int(capacity[0])
    best = sum(np.sort(mass[ids == e])[::-1][:room].sum(dtype=float) for e in range(64))
    assert 0.995 * best <= found.gate_mass <= best * (1 + 1e-6) <= found.bound * (1 + 1e-5)
    assert np.bincount(found.assignment.ravel(), minlength=64).max() <= room
    assert (np.diff(np.sort(found.assignment, 1), axis=1) > 0).all()


@pytest.mark.parametrize(("tokens", "experts", "room"), [(100, 10, 11), (6400, 64, 110), (101, 10, 12), (0, 4, 0)])
def test_a_capacity_is_the_share_rounded_up_whatever_floats_make_of_it(tokens: int, experts: int, room: int) -> None:
    assert even_capacity(tokens, experts, 1.1).tolist() == [room] * experts


@pytest.mark.parametrize(("tokens", "experts", "k"), [(0, 8, 2), (1, 256, 8), (40, 256, 1), (3000, 256, 8)])
def test_few_tokens_and_many_experts_are_within_capacity(tokens: int, experts: int, k: int) -> None:
    gate = np.random.default_rng(7).dirichlet(np.linspace(0.1, 1, experts), tokens).astype(np.float32)
    capacity = even_capacity(tokens, experts, 1.0, k)
    plan = assign_capacity(gate.reshape(tokens, experts), capacity, k=k)
    assert plan.assignment.shape == (tokens, k)
    assert (np.bincount(plan.assignment.ravel(), minlength=experts) <= capacity).all()
    assert plan.gate_mass >= 0.99 * plan.bound


def test_equal_candidates_are_all_kept_where_they_fit() -> None:
    """Every token is content with two of the eight experts; there is room for all, but only if they share well."""
    ids = np.stack([np.arange(400) % 8, (np.arange(400) + 1) % 8], 1).astype(np.int32)
    ids[:, 0] = np.where(np.arange(400) % 3 > 0, 0, ids[:, 0])
    mass = np.ones((400, 2), np.float32)
    capacity = np.full(8, 80.0)
    gate = dense_gate(ids, mass, 8)
    plan = assign_candidates(ids, mass, capacity)
    assert plan.gate_mass >= 0.99 * optimum(gate, capacity, 1, np.ones(400))


def test_real_gates_keep_the_gate_mass_of_the_linear_program(stick: ModuleType) -> None:
    traces = stick.load(TRACE)
    ids, weights = (np.concatenate([trace[part] for trace in traces.values()]) for part in ("ids", "weights"))
    some = np.random.default_rng(0).choice(len(ids), 3000, replace=False)
    gate = dense_gate(ids[some, 10], weights[some, 10], 64)
    capacity = even_capacity(3000, 64, 1.05)
    plan = assign_capacity(gate, capacity)
    assert plan.gate_mass >= 0.995 * optimum(gate, capacity, 1, np.ones(3000), relaxed=True)
    assert plan.max_over_mean <= 1.07


def test_bad_input_is_named() -> None:
    gate, room = np.ones((4, 2), np.float32), np.full(2, 2.0)
    ids, weights = np.zeros((3, 2), np.int32), np.ones((3, 2), np.float32)
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: assign_capacity(-gate, room), "gate"),
        (lambda: assign_capacity(gate * np.nan, room), "gate"),
        (lambda: assign_capacity(gate, room - 1), "capacity"),
        (lambda: assign_capacity(gate, np.array([-1.0, 9.0])), "capacity"),
        (lambda: assign_capacity(gate, np.ones(3)), "capacity"),
        (lambda: assign_capacity(gate, room, k=3), "k"),
        (lambda: assign_capacity(gate, np.array([7.0, 1.0]), k=2), "capacity"),
        (lambda: assign_capacity(gate, room, cost=np.zeros(4, np.float32)), "cost"),
        (lambda: assign_capacity(gate, room, cost=np.ones(3, np.float32)), "cost"),
        (lambda: even_capacity(4, 2, 0.5), "factor"),
        (lambda: even_capacity(4, 0, 1.5), "experts"),
        (lambda: assign_candidates(ids + 2, weights, room), "ids"),
        (lambda: assign_candidates(ids - 2, weights, room), "ids"),
        (lambda: assign_candidates(ids, weights[:2], room), "mass"),
        (lambda: assign_candidates(ids, -weights, room), "mass"),
    ]
    for call, field in cases:
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            call()
