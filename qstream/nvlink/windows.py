"""Windows of a placement: units of two blocks, rearranged by circuits or by enumeration; kept only if the cost itself falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.nvlink.problem import RankProblem
from qstream.nvlink.units import Units
from qstream.quantum.ising import IsingProblem
from qstream.quantum.portfolio import Step
from qstream.quantum.record import Remaining
from qstream.quantum.window import Circuits, Solved, solve_window
from schemas.solver import CLASSICAL, Execution, Reason, SolverName, SolverRecord

Blocks = NDArray[np.int32]
_LEAST_GAIN: Final = 1e-9  # of the cost: below it, an improvement is rounding noise


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """How windows are solved: `slots` units at most, `count` windows a turn, by `circuits` or, without, by enumeration."""

    slots: int
    count: int
    circuits: Circuits | None
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Turned:
    """Blocks [n] after a turn of windows, the record of each, what each gained, why it ended early, and how circuits ran."""

    block: Blocks
    records: tuple[SolverRecord, ...]
    gains: tuple[float, ...]
    reason: Reason | None
    circuits: Execution | None = None


def turn(
    problem: RankProblem, levels: Sequence[Units], block: Blocks, terms: Terms, number: int, remaining_s: Remaining
) -> Turned:
    """Try `terms.count` windows, one after the other, each on a level whose units the placement does not cut.

    Another `number` tries other windows. A solver that fails ends the turn with its reason.
    """
    records: list[SolverRecord] = []
    gains: list[float] = []
    whole = [units for units in levels if units.count > 2 and not _is_cut(units, block)]
    best, cost, ran = block, problem.cost(block), None
    for i in range(terms.count if whole else 0):
        if remaining_s() <= 0:
            return Turned(best, tuple(records), tuple(gains), Reason.TIMEOUT, ran)
        rng = np.random.default_rng([terms.seed, number, i])
        units = whole[int(rng.integers(len(whole)))]
        chosen = _choose(units, best, terms.slots, rng)
        if chosen is None:
            continue
        solved = _solve(problem, units, best, chosen, terms, int(rng.integers(2**31)), remaining_s)
        turned = _moved(units, best, chosen, solved.solution)
        gain = cost - problem.cost(turned)
        kept = gain > _LEAST_GAIN * max(1.0, abs(cost)) and problem.holds(turned)
        if kept:
            best, cost = turned, cost - gain
        records.append(solved.record)
        gains.append(gain if kept else 0.0)
        ran = ran or solved.circuits
        if solved.fallback_reason is not None:
            return Turned(best, tuple(records), tuple(gains), solved.fallback_reason, ran)
    return Turned(best, tuple(records), tuple(gains), None, ran)


def turns(
    problem: RankProblem, levels: Sequence[Units], block: Blocks, terms: Terms, most: int, first: int, remaining_s: Remaining
) -> Turned:
    """Turn after turn from the best so far, warm-started, until one wins nothing."""
    circuits = terms.circuits and replace(terms.circuits, warm=True)
    warm, now = replace(terms, circuits=circuits), block
    records: list[SolverRecord] = []
    gains: list[float] = []
    ran: Execution | None = None
    for number in range(first, first + most):
        done = turn(problem, levels, now, warm, number, remaining_s)
        now = done.block
        records += done.records
        gains += done.gains
        ran = ran or done.circuits
        if done.reason is not None or not any(done.gains):
            return Turned(now, tuple(records), tuple(gains), done.reason, ran)
    return Turned(now, tuple(records), tuple(gains), None, ran)


def turn_step(problem: RankProblem, done: Turned) -> Step[Blocks]:
    """What a race is told of one turn or several."""
    kept = [record for record, gain in zip(done.records, done.gains, strict=True) if gain > 0]
    circuits = next((record for record in done.records if record.depth is not None), None)
    return Step(
        done.block if done.records or done.reason is None else None,
        problem.cost(done.block),
        tried=len(done.records),
        kept=len(kept),
        execution=kept[0].execution if kept else CLASSICAL,
        depth=None if circuits is None else circuits.depth,
        shots=None if circuits is None else circuits.shots,
        reason=done.reason,
    )


def turn_record(name: SolverName, given: float, done: Turned, terms: Terms) -> SolverRecord:
    """The windows of an arm as one record, all in bytes times distance.

    From the cost that was `given`: `objective` as it came out, `exact`, `control` and `twin` if every window had gained what
    enumeration, as many draws at depth 0, and exchanges gain in it.
    """
    records, circuits = done.records, next((record for record in done.records if record.depth is not None), None)

    def reached(field: str) -> float | None:
        """The cost, had each window come to the energy in that field; energies are gains, as an incumbent's is 0."""
        found = [getattr(record, field) for record in records]
        return None if not found or None in found else given + sum(min(energy, 0.0) for energy in found)

    return SolverRecord(
        solver=name,
        variant="windows",
        execution=done.circuits or CLASSICAL,
        n=max((record.n or 0 for record in records), default=None),
        depth=None if circuits is None else circuits.depth,
        shots=None if circuits is None else circuits.shots,
        seed=terms.seed,
        objective=given - sum(done.gains),
        exact=reached("exact"),
        control=reached("control"),
        twin=reached("twin"),
        tried=len(records),
        kept=sum(gain > 0 for gain in done.gains),
    )


