"""Building: place tasks one by one at their earliest start under a cap, and what found no place earlier in the next try.

Serial schedule generation (Kolisch 1996) with squeaky-wheel priorities (Joslin, Clements 1999). Axes: units U (tasks that start
together, mostly one), tasks N, modes M, slots T, nodes of a cluster.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from qstream.energy.fleet import Floats, Ints
from qstream.kernels import GOLDEN, below, compiled, mix64

_UNIT: Final = 1.0 / 2.0**53
_ELEVEN: Final = np.uint64(11)
_SEVEN: Final = np.uint64(7)  # one of eight tasks tries another mode


class Tasks(NamedTuple):
    """What does not change: tasks by unit (``task[first[u]:first[u + 1]]``) and the `unit` of each; `near` [N, 2, P], the
    predecessors and successors of each task, -1 beyond the last; `duration` [N, M] in slots, 0 where a mode is missing, and
    `power` [N, M]; the earliest and latest start of each unit, which its edges allow with the fastest modes; the slot `end` [N]
    before which each task is over; the `node` and `gpus` of each task, and the GPUs that a node has, `room` [nodes, T]."""

    first: Ints
    task: Ints
    unit: Ints
    near: Ints
    duration: Ints
    power: Floats
    release: Ints
    latest: Ints
    end: Ints
    node: Ints
    gpus: Ints
    room: Ints


def members(tasks: Tasks, u: int) -> list[int]:
    """The tasks of a unit."""
    found: list[int] = tasks.task[tasks.first[u] : tasks.first[u + 1]].tolist()
    return found


def within_rooms(tasks: Tasks, start: Ints, mode: Ints) -> bool:
    """Whether starts [U] and modes [N] keep to the GPUs of each node in every slot."""
    if not tasks.gpus.any():
        return True
    at = start[tasks.unit]
    used = np.zeros((len(tasks.room), tasks.room.shape[1] + 1), np.int64)
    np.add.at(used, (tasks.node, at), tasks.gpus)
    np.add.at(used, (tasks.node, at + tasks.duration[np.arange(len(mode)), mode]), -tasks.gpus)
    return bool((np.cumsum(used, 1)[:, :-1] <= tasks.room).all())


@compiled
def build_to(tasks: Any, cap: float, tries: int, noise: float, seed: Any, base: Any, rank: Any, start: Any, mode: Any) -> Any:
    """Try to place every unit below the cap, in order of `rank` [U] with `noise` slots of noise; whether one try succeeded.

    `rank`, in slots, is changed in place: what found no place comes earlier. `start` [U] and `mode` [N] hold the last try; `base`
    [T] is what others draw.
    """
    units, slots, state = len(start), len(base), seed
    load, used = np.empty(slots), np.empty((len(tasks.room), slots), np.int64)
    key, waiting, placed = np.empty(units), np.empty(units, np.int64), np.empty(units, np.bool_)
    for _ in range(tries):
        for t in range(slots):
            load[t] = base[t]
            for n in range(len(tasks.room)):
                used[n, t] = 0
        for u in range(units):
            state += GOLDEN
            key[u] = rank[u] + noise * (mix64(state) >> _ELEVEN) * _UNIT
            placed[u] = False
            waiting[u] = predecessors(tasks, u)
        failed = -1
        for _ in range(units):
            u = -1
            for w in range(units):
                if not placed[w] and waiting[w] == 0 and (u < 0 or key[w] < key[u]):
                    u = w
            state += GOLDEN
            if not place(tasks, u, cap, mix64(state), start, mode, load, used):
                failed = u
                break
            placed[u] = True
            for a in range(tasks.first[u], tasks.first[u + 1]):
                for p in range(tasks.near.shape[2]):
                    j = tasks.near[tasks.task[a], 1, p]
                    if j < 0:
                        break
                    waiting[tasks.unit[j]] -= 1
        if failed < 0:
            return True
        state += GOLDEN
        rank[failed] -= 1.0 + noise * (mix64(state) >> _ELEVEN) * _UNIT
        for a in range(tasks.first[failed], tasks.first[failed + 1]):
            for p in range(tasks.near.shape[2]):
                j = tasks.near[tasks.task[a], 0, p]
                if j < 0:
                    break
                rank[tasks.unit[j]] = min(rank[tasks.unit[j]], rank[failed])
    return False


@compiled
def predecessors(tasks: Any, u: Any) -> Any:
    """How many edges end at tasks of a unit."""
    count = 0
    for a in range(tasks.first[u], tasks.first[u + 1]):
        for p in range(tasks.near.shape[2]):
            if tasks.near[tasks.task[a], 0, p] < 0:
                break
            count += 1
    return count


@compiled
def place(tasks: Any, u: Any, cap: Any, drawn: Any, start: Any, mode: Any, load: Any, used: Any) -> Any:
    """Start a unit as early as it fits, first in its modes, then in others; whether it fits anywhere."""
    modes, alone = tasks.duration.shape[1], tasks.first[u + 1] - tasks.first[u] == 1
    if modes > 1:
        for a in range(tasks.first[u], tasks.first[u + 1]):
            drawn = mix64(drawn + GOLDEN)
            new = below(drawn, modes)
            if tasks.duration[tasks.task[a], new] > 0 and mix64(drawn) & _SEVEN == np.uint64(0):
                mode[tasks.task[a]] = new
    at = earliest(tasks, u, cap, start, mode, load, used)
    if at < 0 and alone and modes > 1:
        i = tasks.task[tasks.first[u]]
        first = mode[i]
        for step in range(1, modes):
            mode[i] = (first + step) % modes
            if at < 0 and tasks.duration[i, mode[i]] > 0:
                at = earliest(tasks, u, cap, start, mode, load, used)
                if at >= 0:
                    break
        if at < 0:
            mode[i] = first
    if at < 0:
        return False
    start[u] = at
    for a in range(tasks.first[u], tasks.first[u + 1]):
        i = tasks.task[a]
        for t in range(at, at + tasks.duration[i, mode[i]]):
            load[t] += tasks.power[i, mode[i]]
            used[tasks.node[i], t] += tasks.gpus[i]
    return True


@compiled
def earliest(tasks: Any, u: Any, cap: Any, start: Any, mode: Any, load: Any, used: Any) -> Any:
    """The earliest start of a unit after its predecessors, below the cap and on free GPUs; -1 without one."""
    low, high = tasks.release[u], tasks.latest[u]
    for a in range(tasks.first[u], tasks.first[u + 1]):
        i = tasks.task[a]
        high = min(high, tasks.end[i] - tasks.duration[i, mode[i]])
        for p in range(tasks.near.shape[2]):
            j = tasks.near[i, 0, p]
            if j < 0:
                break
            low = max(low, start[tasks.unit[j]] + tasks.duration[j, mode[j]])
    at, alone = low, tasks.first[u + 1] - tasks.first[u] == 1
    while at <= high:
        clash = -1
        for a in range(tasks.first[u], tasks.first[u + 1]):
            i = tasks.task[a]
            for t in range(at, at + tasks.duration[i, mode[i]]):
                watts, gpus = load[t], used[tasks.node[i], t]
                for b in range(tasks.first[u], tasks.first[u + 1]):
                    j = tasks.task[b]
                    if t < at + tasks.duration[j, mode[j]]:
                        watts += tasks.power[j, mode[j]]
                        gpus += tasks.gpus[j] if tasks.node[j] == tasks.node[i] else 0
                if watts > cap or gpus > tasks.room[tasks.node[i], t]:
                    clash = t
        if clash < 0:
            return at
        at = clash + 1 if alone else at + 1
    return -1
