"""Outcomes: predictions of tasks wait here until a later graph says what the tasks came to, for the guard of the model."""

from __future__ import annotations

from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.energy.features import MODES, curves, measured
from qstream.energy.fleet import Floats
from qstream.energy.unseen import NAME, error
from qstream.learn import decision, version
from qstream.learn.evolve import evolve
from qstream.learn.options import Learn
from qstream.learn.version import VersionState
from schemas.frame import Axes, Count, Frame
from schemas.tasks import TaskGraph

WAITING: Final = 128  # tasks
LEARNER: Final = "unseen.pinned"
BOUND: Final = 0.5  # difference of two errors that counts as 1: a factor of 1.6
_NONE: Final = 1e6  # no such mode


class UnseenState(Frame):
    """The version in use, and a ring of the tasks that it was asked for: number i stands at ``i % 128``, with what its graph
    declared and what version `by` said of it, as curves (1e6 where a mode is missing)."""

    pinned: VersionState
    asked: Count = 0
    task: Annotated[tuple[str, ...], Field(strict=False)]
    by: Annotated[NDArray[np.int64], Axes("waiting")]
    declared: Annotated[NDArray[np.float32], Axes("waiting", "of_curve")]
    said: Annotated[NDArray[np.float32], Axes("waiting", "of_curve")]

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(start()))


def start() -> UnseenState:
    """Return a state that has predicted nothing."""
    none = np.full((WAITING, 2 * MODES), _NONE, np.float32)
    pinned = version.start(NAME, bound=BOUND, block=2)
    return UnseenState(pinned=pinned, task=("",) * WAITING, by=np.full(WAITING, -1, np.int64), declared=none, said=none.copy())


def asked(state: UnseenState, graph: TaskGraph, said: Floats, by: int) -> UnseenState:
    """With the predictions [N, 2 M] of the graph's tasks that were not measured, by this version."""
    rows = np.flatnonzero(~measured(graph))[:WAITING]
    names, curve, version_of = list(state.task), curves(graph), state.by.copy()
    declared, predicted = state.declared.copy(), state.said.copy()
    for n, row in enumerate(rows.tolist()):
        at = (state.asked + n) % WAITING
        names[at], version_of[at] = graph.task[row], by
        declared[at] = np.nan_to_num(curve[row], nan=_NONE)
        predicted[at] = np.where(np.isnan(curve[row]), _NONE, said[row])
    changes = {"by": version_of, "declared": declared, "said": predicted}
    return evolve(state, asked=state.asked + len(rows), task=tuple(names), **changes)


def came(state: UnseenState, graph: TaskGraph, *, learn: Learn) -> UnseenState:
    """Score what was declared and what was said of tasks that this graph says were measured, and forget them."""
    waiting = {name: at for at, name in enumerate(state.task) if name}
    seen = measured(graph)
    pairs = [(waiting[name], row) for row, name in enumerate(graph.task) if seen[row] and name in waiting]
    if not pairs or learn == "off":
        return state
    at, rows = np.array(pairs).T
    truth = curves(graph)[rows]
    pinned, now = state.pinned, state.pinned.version
    current = at[state.by[at] == now] if now is not None else at[:0]
    if len(current):
        scored = np.isin(at, current)
        losses = [_mean(kept[at[scored]], truth[scored]) for kept in (state.declared, state.said)]
        if np.isfinite(losses).all():
            pinned, _ = decision.compare(pinned, f"{NAME}@{now}", *losses, learn=learn)
    names, by = list(state.task), state.by.copy()
    for one in at.tolist():
        names[one], by[one] = "", -1
    return evolve(state, pinned=pinned, task=tuple(names), by=by)


def _mean(kept: NDArray[np.float32], truth: Floats) -> float:
    each = error(np.where(kept >= _NONE, np.nan, kept).astype(np.float64), truth)
    there = ~np.isnan(each)
    return float(each[there].mean()) if there.any() else float("nan")