def window_ising(
    problem: RankProblem, units: Units, block: Blocks, chosen: NDArray[np.int64], a: int, b: int
) -> tuple[IsingProblem, NDArray[np.int8]]:
    """The Ising model of units `chosen` [s] between blocks a (+1) and b (-1), and their spins now.

    Energies are costs less the cost now, and exact where distances are symmetric.
    """
    apart = (problem.distance + problem.distance.T) / 2
    of_unit = unit_blocks(units, block)
    number = np.full(units.count, -1)
    number[chosen] = np.arange(len(chosen))
    couple = np.zeros((len(chosen), len(chosen)))
    # What each costs in a less what it costs in b: within itself, to the others, and by its moves.
    lean = units.inner[chosen] * (apart[a, a] - apart[b, b])
    for i, unit in enumerate(chosen.tolist()):
        entries = slice(units.first[unit], units.first[unit + 1])
        other, weight = units.neighbour[entries], units.weight[entries]
        inside = number[other] >= 0
        couple[i, number[other[inside]]] = weight[inside]
        outside = of_unit[other[~inside]]
        lean[i] += weight[~inside] @ (apart[a, outside] - apart[b, outside])
    if problem.current is not None and problem.move_cost:
        for at, sign in ((a, -1.0), (b, 1.0)):
            stays = np.bincount(units.of_rank, problem.current == at, units.count)[chosen]
            lean += sign * problem.move_cost * stays
    sums = couple.sum(1)
    fields = lean / 2 + sums * (apart[a, a] - apart[b, b]) / 4
    pairs = np.triu(couple, 1) * (apart[a, a] + apart[b, b] - 2 * apart[a, b]) / 4
    spins = np.where(of_unit[chosen] == a, 1, -1).astype(np.int8)
    now = IsingProblem(len(chosen), pairs, fields).energy(spins)
    return IsingProblem(len(chosen), pairs, fields, -now), spins


def unit_blocks(units: Units, block: Blocks) -> Blocks:
    """The block of each unit, int32 [u], where none is cut."""
    found = np.zeros(units.count, np.int32)
    found[units.of_rank] = block
    return found


def _is_cut(units: Units, block: Blocks) -> bool:
    return bool((unit_blocks(units, block)[units.of_rank] != block).any())


def _choose(units: Units, block: Blocks, slots: int, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """Units of equal size of two blocks that talk to each other, as many of each; those first that talk most across."""
    of_unit, rows = unit_blocks(units, block), units.rows()
    of_other = of_unit[units.neighbour]
    crossing = np.flatnonzero(of_unit[rows] != of_other)
    weight = units.weight[crossing]
    if not len(crossing) or not weight.sum() > 0:
        return None
    entry = int(rng.choice(crossing, p=weight / weight.sum()))
    a, b, size = of_unit[rows[entry]], of_other[entry], units.size[rows[entry]]
    between = crossing[np.isin(of_unit[rows[crossing]], (a, b)) & np.isin(of_other[crossing], (a, b))]
    across = np.bincount(rows[between], units.weight[between], units.count)
    sides = [np.flatnonzero((of_unit == side) & (units.size == size) & (units.pinned < 0)) for side in (a, b)]
    half = min(slots // 2, *(len(side) for side in sides))
    if not half:
        return None
    chosen = []
    for side in sides:
        order = side[np.argsort(-across[side], kind="stable")]
        first = order[: (half + 1) // 2]
        chosen.append(np.concatenate([first, rng.choice(order[len(first) :], half - len(first), replace=False)]))
    return np.concatenate(chosen)


def _solve(
    problem: RankProblem,
    units: Units,
    block: Blocks,
    chosen: NDArray[np.int64],
    terms: Terms,
    seed: int,
    remaining_s: Remaining,
) -> Solved:
    of_unit = unit_blocks(units, block)
    a, b = int(of_unit[chosen[0]]), int(of_unit[chosen[-1]])
    ising, spins = window_ising(problem, units, block, chosen, a, b)
    return solve_window(
        ising,
        spins,
        "exact" if terms.circuits is None else "qaoa",
        weight=len(chosen) // 2,
        circuits=terms.circuits,
        seed=seed,
        deadline_s=remaining_s(),
    )


def _moved(units: Units, block: Blocks, chosen: NDArray[np.int64], spins: NDArray[np.int8] | NDArray[np.int64]) -> Blocks:
    of_unit = unit_blocks(units, block)
    a, b = of_unit[chosen[0]], of_unit[chosen[-1]]
    of_unit[chosen] = np.where(spins > 0, a, b)
    return of_unit[units.of_rank]
