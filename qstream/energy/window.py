"""TaskWindow: tasks that depend on each other, to be started within a window of slots; its checks, its slack and its bound.

Axes: tasks N, modes M, slots T, units U. A unit is a task, or several that must start together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import array, whole_number
from qstream.energy.building import Tasks
from qstream.energy.fleet import Floats, Ints
from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

MAX_SLOTS: Final = 10_000
MAX_TASKS: Final = 10_000
_BOUND_WORK: Final = 3e7  # tasks x modes x begins x ends of intervals that the bound looks at: about a quarter of a second
_LEAST_ENDS: Final = 32


@dataclass(frozen=True, slots=True, eq=False)
class TaskWindow:
    """Tasks and when they may run.

    Parameters
    ----------
    slots
        Length of the window; every task ends within it.
    duration : int [N] or [N, M]
        Slots that a task takes, in each of its power modes.
    power_w : float [N] or [N, M]
        Watts above idle meanwhile; -1 or NaN where a task has no such mode.
    release, latest : int [N]
        The earliest and latest slot in which a task may start.
    edges : int [E, 2]
        The second starts when the first has ended, or later.
    base_w : float [T], optional
        What else is drawn in each slot.
    together : int [P, 2]
        Pairs of tasks that start in the same slot.
    deadline : int [N], optional
        The slot before which a task is over, whatever its mode; without, the end of the window.

    Raises
    ------
    ProblemError
        A shape, range or index breaks a rule, or edges form a cycle. A deadline that cannot be met is not an error: the plan
        says ``infeasible`` and names the tasks.
    """

    slots: int
    duration: Ints
    power_w: Floats
    release: Ints
    latest: Ints
    edges: Ints = ()  # type: ignore[assignment]
    base_w: Floats | None = None
    together: Ints = ()  # type: ignore[assignment]
    deadline: Ints | None = None
    base: Floats = field(init=False)
    end: Ints = field(init=False)
    unit: Ints = field(init=False)
    order: Ints = field(init=False)

    def __post_init__(self) -> None:
        slots = whole_number("slots", self.slots, 1, MAX_SLOTS)
        duration: Ints = modes("duration", self.duration, np.int64)
        power: Floats = modes("power_w", self.power_w, np.float64)
        if not 1 <= len(duration) <= MAX_TASKS:
            raise ProblemError(must_be("duration", f"of 1 to {MAX_TASKS} tasks", Shown(f"{len(duration)} tasks")))
        if power.shape != duration.shape:
            raise ProblemError(must_be("power_w", f"of shape {duration.shape}, as duration", Shown(f"shape {power.shape}")))
        has = ~(np.isnan(power) | (power == -1))
        _check(~has.any(1), "power_w", "0 W or more in 1 or more modes", power)
        _check(
            (has & ~(np.isfinite(power) & (power >= 0))).any(1),
            "power_w",
            "finite and 0 W or more, or -1 for no such mode",
            power,
        )
        _check((has & (duration < 1)).any(1), "duration", "1 slot or more", duration)
        base = np.zeros(slots) if self.base_w is None else array("base_w", self.base_w, np.float64, "T").copy()
        if base.shape != (slots,):
            raise ProblemError(must_be("base_w", f"of {slots} watts, one for each slot", Shown(f"shape {base.shape}")))
        if (wrong := ~(np.isfinite(base) & (base >= 0))).any():
            slot = int(wrong.argmax())
            raise ProblemError(must_be(f"base_w[{slot}]", "finite and 0 W or more", Shown(f"{base[slot]:g}")))
        tasks = len(duration)
        over = np.full(tasks, slots) if self.deadline is None else self.deadline
        limits = {"release": self.release, "latest": self.latest, "deadline": over}
        release, latest, end = (_by_task(name, value, tasks) for name, value in limits.items())
        edges, together = (pairs(name, getattr(self, name), tasks) for name in ("edges", "together"))
        unit = united(tasks, together)
        checked = {
            "slots": slots,
            "duration": np.where(has, duration, 0),
            "power_w": np.where(has, power, 0.0),
            "release": release,
            "latest": latest,
            "edges": edges,
            "base": base,
            "together": together,
            "end": np.minimum(end, slots),
            "unit": unit,
            "order": ordered(unit, edges),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def exists(self) -> NDArray[np.bool_]:
        """Which modes there are, bool [N, M]."""
        found: NDArray[np.bool_] = self.duration > 0
        return found

    def fastest(self) -> Ints:
        """The mode of each task that takes the fewest slots, of equal ones that of least watts: int64 [N]."""
        long = np.where(self.exists(), self.duration, np.iinfo(np.int64).max)
        watts = np.where(long == long.min(1, keepdims=True), self.power_w, np.inf)
        found: Ints = watts.argmin(1)
        return found

    def load_w(self, start: Ints, mode: Ints) -> Floats:
        """Watts in each slot, float64 [T]; what lies outside the window is not counted."""
        at = np.arange(len(start))
        long, watts = self.duration[at, mode], self.power_w[at, mode]
        steps = np.zeros(self.slots + 1)
        np.add.at(steps, np.clip(start, 0, self.slots), watts)
        np.add.at(steps, np.clip(start + long, 0, self.slots), -watts)
        found: Floats = self.base + np.cumsum(steps)[:-1]
        return found

    def fits(self, start: Ints, mode: Ints) -> bool:
        """Whether starts and modes keep every limit, edge and pair."""
        long = self.duration[np.arange(len(start)), mode]
        first, second = self.edges.T
        return bool(
            (long > 0).all()
            and (start >= self.release).all()
            and (start <= self.latest).all()
            and (start + long <= self.end).all()
            and (start[second] >= start[first] + long[first]).all()
            and (start[self.together[:, 0]] == start[self.together[:, 1]]).all()
        )


def modes(name: str, value: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    """An array [N] or [N, M] as [N, M]."""
    shape = np.shape(value) if not isinstance(value, Sequence) or value else (0,)
    if len(shape) == 1:
        return array(name, value, dtype, "N")[:, None]
    return array(name, value, dtype, "N M")


def pairs(name: str, value: ArrayLike, tasks: int) -> Ints:
    """Pairs of different tasks, int64 [P, 2]."""
    if np.size(value) == 0:
        return np.zeros((0, 2), np.int64)
    found = array(name, value, np.int64, "E 2")
    if found.shape[1] != 2:
        raise ProblemError(must_be(name, "of pairs of tasks", Shown(f"shape {found.shape}")))
    wrong = (found < 0).any(1) | (found >= tasks).any(1) | (found[:, 0] == found[:, 1])
    if wrong.any():
        at = int(wrong.argmax())
        raise ProblemError(must_be(f"{name}[{at}]", f"two different tasks from 0 to {tasks - 1}", found[at].tolist()))
    return found


def united(tasks: int, together: Ints) -> Ints:
    """The unit of each task: those that start together, directly or through others, share one."""
    root = np.arange(tasks)
    while True:
        lower = root.copy()
        np.minimum.at(lower, together[:, 0], root[together[:, 1]])
        np.minimum.at(lower, together[:, 1], root[together[:, 0]])
        if (lower == root).all():
            break
        root = lower
    unit: Ints = np.unique(root, return_inverse=True)[1]
    return unit


def ordered(unit: Ints, edges: Ints, names: Sequence[str] = ()) -> Ints:
    """Units with each after all that it depends on, int64 [U]; `ProblemError` says which tasks form a cycle."""
    units = int(unit.max()) + 1
    after: list[list[int]] = [[] for _ in range(units)]
    waiting = [0] * units
    for first, second in unit[edges].tolist():
        after[first].append(second)
        waiting[second] += 1
    found = [u for u in range(units) if not waiting[u]]
    for u in found:  # grows as it goes
        for w in after[u]:
            waiting[w] -= 1
            if not waiting[w]:
                found.append(w)
    if len(found) < units:
        at = next(u for u in range(units) if waiting[u])
        before = {
            int(unit[second]): (int(first), int(second))
            for first, second in edges
            if waiting[unit[first]] and waiting[unit[second]]
        }
        seen: list[int] = []
        while at not in seen:
            seen.append(at)
            at = int(unit[before[at][0]])
        cycle = list(dict.fromkeys(task for u in reversed(seen[seen.index(at) :]) for task in before[u]))
        shown = Shown(f"a cycle of the tasks {[names[task] if names else task for task in cycle]}")
        raise ProblemError(must_be("edges", "without a cycle", shown))
    return np.array(found, np.int64)


def tasks_of(window: TaskWindow) -> tuple[Tasks, tuple[int, ...]]:
    """The window in the form of the kernels, each unit's slack as its edges leave it, and the tasks that have none."""
    unit, units = window.unit, len(window.order)
    task = np.argsort(unit, kind="stable")
    first = np.searchsorted(unit[task], np.arange(units + 1))
    near = neighbours(len(unit), window.edges)
    after: list[list[int]] = [[] for _ in range(len(unit))]
    for i, j in window.edges.tolist():
        after[i].append(j)
    short = window.duration[np.arange(len(unit)), window.fastest()]
    release, latest = np.zeros(units, np.int64), np.full(units, window.slots)
    np.maximum.at(release, unit, window.release)
    own = np.minimum(window.latest, window.end - short)
    np.minimum.at(latest, unit, own)
    members = [task[first[u] : first[u + 1]].tolist() for u in range(units)]
    for u in window.order.tolist():
        for i in members[u]:
            for j in after[i]:
                release[unit[j]] = max(release[unit[j]], release[u] + short[i])
    late = tuple(np.flatnonzero(release[unit] > own).tolist())
    for u in reversed(window.order.tolist()):
        for i in members[u]:
            for j in after[i]:
                latest[u] = min(latest[u], latest[unit[j]] - short[i])
    none = np.zeros(len(unit), np.int64)
    fixed = (first, task, unit, near, window.duration, window.power_w, release, latest, window.end)
    found = Tasks(*fixed, none, none, np.zeros((1, window.slots), np.int64))
    return found, late


