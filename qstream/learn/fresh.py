"""Fresh: a learner as it began, from its state: the same arms, series and settings, and nothing learnt."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from qstream.errors import LearnError
from qstream.learn import (
    bandit,
    calibration,
    conformal,
    decision,
    drift,
    exp3,
    forecast,
    gate,
    guard,
    hedge,
    rate,
    version,
    weights,
)
from schemas.frame import Frame
from schemas.wording import Shown, must_be


@singledispatch
def fresh(state: Frame) -> Frame:
    """The state that the learner began with; `LearnError` for a frame of which that is not known.

    A module with a learner of its own registers how it begins: ``@fresh.register``.
    """
    raise LearnError(must_be("learner", "one of qstream.learn, or registered with fresh", Shown(type(state).__name__)))


@fresh.register
def _(state: hedge.HedgeState) -> Frame:
    return hedge.start(state.arms, series=len(state.weight), discounts=state.discounts.tolist())


@fresh.register
def _(state: bandit.BanditState) -> Frame:
    return bandit.start_like(state, state.arm_names, state.feature_names)


@fresh.register
def _(state: decision.DecisionState) -> Frame:
    begun = fresh(state.bandit)
    return state.model_copy(
        update={
            "bandit": begun,
            "early": 0,
            "early_id": ("",) * len(state.early_id),
            "early_value": np.zeros_like(state.early_value),
        }
    )


@fresh.register
def _(state: conformal.ConformalState) -> Frame:
    rows, window = state.score.shape
    return conformal.start(rows, coverage=state.coverage, window=window, rate=state.rate)


@fresh.register
def _(state: calibration.CalibrationState) -> Frame:
    coverage, window = state.miss.coverage, state.miss.score.shape[1]
    return calibration.start(coverage=coverage, rate=state.rate, first=state.first, window=window)


@fresh.register
def _(state: drift.DriftState) -> Frame:
    return drift.start(len(state.mean), bound=state.bound, alarm=state.alarm)


@fresh.register
def _(state: exp3.Exp3State) -> Frame:
    return exp3.start(len(state.log_weight), explore=state.explore)


@fresh.register
def _(state: gate.GateState) -> Frame:
    window = state.gain.shape[1]
    return gate.start(state.options, threshold=state.threshold, window=window, losses=state.losses, every=state.every)


@fresh.register
def _(state: rate.RateState) -> Frame:
    return rate.start(gain=state.gain, limit=state.limit)


@fresh.register
def _(state: guard.GuardState) -> Frame:
    return guard.start(
        state.candidate,
        bound=state.bound,
        alpha=state.alpha,
        alarm=state.alarm,
        block=state.block,
        window=state.window,
        hold=state.hold,
    )


@fresh.register
def _(state: weights.WeightsState) -> Frame:
    """Even shares: those that it began with are not kept."""
    return weights.start(np.ones(state.theta.shape))


@fresh.register
def _(state: forecast.ForecastState) -> Frame:
    series, past = state.past.shape
    return forecast.start(
        series,
        horizon=state.horizon,
        rates=state.rates.tolist(),
        lags=state.rls_weight.shape[1],
        analogs=state.analogs.tolist(),
        past=past,
        season=state.season,
        forgetting=state.forgetting,
        discounts=state.hedge.discounts.tolist(),
        extra=state.hedge.arms[-state.extra :] if state.extra else 0,
    )


@fresh.register
def _(state: version.VersionState) -> Frame:
    """No version is pinned and none is rejected."""
    held = state.guard
    return version.start(
        state.name,
        bound=held.bound,
        alpha=held.alpha,
        alarm=held.alarm,
        block=held.block,
        window=held.window,
        hold=held.hold,
    )
