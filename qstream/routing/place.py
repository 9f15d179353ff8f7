"""From the history of a model to a placement plan: forecast, experts to nodes, replicas to GPUs, and the frame that says so."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.routing.colocate import colocate
from qstream.routing.forecast import Forecast, forecast
from qstream.routing.kernels import array
from qstream.routing.memory import contiguous
from qstream.routing.migrate import align, moves
from qstream.routing.pack import place as place_window
from qstream.routing.problem import logical_maps, plan_array
from qstream.routing.scenarios import anneal
from qstream.routing.score import gpu_loads, holds
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan, PlacementScore
from schemas.solver import SolverRecord

_LAYERS_AT_ONCE = 4  # between two looks at the clock
_MAX_GPUS_ALIGNED = 128
_BONDS_KEPT = 0.95  # of the co-activations that a fresh assignment to nodes would bring together: below it, experts change node
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class PlaceOptions:
    """How `place` plans: `windows` newest windows, `steps` of annealing a layer, `node_steps` of experts between nodes, load of
    a node at most 1 + `node_slack` of its share, two replicas or more for the `hot_experts` heaviest experts of a layer."""

    windows: int = 16
    steps: int = 8000
    node_steps: int = 40_000
    node_slack: float = 0.05
    hot_experts: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """GPUs [g] that share experts among themselves, and those experts in each layer, int64 [L, n]."""

    gpus: NDArray[np.int64]
    experts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """What `place` was asked, checked; `live` are the GPUs with capacity, `capacity` [G] and `previous` [L, P] are of all."""

    topology: ExpertTopology
    ahead: Forecast
    live: NDArray[np.int64]
    capacity: NDArray[np.float64]
    least: NDArray[np.int32]
    previous: NDArray[np.int32]
    move_cost: float
    options: PlaceOptions
    seed: int


def place(
    history: NDArray[np.int64],
    topology: ExpertTopology,
    *,
    coactivation: NDArray[np.int64] | None = None,
    labels: NDArray[np.int64] | None = None,
    queued: NDArray[np.int64] | None = None,
    previous: NDArray[np.int32] | None = None,
    move_cost: float = 0.0,
    options: PlaceOptions | None = None,
    deadline_s: float | None = None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> PlacementPlan:
    """Plan the placement for the window that follows `history`.

    Every expert has a slot, no GPU has an expert twice, and GPUs of capacity 0 serve none: their slots keep what they had,
    with a share of 0, and stand in no logical map. With co-activations of a model on several nodes, each expert and its
    replicas stay on one node (`colocate`), where every node can then fill its GPUs without a duplicate. Equal arguments give
    equal bytes, unless the deadline cuts the annealing short.

    Parameters
    ----------
    history : int [W, L, E]
        Tokens of each expert in past windows, newest last.
    topology : ExpertTopology
    coactivation : int [L, E, E], optional
        As `colocate.coactivation` counts it.
    labels, queued : int [K, L, E] and int [K], optional
        As in `forecast`.
    previous : int32 [L, P], optional
        The placement in force, over all GPUs; the contiguous one by default.
    move_cost : float
        As in `anneal`. Above 0, the placement in force is improved too, and experts keep their nodes while that costs little.
    deadline_s : float, optional
        Seconds from the call after which no further layers are annealed; the fast plan of every layer is made in any case.
    seed : int
    clock : callable
        Seconds; read only where there is a deadline.

    Raises
    ------
    ProblemError
        An argument contradicts the topology or a rule of the solvers.
    """
    started = clock() if deadline_s is not None else 0.0

    def late() -> bool:
        return deadline_s is not None and clock() - started >= deadline_s

    problem = _problem(history, topology, labels, queued, previous, move_cost, options or PlaceOptions(), seed)
    parts = _parts(problem, coactivation)
    plan = np.zeros((topology.num_layers, topology.num_gpus, topology.slots_per_gpu), np.int32)
    annealed = min(_fill(problem, part, plan, late) for part in parts)
    name = "lpt-swap" if annealed == 0 or problem.options.steps == 0 else "swap-annealing"
    if 0 < annealed < topology.num_layers:
        name += f" of {annealed} layers"
    if len(parts) > 1:
        name = f"colocation, {name}"
    return _frame(problem, plan[:, problem.live].reshape(len(plan), -1), name, None if deadline_s is None else clock() - started)


def _problem(
    history: NDArray[np.int64],
    topology: ExpertTopology,
    labels: NDArray[np.int64] | None,
    queued: NDArray[np.int64] | None,
    previous: NDArray[np.int32] | None,
    move_cost: float,
    options: PlaceOptions,
    seed: int,
) -> _Problem:
    layers, experts = topology.num_layers, topology.num_logical_experts
    windows = array("history", history, np.float64, "W L E")
    if windows.shape[1:] != (layers, experts):
        raise ProblemError(f"history: {list(windows.shape)}, must be [W, {layers} layers, {experts} experts]")
    if options.windows < 1:
        raise ProblemError(f"windows: {options.windows}, must be >= 1")
    ahead = forecast(windows[-options.windows :], labels=labels, queued=queued)
    given = np.ones(topology.num_gpus) if topology.gpu_capacity is None else topology.gpu_capacity.astype(np.float64)
    live = np.flatnonzero(given > 0)
    slots = len(live) * topology.slots_per_gpu
    if slots < experts + options.hot_experts:
        raise ProblemError(
            f"gpu_capacity: {len(live)} GPUs with capacity have {slots} slots, must be >= {experts} experts"
            f" + {options.hot_experts} hot_experts"
        )
    if not 0 <= options.hot_experts <= experts or (options.hot_experts and len(live) < 2):
        raise ProblemError(f"hot_experts: {options.hot_experts}, must be in 0..{experts}, and 0 for a single GPU with capacity")
    least = np.ones((layers, experts), np.int32)
    heaviest = np.argsort(-ahead.load(), axis=1, kind="stable")[:, : options.hot_experts]
    np.put_along_axis(least, heaviest, 2, 1)
    before = plan_array("previous", contiguous(topology) if previous is None else previous, experts, topology.num_gpus)
    if before.shape != (layers, topology.num_slots):
        raise ProblemError(f"previous: shape {before.shape}, must be {(layers, topology.num_slots)}")
    return _Problem(topology, ahead, live, given, least, before, move_cost, options, seed)


def _parts(problem: _Problem, coactivation: NDArray[np.int64] | None) -> list[_Part]:
    """The nodes with their experts; one part with all GPUs and experts where nodes do not matter or cannot be filled."""
    topology, load = problem.topology, problem.ahead.load()
    every = np.tile(np.arange(load.shape[1]), (len(load), 1))
    whole = [_Part(problem.live, every)]
    gpus_of = [problem.live[topology.nodes()[problem.live] == n] for n in range(topology.num_nodes)]
    gpus_of = [gpus for gpus in gpus_of if len(gpus)]
    if coactivation is None:
        return whole
    together = array("coactivation", coactivation, np.float64, "L E F")
    if together.shape != (*load.shape, load.shape[1]):
        raise ProblemError(f"coactivation: shape {together.shape}, must be {(*load.shape, load.shape[1])}")
    if len(gpus_of) == 1:
        return whole
    slots = np.array([len(gpus) * topology.slots_per_gpu for gpus in gpus_of])
    sizes = _apportion(load.shape[1], slots)
    if sizes.min() < topology.slots_per_gpu:
        return whole
    share = np.array([problem.capacity[gpus].sum() for gpus in gpus_of])
    options = problem.options
    node = colocate(together, sizes, load=load, share=share, eps=options.node_slack, steps=options.node_steps, seed=problem.seed)
    if problem.move_cost > 0:
        node = _stay(problem, node, together, gpus_of, share)
    members = np.argsort(node, axis=1, kind="stable")
    parts = [_Part(gpus, part) for gpus, part in zip(gpus_of, np.split(members, np.cumsum(sizes)[:-1], axis=1), strict=True)]
    needed = [np.take_along_axis(problem.least, part.experts, 1) for part in parts]
    fits = all(n.sum(1).max() <= s and n.max() <= len(part.gpus) for n, s, part in zip(needed, slots, parts, strict=True))
    return parts if fits else whole


def _apportion(experts: int, slots: NDArray[np.int64]) -> NDArray[np.int64]:
    """Experts of each node in proportion to its slots, largest remainder first; at most one a slot."""
    exact = experts * slots / slots.sum()
    sizes: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    sizes[np.argsort(sizes - exact, kind="stable")[: experts - sizes.sum()]] += 1
    return sizes


def _stay(
    problem: _Problem,
    node: NDArray[np.int32],
    together: NDArray[np.float64],
    gpus_of: list[NDArray[np.int64]],
    share: NDArray[np.float64],
) -> NDArray[np.int32]:
    """Keep the experts of a layer on their nodes where these keep their sizes, loads and nearly all co-activations."""
    load = problem.ahead.load()
    on_gpu = holds(problem.previous, node.shape[1], problem.topology.num_gpus)
    on_node = np.stack([on_gpu[:, gpus].any(1) for gpus in gpus_of], axis=2)  # [L, E, nodes]
    before = on_node.argmax(2).astype(np.int32)
    bonds, fullest = [], []
    for assigned in (before, node):
        bonds.append(np.einsum("lef,lef->l", together, assigned[:, :, None] == assigned[:, None, :]))
        carried = np.einsum("le,len->ln", load, assigned[:, :, None] == np.arange(len(share)))
        fullest.append((carried / share).max(1) * share.sum() / np.maximum(load.sum(1), 1e-300))
    stays = (on_node.sum(2) == 1).all(1) & (np.sort(before, axis=1) == np.sort(node, axis=1)).all(1)
    stays &= bonds[0] >= _BONDS_KEPT * bonds[1]
    stays &= fullest[0] <= np.maximum(1.0 + 2.0 * problem.options.node_slack, fullest[1])
    kept: NDArray[np.int32] = np.where(stays[:, None], before, node)
    return kept


def _fill(problem: _Problem, part: _Part, plan: NDArray[np.int32], late: Callable[[], bool]) -> int:
    """Write the slots of the part's GPUs into `plan` [L, G, S]; returns how many layers were annealed."""
    gpus, slots = len(part.gpus), len(part.gpus) * problem.topology.slots_per_gpu
    capacity = problem.capacity[part.gpus]
    least = np.take_along_axis(problem.least, part.experts, 1)
    fresh = place_window(np.take_along_axis(problem.ahead.load(), part.experts, 1), gpus, slots, least=least, capacity=capacity)
    was, starts = _starts(problem, part, fresh, least)
    scenarios = np.take_along_axis(problem.ahead.scenarios, part.experts[None], 2)
    best = starts[0]
    annealed = 0
    for first in range(0, len(fresh), _LAYERS_AT_ONCE):
        some = slice(first, first + _LAYERS_AT_ONCE)
        steps = 0 if late() else problem.options.steps
        plans = [
            anneal(
                start[some], scenarios[:, some], gpus, steps=steps, seed=problem.seed + first, move_cost=problem.move_cost,
                previous=was[some], weights=problem.ahead.weights, capacity=capacity,
            )
            for start in starts
        ]  # fmt: skip
        costs = [_cost(p, was[some], scenarios[:, some], problem, capacity) for p in plans]
        best[some] = np.stack(plans)[np.argmin(costs, axis=0), np.arange(len(plans[0]))]
        annealed += len(plans[0]) if steps else 0
    plan[:, part.gpus] = np.take_along_axis(part.experts, best.astype(np.int64), 1).reshape(len(plan), gpus, -1)
    return annealed