def neighbours(tasks: int, edges: Ints) -> Ints:
    """Predecessors and successors of each task, int64 [N, 2, P], -1 beyond the last."""
    counts = [np.bincount(edges[:, side], minlength=tasks) for side in (1, 0)]
    found = np.full((tasks, 2, 1 + max(int(count.max()) for count in counts)), -1, np.int64)
    for side, count in enumerate(counts):
        own, other = edges[:, 1 - side], edges[:, side]
        order = np.argsort(own, kind="stable")
        place = np.arange(len(edges)) - np.repeat(np.cumsum(count) - count, count)
        found[own[order], side, place] = other[order]
    return found


def peak_bound_w(window: TaskWindow, tasks: Tasks) -> float:
    """A peak that no schedule falls below, W.

    Energetic reasoning (Baptiste, Le Pape, Nuijten 1999): in slots a to b - 1 a task draws at least what both its earliest and
    its latest start put there, in the mode where that is least. Of long windows only some slots are begins and ends.
    """
    exists = window.exists()
    low, high = tasks.release[window.unit][:, None, None], tasks.latest[window.unit][:, None, None]
    long, watts = window.duration[:, :, None], np.where(exists, window.power_w, np.inf)
    base = np.concatenate(([0.0], np.cumsum(window.base)))
    end = window.end.copy()
    np.minimum.at(end, window.edges[:, 0], tasks.latest[window.unit[window.edges[:, 1]]])
    # `latest` is that of the fastest mode; a slower one may have to start before.
    last = np.minimum(high, end[:, None, None] - long)
    bound = float(window.base.max())
    slots = min(window.slots, max(_LEAST_ENDS, int(np.sqrt(_BOUND_WORK / window.duration.size))))
    ends = np.unique(np.linspace(0, window.slots, slots + 1).astype(np.int64))
    for at, a in enumerate(ends[:-1].tolist()):
        b = ends[at + 1 :]
        early = np.minimum(b, low + long) - np.maximum(a, low)
        late = np.minimum(b, last + long) - np.maximum(a, last)
        shared = np.where(exists[:, :, None], np.clip(np.minimum(early, late), 0, None) * window.power_w[:, :, None], np.inf)
        bound = max(bound, float(((shared.min(1).sum(0) + base[b] - base[a]) / (b - a)).max()))
    # Tasks that start together, or one alone, draw on top of the base somewhere.
    return max(bound, float(np.bincount(window.unit, watts.min(1)).max() + window.base.min()))


def _by_task(name: str, value: ArrayLike, tasks: int) -> Ints:
    found: Ints = array(name, value, np.int64, "N")
    if len(found) != tasks:
        raise ProblemError(must_be(name, f"of {tasks} slots, one for each task", Shown(f"{len(found)} slots")))
    return found


def _check(wrong: NDArray[np.bool_], name: str, allowed: str, given: NDArray[Any]) -> None:
    if wrong.any():
        task = int(wrong.argmax())
        raise ProblemError(must_be(f"{name}[{task}]", allowed, given[task].tolist()))
