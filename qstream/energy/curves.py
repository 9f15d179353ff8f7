"""Value curves: what a domain makes of any number of watts, and how a parent divides its own among such curves."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from qstream.arguments import whole_number
from qstream.energy.fleet import Fleet, Floats, Ints, fleet_of
from qstream.energy.greedy import fill_parts
from qstream.energy.hulls import steps_of
from qstream.errors import ProblemError
from schemas.wording import must_be

MAX_POINTS: Final = 64


def value_curve(
    power_w: ArrayLike, value: ArrayLike, domain: ArrayLike, budget_w: ArrayLike, *, points: int = MAX_POINTS
) -> tuple[Floats, Floats]:
    """Return the most value that a domain's GPUs reach with each number of watts: a concave curve.

    It is that of the linear relaxation of `allocate` within the domain's own budgets. Between its points it is linear, and
    with fewer points than it has corners it lies a little low.

    Parameters
    ----------
    power_w, value, domain, budget_w
        As of `allocate`; the budgets inside the domain, without the one to divide.
    points
        The most points of the curve, 2 or more.

    Returns
    -------
    watts, value
        float64 [P] each, ascending. The first point is the least the domain can draw: with less it must park GPUs.

    Raises
    ------
    ProblemError
        As `allocate`, and where a budget is below the sum of the least levels under it.
    """
    most = whole_number("points", points, 2, 1_000_000)
    fleet = fleet_of(power_w, value, domain, budget_w, None)
    least = fleet.least
    slack = _slack(fleet, least, budget_w, "least levels")
    steps = steps_of(fleet.power_w, fleet.value, least)
    part = fill_parts(fleet, steps, slack)
    at = np.arange(len(least))
    watts = np.cumsum(np.concatenate(([fleet.power_w[at, least].sum()], part * steps.watts)))
    worth = np.cumsum(np.concatenate(([fleet.total(least)], part * steps.gain)))
    kept = np.concatenate(([True], np.diff(watts) > 0))
    return _fewer(watts[kept], worth[kept], most)


def allot(watts: ArrayLike, value: ArrayLike, domain: ArrayLike, budget_w: ArrayLike) -> Floats:
    """Divide budgets among children by their concave value curves: watts of each, float64 [C].

    No child gets more than the last point of its curve.

    Parameters
    ----------
    watts, value : float64 [C, P]
        Points of each child's curve, as `value_curve` gives them; NaN beyond its last.
    domain : int [C, D]
        Every budget above a child, numbered through; -1 for none. Budgets are nested.
    budget_w : float64 [B]
        Watts of each budget.

    Raises
    ------
    ProblemError
        A shape or number breaks a rule, or the sum of the first points under a budget exceeds it.
    """
    fleet = fleet_of(watts, value, domain, budget_w, None)
    least = fleet.least
    slack = _slack(fleet, least, budget_w, "first points")
    steps = steps_of(fleet.power_w, fleet.value, least)
    more = np.bincount(steps.unit, fill_parts(fleet, steps, slack) * steps.watts, minlength=len(least))
    found: Floats = fleet.power_w[np.arange(len(least)), least] + more
    return found


def _slack(fleet: Fleet, least: Ints, budget_w: ArrayLike, what: str) -> Floats:
    """What the least levels leave of each budget, float64 [B]; `ProblemError` where it is below 0."""
    slack = fleet.room_w - fleet.charged_w(least)
    if (slack < 0).any():
        short = int((slack < 0).argmax())
        allowed = f"at least {fleet.charged_w(least)[short]:g}, the sum of the {what} under it"
        raise ProblemError(must_be(f"budget_w[{short}]", allowed, float(np.asarray(budget_w)[short])))
    return slack


def _fewer(watts: Floats, worth: Floats, most: int) -> tuple[Floats, Floats]:
    """At most that many of the points, dense where the slope changes fast, so that chords miss about the same everywhere."""
    if len(watts) <= most:
        return watts, worth
    length = np.diff(watts)
    slope = np.diff(worth) / length
    turn = np.sqrt(np.maximum(-np.diff(slope), 0.0) * (length[1:] + length[:-1]))
    along = np.concatenate(([0.0], np.cumsum(turn), [0.0]))
    along[-1] = along[-2]
    chosen = np.unique(np.concatenate(([0, len(watts) - 1], np.searchsorted(along, np.linspace(0, along[-1], most)[1:-1]))))
    return watts[chosen], worth[chosen]