def _starts(
    problem: _Problem, part: _Part, fresh: NDArray[np.int32], least: NDArray[np.int32]
) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
    """What is in force in the part, and plans to anneal from; all in its own numbers of experts, int32 [L, p].

    Where an expert of another part is in force, `fresh` stands in for the layer, with GPUs named for the fewest moves.
    """
    layers, n = part.experts.shape
    gpus = len(part.gpus)
    in_force = problem.previous.reshape(layers, problem.topology.num_gpus, -1)[:, part.gpus].reshape(layers, -1)
    named = np.take_along_axis(part.experts, fresh.astype(np.int64), 1).astype(np.int32)
    if gpus <= _MAX_GPUS_ALIGNED and np.ptp(problem.capacity[part.gpus]) == 0.0:
        named = align(in_force, named, gpus)
    local = np.full((layers, problem.topology.num_logical_experts), -1, np.int32)
    np.put_along_axis(local, part.experts, np.arange(n, dtype=np.int32)[None], 1)
    fresh = np.take_along_axis(local, named, 1)
    known = np.take_along_axis(local, in_force, 1)
    was = np.where((known >= 0).all(1, keepdims=True), known, fresh)
    if problem.move_cost == 0.0:
        return was, [fresh]
    on_gpu = holds(was, n, gpus)
    valid = (on_gpu.sum((1, 2)) == was.shape[1]) & (on_gpu.sum(1) >= least).all(1)
    return was, [fresh, np.where(valid[:, None], was, fresh)]


