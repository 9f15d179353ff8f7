"""Forecast of the mean of the next h samples: simple forecasters mixed by how well they did, each target met h steps later.

Axes: series S, rates R, lags L, past P, horizon H, discounts D, arms K (the forecasters).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import read_only
from qstream.learn import experts, given, hedge
from qstream.learn.evolve import copies, renewed
from qstream.learn.experts import analog as analog
from qstream.learn.experts import ewma as ewma
from qstream.learn.experts import rls as rls
from qstream.learn.experts import weighted_median as weighted_median
from qstream.learn.hedge import HedgeState
from schemas.frame import Axes, Count, Frame

RATES: Final = (1.0, 0.6, 0.3, 0.1, 0.03)
MAX_PAST: Final = 1_000_000
MAX_HORIZON: Final = 10_000
MAX_LAGS: Final = 64


class ForecastState(Frame):
    """What a forecaster knows of each series. `made`, `made_weight`, `made_top` and `made_awake` are the forecasts of the last H
    steps and the weights in force then; value and forecast number i stand at ``i % P`` and ``i % H``."""

    horizon: Count
    season: Count
    forgetting: float
    extra: Count
    steps: Count = 0
    rates: Annotated[NDArray[np.float64], Axes("rates")]
    analogs: Annotated[NDArray[np.int64], Axes("analogs")]
    past: Annotated[NDArray[np.float32], Axes("series", "past")]
    largest: Annotated[NDArray[np.float64], Axes("series")]
    level: Annotated[NDArray[np.float64], Axes("series", "rates")]
    rls_weight: Annotated[NDArray[np.float64], Axes("series", "lags")]
    rls_covariance: Annotated[NDArray[np.float64], Axes("series", "lags", "lags")]
    made: Annotated[NDArray[np.float32], Axes("series", "horizon", "arms")]
    made_weight: Annotated[NDArray[np.float32], Axes("series", "horizon", "discounts", "arms")]
    made_top: Annotated[NDArray[np.float32], Axes("series", "horizon", "discounts")]
    made_awake: Annotated[NDArray[np.bool_], Axes("series", "horizon", "arms")]
    hedge: HedgeState


class Forecast(NamedTuple):
    """The answer, float64 [S]; that of each forecaster and its weight, float64 [S, K], in the order of `names`."""

    mean: NDArray[np.float64]
    each: NDArray[np.float64]
    weight: NDArray[np.float64]


def start(
    series: int = 1,
    *,
    horizon: int = 1,
    rates: Iterable[float] = RATES,
    lags: int = 8,
    analogs: Iterable[int] = (10, 30),
    past: int = 1200,
    season: int = 0,
    forgetting: float = 0.998,
    discounts: Iterable[float] = hedge.DISCOUNTS,
    extra: int | Iterable[str] = 0,
) -> ForecastState:
    """Return a forecaster that has seen nothing.

    Parameters
    ----------
    series
        How many stand next to each other.
    horizon
        The mean of so many next samples is forecast.
    rates
        Of exponential smoothing, in (0, 1]; 1 is the last value.
    lags
        How many last values the regression sees.
    analogs
        Lengths of the windows that are compared with those of the past; none saves a fifth of the time, two thirds of the state.
    past
        How many values are kept for them.
    season
        A known period in samples, for the forecast that repeats it; 0 for none.
    forgetting
        What an equation of the regression counts one step later.
    discounts
        Of the hedge that weighs the forecasters.
    extra
        Forecasts that come from outside, such as those of a trained model: how many, or their names.
    """
    rate = given.reals("rates", rates, 1e-9, 1.0)
    windows = tuple(given.whole("analogs", length, 1, MAX_PAST) for length in given.several("analogs", analogs))
    ahead, order = given.whole("horizon", horizon, 1, MAX_HORIZON), given.whole("lags", lags, 1, MAX_LAGS)
    period = given.whole("season", season, 0, MAX_PAST)
    outside = _outside(extra)
    arms = (
        *(f"ewma {value:g}" for value in rate.tolist()),
        "rls",
        f"mean {experts.MEAN_OF}",
        *(f"analog {length}" for length in windows),
        *(("season",) if period else ()),
        *outside,
    )
    kept = max(
        given.whole("past", past, 1, MAX_PAST) if windows else 1, experts.MEAN_OF, order + ahead, ahead + max(windows, default=0)
    )
    rows, mixer = given.whole("series", series, 1, given.MAX_SERIES), hedge.start(arms, series=series, discounts=discounts)
    made = (rows, ahead, len(arms))
    return ForecastState(
        horizon=ahead,
        season=period,
        analogs=np.array(windows, np.int64),
        forgetting=given.real("forgetting", forgetting, 0.5, 1.0),
        extra=len(outside),
        rates=rate,
        past=np.zeros((rows, max(kept, experts.cycle(ahead, period))), np.float32),
        largest=np.zeros(rows),
        level=np.zeros((rows, len(rate))),
        rls_weight=np.zeros((rows, order)),
        rls_covariance=np.tile(experts.RIDGE * np.eye(order), (rows, 1, 1)),
        made=np.zeros(made, np.float32),
        made_weight=np.zeros((rows, ahead, *mixer.weight.shape[1:]), np.float32),
        made_top=np.zeros((rows, ahead, mixer.top.shape[1]), np.float32),
        made_awake=np.zeros(made, np.bool_),
        hedge=mixer,
    )


def names(state: ForecastState) -> tuple[str, ...]:
    """Return the names of the forecasters, in the order of `Forecast.each`."""
    return state.hedge.arms


def step(
    state: ForecastState, value: ArrayLike, extra: ArrayLike | None = None, awake: ArrayLike | None = None
) -> tuple[ForecastState, Forecast]:
    """Return the state after the values [S] came, and the forecast of the mean of the next `horizon` values.

    Parameters
    ----------
    value
        In any unit, finite.
    extra
        Forecasts from outside [S, extra], in that unit; None where none came, and they do not count in this step.
    awake
        Booleans [S, K]: the forecasters that may count in this step; None for all. Those that have seen too little sleep anyway.
    """
    rows, arms = len(state.past), len(state.hedge.arms)
    came = given.numbers("value", value, (rows,))
    outside = _NONE if extra is None else given.numbers("extra", extra, (rows, state.extra))
    up = given.flags("awake", awake, (rows, arms)).copy()
    new, made = copies(state, _LEARNT), copies(state, _MADE)
    target, each, mean = np.zeros(rows), np.empty((rows, arms)), np.empty(rows)
    rates, windows, steps, horizon = state.rates, state.analogs, state.steps, state.horizon
    learnt = (*new.values(), target, each, up)
    finite = experts.forecasts(came, outside, rates, windows, steps, horizon, state.season, state.forgetting, *learnt)
    mixer = state.hedge if steps < horizon else _learnt(state, steps % horizon, target)
    share = hedge.mix(mixer, up)
    experts.weighted_median(each, share, mean)
    experts.keep(steps % horizon, each, mixer.weight, mixer.top, up, *made.values())
    return renewed(state, new | made, finite, steps=steps + 1, hedge=mixer), Forecast(mean, each, share)


_NONE: Final = read_only(np.empty((0, 0)))
# The arrays that a value changes, in the order in which `experts.forecasts` takes them, and `experts.keep`.
_LEARNT: Final = ("past", "largest", "level", "rls_weight", "rls_covariance")
_MADE: Final = ("made", "made_weight", "made_top", "made_awake")


def _learnt(state: ForecastState, slot: int, target: NDArray[np.float64]) -> HedgeState:
    """The hedge after the forecasts in `slot` were met by their `target` [S]."""
    arms = (len(target), len(state.hedge.arms))
    loss, up = np.empty(arms), np.empty(arms, np.bool_)
    weight, top = np.empty_like(state.hedge.weight), np.empty_like(state.hedge.top)
    held = (state.made, state.made_weight, state.made_top, state.made_awake, loss, weight, top, up)
    experts.recall(slot, target, *held)
    return hedge.learnt(state.hedge, *(read_only(array) for array in (loss, weight, top, up)))


def _outside(extra: int | Iterable[str]) -> tuple[str, ...]:
    """Names of the forecasts from outside."""
    if isinstance(extra, int):
        return tuple(f"extra {index}" for index in range(given.whole("extra", extra, 0, hedge.MAX_ARMS)))
    return given.labels("extra", extra, hedge.MAX_ARMS)
