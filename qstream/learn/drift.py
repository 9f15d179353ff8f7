"""Drift: when the mean of a bounded value has moved, for thousands of series side by side, with few false alarms.

Two-sided e-CUSUM (Shin, Ramdas, Rinaldo, "E-detectors", 2022): wealth of bets that the value lies above, or below, its mean so
far. Axes: series S, bets B.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.kernels import compiled
from qstream.learn import given
from qstream.learn.evolve import evolve
from schemas.frame import Axes, Count, Frame

BETS: Final = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
WARM: Final = 20  # values that give a first mean, before anything is bet
VALUE_MAX: Final = 1e150  # a larger value counts as this one


class DriftState(Frame):
    """The mean since the last change and of how many values it is, and the wealth of the bets upwards and downwards."""

    bound: float
    alarm: float
    steps: Count = 0
    changes: Annotated[NDArray[np.int64], Axes("series")]
    count: Annotated[NDArray[np.int64], Axes("series")]
    mean: Annotated[NDArray[np.float64], Axes("series")]
    up: Annotated[NDArray[np.float64], Axes("series", "bets")]
    down: Annotated[NDArray[np.float64], Axes("series", "bets")]


def start(series: int, *, bound: float, alarm: float = 200.0) -> DriftState:
    """Return a state that has seen nothing.

    Parameters
    ----------
    series
        How many stand next to each other.
    bound
        The range of the values: the largest distance between two of them. What lies further from the mean counts as this far.
    alarm
        The wealth at which a change is called. At 200, of series that do not change 1 to 3 % have a false alarm in 1,200
        independent values. Higher: fewer false alarms, and true changes are found later.
    """
    rows = given.whole("series", series, 1, given.MAX_SERIES)
    return DriftState(
        bound=given.real("bound", bound, 1e-100, 1e100),
        alarm=given.real("alarm", alarm, 1.0, 1e9),
        changes=np.zeros(rows, np.int64),
        count=np.zeros(rows, np.int64),
        mean=np.zeros(rows),
        up=np.ones((rows, len(BETS))),
        down=np.ones((rows, len(BETS))),
    )


def learn(state: DriftState, value: ArrayLike) -> tuple[DriftState, NDArray[np.bool_]]:
    """Return the state after the values [S] came, and of which series the mean has moved: bool [S].

    Such a series starts again: what comes next is its new mean. A series that changes in the first 20 values is not noticed.
    """
    rows = len(state.mean)
    came = np.clip(given.numbers("value", value, (rows,)), -VALUE_MAX, VALUE_MAX)
    changed, new = np.zeros(rows, np.bool_), {name: getattr(state, name).copy() for name in _LEARNT}
    learn_rows(came, state.bound, state.alarm, *(*new.values(), changed))
    return evolve(state, steps=state.steps + 1, **new), changed


# The arrays that a value changes, in the order in which `learn_rows` takes them.
_LEARNT: Final = ("changes", "count", "mean", "up", "down")


@compiled
def learn_rows(value: Any, bound: Any, alarm: Any, changes: Any, count: Any, mean: Any, up: Any, down: Any, changed: Any) -> None:
    """One value of every series, in place."""
    rows, bets = up.shape
    for s in range(rows):
        if count[s] == 0:
            mean[s] = value[s]
        far = min(max((value[s] - mean[s]) / bound, -1.0), 1.0)
        if count[s] >= WARM:
            higher, lower = 0.0, 0.0
            for b in range(bets):
                up[s, b] = max(up[s, b], 1.0) * (1 + BETS[b] * far)
                down[s, b] = max(down[s, b], 1.0) * (1 - BETS[b] * far)
                higher += up[s, b] / bets
                lower += down[s, b] / bets
            changed[s] = max(higher, lower) >= alarm
        if changed[s]:
            changes[s] += 1
            count[s] = 0
            up[s, :] = 1.0
            down[s, :] = 1.0
        else:
            count[s] += 1
            mean[s] += bound * far / count[s]
