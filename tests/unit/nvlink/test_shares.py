"""Shares by the stream: windows closed by later records, what counts once, faults that nobody announced, silence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qstream.nvlink.examples import FABRIC, FIRST_UP, LEAVES, NS, SPINES, demands, topology
from qstream.nvlink.examples import telemetry as told
from qstream.nvlink.links import fullest, utilisation, wcmp
from qstream.nvlink.memory import FabricState
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.processor import NvlinkProcessor
from qstream.state.fields import pack
from qstream.testing.feed import Feed
from schemas.fabric import FabricTopology, LinkTelemetry, RouteShares
from schemas.learning import LearnCommand

PLAIN = topology()


def started(**options: Any) -> Feed[FabricState]:
    feed = Feed(NvlinkProcessor(NvlinkOptions(**options)))
    feed.send(PLAIN, at_ms=0)
    return feed


def shares(plan: RouteShares) -> Any:
    found = np.zeros((LEAVES, LEAVES, SPINES))
    found[plan.pair_src - LEAVES, plan.pair_dst - LEAVES] = plan.share
    return found


def test_a_topology_is_answered_by_wcmp_at_once_and_the_same_again_by_nothing() -> None:
    feed = started()
    feed.send(topology(source="read again"), at_ms=1)
    (plan,) = feed.frames(RouteShares)
    assert (plan.planner, plan.guard) == ("wcmp", "no window yet")
    assert plan.share == pytest.approx(np.full((LEAVES * (LEAVES - 1), SPINES), 1 / SPINES))
    assert set(plan.via.ravel().tolist()) == {8, 9, 10}


def test_the_first_record_of_a_later_window_closes_the_one_before() -> None:
    feed = started()
    for window, offered in enumerate(demands(4)):
        feed.send(told(window, offered), at_ms=window * 250)
    plans = feed.frames(RouteShares)
    assert len(plans) == 1 + 3
    assert [plan.guard for plan in plans[1:]] == ["ours"] * 3
    assert plans[-1].score is not None
    assert plans[-1].score.planned <= plans[-1].score.wcmp * (1 + 1e-9)
    assert plans[-1].score.last_served is not None


def test_a_window_of_a_source_counts_once_and_sources_add_up() -> None:
    offered = demands(1)[0]
    feed = started()
    for record in (told(0, offered), told(0, offered), told(0, offered, source="other")):
        feed.send(record, at_ms=1)
    state = feed.state(FABRIC)
    assert state is not None
    assert state.pair_bytes == pytest.approx(2 * offered)
    assert state.repeated == 1


def test_a_late_window_and_another_topology_change_counts_alone() -> None:
    feed = started()
    feed.send(told(5, demands(1)[0]), at_ms=1)
    feed.send(told(3, demands(1)[0], source="slow"), at_ms=2)
    feed.send(told(9, topology_digest="0" * 16), at_ms=3)
    state = feed.state(FABRIC)
    assert state is not None
    assert (state.window, state.late, state.foreign) == (5, 1, 1)
    assert len(feed.frames(RouteShares)) == 1


def test_telemetry_waits_for_its_topology() -> None:
    feed = Feed(NvlinkProcessor())
    feed.send(told(0), at_ms=0)
    assert "qstream.fabric.topology.v1" in str(feed.waiting(FABRIC))
    feed.send(PLAIN, at_ms=1)
    state = feed.state(FABRIC)
    assert state is not None
    assert state.window == 0


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (told(0, link=np.array([99], np.int32), link_bytes=np.array([1], np.int64)), "link"),
        (
            told(0, pair_src=np.array([0], np.int32), pair_dst=np.array([5], np.int32), pair_bytes=np.array([1], np.int64)),
            "pair_src",
        ),
        (
            told(0, pair_src=np.array([5], np.int32), pair_dst=np.array([99], np.int32), pair_bytes=np.array([1], np.int64)),
            "pair_dst",
        ),
    ],
)
def test_what_the_topology_does_not_have_is_a_dead_letter_that_changes_nothing(record: LinkTelemetry, field: str) -> None:
    feed = started()
    before = feed.state(FABRIC)
    feed.send(record, at_ms=1)
    assert [field in str(poison) for poison in feed.dead] == [True]
    assert feed.state(FABRIC) == before


def served(windows: int, broken: int | None, **options: Any) -> list[tuple[float, float]]:
    """The fullest link by the stream's own shares and by WCMP that knows the truth, one uplink at a quarter from window 6 on."""
    feed = started(**options)
    up, down = np.full((LEAVES, SPINES), 400.0), np.full((SPINES, LEAVES), 400.0)
    found = []
    links = np.arange(FIRST_UP, FIRST_UP + 2 * LEAVES * SPINES)
    for window, offered in enumerate(demands(windows)):
        true = up.copy()
        if broken is not None and window >= 6:
            true.flat[broken] = 100.0
        share, demand = shares(feed.frames(RouteShares)[-1]), offered / NS
        flow = share * demand[:, :, None]
        carried = np.concatenate([np.minimum(flow.sum(1), true).ravel(), flow.sum(0).ravel()]) * NS
        # The last record is of the next window, so that shares are there before its traffic is.
        feed.send(told(window, offered, link=links.astype(np.int32), link_bytes=carried.astype(np.int64)), at_ms=window * 250)
        feed.send(told(window + 1, source="clock"), at_ms=window * 250 + 1)
        found.append(
            (max(u.max() for u in utilisation(share, demand, true, down)), fullest(wcmp(true, down), demand, true, down))
        )
    return found


