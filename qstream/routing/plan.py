"""Plan: counts and options to a placement decision; which tier answers, and its record."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.window import Runtime
from qstream.routing.decision import Decision, decide, expected_gain
from qstream.routing.forecast import forecast
from qstream.routing.hybrid import improve_placement, placement_record
from qstream.routing.options import Dispatch, RoutingOptions
from qstream.routing.partitions import gpu_partitions, gpu_plan
from qstream.routing.placement import COLOCATION, PlacementProblem, PlaceOptions, placement_problem, solve
from qstream.routing.problem import live_slots
from qstream.routing.score import pairs_together
from qstream.routing.windows import WindowSettings
from schemas.experts import ExpertTopology
from schemas.plan import SkipReason
from schemas.solver import SolverRecord


def plan_placement(
    history: NDArray[np.int64],
    previous: NDArray[np.int32],
    topology: ExpertTopology,
    options: RoutingOptions,
    *,
    labels: NDArray[np.int64] | None = None,
    queued: NDArray[np.int64] | None = None,
    coactivation: NDArray[np.int64] | None = None,
    runtime: Runtime | None = None,
) -> Decision:
    """Decide whether another placement is worth its moves.

    The fast tier packs the newest window and looks at nothing else; the scenario tier plans for a forecast, from all that is
    known. Where ``options.qaoa`` or ``options.hqc`` asks for it, windows then improve that plan. The score is the balancedness
    expected under what the tier plans for; a plan that wins less than ``options.min_gain`` is skipped. With co-activations,
    the part of them that comes to lie within nodes is won as well.

    Parameters
    ----------
    history : int [W, L, E]
        Tokens by window, newest last.
    previous : int32 [L, P]
        The placement in force.
    labels, queued, coactivation
        As in `place`.
    runtime
        Where ``options.device`` is to be found.
    """
    fast = options.placement == "fast"
    if fast:
        labels = queued = coactivation = None
    problem = placement_problem(
        history[-1:] if fast else history,
        topology,
        labels=labels,
        queued=queued,
        previous=previous,
        move_cost=0.0 if fast else options.move_cost,
        options=PlaceOptions(windows=1, steps=0) if fast else PlaceOptions(windows=options.windows, steps=options.steps),
        seed=options.seed,
        dispatch=options.dispatch,
    )
    found = solve(problem, coactivation)
    if options.qaoa or options.hqc:
        found = _improved(found, problem, options, runtime)
    if found.skip_reason is not None:
        return found
    gain = expected_gain(found.physical_to_logical, previous, problem.signal, topology, options.dispatch)
    if coactivation is not None:
        before, after = (pairs_together(p, coactivation, topology) for p in (previous, found.physical_to_logical))
        gain += after - before
    if gain < options.min_gain:
        return replace(found, skip_reason=SkipReason.GAIN_TOO_SMALL)
    return found


def _improved(found: Decision, problem: PlacementProblem, options: RoutingOptions, runtime: Runtime | None) -> Decision:
    """The deterministic plan after its race with QAOA and HQC; the record is the race's, in its own units."""
    topology, live = problem.topology, problem.live
    slot = live_slots(topology)
    plan = found.physical_to_logical[:, slot]
    colocated = found.solver.variant == COLOCATION
    partitions = gpu_partitions(
        plan,
        problem.signal.scenarios,
        len(live),
        move_cost=problem.move_cost,
        previous=problem.previous[:, slot],
        weights=problem.signal.weights,
        capacity=problem.capacity[live],
        nodes=topology.nodes()[live] if colocated else None,
    )
    settings = WindowSettings(
        size=options.circuit_slots,
        layers=options.circuit_layers,
        shots=options.shots,
        seed=options.seed,
        device=options.device,
        runtime=runtime,
    )
    planned = improve_placement(
        partitions,
        settings,
        qaoa=options.qaoa,
        hqc_turns=options.hqc,
        deterministic=options.deterministic,
        deadline_s=math.inf if options.deadline_ms is None else options.deadline_ms / 1000,
    )
    reason = planned.race.fallback_reason
    if not planned.race.answered:
        return replace(found, skip_reason=SkipReason.NO_ANSWER, fallback_reason=reason)
    whole = found.physical_to_logical.copy()
    whole[:, slot] = gpu_plan(planned.race.answer, plan)
    solver = placement_record(planned, settings, found.solver)
    better = decide(whole, problem.previous, problem.forecast, topology, solver)
    return replace(better, solver=solver, fallback_reason=reason)


def keep_placement(
    history: NDArray[np.int64],
    placement: NDArray[np.int32],
    topology: ExpertTopology,
    reason: SkipReason,
    dispatch: Dispatch = "even",
) -> Decision:
    """The decision to leave the placement in force as it is, for this reason, without a search."""
    return decide(placement, placement, forecast(history), topology, SolverRecord(solver="kept"), reason, dispatch)
