"""Fewest nodes: which nodes run a window's tasks so that all deadlines hold and the nodes left idle can be switched off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from qstream.arguments import array, whole_number
from qstream.energy.building import Tasks, members
from qstream.energy.fleet import Ints
from qstream.energy.scheduling import WindowPlan, plan_of
from qstream.energy.window import TaskWindow, tasks_of
from qstream.errors import ProblemError
from schemas.solver import SolverRecord
from schemas.wording import Shown, must_be

_MOST_GPUS: Final = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class NodeSelection:
    """`node_of_task` int64 [N], -1 where no node can run a task in time; `active`, the nodes that are needed, ascending; and the
    `plan`, which keeps to the GPUs of each node in every slot."""

    node_of_task: Ints
    active: Ints
    plan: WindowPlan


def select_nodes(window: TaskWindow, gpus: ArrayLike, free_gpus: ArrayLike, idle_w: ArrayLike, *, seed: int = 0) -> NodeSelection:
    """Choose nodes for tasks, opening one only where a deadline would else be missed, then level the draw on them.

    Tasks are placed by their latest finish, each on the open node where it can start first; the next node to open is the one
    that draws least idle. Nodes are then dropped, the one that draws most first, while all deadlines hold.

    Parameters
    ----------
    gpus : int [N]
        GPUs that a task needs, all on one node.
    free_gpus : int [nodes]
        GPUs that a node has for these tasks.
    idle_w : float [nodes]
        What a node draws when it is open.

    Raises
    ------
    ProblemError
        An argument breaks a rule. Tasks that no node can run in time are a status of the plan, not an error.
    """
    need, room = array("gpus", gpus, np.int64, "N"), array("free_gpus", free_gpus, np.int64, "nodes")
    idle = array("idle_w", idle_w, np.float64, "nodes")
    drawn = whole_number("seed", seed, 0, 2**63 - 1)
    if len(need) != len(window.unit):
        raise ProblemError(must_be("gpus", f"of {len(window.unit)} counts, one for each task", Shown(f"{len(need)} counts")))
    for name, given in (("gpus", need), ("free_gpus", room)):
        if not len(given) or given.min() < 0 or given.max() > _MOST_GPUS:
            raise ProblemError(must_be(name, f"one or more counts from 0 to {_MOST_GPUS}", given.tolist()))
    if idle.shape != room.shape or not (np.isfinite(idle) & (idle >= 0)).all():
        raise ProblemError(must_be("idle_w", f"{len(room)} finite numbers of 0 W or more, one for each node", idle.tolist()))
    tasks, late = tasks_of(window)
    by_idle = np.lexsort((np.arange(len(room)), -room, idle))
    found = None if late else _opened(window, tasks, need, room, by_idle)
    if found is None:
        return _impossible(window, tasks, need, room, late, by_idle, drawn)
    start, node = found
    for n in sorted(set(node.tolist()), key=lambda n: (-idle[n], n)):
        fewer = [m for m in by_idle.tolist() if m in set(node.tolist()) and m != n]
        tried = _placed(window, tasks, need, room, fewer) if fewer else None
        if tried is not None and not isinstance(tried, int):
            start, node = tried
    bound = tasks._replace(node=node, gpus=need.copy(), room=room.copy())
    plan = plan_of(window, bound, (), None, drawn, lambda: math.inf, None, (start, window.fastest()))
    return NodeSelection(node, np.unique(node), plan)


def _opened(window: TaskWindow, tasks: Tasks, need: Ints, room: Ints, by_idle: Ints) -> tuple[Ints, Ints] | None:
    """Starts [U] and nodes [N] on as few nodes as it takes, opened in order of what they draw; None where all are too few."""
    closed = by_idle.tolist()
    nodes: list[int] = []
    while closed:
        tried = _placed(window, tasks, need, room, nodes) if nodes else int(np.argmax(need))
        if not isinstance(tried, int):
            return tried
        # The unit that found no place needs a node that is large enough for it.
        wanted = int(need[tried])
        chosen = next((n for n in closed if room[n] >= wanted), None)
        if chosen is None:
            return None
        closed.remove(chosen)
        nodes.append(chosen)
    tried = _placed(window, tasks, need, room, nodes)
    return None if isinstance(tried, int) else tried


def _placed(window: TaskWindow, tasks: Tasks, need: Ints, room: Ints, nodes: list[int]) -> tuple[Ints, Ints] | int:
    """Starts [U] and nodes [N] of all tasks on these nodes, or a task that found no place in time."""
    long = window.duration[np.arange(len(need)), window.fastest()]
    start, node = np.full(len(tasks.release), -1), np.full(len(need), -1)
    free = {n: np.full(window.slots, room[n]) for n in nodes}
    waiting = [{int(window.unit[j]) for i in members(tasks, u) for j in tasks.near[i, 0] if j >= 0} for u in range(len(start))]
    left = set(range(len(start)))
    while left:
        u = min((u for u in left if not waiting[u] & left), key=lambda u: (tasks.latest[u], u))
        own = sorted(members(tasks, u), key=lambda i: -need[i])
        low = int(tasks.release[u])
        for i in own:
            for j in tasks.near[i, 0]:
                if j >= 0:
                    low = max(low, int(start[window.unit[j]] + long[j]))
        for at in range(low, int(tasks.latest[u]) + 1):
            chosen = _nodes_at(own, need, long, free, at)
            if chosen is not None:
                break
        else:
            return own[0]
        start[u] = at
        for i, n in zip(own, chosen, strict=True):
            node[i] = n
            free[n][at : at + long[i]] -= need[i]
        left.remove(u)
    return start, node


def _nodes_at(unit: list[int], need: Ints, long: Ints, free: dict[int, Ints], at: int) -> list[int] | None:
    """A node for each task of a unit that starts in this slot, the fullest that has room; None where one has none."""
    held: list[tuple[int, int]] = []
    for i in unit:
        fits = []
        for n, gpus in free.items():
            taken = sum(int(need[j]) for j, m in held if m == n)
            least = int(gpus[at : at + long[i]].min()) - taken
            if least >= need[i]:
                fits.append((least, n))
        if not fits:
            return None
        held.append((i, min(fits)[1]))
    return [n for _, n in held]


def _impossible(
    window: TaskWindow, tasks: Tasks, need: Ints, room: Ints, late: tuple[int, ...], by_idle: Ints, seed: int
) -> NodeSelection:
    """The soonest schedule on no node in particular, with the tasks that cannot meet their deadlines."""
    at_fault = late
    if not late:
        tried = _placed(window, tasks, need, room, by_idle.tolist())
        at_fault = (tried,) if isinstance(tried, int) else tuple(np.flatnonzero(need > room.max()).tolist())
    start, mode = tasks.release[window.unit], window.fastest()
    peak = float(window.load_w(start, mode).max())
    record = SolverRecord(solver="list", seed=seed, n=len(need), objective=peak)
    plan = WindowPlan(start, mode, peak, peak, peak, "infeasible", record, at_fault)
    return NodeSelection(np.full(len(need), -1), np.zeros(0, np.int64), plan)
