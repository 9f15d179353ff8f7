"""Rewards: where nobody tells what leaves send to each other, reports of steps say whose shares serve next: a bandit, guarded.

The arms are WCMP, the mix and its experts, as they last stood. One serves for a whole window at least, and until a step that
began under it is reported; then its reward is known, and the next one is drawn.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.learn import exp3, guard
from qstream.learn.evolve import evolve
from qstream.learn.exp3 import Exp3State
from qstream.learn.guard import GuardState
from schemas.fabric import FabricReport, LinkTelemetry
from schemas.frame import Axes, Count, Frame, Int64, TimeNs
from schemas.power import MaybeNames

NO_ARM: Final = -1
WCMP, MIX, EXPERTS = 0, 1, 2  # arms; those from EXPERTS on are the experts
PATIENCE: Final = 4  # windows without pairs, until which the mix goes on as it stood
EXPLORE: Final = 0.2
GUARD_REWARDS: Final = 5
MOST_JOBS: Final = 64  # whose best rate is known; the one that was first heard of goes
LATENCY_US: Final = 2.0  # of a path on which nothing waits
MOST_GB_S: Final = 1e9  # a higher rate counts as this
_FADE: Final = 0.99  # of what was best, a report or reward: scales change with jobs
_MEAN: Final = 0.2  # of a new reward in WCMP's mean and spread
Verdict = Literal["ours", "held back", "no window yet"]


class RewardState(Frame):
    """What steps achieved under the shares that served, and whose serve now.

    `arm` is -1 where the bandit does not serve, else the arm that does, from the window `since` on; `propensity` was its
    probability, 0 where WCMP serves undrawn. `reports` of steps under it achieved `rate_sum` in all, each rate over the best of
    its job, `best_gb_s`; bytes that `carried` counts waited `wait` us times bytes. `least_us` is the least latency, 0 where
    no queue was told. `wcmp_reward` is WCMP's mean reward, -1 if none is known, and `spread` their mean deviation; `paired` is
    the newest window of which pairs were told, `told_ns` the end of the newest reported step.
    """

    exp3: Exp3State
    guard: GuardState
    arm: Int64 = NO_ARM
    propensity: float = Field(default=0.0, ge=0, le=1)
    since: Int64 = 0
    paired: Int64
    told_ns: TimeNs = 0
    reports: Count = 0
    rate_sum: float = Field(default=0.0, ge=0)
    wait: float = Field(default=0.0, ge=0)
    carried: float = Field(default=0.0, ge=0)
    least_us: float = Field(default=0.0, ge=0)
    wcmp_reward: float = Field(default=-1.0, ge=-1, le=1)
    spread: float = Field(default=0.0, ge=0, le=1)
    job: MaybeNames = ()
    best_gb_s: Annotated[NDArray[np.float64], Axes("jobs")]

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(start(window=0)))


def start(window: int) -> RewardState:
    """A state that has seen no report, in a window of which pairs may still be told."""
    watch = guard.start("bandit", bound=1.0, alarm=1e9, window=GUARD_REWARDS, hold=GUARD_REWARDS)
    return RewardState(
        exp3=exp3.start(EXPERTS, explore=EXPLORE), guard=evolve(watch, promoted=True), paired=window, best_gb_s=np.zeros(0)
    )


def with_report(state: RewardState, report: FabricReport, window_ns: int) -> RewardState:
    """Take in what a step achieved; it counts for the arm that serves if the step began under it."""
    rate = min(report.bytes / report.comm_us / 1e3, MOST_GB_S)
    known = dict(zip(state.job, state.best_gb_s.tolist(), strict=True))
    best = max(known.get(report.job, 0.0) * _FADE, rate)
    known[report.job] = best
    names = tuple(known)[-MOST_JOBS:]
    changed = {
        "told_ns": max(state.told_ns, report.t1_ns),
        "job": names,
        "best_gb_s": np.array([known[name] for name in names]),
    }
    if state.arm != NO_ARM and report.t0_ns >= state.since * window_ns and best > 0:
        changed |= {"reports": state.reports + 1, "rate_sum": state.rate_sum + rate / best}
    return RewardState(**(dict(state) | changed))


def with_telemetry(state: RewardState, told: LinkTelemetry, window: int) -> RewardState:
    """Take in whether pairs were told, and how long bytes waited under the arm that serves."""
    if told.pair_bytes is not None:
        state = evolve(state, paired=max(state.paired, window))
    if told.link_queue_us is None or state.arm == NO_ARM or window < state.since:
        return state
    carried = told.link_bytes.astype(np.float64)
    wait = float(carried @ np.nan_to_num(told.link_queue_us.astype(np.float64)).clip(0, 1e9))
    return evolve(state, wait=state.wait + wait, carried=state.carried + float(carried.sum()))


def let_go(state: RewardState | None) -> RewardState | None:
    """The state where other shares serve: what is reported from now on is no arm's."""
    return None if state is None else _taking(state, NO_ARM, 0.0, 0)