def _cost(
    plan: NDArray[np.int32],
    was: NDArray[np.int32],
    scenarios: NDArray[np.float64],
    problem: _Problem,
    capacity: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What `anneal` minimises, of each layer: float64 [L]."""
    experts, gpus = scenarios.shape[2], len(capacity)
    moved = (holds(plan, experts, gpus) & ~holds(was, experts, gpus)).sum((1, 2))
    mean, fullest = _levels(plan, scenarios, capacity)
    ratio = np.divide(fullest, mean, out=np.ones_like(mean), where=mean > 0)
    cost: NDArray[np.float64] = problem.ahead.weights @ ratio + problem.move_cost * moved
    return cost


def _levels(
    plan: NDArray[np.int32], scenarios: NDArray[np.float64], capacity: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Load over capacity, of all GPUs together and of the fullest, in each scenario and layer: float64 [W, L]."""
    loads = np.stack([gpu_loads(plan, load, len(capacity)) for load in scenarios])
    return scenarios.sum(2) / capacity.sum(), (loads / capacity).max(2)


def _score(plan: NDArray[np.int32], ahead: Forecast, capacity: NDArray[np.float64]) -> tuple[float, float]:
    """Balancedness expected of a plan, and of its worst layer; 0 if an expert has no slot."""
    experts = ahead.scenarios.shape[2]
    if not holds(plan, experts, len(capacity)).any(1).all():
        return 0.0, 0.0
    mean, fullest = _levels(plan, ahead.scenarios, capacity)
    by_window = np.divide(mean.sum(1), fullest.sum(1), out=np.ones(len(mean)), where=fullest.sum(1) > 0)
    mean, fullest = ahead.weights @ mean, ahead.weights @ fullest
    by_layer = np.divide(mean, fullest, out=np.ones_like(mean), where=fullest > 0)
    return min(1.0, float(ahead.weights @ by_window)), min(1.0, float(by_layer.min()))


def _frame(problem: _Problem, plan: NDArray[np.int32], name: str, wall_s: float | None) -> PlacementPlan:
    """The plan of the GPUs with capacity, int32 [L, p], as a frame over all GPUs."""
    topology, room, live = problem.topology, problem.topology.slots_per_gpu, problem.live
    capacity, load = problem.capacity[live], problem.ahead.load()
    slot = (live[:, None] * room + np.arange(room)).ravel()
    before, whole = problem.previous[:, slot], problem.previous.copy()
    whole[:, slot] = plan
    slots_of, counts = logical_maps(plan, topology.num_logical_experts)
    shares = np.zeros(whole.shape, np.float32)
    shares[:, slot] = 1.0 / np.take_along_axis(counts, plan, 1)
    steps = moves(before, plan, load, len(live), max(1, topology.expert_bytes), topology.nodes()[live])
    balancedness, worst = _score(plan, problem.ahead, capacity)
    bound = np.maximum(load.sum(1) / capacity.sum(), (load / counts).max(1) / capacity.max())
    return PlacementPlan(
        model=topology.model, plan_id=f"placement-{hashlib.sha256(whole.tobytes()).hexdigest()[:16]}", ts_ns=0,
        version=1, base_version=0, num_gpus=topology.num_gpus, slots_per_gpu=room,
        expected=PlacementScore(
            balancedness_before=_score(before, problem.ahead, capacity)[0], balancedness=balancedness,
            worst_layer_balancedness=worst, moved_experts=len(steps.layer),
        ),
        solver=SolverRecord(
            tier=2 if name.endswith("lpt-swap") else 3, name=name, n=topology.num_slots, seed=problem.seed,
            wall_ms=None if wall_s is None else 1000.0 * wall_s,
            objective=float((gpu_loads(plan, load, len(live)) / capacity).max(1).sum()), bound=float(bound.sum()),
        ),
        apply_layers=tuple(dict.fromkeys(steps.layer.tolist())),
        physical_to_logical_map=whole,
        logical_to_physical_map=np.where(slots_of >= 0, slot[slots_of], -1).astype(np.int32),
        logical_replica_count=counts, replica_shares=shares,
        move_layer=steps.layer, move_expert=steps.expert,
        move_src_gpu=np.where(steps.src_gpu >= 0, live[steps.src_gpu], -1).astype(np.int32),
        move_dst_gpu=live[steps.dst_gpu].astype(np.int32),
        move_bytes=np.full(len(steps.layer), topology.expert_bytes, np.int64),
    )  # fmt: skip
