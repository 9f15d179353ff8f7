"""From the history of a model to a placement plan: forecast, experts to nodes, replicas to GPUs, slots annealed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.routing.colocate import colocate
from qstream.routing.decision import Decision, decide, placement_frame, scenario_levels
from qstream.routing.denoise import denoised
from qstream.routing.empty import filled
from qstream.routing.forecast import DECAY, Forecast, forecast
from qstream.routing.migrate import align
from qstream.routing.nearest import anneal_nearest, nearest_shares
from qstream.routing.options import Dispatch
from qstream.routing.pack import pack, place_window, swap
from qstream.routing.problem import capacities, check_ids, contiguous
from qstream.routing.replicate import replica_counts
from qstream.routing.scenarios import anneal
from qstream.routing.score import holds
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan
from schemas.solver import SolverRecord
from schemas.wording import Shown, must_be

COLOCATION: Final = "colocation"  # the variant of solvers that give each node its experts first
_LAYERS_AT_ONCE = 4  # between two looks at the clock
_MAX_GPUS_ALIGNED = 128
_BONDS_KEPT = 0.95  # of the co-activations that a fresh assignment to nodes would bring together: below it, experts change node
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class PlaceOptions:
    """How `place` plans: `windows` newest windows, `steps` of annealing a layer, `node_steps` of experts between nodes, load of
    a node at most 1 + `node_slack` of its share, two replicas or more for the `hot_experts` heaviest experts of a layer; a
    window counts `decay` for each 1 of the next newer one."""

    windows: int = 16
    steps: int = 8000
    node_steps: int = 40_000
    node_slack: float = 0.05
    hot_experts: int = 0
    decay: float = DECAY


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """GPUs [g] that share experts among themselves, and those experts in each layer, int64 [L, n]."""

    gpus: NDArray[np.int64]
    experts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PlacementProblem:
    """The checked arguments of `place`; `live` are the GPUs with capacity, `capacity` [G] and `previous` [L, P] are of all.

    `filled` is `previous` with an expert in each empty slot, to search from; what was not there is still to be loaded.
    Plans are made for `signal`, what of the forecast is more than chance, and scored by `forecast`, as windows come.
    """

    topology: ExpertTopology
    forecast: Forecast
    signal: Forecast
    live: NDArray[np.int64]
    capacity: NDArray[np.float64]
    least: NDArray[np.int32]
    previous: NDArray[np.int32]
    filled: NDArray[np.int32]
    move_cost: float
    options: PlaceOptions
    seed: int
    dispatch: Dispatch


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
    dispatch: Dispatch = "even",
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
        The placement in force, over all GPUs, with -1 for an empty slot; the contiguous one by default.
    move_cost : float
        As in `anneal`. Above 0, the placement in force is improved too, and experts keep their nodes while that costs little.
    dispatch : {"even", "nearest"}
        How the engine chooses a replica: all alike, or the nearest one to the GPU that asks (`nearest_shares`). With "nearest"
        and several nodes the replicas of an expert are spread over the nodes; plan and scores are of what is served then.
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

    problem = placement_problem(
        history,
        topology,
        labels=labels,
        queued=queued,
        previous=previous,
        move_cost=move_cost,
        options=options or PlaceOptions(),
        seed=seed,
        dispatch=dispatch,
    )
    found = solve(problem, coactivation, late)
    if deadline_s is not None:
        found = replace(found, solver=found.solver.model_copy(update={"wall_ms": 1000.0 * (clock() - started)}))
    plan_id = f"placement-{hashlib.sha256(found.physical_to_logical.tobytes()).hexdigest()[:16]}"
    return placement_frame(found, topology, model=topology.model, plan_id=plan_id, ts_ns=0, version=1, base_version=0)


def solve(
    problem: PlacementProblem, coactivation: NDArray[np.int64] | None = None, late: Callable[[], bool] = lambda: False
) -> Decision:
    """`place`, without the frame; no further layers are annealed once `late` says so."""
    topology, options = problem.topology, problem.options
    parts = _parts(problem, coactivation)
    plan = problem.filled.reshape(topology.num_layers, topology.num_gpus, -1).copy()
    annealed = min(_fill(problem, part, plan, late) for part in parts)
    partly = annealed if 0 < annealed < topology.num_layers else None
    solver = SolverRecord(
        solver="lpt-swap" if annealed == 0 or options.steps == 0 else "swap-annealing",
        variant=COLOCATION if len(parts) > 1 else None,
        seed=problem.seed,
        tried=partly,
        kept=partly,
    )
    return decide(
        plan.reshape(problem.previous.shape), problem.previous, problem.forecast, topology, solver, dispatch=problem.dispatch
    )


def placement_problem(
    history: NDArray[np.int64],
    topology: ExpertTopology,
    *,
    labels: NDArray[np.int64] | None,
    queued: NDArray[np.int64] | None,
    previous: NDArray[np.int32] | None,
    move_cost: float,
    options: PlaceOptions,
    seed: int,
    dispatch: Dispatch = "even",
) -> PlacementProblem:
    """The checked arguments of `place` with the forecast; arguments and errors as in `place`."""
    layers, experts = topology.num_layers, topology.num_logical_experts
    windows = array("history", history, np.float64, "W L E")
    if windows.shape[1:] != (layers, experts):
        allowed = f"[W, {layers} layers, {experts} experts]"
        raise ProblemError(must_be("history", allowed, Shown(f"shape {list(windows.shape)}")))
    if options.windows < 1:
        raise ProblemError(must_be("windows", ">= 1", options.windows))
    if options.steps < 0:
        raise ProblemError(must_be("steps", ">= 0", options.steps))
    if not 0 <= seed < 2**32:
        raise ProblemError(must_be("seed", "0 to 2**32 - 1", seed))
    if dispatch not in get_args(Dispatch):
        raise ProblemError(must_be("dispatch", f"one of {', '.join(get_args(Dispatch))}", dispatch))
    if not 0 < options.decay <= 1:
        raise ProblemError(must_be("decay", "above 0, at most 1", options.decay))
    past = windows[-options.windows :]
    found = forecast(past, labels=labels, queued=queued, top_k=topology.top_k, decay=options.decay)
    signal = denoised(found, windows[: -len(past)])
    given = capacities(topology)
    live = np.flatnonzero(given > 0)
    slots = len(live) * topology.slots_per_gpu
    if slots < experts + options.hot_experts:
        allowed = f"above 0 for at least {experts} slots, one for each expert, and {options.hot_experts} more for hot_experts"
        raise ProblemError(must_be("gpu_capacity", allowed, Shown(f"{slots} slots on {len(live)} GPUs with capacity")))
    if not 0 <= options.hot_experts <= experts or (options.hot_experts and len(live) < 2):
        allowed = f"0 to {experts}, and 0 for a single GPU with capacity"
        raise ProblemError(must_be("hot_experts", allowed, options.hot_experts))
    least = np.ones((layers, experts), np.int32)
    heaviest = np.argsort(-signal.load(), axis=1, kind="stable")[:, : options.hot_experts]
    np.put_along_axis(least, heaviest, 2, 1)
    before = array("previous", contiguous(topology) if previous is None else previous, np.int32, "L P")
    check_ids("previous", before, experts, least=-1)
    if before.shape != (layers, topology.num_slots):
        raise ProblemError(must_be("previous", f"{(layers, topology.num_slots)}", Shown(f"shape {before.shape}")))
    whole = before
    if before.min() < 0:
        whole = filled(signal.load(), before.astype(np.int64), topology.num_gpus).astype(np.int32)
    return PlacementProblem(topology, found, signal, live, given, least, before, whole, move_cost, options, int(seed), dispatch)


def _parts(problem: PlacementProblem, coactivation: NDArray[np.int64] | None) -> list[_Part]:
    """The nodes with their experts; one part with all GPUs and experts where nodes do not matter or cannot be filled."""
    topology, load = problem.topology, problem.signal.load()
    every = np.tile(np.arange(load.shape[1]), (len(load), 1))
    whole = [_Part(problem.live, every)]
    gpus_of = [problem.live[topology.nodes()[problem.live] == n] for n in range(topology.num_nodes)]
    gpus_of = [gpus for gpus in gpus_of if len(gpus)]
    if coactivation is None:
        return whole
    together = array("coactivation", coactivation, np.float64, "L E F")
    if together.shape != (*load.shape, load.shape[1]):
        raise ProblemError(must_be("coactivation", f"{(*load.shape, load.shape[1])}", Shown(f"shape {together.shape}")))
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
    problem: PlacementProblem,
    node: NDArray[np.int32],
    together: NDArray[np.float64],
    gpus_of: list[NDArray[np.int64]],
    share: NDArray[np.float64],
) -> NDArray[np.int32]:
    """Keep the experts of a layer on their nodes where these keep their sizes, loads and nearly all co-activations."""
    load = problem.signal.load()
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


def _fill(problem: PlacementProblem, part: _Part, plan: NDArray[np.int32], late: Callable[[], bool]) -> int:
    """Write the slots of the part's GPUs into `plan` [L, G, S]; returns how many layers were annealed."""
    gpus, slots = len(part.gpus), len(part.gpus) * problem.topology.slots_per_gpu
    capacity = problem.capacity[part.gpus]
    least = np.take_along_axis(problem.least, part.experts, 1)
    fresh = place_window(np.take_along_axis(problem.signal.load(), part.experts, 1), gpus, slots, least=least, capacity=capacity)
    nodes = problem.topology.nodes()[part.gpus]
    spread = problem.dispatch == "nearest" and np.ptp(nodes) > 0
    was, starts = _starts(problem, part, fresh, least)
    if spread:
        starts.append(_one_a_node(problem, part, least, len(np.unique(nodes))))
    scenarios = np.take_along_axis(problem.signal.scenarios, part.experts[None], 2)
    steps = -(-problem.options.steps * slots // (len(problem.live) * problem.topology.slots_per_gpu))
    plans = np.stack(starts)
    annealed = 0
    for first in range(0, len(fresh), _LAYERS_AT_ONCE):
        some = slice(first, first + _LAYERS_AT_ONCE)
        left = 0 if late() else steps
        search = partial(anneal_nearest, node_of_gpu=nodes) if spread else partial(anneal, num_gpus=gpus)
        for found in plans:
            found[some] = search(
                found[some],
                scenarios[:, some],
                steps=left,
                seed=problem.seed + first,
                move_cost=problem.move_cost,
                previous=was[some],
                weights=problem.signal.weights,
                capacity=capacity,
            )
        annealed += len(fresh[some]) if left else 0
    best = plans[0]
    if len(plans) > 1:
        costs = [_cost(found, was, scenarios, problem, capacity, nodes if spread else None) for found in plans]
        best = plans[np.argmin(costs, axis=0), np.arange(len(best))]
    plan[:, part.gpus] = np.take_along_axis(part.experts, best.astype(np.int64), 1).reshape(len(plan), gpus, -1)
    return annealed


def _starts(
    problem: PlacementProblem, part: _Part, fresh: NDArray[np.int32], least: NDArray[np.int32]
) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
    """What is in force in the part, -1 where nothing is, and plans to anneal from; in its own numbers of experts, int32 [L, p].

    Where an expert of another part is in force, `fresh` stands in for the layer, with GPUs named for the fewest moves.
    """
    layers, n = part.experts.shape
    gpus = len(part.gpus)
    before, in_force = (
        plan.reshape(layers, problem.topology.num_gpus, -1)[:, part.gpus].reshape(layers, -1)
        for plan in (problem.previous, problem.filled)
    )
    named = np.take_along_axis(part.experts, fresh.astype(np.int64), 1).astype(np.int32)
    if gpus <= _MAX_GPUS_ALIGNED and np.ptp(problem.capacity[part.gpus]) == 0.0:
        named = align(in_force, named, gpus)
    local = np.full((layers, problem.topology.num_logical_experts), -1, np.int32)
    np.put_along_axis(local, part.experts, np.arange(n, dtype=np.int32)[None], 1)
    fresh = np.take_along_axis(local, named, 1)
    known = np.take_along_axis(local, in_force, 1)
    own = (known >= 0).all(1, keepdims=True)
    start = np.where(own, known, fresh)
    was = np.where(own & (before < 0), -1, start)
    if problem.move_cost == 0.0:
        return was, [fresh]
    on_gpu = holds(start, n, gpus)
    valid = (on_gpu.sum((1, 2)) == start.shape[1]) & (on_gpu.sum(1) >= least).all(1)
    return was, [fresh, np.where(valid[:, None], start, fresh)]


def _one_a_node(problem: PlacementProblem, part: _Part, least: NDArray[np.int32], nodes: int) -> NDArray[np.int32]:
    """A plan to anneal from, where no expert has more replicas than there are nodes, or as few more as fill the slots.

    The second replica on a node serves no more than the GPU it is on, so another expert makes better use of that slot.
    """
    gpus, slots = len(part.gpus), len(part.gpus) * problem.topology.slots_per_gpu
    load, capacity = np.take_along_axis(problem.signal.load(), part.experts, 1), problem.capacity[part.gpus]
    most = min(gpus, max(nodes, int(least.max(initial=1)), -(-slots // load.shape[1])))
    counts = replica_counts(load, slots, gpus, least, most)
    return swap(pack(load, counts, gpus, capacity), load, gpus, capacity)


def _cost(
    plan: NDArray[np.int32],
    was: NDArray[np.int32],
    scenarios: NDArray[np.float64],
    problem: PlacementProblem,
    capacity: NDArray[np.float64],
    nodes: NDArray[np.int32] | None,
) -> NDArray[np.float64]:
    """What `anneal` minimises, of each layer, or `anneal_nearest` with the node of each GPU: float64 [L]."""
    experts, gpus = scenarios.shape[2], len(capacity)
    shares = None if nodes is None else nearest_shares(plan, experts, nodes)
    moved = (holds(plan, experts, gpus) & ~holds(was, experts, gpus)).sum((1, 2))
    mean, fullest = scenario_levels(plan, scenarios, capacity, shares)
    ratio = np.divide(fullest, mean, out=np.ones_like(mean), where=mean > 0)
    cost: NDArray[np.float64] = problem.signal.weights @ ratio + problem.move_cost * moved
    return cost
