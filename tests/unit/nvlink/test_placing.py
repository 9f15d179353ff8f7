"""Placement of ranks: the optimum of a few, never above linear, room, pins and groups kept, windows by circuits."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.placing import place_ranks


def tree(blocks: int, per_leaf: int = 2) -> Any:
    """1 within a block, 18 below a leaf, 27 above it."""
    leaf = np.arange(blocks) // per_leaf
    return np.where(np.eye(blocks, dtype=bool), 1.0, np.where(leaf[:, None] == leaf, 18.0, 27.0))


def traffic(ranks: int, entries: int, seed: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    src, dst = rng.integers(ranks, size=(2, entries))
    return src, dst, rng.lognormal(0, 1.5, entries) * 1e9


def cost(block: Any, job: tuple[Any, Any, Any], distance: Any) -> float:
    src, dst, nbytes = job
    apart = src != dst
    return float((nbytes * distance[block[src], block[dst]])[apart].sum())


def linear(ranks: int, capacity: Any) -> Any:
    return np.repeat(np.arange(len(capacity)), capacity)[:ranks]


@pytest.mark.parametrize("seed", range(6))
def test_few_ranks_are_placed_at_the_optimum(seed: int) -> None:
    job, capacity, distance = traffic(6, 14, seed), np.array([2, 1, 3, 1]), tree(4)
    found = place_ranks(*job, capacity, distance, ranks=6)
    fits = (np.array(b) for b in product(range(4), repeat=6) if (np.bincount(b, minlength=4) <= capacity).all())
    assert found.cost == pytest.approx(min(cost(block, job, distance) for block in fits))
    assert found.cost == pytest.approx(cost(found.block_of_rank, job, distance))
    assert found.solver.exact == pytest.approx(found.cost)


@pytest.mark.parametrize("seed", range(4))
def test_annealing_reaches_the_optimum_of_the_fewest_ranks_that_are_not_enumerated(seed: int) -> None:
    job, capacity, distance = traffic(10, 40, seed), np.array([4, 3, 4]), tree(3)
    found = place_ranks(*job, capacity, distance, ranks=10)
    assert found.solver.exact is None
    every = np.indices((3,) * 10).reshape(10, -1).T
    fits = every[((every[..., None] == np.arange(3)).sum(axis=1) <= capacity).all(axis=1)]
    src, dst, nbytes = job
    least = ((nbytes * (src != dst)) * distance[fits[:, src], fits[:, dst]]).sum(axis=1).min()
    assert found.cost == pytest.approx(least)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=6).filter(lambda room: sum(room) >= 9),
    st.integers(0, 2**31),
    st.integers(0, 60),
)
def test_room_is_kept_and_no_answer_is_above_linear_or_below_the_bound(room: list[int], seed: int, entries: int) -> None:
    ranks, distance = 9, tree(len(room))
    job = traffic(ranks, entries, seed)
    found = place_ranks(*job, room, distance, ranks=ranks, seed=seed, options=NvlinkOptions(placement="fast"))
    block = found.block_of_rank
    assert (np.bincount(block, minlength=len(room)) <= room).all()
    assert found.bound * (1 - 1e-9) <= found.cost <= found.linear_cost * (1 + 1e-9)
    assert found.linear_cost == pytest.approx(cost(linear(ranks, room), job, distance))
    assert found.cost == pytest.approx(cost(block, job, distance))


def test_rings_that_were_scrambled_are_put_together_again() -> None:
    """Eight rings of eight ranks on eight nodes: each ring on a node of its own is the optimum, at the bound."""
    order = np.random.default_rng(0).permutation(64).reshape(8, 8)
    src, dst = order.ravel(), np.roll(order, -1, 1).ravel()
    found = place_ranks(src, dst, np.full(64, 1e9), np.full(8, 8), tree(8))
    assert found.cost == pytest.approx(64e9)
    assert found.cost == pytest.approx(found.bound)
    assert found.linear_cost > 5 * found.cost


def test_pins_and_atomic_groups_are_kept() -> None:
    job = traffic(24, 100, 3)
    groups, pins = [(0, 5, 11), (7, 8)], {3: 2, 20: 0}
    found = place_ranks(*job, np.full(4, 8), tree(4), ranks=24, atomic=groups, pins=pins)
    block = found.block_of_rank
    assert [block[rank] for rank in pins] == list(pins.values())
    assert all(len(set(block[list(group)].tolist())) == 1 for group in groups)


def test_moves_are_paid_for() -> None:
    job, capacity, distance = traffic(24, 200, 4), np.full(4, 8), tree(4)
    now = linear(24, capacity)
    free = place_ranks(*job, capacity, distance, ranks=24, current=now)
    dear = place_ranks(*job, capacity, distance, ranks=24, current=now, move_cost=1e18)
    assert free.cost < free.linear_cost
    assert dear.block_of_rank.tolist() == now.tolist()


def test_the_same_arguments_give_the_same_bytes_and_off_looks_for_nothing() -> None:
    job, capacity, distance = traffic(40, 300, 5), np.full(5, 8), tree(5)
    first, second = (place_ranks(*job, capacity, distance, ranks=40, seed=7).block_of_rank for _ in range(2))
    assert first.tobytes() == second.tobytes()
    off = place_ranks(*job, capacity, distance, ranks=40, options=NvlinkOptions(placement="off"))
    assert off.block_of_rank.tolist() == linear(40, capacity).tolist()


@pytest.mark.parametrize(
    "options", [{"qaoa": True, "circuit_slots": 6}, {"hqc": True}, {"qaoa": True, "hqc": True, "circuit_slots": 6}]
)
def test_windows_are_kept_only_if_the_cost_falls_and_carry_their_twins(options: dict[str, Any]) -> None:
    job, capacity, distance = traffic(24, 200, 6), np.full(4, 6), tree(4)
    plain = place_ranks(*job, capacity, distance, ranks=24)
    found = place_ranks(*job, capacity, distance, ranks=24, options=NvlinkOptions(**options))
    assert found.cost <= plain.cost * (1 + 1e-9)
    asked = [record for record in found.candidates if record.variant == "windows"]
    assert asked
    for record in asked:
        assert record.objective is not None
        assert record.exact is not None
        assert record.exact <= record.objective * (1 + 1e-9)
        if record.solver == "qaoa":
            assert (record.execution, record.shots, record.depth) == ("simulated-subspace", 256, 4)
            assert record.control is not None


def test_circuits_that_win_nothing_are_labelled_as_simulated_too() -> None:
    src, dst = (each.ravel() for each in np.indices((24, 24)))
    apart = src != dst
    nbytes = np.where(src // 8 == dst // 8, 1e9, 1e6)[apart]  # groups of 8 do not fit into blocks of 6
    terms = NvlinkOptions(qaoa=True, circuit_slots=6)
    found = place_ranks(src[apart], dst[apart], nbytes, np.full(4, 6), tree(4), ranks=24, options=terms)
    record = next(record for record in found.candidates if record.solver == "qaoa")
    assert record.kept == 0
    assert (record.execution, record.shots, record.depth, record.seed) == ("simulated-subspace", 256, 4, 0)
    assert None not in (record.exact, record.control, record.twin)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src": [0, 1]}, "dst"),
        ({"src": [0, -1, 2]}, "src"),
        ({"nbytes": [1.0, np.nan, 1.0]}, "nbytes"),
        ({"nbytes": [1.0, -2.0, 1.0]}, "nbytes"),
        ({"capacity": [1, 1]}, "rank"),
        ({"capacity": [-1, 9]}, "capacity"),
        ({"distance": np.ones((3, 3))}, "distance"),
        ({"distance": np.full((2, 2), np.inf)}, "distance"),
        ({"pins": {0: 9}}, "pins"),
        ({"atomic": [(0, 1, 2)], "capacity": [2, 2]}, "atomic"),
        ({"current": [0, 5, 0]}, "current"),
        ({"move_cost": -1.0}, "move_cost"),
    ],
)
def test_what_is_no_problem_is_named(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"src": [0, 1, 2], "dst": [1, 2, 0], "nbytes": [1.0, 1.0, 1.0]}
    fields |= {"capacity": [2, 2], "distance": tree(2)}
    with pytest.raises(ProblemError, match=message):
        place_ranks(**(fields | change))