def test_an_uplink_that_fell_unannounced_is_relieved_within_a_few_windows() -> None:
    found = served(16, broken=4)
    ours, aware = (float(np.mean([pair[k] for pair in found[10:]])) for k in (0, 1))
    unaware = float(np.mean([pair[0] for pair in served(16, broken=4, freeze=True)[10:]]))
    assert ours < 1.1 * aware
    assert ours < 0.7 * unaware


def test_a_link_that_gets_less_because_bytes_wait_before_it_is_not_taken_for_slow_where_queues_are_told() -> None:
    offered = demands(3)[0]
    links = np.arange(FIRST_UP, FIRST_UP + 2 * LEAVES * SPINES, dtype=np.int32)
    flow = np.repeat(offered[:, :, None] / SPINES, SPINES, axis=2)
    slow, spine = 0, 0
    sent = flow.copy()
    sent[slow, :, spine] /= 4  # what its uplink to this spine lets through
    carried = np.concatenate([sent.sum(1).ravel(), sent.sum(0).ravel()]).astype(np.int64)
    queue_us = np.zeros(len(links), np.float32)
    queue_us[slow * SPINES + spine] = 500
    found = {}
    for queues in (queue_us, None):
        feed = started()
        feed.send(told(0, offered, link=links, link_bytes=carried, link_queue_us=queues), at_ms=0)
        feed.send(told(1, offered), at_ms=250)
        state = feed.state(FABRIC).splits
        assert state is not None
        found[queues is None] = state.up_factor, state.down_factor
    up, down = found[False]
    assert up[slow, spine] < 0.5
    assert (np.delete(up.ravel(), slow * SPINES + spine) == 1).all()
    assert (down == 1).all()
    assert (found[True][1][spine] < 1).any()  # without queues nothing else is known than what was carried


def test_a_link_that_telemetry_says_is_down_carries_nothing_more() -> None:
    feed = started()
    offered = demands(3)
    feed.send(
        told(0, offered[0], link=np.array([FIRST_UP], np.int32), link_bytes=np.array([0]), link_up=np.array([False])), at_ms=0
    )
    feed.send(told(1, offered[1]), at_ms=250)
    assert shares(feed.frames(RouteShares)[-1])[0, 1:, 0] == pytest.approx(np.zeros(3))


def test_without_telemetry_shares_go_back_to_wcmp_once() -> None:
    feed = started(stale_s=5)
    for window, offered in enumerate(demands(3)):
        feed.send(told(window, offered), at_ms=window * 250)
    for at_s in (2, 4, 20, 30):
        feed.tick(at_s * 1000)
    plans = feed.frames(RouteShares)
    assert [plan.fallback_reason for plan in plans[-2:]] == [None, "stale"]
    assert plans[-1].share == pytest.approx(np.full(plans[-1].share.shape, 1 / SPINES))


