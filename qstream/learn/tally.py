"""Tally: how often a learner has learnt, decided, been rewarded and judged so far, as counts that only a reset makes smaller."""

from __future__ import annotations

from collections import Counter
from functools import singledispatch
from typing import Final, NamedTuple

from qstream.learn import bandit, calibration, conformal, decision, drift, forecast, gate, guard, hedge, rate, version, weights
from schemas.frame import Frame

NONE: Final[Counter[str]] = Counter()


class Tally(NamedTuple):
    """Counts of one learner: `updates` are steps that it has learnt from, the others are by arm, outcome, verdict and name."""

    updates: int
    decisions: Counter[str] = NONE
    rewards: Counter[str] = NONE
    verdicts: Counter[str] = NONE


@singledispatch
def tally(state: Frame) -> Tally:
    """The counts of a learner; a `Tally` of zeros for one that counts nothing.

    A module with a learner of its own registers its counts: ``@tally.register``.
    """
    return Tally(0)


@tally.register
def _(state: hedge.HedgeState) -> Tally:
    return Tally(state.steps)


@tally.register
def _(state: forecast.ForecastState) -> Tally:
    return Tally(state.steps)


@tally.register
def _(state: conformal.ConformalState) -> Tally:
    return Tally(state.steps)


@tally.register
def _(state: calibration.CalibrationState) -> Tally:
    return Tally(state.miss.steps)


@tally.register
def _(state: gate.GateState) -> Tally:
    return Tally(state.steps, verdicts=Counter(switched_off=int(state.switched_off.sum())))


@tally.register
def _(state: rate.RateState) -> Tally:
    return Tally(state.steps)


@tally.register
def _(state: weights.WeightsState) -> Tally:
    return Tally(state.steps)


@tally.register
def _(state: drift.DriftState) -> Tally:
    return Tally(state.steps, verdicts=Counter(change=int(state.changes.sum())))


@tally.register
def _(state: bandit.BanditState) -> Tally:
    decisions = Counter(dict(zip(state.arm_names, state.chosen.tolist(), strict=True)))
    rewards = Counter(matched=state.rewards, expired=state.expired, unmatched=state.unmatched)
    return Tally(state.rewards, decisions, rewards)


@tally.register
def _(state: decision.DecisionState) -> Tally:
    """A reward that waits for its decision is not unmatched yet."""
    found = tally(state.bandit)
    waiting = sum(name != "" for name in state.early_id)
    return found._replace(rewards=_above(found.rewards, Counter(unmatched=waiting)))


@tally.register
def _(state: guard.GuardState) -> Tally:
    """`compared` begins again with each candidate, so it does not count updates."""
    return Tally(0, verdicts=Counter(promote=state.promotions, rollback=state.rollbacks, trip=state.trips))


@tally.register
def _(state: version.VersionState) -> Tally:
    return tally(state.guard)


def since(before: Tally, after: Tally) -> Tally:
    """What came in between; a count that became smaller, by a reset or a restore, counts as nothing.

    Every name of `after` is in it, also those of which nothing came: what they are called is known from the start.
    """
    return Tally(
        max(0, after.updates - before.updates),
        _above(after.decisions, before.decisions),
        _above(after.rewards, before.rewards),
        _above(after.verdicts, before.verdicts),
    )


def _above(after: Counter[str], before: Counter[str]) -> Counter[str]:
    """By how much each count of `after` is above that of `before`, 0 where it is not."""
    return Counter({name: max(0, count - before[name]) for name, count in after.items()})
