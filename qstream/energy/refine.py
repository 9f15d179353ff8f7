"""Refine: circuits rearrange a few tasks around the peak of a schedule; what they propose counts only if the true peak falls.

The circuit minimises the sum of squared draws, the levelling surrogate, in the subspace where each task takes exactly one of its
options (starts and modes); its samples are ranked by the true peak, and those that break an edge are dropped. Axes: free units F,
options K of each, slots T, samples S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from qstream.energy.building import Tasks, members, within_rooms
from qstream.energy.fleet import Floats, Ints
from qstream.energy.window import TaskWindow
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.portfolio import Arm, Step, race, race_record
from qstream.quantum.record import Remaining, SolveRequest
from qstream.quantum.solvers import solve
from qstream.quantum.window import Runtime
from schemas.solver import DEVICE, Execution, Reason, SolverRecord

MOST_FREE: Final = 8  # 65,536 states of 4 options each
OPTIONS: Final = 4
_PRICE: Final = 1.5  # of a slot by which an edge is broken, in deviations of the cost
_PRICED: Final = 256  # random choices that this deviation is taken from
_PATIENCE: Final = 4  # windows in a row that did not lower the peak
_CONTROL: Final = 7
_LOOKED_AT: Final = 64  # samples; one of them must fit the GPUs of the nodes
_ROUNDING: Final = 1e-9
_AT_ONCE: Final = 4096  # choices whose loads are in memory together

Answer = tuple[Ints, Ints]  # starts [U] and modes [N]


class QaoaTerms(Protocol):
    """What circuits read of the module's options."""

    @property
    def circuit_layers(self) -> int: ...
    @property
    def shots(self) -> int: ...
    @property
    def circuit_slots(self) -> int: ...
    @property
    def device(self) -> str | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Free units and their options: `unit` [F]; `start` [F, K] and, a tuple an option, the modes of the unit's tasks, the first
    as they are now; `draw_w` [F, K, T]; what all else draws, `rest_w` [T]; slots by which options of a pair break edges."""

    unit: Ints
    start: Ints
    mode: list[list[tuple[int, ...]]]
    draw_w: Floats
    rest_w: Floats
    broken: dict[tuple[int, int], Floats]

    def peaks_w(self, levels: Ints) -> Floats:
        """True peak of each choice [S, F], infinite where it breaks an edge: float64 [S]."""
        # Draws change in few slots: between these the greatest of the rest counts.
        change = np.flatnonzero((np.diff(self.draw_w) != 0).any((0, 1))) + 1
        begin = np.concatenate(([0], change))
        rest, draw, unit = np.maximum.reduceat(self.rest_w, begin), self.draw_w[:, :, begin], np.arange(len(self.unit))
        parts = range(0, len(levels), _AT_ONCE)
        peaks = [(rest + draw[unit, levels[at : at + _AT_ONCE]].sum(1)).max(1) for at in parts]
        peak: Floats = np.concatenate(peaks) if peaks else np.zeros(0)
        for (i, j), slots in self.broken.items():
            peak = np.where(slots[levels[:, i], levels[:, j]] > 0, np.inf, peak)
        return peak

    def problem(self, seed: int) -> OneHotProblem:
        """The levelling surrogate, sum of squared draws, and a price for each slot by which an edge is broken."""
        units, options = self.start.shape
        unary = (self.draw_w * (2 * self.rest_w + self.draw_w)).sum(2)
        pair = {(i, j): 2 * self.draw_w[i] @ self.draw_w[j].T for i in range(units) for j in range(i + 1, units)}
        levels = np.random.default_rng([seed, _CONTROL]).integers(0, options, (_PRICED, units))
        cost = unary[np.arange(units), levels].sum(1)
        for (i, j), costs in pair.items():
            cost += costs[levels[:, i], levels[:, j]]
        price = _PRICE * max(float(cost.std()), 1e-9)
        for key, slots in self.broken.items():
            pair[key] = pair[key] + price * slots
        kept = {key: costs for key, costs in pair.items() if costs.any()}
        return OneHotProblem((options,) * units, tuple(unary), kept, float(self.rest_w @ self.rest_w))


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """What a circuit gave: samples [S, F] with their peaks and counts [S], and the best peak of as many random choices."""

    levels: Ints
    peak_w: Floats
    count: Ints
    control_w: float
    execution: Execution
    shots: int
    reason: Reason | None = None


def refined(
    window: TaskWindow,
    tasks: Tasks,
    given: Answer,
    record: SolverRecord,
    terms: QaoaTerms,
    *,
    turns: int | None,
    seed: int,
    remaining_s: Remaining,
    runtime: Runtime | None,
) -> tuple[Answer, SolverRecord, Reason | None]:
    """The schedule after circuits in `turns` windows, or (None) until several in a row do not help; its record, and why circuits
    did not answer, if they did not.

    The record's twin is the peak that was given, its control the best of random choices in the same windows.
    """
    controls: list[float] = []
    arm = Arm("hqc" if turns is None else "qaoa", partial(_improve, window, tasks, terms, turns, seed, runtime, controls))
    peak = _peak_w(window, given)
    found = race(given, peak, [arm], deadline_s=remaining_s())
    control = min(controls, default=math.inf)
    said = race_record(
        found,
        record,
        seed=seed,
        n=min(MOST_FREE, terms.circuit_slots, len(tasks.release)),
        twin=peak,
        control=control if control < math.inf else None,
    )
    return found.answer, said.model_copy(update={"bound": record.bound}), found.fallback_reason


def _improve(
    window: TaskWindow,
    tasks: Tasks,
    terms: QaoaTerms,
    turns: int | None,
    seed: int,
    runtime: Runtime | None,
    controls: list[float],
    best: Answer,
    _: bool,
    remaining_s: Remaining,
) -> Step[Answer]:
    lowest, tried, kept, waited, last = _peak_w(window, best), 0, 0, 0, None
    while tried < turns if turns is not None else waited < _PATIENCE:
        if remaining_s() <= 0:
            break
        rng = np.random.default_rng([seed, tried])
        choice = choose(window, tasks, best, min(MOST_FREE, terms.circuit_slots), rng)
        last = sample(choice, terms, seed + tried, remaining_s(), runtime)
        tried, waited = tried + 1, waited + 1
        if last.reason is not None:
            return Step(best, lowest, tried, kept, reason=last.reason)
        controls.append(last.control_w)
        lower = _lower(window, tasks, best, choice, last, lowest)
        if lower is not None:
            (best, lowest), kept, waited = lower, kept + 1, 0
    if last is None:
        return Step(best, lowest, 0, 0, reason=Reason.TIMEOUT)
    return Step(best, lowest, tried, kept, execution=last.execution, depth=terms.circuit_layers, shots=last.shots)


def _lower(
    window: TaskWindow, tasks: Tasks, given: Answer, choice: Choice, found: Sampled, peak: float
) -> tuple[Answer, float] | None:
    """The sample of the lowest peak, if it is below this one, that keeps to the GPUs of each node; None without one."""
    for at in np.argsort(found.peak_w, kind="stable")[:_LOOKED_AT].tolist():
        if found.peak_w[at] >= peak * (1 - _ROUNDING):
            return None
        taken = _taken(tasks, given, choice, found.levels[at])
        if within_rooms(tasks, *taken):
            return taken, float(found.peak_w[at])
    return None


def sample(choice: Choice, terms: QaoaTerms, seed: int, deadline_s: float = math.inf, runtime: Runtime | None = None) -> Sampled:
    """Run the circuit of a choice: simulated in its subspace, or on the device that the terms name."""
    problem = choice.problem(seed)
    units, options = choice.start.shape
    draws = np.random.default_rng([seed, _CONTROL + 1]).integers(0, options, (terms.shots, units))
    control = float(choice.peaks_w(draws).min())
    request = SolveRequest(
        problem, deadline_s=deadline_s, seed=seed, shots=terms.shots, p=terms.circuit_layers, device=terms.device
    )
    name = f"{DEVICE}{terms.device}" if terms.device else "qaoa-xy"
    result = (solve if runtime is None else runtime.solve)(request, name)
    meta = result.meta
    if meta.fallback is not None or result.samples is None or result.counts is None:
        reason = Reason.INVALID_OUTPUT if meta.fallback is None else meta.fallback.reason
        return Sampled(np.zeros((0, units), np.int64), np.zeros(0), np.zeros(0, np.int64), control, meta.execution, 0, reason)
    levels = result.samples.astype(np.int64)
    return Sampled(levels, choice.peaks_w(levels), result.counts, control, meta.execution, meta.shots or terms.shots)


def choose(window: TaskWindow, tasks: Tasks, given: Answer, free: int, rng: np.random.Generator) -> Choice:
    """Free units, first those that draw in the slot of the peak, with four options of each: as now, and others far apart."""
    start, mode = given
    load = window.load_w(start[window.unit], mode)
    at, long = start[window.unit], window.duration[np.arange(len(mode)), mode]
    busy = (at <= load.argmax()) & (load.argmax() < at + long)
    order = rng.permutation(len(start))
    first = np.isin(order, window.unit[busy])
    unit = np.sort(np.concatenate((order[first], order[~first]))[:free])
    starts, modes = np.empty((len(unit), OPTIONS), np.int64), []
    for row, u in enumerate(unit.tolist()):
        starts[row], chosen = _options(window, tasks, given, u, set(unit.tolist()))
        modes.append(chosen)
    draw = np.zeros((len(unit), OPTIONS, window.slots))
    for row, u in enumerate(unit.tolist()):
        for k in range(OPTIONS):
            for i, m in zip(members(tasks, u), modes[row][k], strict=True):
                begin = starts[row, k]
                draw[row, k, begin : begin + window.duration[i, m]] += window.power_w[i, m]
    return Choice(unit, starts, modes, draw, load - draw[:, 0].sum(0), _broken(window, tasks, unit, starts, modes))


def _options(window: TaskWindow, tasks: Tasks, given: Answer, u: int, free: set[int]) -> tuple[Ints, list[tuple[int, ...]]]:
    """Four starts and modes of a unit that its fixed neighbours allow, the present ones first; repeated where there are fewer."""
    start, mode = given
    own = members(tasks, u)
    now = tuple(int(mode[i]) for i in own)
    others = [now]
    if len(own) == 1:
        others += [(int(m),) for m in np.flatnonzero(window.duration[own[0]] > 0) if m != now[0]]
    found: list[tuple[int, tuple[int, ...]]] = []
    for each in others:
        low, high = int(tasks.release[u]), int(tasks.latest[u])
        for i, m in zip(own, each, strict=True):
            end = int(window.end[i])
            for j in tasks.near[i, 0]:
                if j >= 0 and int(window.unit[j]) not in free:
                    low = max(low, int(start[window.unit[j]] + window.duration[j, mode[j]]))
            for j in tasks.near[i, 1]:
                if j >= 0:
                    fixed = int(window.unit[j]) not in free
                    end = min(end, int(start[window.unit[j]] if fixed else tasks.latest[window.unit[j]]))
            high = min(high, end - int(window.duration[i, m]))
        found += [(s, each) for s in range(low, high + 1)]
    present = (int(start[u]), now)
    rest = [each for each in found if each != present]
    spread = [rest[k] for k in np.unique(np.linspace(0, len(rest) - 1, OPTIONS - 1).round().astype(int))] if rest else []
    chosen = [present, *spread]
    chosen += [present] * (OPTIONS - len(chosen))
    return np.array([s for s, _ in chosen]), [m for _, m in chosen]


def _broken(
    window: TaskWindow, tasks: Tasks, unit: Ints, starts: Ints, modes: list[list[tuple[int, ...]]]
) -> dict[tuple[int, int], Floats]:
    """Slots by which each pair of options of two free units breaks the edges between them."""
    row = {int(u): n for n, u in enumerate(unit)}
    place = {i: (row[u], at) for u in row for at, i in enumerate(members(tasks, u))}
    found: dict[tuple[int, int], Floats] = {}
    for i, j in window.edges.tolist():
        if i in place and j in place:
            (a, x), (b, _) = place[i], place[j]
            end = np.array([s + window.duration[i, m[x]] for s, m in zip(starts[a], modes[a], strict=True)])
            over = np.maximum(end[:, None] - starts[b][None, :], 0).astype(np.float64)
            key, over = ((a, b), over) if a < b else ((b, a), over.T)
            found[key] = found.get(key, 0.0) + over
    return found


def _taken(tasks: Tasks, given: Answer, choice: Choice, levels: NDArray[np.int64]) -> Answer:
    start, mode = given[0].copy(), given[1].copy()
    for row, (u, k) in enumerate(zip(choice.unit.tolist(), levels.tolist(), strict=True)):
        start[u] = choice.start[row, k]
        mode[members(tasks, u)] = choice.mode[row][k]
    return start, mode


def _peak_w(window: TaskWindow, given: Answer) -> float:
    return float(window.load_w(given[0][window.unit], given[1]).max())
