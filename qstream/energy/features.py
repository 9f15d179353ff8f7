"""Features: what a graph says of its tasks, as columns for a model that predicts power and duration of those not yet measured.

Axes: tasks N, columns F, modes M (`MODES`, the first ones of the graph), links E. A curve is the natural logarithm of the seconds
and of the watts of a GPU in each mode: float64 [N, 2 M], seconds first; NaN where a task has no such mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.energy.fleet import Floats, Ints
from schemas.tasks import TaskGraph

MODES: Final = 4
GIVEN: Final = 8  # columns of `TaskGraph.feature`, the first ones
CATEGORIES: Final = 8
_LEAST_W: Final = 0.1  # of a GPU, so that its logarithm is finite
_SHAPE: Final = ("log_gpus", "log_before", "log_after", "level", "log_tasks")
CURVE: Final = tuple(f"{what}_{mode}" for what in ("log_s", "log_w") for mode in range(MODES))
COLUMNS: Final = (
    *_SHAPE,
    *(f"category_{at}" for at in range(CATEGORIES)),
    *(f"feature_{at}" for at in range(GIVEN)),
    *(f"has_mode_{mode}" for mode in range(MODES)),
    "known",
    *(f"known_{name}" for name in CURVE),
)

Bools = NDArray[np.bool_]


def measured(graph: TaskGraph) -> Bools:
    """The tasks whose duration and power were measured [N]."""
    return np.ones(len(graph.task), bool) if graph.measured is None else graph.measured > 0


def curves(graph: TaskGraph) -> Floats:
    """The curves that the graph gives [N, 2 M], measured or not."""
    count = min(MODES, graph.duration.shape[1])
    gpus = _gpus(graph)[:, None]
    there = graph.duration[:, :count] > 0
    found = np.full((len(graph.task), 2 * MODES), np.nan)
    seconds, watts = graph.duration[:, :count] * graph.slot_s, graph.power_w[:, :count] / gpus
    found[:, :count] = np.where(there, np.log(np.maximum(seconds, 1e-9)), np.nan)
    found[:, MODES : MODES + count] = np.where(there, np.log(np.maximum(watts, _LEAST_W)), np.nan)
    return found


def columns(graph: TaskGraph, known: Bools, categories: Sequence[str]) -> Floats:
    """The columns of all tasks [N, F], the curves of the `known` ones [N] among them. `categories` are those with a column."""
    tasks, curve = len(graph.task), curves(graph)
    found = np.zeros((tasks, len(COLUMNS)))
    first, second = edges(graph)
    level = _levels(tasks, first, second)
    found[:, 0] = np.log(_gpus(graph))
    found[:, 1] = np.log1p(np.bincount(second, minlength=tasks))
    found[:, 2] = np.log1p(np.bincount(first, minlength=tasks))
    found[:, 3] = level / max(1, int(level.max()))
    found[:, 4] = np.log(tasks)
    at = len(_SHAPE)
    for row, name in enumerate(graph.category):
        if name in categories:
            found[row, at + list(categories).index(name)] = 1.0
    at += CATEGORIES
    if graph.feature is not None:
        given = graph.feature[:, :GIVEN]
        found[:, at : at + given.shape[1]] = given
    at += GIVEN
    there = ~np.isnan(curve[:, :MODES])
    found[:, at : at + MODES] = there
    at += MODES
    found[:, at] = known
    found[:, at + 1 :] = np.where(known[:, None], np.nan_to_num(curve), 0.0)
    return found


def edges(graph: TaskGraph) -> tuple[Ints, Ints]:
    """First and second task of each edge."""
    if graph.edges is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first, second = graph.edges.T.astype(np.int64)
    return first, second


def links(graph: TaskGraph) -> Ints:
    """Neighbours of tasks, both ways: those before and after, and those that start together; source and target, [2, E]."""
    pairs = [given.astype(np.int64) for given in (graph.edges, graph.together) if given is not None]
    if not pairs:
        return np.zeros((2, 0), np.int64)
    both = np.concatenate(pairs)
    found: Ints = np.concatenate([both, both[:, ::-1]]).T.copy()
    return found


def around(x: Floats, link: Ints) -> Floats:
    """The columns of each task and their means over its neighbours [N, 2 F]; 0 where it has none."""
    total = np.zeros_like(x)
    np.add.at(total, link[1], x[link[0]])
    mean = total / np.maximum(np.bincount(link[1], minlength=len(x)), 1)[:, None]
    return np.concatenate([x, mean], 1)


def _gpus(graph: TaskGraph) -> Ints:
    return np.ones(len(graph.task), np.int64) if graph.gpus is None else graph.gpus.astype(np.int64)


def _levels(tasks: int, first: Ints, second: Ints) -> Ints:
    """The longest chain of edges that ends in each task [N]."""
    level = np.zeros(tasks, np.int64)
    while True:
        after = level.copy()
        np.maximum.at(after, second, level[first] + 1)
        if (after == level).all():
            return level
        level = after
