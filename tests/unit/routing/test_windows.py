"""Windows: their costs are those of the plan, their Ising model that of pairs and squares, and no solver makes a plan worse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.quantum.window import WindowSolver
from qstream.routing.colocate import coactivation, colocate
from qstream.routing.pack import place_window
from qstream.routing.partitions import gpu_partitions, gpu_plan, node_partitions, nodes_of
from qstream.routing.scenarios import anneal
from qstream.routing.score import balancedness, gpu_loads, holds, violations
from qstream.routing.window_model import Partition, Window, window_of
from qstream.routing.windows import WindowSettings, choose, improve
from schemas.solver import Reason

SOLVERS: tuple[WindowSolver, ...] = ("exact", "qaoa", "greedy")


def history(seed: int, windows: int = 5, layers: int = 2, experts: int = 24) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.lognormal(3, 1, (1, layers, experts)) * rng.lognormal(0, 0.5, (windows, layers, experts))


def tokens(seed: int, experts: int, count: int = 2000, k: int = 4) -> np.ndarray:
    """Tokens [T, 1, k] that draw from a hidden block of experts more often than from the others."""
    rng = np.random.default_rng(seed)
    block = rng.permutation(experts) % 2
    score = rng.gumbel(size=(count, experts)) + 1.5 * (block == rng.integers(0, 2, (count, 1))) + rng.normal(0, 0.5, experts)
    return np.argsort(-score, axis=1)[:, None, :k].astype(np.int32)


def on_gpus(seed: int = 0, move_cost: float = 0.0) -> tuple[np.ndarray, np.ndarray, tuple[Partition, ...]]:
    past = history(seed)
    plan = place_window(past[-1], 4, 28)
    return past, plan, gpu_partitions(plan, past, 4, move_cost=move_cost)


def on_nodes(seed: int = 0, experts: int = 16, nodes: int = 2, steps: int = 0) -> tuple[Partition, ...]:
    together = coactivation(tokens(seed, experts), experts)
    return node_partitions(colocate(together, np.full(nodes, experts // nodes), steps=steps), together, nodes)


def windows_of(partition: Partition, count: int, size: int = 8) -> list[Window]:
    found = [choose(partition, size, np.random.default_rng(seed)) for seed in range(count)]
    return [window for window in found if window is not None]


def states(window: Window) -> np.ndarray:
    """All rearrangements that leave each bin as many items, by combinations."""
    n, weight = len(window.items), int((window.spins < 0).sum())
    found = np.ones((math.comb(n, weight), n), np.int8)
    for row, chosen in zip(found, combinations(range(n), weight), strict=True):
        row[list(chosen)] = -1
    return found


def rearranged(partition: Partition, window: Window, spins: np.ndarray) -> Partition:
    bin_of = partition.bin_of.copy()
    a, b = window.bins
    bin_of[window.items] = [a if spin > 0 else b for spin in spins]
    return replace(partition, bin_of=bin_of)


def test_the_objective_of_gpus_is_what_annealing_minimises() -> None:
    past, plan, parts = on_gpus(move_cost=0.01)
    after = anneal(plan, past, 4, steps=200, move_cost=0.01)
    scored = gpu_partitions(after, past, 4, move_cost=0.01, previous=plan)
    for layer, partition in enumerate(scored):
        fullest = [gpu_loads(after, load, 4)[layer].max() / (load[layer].sum() / 4) for load in past]
        new = (holds(after, 24, 4) & ~holds(plan, 24, 4))[layer].sum()
        assert partition.objective() == pytest.approx(np.mean(fullest) + 0.01 * new, abs=1e-12)
    assert sum(p.objective() for p in scored) < sum(p.objective() for p in parts)


def test_the_objective_of_nodes_is_the_part_of_pairs_between_them_and_a_price_above_the_limit() -> None:
    together = coactivation(tokens(1, 12), 12)
    node = (np.arange(12) % 3)[None].astype(np.int32)
    even, tight = (node_partitions(node, together, 3, eps=eps)[0] for eps in (math.inf, 0.0))
    between = sum(together[0, e, f] for e, f in combinations(range(12), 2) if node[0, e] != node[0, f])
    assert even.objective() == pytest.approx(between / np.triu(together[0], 1).sum())
    load = np.bincount(node[0], np.diag(together[0]))
    assert tight.objective() == pytest.approx(even.objective() + 5 * np.maximum(load / load.mean() - 1, 0).sum())


@pytest.mark.parametrize(
    "made", [lambda: on_gpus(move_cost=0.01)[2], on_nodes, lambda: on_nodes(experts=24, nodes=4)], ids=["gpus", "2", "4"]
)
def test_a_window_costs_what_the_whole_plan_costs_but_for_a_constant(made: Callable[[], tuple[Partition, ...]]) -> None:
    parts = made()
    for window in windows_of(parts[0], 6, size=6):
        each = states(window)
        whole = np.array([rearranged(parts[0], window, spins).objective() for spins in each])
        np.testing.assert_allclose(np.ptp(whole - window.costs(each)), 0, atol=1e-12)


def test_the_ising_model_is_traffic_and_the_squared_difference_of_loads_as_its_formula_says() -> None:
    """-W_ij / (2 W_all) + 2 rho w_i w_j and its field: the energies of all rearrangements are those of cut + rho gap^2."""
    partition = on_nodes(3)[0]
    for window in windows_of(partition, 6):
        problem, each = window.ising(), states(window)
        cut, gap = [], []
        for spins in each:
            bin_of = rearranged(partition, window, spins).bin_of
            assert partition.together is not None
            cut.append(sum(partition.together[e, f] for e, f in combinations(range(16), 2) if bin_of[e] != bin_of[f]))
            gap.append(partition.load[bin_of == window.bins[0]].sum() - partition.load[bin_of == window.bins[1]].sum())
        energy = np.array(cut) + 0.05 * np.square(gap)
        np.testing.assert_allclose(problem.energies(each), (energy - energy.mean()) / energy.std(), atol=1e-9)


def test_experts_that_are_hot_at_the_same_time_repel_and_those_that_take_turns_do_not() -> None:
    """Four experts on two GPUs: 0 and 1 are hot in one window, 2 and 3 in the other."""
    past = np.array([[[9.0, 9, 1, 1]], [[1.0, 1, 9, 9]]])
    partition = gpu_partitions(np.array([[0, 1, 2, 3]], np.int32), past, 2)[0]
    window = window_of(partition, (0, 1), np.arange(4), partition.levels())
    couplings = window.ising().symmetric()
    together, apart = 0.9**2 + 0.1**2, 2 * 0.9 * 0.1  # inner products of loads over the mean GPU's
    np.testing.assert_allclose(couplings[[0, 0], [1, 2]], couplings[[2, 1], [3, 3]])
    assert couplings[0, 1] / couplings[0, 2] == pytest.approx(together / apart)
    improved = improve((partition,), WindowSettings(size=4, count=1)).partitions[0]
    assert improved.objective() == pytest.approx(1.0)
    assert improved.bin_of[0] != improved.bin_of[1]


def test_energies_of_a_window_without_anything_to_gain_are_zero() -> None:
    partition = gpu_partitions(np.arange(8, dtype=np.int32)[None], np.ones((1, 1, 8)), 2)[0]
    window = choose(partition, 6, np.random.default_rng(0))
    assert window is not None
    assert not window.ising().energies(states(window)).any()
    improved = improve((partition,), WindowSettings("qaoa", count=2))
    assert improved.partitions[0] is partition


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("size", [2, 8, 10, 12])
def test_no_solver_makes_a_plan_worse_or_breaks_it(solver: WindowSolver, size: int) -> None:
    past, plan, parts = on_gpus()
    improved = improve(parts, WindowSettings(solver, size=size, count=8, shots=4))
    after = gpu_plan(improved.partitions, plan)
    assert violations(after, 24, 4) == 0
    assert (np.sort(after, axis=1) == np.sort(plan, axis=1)).all()
    scored = gpu_partitions(after, past, 4)
    for before, now, again in zip(parts, improved.partitions, scored, strict=True):
        assert now.objective() <= before.objective() + 1e-12
        assert again.objective() == pytest.approx(now.objective())
    gained = sum(record.gain for record in improved.records)
    assert gained == pytest.approx(sum(p.objective() for p in parts) - improved.objective(), abs=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SOLVERS), st.integers(2, 5), st.integers(0, 6))
def test_any_plan_stays_valid_and_becomes_no_worse(seed: int, solver: WindowSolver, gpus: int, spare: int) -> None:
    rng = np.random.default_rng(seed)
    experts = 3 * gpus
    slots = experts + gpus * (spare % 3)
    past = rng.gamma(0.5, size=(3, 1, experts))
    plan = place_window(rng.gamma(0.5, size=(1, experts)), gpus, slots)
    parts = gpu_partitions(plan, past, gpus, capacity=rng.uniform(0.5, 2, gpus), weights=rng.random(3) + 0.1)
    improved = improve(parts, WindowSettings(solver, size=8, count=6, shots=8, seed=seed))
    assert violations(gpu_plan(improved.partitions, plan), experts, gpus) == 0
    assert improved.objective() <= parts[0].objective() + 1e-12


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("made", [lambda: on_gpus()[2], on_nodes], ids=["gpus", "nodes"])
def test_enumeration_takes_the_best_of_all_rearrangements(made: Callable[[], tuple[Partition, ...]], seed: int) -> None:
    partition = made()[0]
    improved = improve((partition,), WindowSettings(size=8, count=1, seed=seed))
    window = choose(partition, 8, np.random.default_rng(np.random.SeedSequence([seed, 0, 0, 0])))
    assert window is not None
    least = min(rearranged(partition, window, spins).objective() for spins in states(window))
    assert improved.objective() == pytest.approx(least, abs=1e-12)
    assert improved.records[0].best_gain == pytest.approx(partition.objective() - least, abs=1e-12)


@pytest.mark.parametrize("experts", [12, 16])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("solver", ["exact", "qaoa"])
def test_two_nodes_are_split_as_well_as_any_split_can(experts: int, seed: int, solver: WindowSolver) -> None:
    parts = on_nodes(seed, experts, steps=2000)
    improved = improve(parts, WindowSettings(solver, size=12, count=48)).partitions[0]
    side = np.full((math.comb(experts - 1, experts // 2 - 1), experts), -1)
    side[:, 0] = 1
    np.put_along_axis(side, np.array(list(combinations(range(1, experts), experts // 2 - 1))), 1, 1)
    pairs = np.triu(coactivation(tokens(seed, experts), experts)[0], 1)
    load = np.diag(coactivation(tokens(seed, experts), experts)[0])
    cut = ((1 - side[:, :, None] * side[:, None]) / 2 * pairs).sum((1, 2)) / pairs.sum()
    above = np.maximum(np.abs(side @ load) / load.sum() - 0.05, 0)
    least = (cut + 5 * above).min()
    assert improved.objective() == pytest.approx(least, abs=1e-9)


def test_a_single_window_of_all_experts_is_the_optimum() -> None:
    parts = on_nodes(7, 12)
    improved = improve(parts, WindowSettings(size=12, count=1)).partitions[0]
    window = choose(parts[0], 12, np.random.default_rng(0))
    assert window is not None
    assert improved.objective() == pytest.approx(min(rearranged(parts[0], window, s).objective() for s in states(window)))


def test_experts_change_gpus_within_their_node_only() -> None:
    past, plan, _ = on_gpus()
    parts = gpu_partitions(plan, past, 4, nodes=np.array([0, 0, 1, 1], np.int32))
    improved = improve(parts, WindowSettings(count=32))
    assert improved.objective() < sum(p.objective() for p in parts)
    after = gpu_plan(improved.partitions, plan)
    for before, now in zip(plan, after, strict=True):
        assert sorted(before[:14]) == sorted(now[:14])


def test_a_price_on_moves_keeps_experts_where_they_were() -> None:
    def moved(move_cost: float) -> int:
        _, plan, parts = on_gpus(move_cost=move_cost)
        after = gpu_plan(improve(parts, WindowSettings(count=32)).partitions, plan)
        return int((holds(after, 24, 4) & ~holds(plan, 24, 4)).sum())

    counts = [moved(cost) for cost in (0.0, 0.01, 10.0)]
    assert counts[0] > counts[1] > counts[2] == 0


def test_samples_capture_more_of_the_gain_than_as_many_samples_before_the_first_layer() -> None:
    parts = tuple(on_nodes(seed, 24)[0] for seed in range(6))
    records = improve(parts, WindowSettings("qaoa", size=12, count=12)).records
    circuits = [record.circuit for record in records if record.circuit is not None and record.best_gain > 0]
    assert len(circuits) > 20
    assert np.mean([c.captured for c in circuits]) > np.mean([c.control_captured for c in circuits]) + 0.2
    for circuit in circuits:
        assert circuit.optimum <= circuit.found
        assert circuit.execution == "simulated-subspace"
        assert (circuit.p, circuit.shots) == (2, 32)
        assert circuit.ratio is not None
        assert circuit.p_opt is not None
        assert 0 <= circuit.p_opt <= 1
        assert 0.5 < circuit.ratio <= 1
    for record in records:
        assert record.mean_gain <= record.best_gain + 1e-12
        assert record.control_gain is not None
        assert 0 <= record.control_gain <= record.best_gain + 1e-12


@pytest.mark.parametrize("solver", SOLVERS)
def test_equal_seeds_give_equal_plans_and_records_and_other_turns_other_windows(solver: WindowSolver) -> None:
    _, plan, parts = on_gpus()
    first, again = (improve(parts, WindowSettings(solver, count=6, seed=5)) for _ in range(2))
    assert first.records == again.records
    np.testing.assert_array_equal(gpu_plan(first.partitions, plan), gpu_plan(again.partitions, plan))
    other = improve(parts, WindowSettings(solver, count=6, seed=5), turn=1)
    assert [r.seed for r in other.records] != [r.seed for r in first.records]


def test_the_deadline_ends_the_windows_and_keeps_what_they_gained() -> None:
    left = iter([1.0] * 9)
    _, _, parts = on_gpus()
    improved = improve(parts, WindowSettings(count=50), remaining_s=lambda: next(left, 0.0))
    assert improved.reason == Reason.TIMEOUT
    assert len(improved.records) == 9
    assert improved.objective() < sum(p.objective() for p in parts)
    assert not improve(parts, WindowSettings(), remaining_s=lambda: 0.0).records


def test_a_circuit_that_the_deadline_cuts_leaves_the_plan_as_it_was() -> None:
    left = iter([1.0, 1.0])
    _, _, parts = on_gpus()
    improved = improve(parts, WindowSettings("qaoa", layers=4), remaining_s=lambda: next(left, 0.0))
    assert improved.reason == Reason.TIMEOUT
    assert improved.partitions == parts


def test_one_gpu_or_replicas_on_both_gpus_leave_nothing_to_rearrange() -> None:
    alone = gpu_partitions(np.arange(4, dtype=np.int32)[None], np.ones((1, 1, 4)), 1)
    everywhere = gpu_partitions(np.array([[0, 1, 0, 1]], np.int32), np.ones((1, 1, 2)), 2)
    for parts in (alone, everywhere):
        assert improve(parts, WindowSettings()).records == ()


def test_slots_keep_their_experts_unless_these_change_gpus() -> None:
    _, plan, parts = on_gpus()
    after = gpu_plan(improve(parts, WindowSettings(count=8)).partitions, plan)
    changed, new = plan != after, holds(after, 24, 4) & ~holds(plan, 24, 4)
    assert changed.sum() == new.sum() > 0


def test_more_windows_lead_to_balance_that_annealing_finds_too() -> None:
    past, plan, parts = on_gpus()
    after = gpu_plan(improve(parts, WindowSettings(count=200)).partitions, plan)
    annealed = anneal(plan, past, 4, steps=20_000)
    reached, given, known = (np.mean([balancedness(p, load, 4) for load in past]) for p in (after, plan, annealed))
    assert reached > given
    assert reached > known - 0.01


def test_nodes_keep_their_sizes() -> None:
    parts = on_nodes(experts=24, nodes=4)
    node = nodes_of(improve(parts, WindowSettings("qaoa", count=16)).partitions)
    np.testing.assert_array_equal(np.bincount(node[0]), np.full(4, 6))


def test_each_accepted_window_lowers_the_objective_a_little_more() -> None:
    parts = on_nodes(2, 24, 4)
    levels = [improve(parts, WindowSettings(count=count)).objective() for count in (0, 4, 8, 16)]
    assert all(after <= before for before, after in pairwise(levels))
    assert levels[-1] < levels[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": 17}, "size must be .*, got 17"),
        ({"size": 1}, "size must be .*, got 1"),
        ({"shots": 0}, "shots must be .*, got 0"),
        ({"layers": 0}, "layers must be .*, got 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(given: dict[str, int], said: str) -> None:
    with pytest.raises(ProblemError, match=said):
        WindowSettings(**given)  # type: ignore[arg-type]


def test_wrong_arrays_are_refused_by_name() -> None:
    past, plan, _ = on_gpus()
    together = coactivation(tokens(0, 8), 8)
    node = np.zeros((1, 8), np.int32)
    for call, said in (
        (lambda: gpu_partitions(np.zeros_like(plan), past, 4), "plan must be "),
        (lambda: gpu_partitions(plan, past, 4, move_cost=-1.0), "move_cost must be .*, got -1"),
        (lambda: gpu_partitions(plan, past, 4, weights=np.zeros(5)), "weights must be "),
        (lambda: gpu_partitions(plan, past, 4, nodes=np.zeros(3, np.int32)), "nodes must be .*, got 3"),
        (lambda: gpu_partitions(plan, past, 4, previous=plan[:1]), "previous must be .*, got 1 layers"),
        (lambda: node_partitions(node + 2, together, 2), "node_of_expert must be .*, got values from 2 to 2"),
        (lambda: node_partitions(node, together[:, :, :4], 2), "together must be "),
        (lambda: node_partitions(node, together, 2, eps=-1.0), "eps must be .*, got -1"),
        (lambda: node_partitions(node, together, 2, load=np.ones((1, 7))), "load must be .*, got shape"),
    ):
        with pytest.raises(ProblemError, match=said):
            call()
