"""Shares by rewards: a bandit where nobody tells of pairs and steps are reported, behind its guard; not where pairs are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qstream.learn import exp3
from qstream.learn.evolve import evolve
from qstream.nvlink import rewards
from qstream.nvlink.examples import FABRIC, FIRST_UP, LEAVES, NS, demands, report, topology
from qstream.nvlink.examples import telemetry as told_evenly
from qstream.nvlink.memory import FabricState
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.processor import NvlinkProcessor
from qstream.nvlink.rewards import NO_ARM, PATIENCE, WCMP, RewardState
from qstream.state.fields import pack, unpack
from qstream.testing.checks import check_processor
from qstream.testing.feed import Feed
from schemas.fabric import LinkTelemetry, RouteShares
from schemas.learning import LearnCommand

PAIRED = 5  # windows of which pairs are told, at first; too few for the guard of the mix
SPEED = topology().link_gb_s.copy()
SPEED[FIRST_UP::5] = 150  # so that WCMP, the mix and its experts differ
UNEVEN = topology(link_gb_s=SPEED)


def told(window: int, offered: Any = None, **changes: Any) -> LinkTelemetry:
    return told_evenly(window, offered, topology_digest=UNEVEN.digest(), **changes)


def fed(windows: int, *, paired: int = PAIRED, reported: int = 10**9, **options: Any) -> Feed[FabricState]:
    """A fabric that is told of pairs for some windows, and whose steps, one a window, are reported until one."""
    feed = Feed(NvlinkProcessor(NvlinkOptions(**options)))
    feed.send(UNEVEN, at_ms=0)
    for window, offered in enumerate(demands(windows)):
        feed.send(told(window, offered if window < paired else None), at_ms=250 * window)
        if window < reported:
            feed.send(report("job", window, None), at_ms=250 * window + 1)
    return feed


def planners(feed: Feed[FabricState]) -> list[str]:
    return [plan.planner for plan in feed.frames(RouteShares)][1:]


def known(feed: Feed[FabricState]) -> RewardState:
    state = feed.state(FABRIC)
    assert state is not None
    assert state.splits is not None
    assert state.splits.rewards is not None
    return state.splits.rewards


def test_without_pairs_the_bandit_chooses_after_some_windows_and_wcmp_serves_first() -> None:
    feed = fed(40)
    found = planners(feed)
    began = PAIRED + PATIENCE - 1
    assert found[:began] == ["mix"] * began
    plans = feed.frames(RouteShares)[1:]
    assert {(plan.planner, plan.guard) for plan in plans[began : began + 2]} == {("wcmp", "no window yet")}
    assert (plans[began].share == feed.frames(RouteShares)[0].share).all()
    assert (plans[began].share != plans[began - 1].share).any()
    assert found[began + 2 :].count("bandit") > 20
    assert known(feed).exp3.steps > 5
    assert plans[-1].solver.solver == plans[-1].planner


def test_with_pairs_the_mix_serves_whatever_is_reported() -> None:
    feed = fed(30, paired=30)
    assert "bandit" not in planners(feed)
    assert (known(feed).arm, known(feed).exp3.steps) == (NO_ARM, 0)


def test_once_pairs_are_told_again_the_mix_serves_at_once_and_the_arm_is_let_go() -> None:
    feed = fed(40)
    for window in (40, 41):
        feed.send(told(window, demands(1)[0]), at_ms=250 * window)
    assert planners(feed)[-2] != "mix"
    assert planners(feed)[-1] in ("mix", "wcmp")  # as the guard of the mix says
    assert known(feed).arm == NO_ARM


def test_without_reports_the_mix_goes_on_as_it_stood() -> None:
    feed = fed(30, reported=0)
    plans = feed.frames(RouteShares)
    assert {plan.planner for plan in plans[1:]} == {"mix"}
    assert (plans[-1].share == plans[PAIRED + 2].share).all()
    assert planners(fed(60, reported=30, stale_s=2))[-1] == "mix"


def test_pairs_that_sent_nothing_are_told_too() -> None:
    feed = fed(PAIRED)
    none = {"pair_src": np.array([LEAVES]), "pair_dst": np.array([LEAVES + 1]), "pair_bytes": np.array([0])}
    idle = {name: array.astype(np.int64 if name == "pair_bytes" else np.int32) for name, array in none.items()}
    for window in range(PAIRED, 30):
        feed.send(told(window, **idle), at_ms=250 * window)
        feed.send(report("job", window, None), at_ms=250 * window + 1)
    assert set(planners(feed)) == {"mix"}


def test_experts_that_never_saw_pairs_have_nothing_to_choose_from() -> None:
    assert {plan.guard for plan in fed(30, paired=0).frames(RouteShares)} == {"no window yet"}


@pytest.mark.parametrize("options", [{"freeze": True}, {"shares": "wcmp"}])
def test_frozen_or_switched_off_no_reward_is_taken_in(options: dict[str, Any]) -> None:
    feed = fed(30, **options)
    state = feed.state(FABRIC)
    assert state is not None
    assert state.splits is not None
    assert state.splits.rewards is None
    assert set(planners(feed)) == {"wcmp"}


def test_a_freeze_keeps_what_was_learnt_and_a_reset_forgets_it() -> None:
    feed = fed(40)
    learnt = known(feed).exp3
    feed.send(LearnCommand(module="nvlink", key=FABRIC, learner="splits", command="freeze"), at_ms=10_000)
    for window in range(40, 50):
        feed.send(told(window), at_ms=250 * window)
        feed.send(report("job", window, None), at_ms=250 * window + 1)
    assert feed.frames(RouteShares)[-1].guard == "frozen"
    assert known(feed).exp3 == learnt
    assert known(feed).arm == NO_ARM
    feed.send(LearnCommand(module="nvlink", key=FABRIC, learner="splits", command="reset"), at_ms=13_000)
    state = feed.state(FABRIC)
    assert state is not None
    assert state.splits is not None
    assert state.splits.rewards is None


def test_the_same_records_give_the_same_bytes_however_they_are_split_and_another_seed_other_arms() -> None:
    feed = Feed(NvlinkProcessor())
    records = [feed.record(UNEVEN, 0)]
    for window, offered in enumerate(demands(30)):
        queues: dict[str, Any] = {"link": np.arange(8, 12, dtype=np.int32), "link_bytes": np.full(4, NS)}
        queues["link_queue_us"] = np.full(4, 3, np.float32)
        records.append(feed.record(told(window, offered if window < PAIRED else None, **queues), 250 * window))
        records.append(feed.record(report("job", window, None), 250 * window + 1))
    check_processor(NvlinkProcessor(), [replace(record) for record in records], splits=3)
    arms = [[plan.share.tobytes() for plan in fed(40, seed=seed).frames(RouteShares)] for seed in (0, 1)]
    assert arms[0] != arms[1]


def test_a_restart_goes_on_with_the_same_bytes() -> None:
    once, twice = fed(30), fed(30)
    twice.restart(NvlinkProcessor())
    for feed in (once, twice):
        for window in range(30, 40):
            feed.send(told(window), at_ms=250 * window)
            feed.send(report("job", window, None), at_ms=250 * window + 1)
    assert pack(once.state(FABRIC) or UNEVEN) == pack(twice.state(FABRIC) or UNEVEN)


def test_a_state_from_before_rewards_is_read() -> None:
    state = fed(3, reported=0).state(FABRIC)
    assert state is not None
    fields = pack(state)
    older = {name: value.replace(b',"rewards":null', b"") for name, value in fields.items()}
    assert older != fields
    assert pack(unpack(FabricState, older)) == fields


def test_a_reward_is_the_rate_over_the_best_of_its_job_and_the_least_latency_over_latency() -> None:
    state = serving(rewards.start(0))
    for job, comm_us in (("a", 1000.0), ("b", 10.0), ("a", 2000.0)):  # each by the best of its job, which fades by .99
        step = report(job, 3, None).model_copy(update={"comm_us": comm_us})
        state = rewards.with_report(state, step, NS)
    assert state.rate_sum / state.reports == pytest.approx((1 + 1 + 0.5 / 0.99) / 3)
    early = rewards.with_report(state, report("a", 0, None), NS)
    assert (early.reports, early.told_ns) == (state.reports, state.told_ns)  # it began under other shares
    waited = told(3, link=np.array([8], np.int32), link_bytes=np.array([10]), link_queue_us=np.array([6], np.float32))
    state = evolve(rewards.with_telemetry(state, waited, 3), least_us=rewards.LATENCY_US)
    after = rewards.next_arm(state, 4, 3, 4, 0)
    fades = rewards.LATENCY_US / 0.99 / (rewards.LATENCY_US + 6)
    assert after.wcmp_reward == pytest.approx((1 + 1 + 0.5 / 0.99) / 3 * fades)


def serving(state: RewardState, arm: int = WCMP) -> RewardState:
    known = exp3.start(4, explore=rewards.EXPLORE)
    return RewardState(**(dict(state) | {"exp3": known, "arm": arm, "propensity": 0.25 * (arm != WCMP), "since": 2}))


def test_arms_that_earn_less_than_wcmp_are_held_back_for_a_while() -> None:
    state, served = rewards.start(0), []
    for window in range(0, 120, 2):
        state = rewards.next_arm(state, 4, window, window + 1, 0)
        served.append((rewards.verdict(state), state.arm))
        earned = 1.0 if state.arm == WCMP else 0.2
        state = evolve(state, reports=1, rate_sum=earned)
    assert served[0] == ("no window yet", WCMP)
    held = [arm for said, arm in served if said == "held back"]
    assert len(held) >= rewards.GUARD_REWARDS
    assert set(held) == {WCMP}
    assert "ours" in [said for said, _ in served[10:]]


def test_the_arm_that_earns_most_serves_most_though_rewards_are_noisy() -> None:
    rng = np.random.default_rng(0)
    state, served = rewards.start(0), []
    for window in range(0, 4000, 2):
        state = rewards.next_arm(state, 4, window, window + 1, 0)
        served.append(state.arm)
        mean = (0.5, 0.5, 0.9, 0.6)[state.arm]
        state = evolve(state, reports=1, rate_sum=float(np.clip(mean + 0.1 * rng.normal(), 0, 1)))
    assert np.bincount(served[-500:], minlength=4)[2] > 350
