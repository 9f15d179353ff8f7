"""Calibration: what to expect of a number that was planned, from how far earlier ones were off, and a bound that it stays above.

A plan is fitted to what scores it, so it expects too much, by about as much as the plans before it did.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from qstream.learn import conformal, given
from qstream.learn.evolve import evolve
from schemas.frame import Frame


class CalibrationState(Frame):
    """By how much plans expect too much, and the scores of the bound; the sums of errors inform people.

    `bias` is the exponential mean, in which the newest error weighs `rate`; `first` is the margin of the bound before any.
    """

    rate: float
    first: float
    bias: float = 0.0
    error: float = 0.0
    error_planned: float = 0.0
    miss: conformal.ConformalState

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(start()))


class Expected(NamedTuple):
    """What to expect of a planned number: its mean, and what it stays above as often as the calibration's coverage says."""

    mean: float
    low: float


def start(*, coverage: float = 0.9, rate: float = 0.2, first: float = 0.05, window: int = 100) -> CalibrationState:
    """Return a state that knows nothing: plans are believed, with the margin `first`, in their unit.

    Parameters
    ----------
    coverage, window
        Of the bound, as in `conformal.start`.
    rate
        Of the newest error in the correction, in (0, 1].
    """
    return CalibrationState(
        rate=given.real("rate", rate, 1e-6, 1.0),
        first=given.real("first", first, 0.0, conformal.SCORE_MAX),
        miss=conformal.start(coverage=coverage, window=window),
    )


def expect(state: CalibrationState, planned: float) -> Expected:
    """Return what to expect of a number that a plan gives as `planned`."""
    mean = given.real("planned", planned, -conformal.SCORE_MAX, conformal.SCORE_MAX) - state.bias
    return Expected(mean, mean - max(float(conformal.bound(state.miss, state.first)[0]), 0.0))


def learn(state: CalibrationState, planned: float, expected: Expected, came: float) -> CalibrationState:
    """Return the state after `came` was seen of what had been `planned`; `expected` is what was said of it then."""
    seen = given.real("came", came, -conformal.SCORE_MAX, conformal.SCORE_MAX)
    return evolve(
        state,
        bias=state.bias + state.rate * (planned - seen - state.bias),
        error=state.error + abs(expected.mean - seen),
        error_planned=state.error_planned + abs(planned - seen),
        miss=conformal.learn(state.miss, [expected.mean - seen], [expected.mean - expected.low]),
    )