def test_another_topology_does_not_end_the_silence_and_telemetry_does() -> None:
    feed = started(stale_s=5)
    for window, offered in enumerate(demands(3)):
        feed.send(told(window, offered), at_ms=window * 250)
    feed.tick(20_000)
    feed.tick(30_000)
    slower = topology(link_gb_s=PLAIN.link_gb_s / 2)
    feed.send(slower, at_ms=31_000)
    feed.tick(40_000)
    feed.tick(50_000)
    for window in (200, 201):
        feed.send(told(window, demands(1)[0], topology_digest=slower.digest()), at_ms=51_000 + window)
    assert [plan.guard for plan in feed.frames(RouteShares)[-4:]] == ["stale", "stale", "ours", "ours"]


@pytest.mark.parametrize(("options", "guard"), [({"freeze": True}, "frozen"), ({"shares": "wcmp"}, "switched off")])
def test_switched_off_wcmp_answers_and_nothing_is_learnt(options: dict[str, Any], guard: str) -> None:
    feed = started(**options)
    for window, offered in enumerate(demands(3)):
        feed.send(told(window, offered), at_ms=window * 250)
    plans, state = feed.frames(RouteShares), feed.state(FABRIC)
    assert {plan.guard for plan in plans} == {guard}
    assert {plan.planner for plan in plans} == {"wcmp"}
    assert state is not None
    assert state.splits is not None
    assert state.splits.steps == 0


def test_shares_that_are_off_are_not_published() -> None:
    feed = started(shares="off")
    for window, offered in enumerate(demands(3)):
        feed.send(told(window, offered), at_ms=window * 250)
    assert feed.events == []


def test_any_split_into_batches_gives_the_same_bytes() -> None:
    found = []
    for size in (1, 3, 100):
        feed = Feed(NvlinkProcessor())
        records = [feed.record(PLAIN, 0)]
        records += [feed.record(told(window, offered), 250 * window) for window, offered in enumerate(demands(8))]
        for at in range(0, len(records), size):
            feed.send_batch(records[at : at + size])
        state = feed.state(FABRIC)
        assert state is not None
        found.append(([(event.id, event.frame.encode()) for event in feed.events], pack(state)))
    assert found[0] == found[1] == found[2]


def test_changed_capacity_keeps_what_is_learnt_and_another_shape_does_not() -> None:
    feed = started()
    for window, offered in enumerate(demands(3)):
        feed.send(told(window, offered), at_ms=window * 250)
    slower = PLAIN.link_gb_s.copy()
    slower[FIRST_UP] = 100
    feed.send(topology(link_gb_s=slower), at_ms=1000)
    state = feed.state(FABRIC)
    assert state is not None
    assert state.splits is not None
    assert state.splits.steps == 2
    assert feed.frames(RouteShares)[-1].share[0, 0] < 1 / SPINES
    fewer = PLAIN.node_type.copy()
    fewer[-1] = 7
    feed.send(topology(node_type=fewer), at_ms=1001)
    state = feed.state(FABRIC)
    assert state is not None
    assert state.splits is not None
    assert state.splits.steps == 0


def test_a_command_resets_what_is_learnt() -> None:
    feed = started()
    for window, offered in enumerate(demands(4)):
        feed.send(told(window, offered), at_ms=window * 250)
    feed.send(LearnCommand(module="nvlink", key=FABRIC, learner="splits", command="reset"), at_ms=1000)
    state = feed.state(FABRIC)
    assert feed.dead == []
    assert state is not None
    assert state.splits is not None
    assert state.splits.steps == 0
    feed.send(told(9, demands(1)[0]), at_ms=2500)
    assert feed.frames(RouteShares)[-1].guard == "ours"


def test_a_fabric_without_a_choice_of_spines_has_no_shares() -> None:
    feed = Feed(NvlinkProcessor())
    feed.send(FabricTopology.example(), at_ms=0)
    assert feed.events == []
    assert feed.state(FabricTopology.example().fabric) is not None
