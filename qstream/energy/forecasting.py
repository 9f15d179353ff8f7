"""Forecast of a domain's watts: the mean of the next seconds, and a bound that their maximum rarely exceeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from qstream.arguments import array, real_number, whole_number
from qstream.energy.fleet import Floats
from qstream.energy.maxima import analog_maxima
from qstream.errors import ProblemError
from qstream.learn import conformal, forecast
from schemas.wording import Shown, must_be

ANALOGS = (10, 20, 40)  # seconds that are compared with the past, for the mean
PAST_S = 1200
MAX_HORIZON_S = 600
BOUND_LENGTH = 30  # seconds that are compared, for the maximum
BOUND_NEAREST, BOUND_QUANTILE = 20, 0.9  # of the most similar moments, the quantile of what followed
SCORES = 600  # past ratios of the maximum to what analogs said
LEAST_W = 1e-6


def forecast_series(watts: ArrayLike, horizon_s: int, *, coverage: float = 0.95) -> tuple[Floats, Floats]:
    """Forecast after each second, from what came up to it.

    Experts (smoothing, regression, analogs) are mixed by how well they did; the bound is what followed the most similar moments,
    times the quantile by which it fell short in the last ten minutes.

    Parameters
    ----------
    watts : float64 [T]
        One sample a second, finite and at least 0.
    horizon_s
        Seconds ahead.
    coverage
        Part of the maxima, in (0, 1), that are not to be above the bound.

    Returns
    -------
    mean_w, bound_w
        float64 [T]: of the next `horizon_s` seconds after each sample.

    Raises
    ------
    ProblemError
        An argument breaks a rule.
    """
    series: Floats = array("watts", watts, np.float64, "T")
    ahead = whole_number("horizon_s", horizon_s, 1, MAX_HORIZON_S)
    asked = real_number("coverage", coverage, 0.0, 1.0)
    if not 0 < asked < 1:
        raise ProblemError(must_be("coverage", "above 0 and below 1", coverage))
    if not (np.isfinite(series) & (series >= 0)).all():
        at = int((~(np.isfinite(series) & (series >= 0))).argmax())
        raise ProblemError(must_be(f"watts[{at}]", "finite and 0 W or more", Shown(f"{series[at]:g}")))
    return _means(series, ahead), _bounds(series, ahead, asked)


def _means(series: Floats, ahead: int) -> Floats:
    state, found = forecast.start(horizon=ahead, analogs=ANALOGS, past=PAST_S), np.empty(len(series))
    for t in range(len(series)):
        state, said = forecast.step(state, series[t : t + 1])
        found[t] = max(0.0, said.mean[0])  # a falling line goes on below 0, which no domain draws
    return found


def _bounds(series: Floats, ahead: int, coverage: float) -> Floats:
    """Analog maxima times the rolling quantile of what came over what they said."""
    high = np.empty(len(series))
    analog_maxima(series, 0, ahead, BOUND_LENGTH, PAST_S, BOUND_NEAREST, BOUND_QUANTILE, high)
    high = np.maximum(high, LEAST_W)
    # The level stands still: a level that follows the misses asks for scores beyond the largest after a few of them.
    state, times = conformal.start(coverage=coverage, window=SCORES, rate=0.0), np.ones(len(series))
    for t in range(len(series)):
        made = t - ahead
        if made >= 0:
            came = series[made + 1 : t + 1].max() / high[made]
            state = conformal.learn(state, [came], times[made : made + 1])
        times[t] = conformal.bound(state, 1.0)[0]
    return high * np.maximum(times, 0.0)
