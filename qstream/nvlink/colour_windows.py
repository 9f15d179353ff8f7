"""Windows of a colouring: few vertices, those in conflict first, coloured anew by circuits or by enumeration; kept if lighter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.nvlink.options import NvlinkOptions
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import Remaining
from qstream.quantum.window import Circuits, Runtime, solve_window
from schemas.solver import CLASSICAL, Execution, Reason, SolverName, SolverRecord

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
MAX_STATES: Final = 1 << 16  # of a window, k^m
MAX_COLOURS: Final = 64
_WINDOWS: Final = 8
_TURNS: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class Coloured:
    """Colours [n] after the windows, the record of each, what the circuits were, and why they stopped, if they did.

    `circuits` is how they ran, whatever gave the answer.
    """

    colour: Ints
    records: tuple[SolverRecord, ...] = ()
    solver: SolverName = "kept"
    execution: Execution = CLASSICAL
    asked: tuple[SolverName, ...] = ()
    depth: int | None = None
    shots: int | None = None
    fallback_reason: Reason | None = None
    circuits: Execution | None = None


def recoloured(
    weights: Floats,
    colour: Ints,
    k: int,
    options: NvlinkOptions,
    seed: int,
    remaining_s: Remaining,
    runtime: Runtime | None,
) -> Coloured:
    """Colours after windows by what the options switch on; none of it makes them heavier."""
    if not (options.qaoa or options.hqc):
        return Coloured(colour)
    asked: SolverName = "qaoa-xy" if options.qaoa else "exact"
    room = _room(k)
    if room < 2:
        return Coloured(colour, asked=(asked,), fallback_reason=Reason.TOO_LARGE)
    circuits = None
    if options.qaoa:
        depth = options.circuit_layers or k
        circuits = Circuits(layers=depth, shots=options.shots, device=options.device, runtime=runtime)
    records: list[SolverRecord] = []
    now, winner, reason, ran = colour, None, None, None
    for number in range(_TURNS if options.hqc else 1):
        before = now
        for at in range(_WINDOWS if len(colour) > room else 1):
            left_s = remaining_s()
            if left_s <= 0:
                reason = Reason.TIMEOUT
                break
            rng = np.random.default_rng([seed, number, at])
            inside = _chosen(weights, now, min(room, len(colour)), rng)
            problem = window_problem(weights, now, inside, k)
            solved = solve_window(
                problem,
                now[inside],
                "exact" if circuits is None else "qaoa",
                circuits=circuits,
                seed=int(rng.integers(2**31)),
                deadline_s=left_s,
            )
            records.append(solved.record.model_copy(update={"variant": f"{k}-colours"}))
            ran = ran or solved.circuits
            turned = now.copy()
            turned[inside] = solved.solution
            if _weight(weights, turned) < _weight(weights, now):
                now, winner = turned, solved.record
            reason = reason or solved.fallback_reason
        if reason is not None or not (_weight(weights, now) < _weight(weights, before)):
            break
    return _coloured(now, records, winner, asked, reason, ran)


def window_problem(weights: Floats, colour: Ints, inside: Ints, k: int) -> OneHotProblem:
    """The colours of the vertices `inside` [m] while the others stay; energies are the weight of all edges of one colour."""
    outside = np.setdiff1d(np.arange(len(colour)), inside)
    unary = tuple(np.bincount(colour[outside], weights[v, outside], k).astype(np.float64) for v in inside.tolist())
    same = np.eye(k)
    pair = {
        (i, j): weights[u, v] * same
        for i, u in enumerate(inside.tolist())
        for j, v in enumerate(inside.tolist())
        if i < j and weights[u, v] > 0
    }
    apart = weights[np.ix_(outside, outside)]
    rest = float(apart[colour[outside][:, None] == colour[outside]].sum() / 2)
    return OneHotProblem((k,) * len(inside), unary=unary, pair=pair, offset=rest)


def _room(k: int) -> int:
    """How many vertices of k colours a window has."""
    return 0 if k > MAX_COLOURS else MAX_STATES if k == 1 else int(math.log(MAX_STATES) / math.log(k) + 1e-9)


def _chosen(weights: Floats, colour: Ints, size: int, rng: np.random.Generator) -> Ints:
    """Vertices of a window: one in conflict, drawn by its weight, and those that it and they are joined to most."""
    n = len(colour)
    if size == n:
        return np.arange(n)
    felt = np.where(colour[:, None] == colour, weights, 0.0).sum(axis=1)
    felt = felt if felt.any() else weights.sum(axis=1)
    start = int(rng.choice(n, p=felt / felt.sum())) if felt.any() else int(rng.integers(n))
    inside = [start]
    pull = weights[start] + felt * 1e-3
    for _ in range(size - 1):
        pull[inside] = -1.0
        inside.append(int((pull * rng.uniform(0.5, 1.0, n)).argmax()))
        pull = pull + weights[inside[-1]]
    return np.sort(np.array(inside, np.int64))


def _weight(weights: Floats, colour: Ints) -> float:
    return float(weights[colour[:, None] == colour].sum() / 2)


def _coloured(
    colour: Ints,
    records: list[SolverRecord],
    winner: SolverRecord | None,
    asked: SolverName,
    reason: Reason | None,
    ran: Execution | None,
) -> Coloured:
    shown = winner or next((record for record in records if record.depth is not None), None)
    return Coloured(
        colour,
        tuple(records[:8]),
        "kept" if winner is None else winner.solver,
        CLASSICAL if winner is None else winner.execution,
        (asked,),
        None if shown is None else shown.depth,
        None if shown is None else shown.shots,
        reason,
        ran,
    )
