"""Fewest nodes: which nodes run a window's tasks so that all deadlines hold and the nodes left idle can be switched off."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from qstream.arguments import array, real_number, whole_number
from qstream.energy.building import Tasks, members
from qstream.energy.fleet import Floats, Ints
from qstream.energy.scheduling import ROUNDING, ScheduleTerms, WindowPlan, plan_of, plan_soonest
from qstream.energy.window import TaskWindow, tasks_of
from qstream.errors import ProblemError
from qstream.quantum.window import Runtime
from schemas.wording import Shown, must_be

_MOST_GPUS: Final = 1_000_000
_LOOKED_AT: Final = 32  # slots at first in which a task may find room; then twice as many
Placed = tuple[Ints, Ints]  # starts [U] and nodes [N]


@dataclass(frozen=True, slots=True, eq=False)
class NodeSelection:
    """`node_of_task` int64 [N], -1 where no node can run a task in time; `active`, the nodes that are needed, ascending; and the
    `plan`, which keeps to the GPUs of each node in every slot."""

    node_of_task: Ints
    active: Ints
    plan: WindowPlan


def select_nodes(
    window: TaskWindow,
    gpus: ArrayLike,
    free_gpus: ArrayLike,
    idle_w: ArrayLike,
    *,
    options: ScheduleTerms | None = None,
    deadline_s: float | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> NodeSelection:
    """Choose nodes for tasks, opening one only where a deadline would else be missed, then level the draw on them.

    Tasks are placed by their latest finish, each on the open node where it can start first; the next node to open is the one
    that draws least idle. Nodes are then dropped, the one that draws most first, while all deadlines hold. Where the peak is
    above that of `soonest_on_nodes` all the same, its nodes are kept and levelled.

    Parameters
    ----------
    gpus : int [N]
        GPUs that a task needs, all on one node.
    free_gpus : int [nodes] or [nodes, T]
        GPUs that a node has for these tasks, in each slot where it changes.
    idle_w : float [nodes]
        What a node draws when it is open.
    options, deadline_s, seed, runtime, clock
        As of `schedule`.

    Raises
    ------
    ProblemError
        An argument breaks a rule. Tasks that no node can run in time are a status of the plan, not an error.
    """
    began, drawn = clock(), whole_number("seed", seed, 0, 2**63 - 1)
    end_s = math.inf if deadline_s is None else real_number("deadline_s", deadline_s, 0.0)
    need, room, idle = _checked(window, gpus, free_gpus, idle_w)
    tasks, late = tasks_of(window)
    soonest, by_idle = _soonest(window, tasks, late, need, room, idle)
    if isinstance(soonest, NodeSelection):
        return soonest
    simple = float(window.load_w(soonest[0][window.unit], window.fastest()).max())

    def levelled(given: Placed) -> WindowPlan:
        bound = tasks._replace(node=given[1], gpus=need, room=room)
        return plan_of(
            window, bound, (), options, drawn, lambda: end_s - (clock() - began), runtime, (given[0], window.fastest())
        )

    chosen = _fewest(window, tasks, need, room, idle, by_idle) or soonest
    plan = levelled(chosen)
    if plan.peak_w > simple * (1 + ROUNDING):
        chosen, plan = soonest, levelled(soonest)
    wall = {} if deadline_s is None else {"wall_ms": 1e3 * (clock() - began)}
    plan = replace(plan, simple_peak_w=simple, solver=plan.solver.model_copy(update=wall))
    return NodeSelection(chosen[1], np.unique(chosen[1]), plan)


def soonest_on_nodes(window: TaskWindow, gpus: ArrayLike, free_gpus: ArrayLike, idle_w: ArrayLike) -> NodeSelection:
    """Each task as soon as any node has room for it, in its fastest mode; arguments and errors as of `select_nodes`."""
    need, room, idle = _checked(window, gpus, free_gpus, idle_w)
    tasks, late = tasks_of(window)
    soonest, _ = _soonest(window, tasks, late, need, room, idle)
    if isinstance(soonest, NodeSelection):
        return soonest
    start, node = soonest
    return NodeSelection(node, np.unique(node), plan_soonest(window, start[window.unit], window.fastest()))


def _checked(window: TaskWindow, gpus: ArrayLike, free_gpus: ArrayLike, idle_w: ArrayLike) -> tuple[Ints, Ints, Floats]:
    need: Ints = array("gpus", gpus, np.int64, "N").copy()
    always = np.ndim(free_gpus) == 1
    room: Ints = array("free_gpus", free_gpus, np.int64, "nodes" if always else "nodes T")
    room = np.repeat(room[:, None], window.slots, 1) if always else room.copy()
    if room.shape[1] != window.slots:
        raise ProblemError(must_be("free_gpus", f"given for each of {window.slots} slots", Shown(f"{room.shape[1]} slots")))
    idle: Floats = array("idle_w", idle_w, np.float64, "nodes")
    if len(need) != len(window.unit):
        raise ProblemError(must_be("gpus", f"of {len(window.unit)} counts, one for each task", Shown(f"{len(need)} counts")))
    for name, given in (("gpus", need), ("free_gpus", room)):
        if not given.size or given.min() < 0 or given.max() > _MOST_GPUS:
            raise ProblemError(must_be(name, f"one or more counts from 0 to {_MOST_GPUS}", given.tolist()))
    if idle.shape != room.shape[:1] or not (np.isfinite(idle) & (idle >= 0)).all():
        raise ProblemError(must_be("idle_w", f"{len(room)} finite numbers of 0 W or more, one for each node", idle.tolist()))
    return need, room, idle


def _soonest(
    window: TaskWindow, tasks: Tasks, late: tuple[int, ...], need: Ints, room: Ints, idle: Floats
) -> tuple[Placed | NodeSelection, list[int]]:
    """A placement on all nodes, or who cannot meet a deadline; and the nodes in the order in which they are opened."""
    by_idle: list[int] = np.lexsort((np.arange(len(room)), -room.max(1), idle)).tolist()
    at_fault = late or tuple(np.flatnonzero(need > room.max()).tolist())
    if not at_fault:
        found = _placed(window, tasks, need, room, by_idle)
        if not isinstance(found, int):
            return found, by_idle
        at_fault = (found,)
    plan = plan_soonest(window, tasks.release[window.unit], window.fastest(), at_fault)
    return NodeSelection(np.full(len(need), -1), np.zeros(0, np.int64), plan), by_idle


def _fewest(window: TaskWindow, tasks: Tasks, need: Ints, room: Ints, idle: Floats, by_idle: list[int]) -> Placed | None:
    """A placement on as few nodes as it takes, opened in order, and then without those that can be spared."""
    closed, nodes = list(by_idle), list[int]()
    tried: Placed | int = int(need.argmax())
    while isinstance(tried, int):
        # The task that found no place needs a node that is large enough for it.
        chosen = next((n for n in closed if room[n].max() >= need[tried]), None)
        if chosen is None:
            return None
        closed.remove(chosen)
        nodes.append(chosen)
        tried = _placed(window, tasks, need, room, nodes)
    for n in sorted(nodes, key=lambda n: (-idle[n], n)):
        fewer = [m for m in nodes if m != n]
        again = _placed(window, tasks, need, room, fewer) if fewer else 0
        if not isinstance(again, int):
            nodes, tried = fewer, again
    return tried


def _placed(window: TaskWindow, tasks: Tasks, need: Ints, room: Ints, nodes: list[int]) -> Placed | int:
    """Starts [U] and nodes [N] of all tasks on these nodes, or a task that found no place in time."""
    long = window.duration[np.arange(len(need)), window.fastest()]
    start, node = np.full(len(tasks.release), -1), np.full(len(need), -1)
    low, waiting = tasks.release.copy(), np.zeros(len(start), np.int64)
    np.add.at(waiting, window.unit[window.edges[:, 1]], 1)
    free = room[nodes]
    ready = [(int(tasks.latest[u]), u) for u in np.flatnonzero(waiting == 0).tolist()]
    heapq.heapify(ready)
    while ready:
        high, u = heapq.heappop(ready)
        own = sorted(members(tasks, u), key=lambda i: -need[i])
        found = (_alone if len(own) == 1 else _united)(own, need, long, free, int(low[u]), high)
        if found is None:
            return own[0]
        start[u] = found[0]
        for i, row in zip(own, found[1], strict=True):
            node[i] = nodes[row]
            free[row, start[u] : start[u] + long[i]] -= need[i]
            for j in tasks.near[i, 1]:
                if j < 0:
                    break
                after = int(window.unit[j])
                low[after] = max(low[after], start[u] + long[i])
                waiting[after] -= 1
                if waiting[after] == 0:
                    heapq.heappush(ready, (int(tasks.latest[after]), after))
    return start, node


def _alone(own: list[int], need: Ints, long: Ints, free: Ints, low: int, high: int) -> tuple[int, list[int]] | None:
    """The first slot in which a task finds room, `free` [nodes, T], and the fullest node that has it; None without one."""
    wanted, takes, looked_at = int(need[own[0]]), int(long[own[0]]), _LOOKED_AT
    while low <= high:
        last = min(high, low + looked_at - 1)
        lacks = np.zeros((len(free), last + takes - low + 1), np.int64)
        np.cumsum(free[:, low : last + takes] < wanted, axis=1, out=lacks[:, 1:])
        fits = lacks[:, takes:] == lacks[:, :-takes]
        if (there := fits.any(0)).any():
            at = int(there.argmax())
            rows = np.flatnonzero(fits[:, at])
            least = free[rows, low + at : low + at + takes].min(1)
            return low + at, [int(rows[least.argmin()])]
        low, looked_at = last + 1, 2 * looked_at
    return None


def _united(own: list[int], need: Ints, long: Ints, free: Ints, low: int, high: int) -> tuple[int, list[int]] | None:
    """As `_alone`, for tasks that start together: a node for each."""
    for at in range(low, high + 1):
        held: list[tuple[int, int]] = []
        for i in own:
            least = free[:, at : at + long[i]].min(1)
            for j, row in held:
                least[row] -= need[j]
            rows = np.flatnonzero(least >= need[i])
            if not len(rows):
                break
            held.append((i, int(rows[least[rows].argmin()])))
        else:
            return at, [row for _, row in held]
    return None