def serves(state: RewardState, heard_ns: int, closed: int, stale_s: float) -> bool:
    """Whether the bandit serves: for some windows nobody told of pairs, and steps are reported."""
    return closed - state.paired >= PATIENCE and state.told_ns + stale_s * 1e9 >= heard_ns


def next_arm(state: RewardState, arms: int, closed: int, window: int, seed: int) -> RewardState:
    """The state with the arm that serves from the next window on; the same one where its reward is not known yet.

    `closed` is the window that ends, `window` the one that has begun, by whose number and `seed` the arm is drawn.
    """
    if len(state.exp3.log_weight) != arms:  # another number of experts: their rewards are not comparable
        state = _taking(evolve(state, exp3=exp3.start(arms, explore=EXPLORE)), NO_ARM, 0.0, 0)
    if state.arm != NO_ARM:
        if not state.reports or closed < state.since:
            return state
        state = _learnt(state)
    if state.wcmp_reward < 0 or state.guard.answers != "candidate":
        return _taking(state, WCMP, 0.0, window + 1)
    arm, propensity = exp3.bandit_choose(state.exp3, seed=seed, number=window)
    return _taking(state, arm, propensity, window + 1)


def verdict(state: RewardState) -> Verdict:
    """Who serves: an arm that was drawn, or WCMP, and why."""
    if state.propensity > 0:
        return "ours"
    return "no window yet" if state.wcmp_reward < 0 else "held back"


def _learnt(state: RewardState) -> RewardState:
    """The state after the reward of the arm that served: mean rate over the best, times least latency over latency."""
    reward, least = state.rate_sum / state.reports, state.least_us
    if state.carried > 0:
        latency = LATENCY_US + state.wait / state.carried
        least = latency if least == 0 else min(least / _FADE, latency)
        reward *= least / latency
    reward = min(reward, 1.0)
    peer, spread, known = state.wcmp_reward, state.spread, state.exp3
    loss = 0.0
    if state.arm != WCMP:
        loss = peer - spread - reward  # steps differ anyway: only what is worse by more is held against the arm
    elif peer < 0:
        peer = reward
    else:
        spread += _MEAN * (abs(reward - peer) - spread)
        peer += _MEAN * (reward - peer)
    watch, _ = guard.compare(state.guard, 0.0, loss)
    if state.propensity > 0:
        known = exp3.bandit_step(known, state.arm, reward, state.propensity)
    return evolve(state, exp3=known, guard=watch, wcmp_reward=peer, spread=spread, least_us=least)


def _taking(state: RewardState, arm: int, propensity: float, since: int) -> RewardState:
    none = {"reports": 0, "rate_sum": 0.0, "wait": 0.0, "carried": 0.0}
    return evolve(state, arm=arm, propensity=propensity, since=since, **none)
