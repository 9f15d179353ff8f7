"""Active counts: how many replicas to keep active for the next window of demand."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import array, real_number, whole_number
from qstream.energy.fleet import Floats
from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

_RATE: Final = 0.2  # of the smoothed demand
_ERRORS: Final = 90  # windows whose errors give the margin
_MARGIN: Final = 0.95  # quantile of them
_MOST_ERROR: Final = 1e30  # a larger relative error counts as this one: demand after hours without any
_PATIENCE: Final = 3  # windows before one replica is parked


def plan_active(asked: ArrayLike, capacity: float, most: int) -> NDArray[np.int64]:
    """Return how many replicas are active in each window, from the demand of the windows before it.

    As many as smoothed demand and a margin need, the 95 % quantile of the last relative errors; more at once, one fewer after
    three windows that would have done with fewer. All are active in the first window.

    Parameters
    ----------
    asked : float64 [T]
        Demand in each window, such as tokens/s, at least 0.
    capacity
        What one replica serves, in the same unit, above 0.
    most
        Replicas there are, 1 or more.

    Returns
    -------
    int64 [T], 1 to `most`

    Raises
    ------
    ProblemError
        An argument breaks a rule.
    """
    demand: Floats = array("asked", asked, np.float64, "T")
    if not (np.isfinite(demand) & (demand >= 0)).all():
        at = int((~(np.isfinite(demand) & (demand >= 0))).argmax())
        raise ProblemError(must_be(f"asked[{at}]", "finite and 0 or more", Shown(f"{demand[at]:g}")))
    each, top = real_number("capacity", capacity, 0.0), whole_number("most", most, 1, 1_000_000)
    if not 0 < each < np.inf:
        raise ProblemError(must_be("capacity", "finite and above 0", capacity))
    found, state = np.empty(len(demand), np.int64), all_active(top)
    for t, came in enumerate(demand.tolist()):
        found[t] = state.active
        state = active_step(state, came, each, top)
    return found


class Active(NamedTuple):
    """What is known after some windows: replicas for the next one, how many windows in a row would have done with fewer, smoothed
    demand (-1 before the first window), and the last relative errors of that as a forecast."""

    active: int
    below: int
    level: float
    errors: tuple[float, ...]


def all_active(most: int) -> Active:
    """Before the first window."""
    return Active(most, 0, -1.0, ())


def active_step(state: Active, asked: float, capacity: float, most: int, least: int = 1) -> Active:
    """The state after one more window. Arguments as of `plan_active`, which are not checked here; `least` is for this window."""
    errors, level = state.errors, state.level
    if level > 0:
        errors = (*errors, min(_MOST_ERROR, asked / level - 1))[-_ERRORS:]
    level = asked if level < 0 else level + _RATE * (asked - level)
    margin = max(0.0, float(np.quantile(errors, _MARGIN))) if errors else 0.0
    # The lesser is rounded: the quotient of two finite numbers may be infinite.
    need = min(most, max(least, int(np.ceil(min(most, level * (1 + margin) / capacity - 1e-9)))))
    if need > state.active:
        return Active(need, 0, level, errors)
    below = state.below + 1 if need < state.active else 0
    if below >= _PATIENCE:
        return Active(min(state.active - 1, most), 0, level, errors)
    return Active(min(state.active, most), below, level, errors)
