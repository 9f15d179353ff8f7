"""Planning next to the records: when a placement is published, and that only time depends on where it is computed."""

import threading

import numpy as np
import pytest

from qstream.ahead import Ahead
from qstream.contract import Batch, Event, Tick
from qstream.errors import NotYet
from qstream.routing import placer, snapshot
from qstream.routing.memory import RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor
from qstream.testing.feed import Feed
from schemas import ExpertLoad, ExpertTopology, PlacementAck, PlacementPlan, RoutingPlan, TokenBatch
from schemas.frame import Frame
from schemas.plan import SkipReason

TOPOLOGY = ExpertTopology(model="m", num_layers=2, num_logical_experts=8, top_k=2, num_nodes=2, num_gpus=4, slots_per_gpu=3)
OPTIONS = RoutingOptions(window_tokens=256, windows=4, steps=200, min_gain=0.0, plan_ms=100.0, plan_every_s=0)
MS = 1_000_000


class Stream:
    """Records of one model at given times, and the events that they cause."""

    def __init__(self, options: RoutingOptions = OPTIONS, ahead: Ahead | None = None) -> None:
        self.feed = Feed(RoutingProcessor(options, ahead=ahead))
        self.send(0, TOPOLOGY)

    def send(self, at_ms: int, frame: Frame) -> list[Event]:
        sent = self.feed.send(frame, at_ms)
        assert sent.dead == []
        return sent.events

    def tick(self, at_ms: int) -> list[Event]:
        return self.feed.tick(at_ms).events

    @property
    def state(self) -> RoutingState:
        return self.feed.state("m")


def load(window: int) -> ExpertLoad:
    count = np.random.default_rng(window).geometric(0.05, (2, 8))
    return ExpertLoad(model="m", window_id=str(window), t0_ns=0, t1_ns=1, num_tokens=256, logical_count=count)


def tokens(n: int) -> TokenBatch:
    ids = np.random.default_rng(n).integers(0, 8, (4, 2), dtype=np.int32)
    return TokenBatch(batch_id=f"b{n}", ts_ns=5, model="m", layer=0, token_id=np.arange(4, dtype=np.uint64), topk_ids=ids)


def kinds(events: list) -> list[type]:
    return [type(event.frame) for event in events]


def test_a_placement_is_published_with_the_first_record_that_is_old_enough_and_serves_it():
    stream = Stream()
    assert stream.send(1000, load(1)) == []
    assert kinds(stream.send(1099, tokens(1))) == [RoutingPlan]
    placement, route = stream.send(1100, tokens(2))
    assert isinstance(placement.frame, PlacementPlan)
    assert (placement.id, route.id) == ("qstream.tokens.batch.v1/0/1/0", "qstream.tokens.batch.v1/0/1/1")
    assert route.frame.placement_version == placement.frame.version == 1100
    assert kinds(stream.send(1300, tokens(3))) == [RoutingPlan]


def test_what_comes_after_the_window_changes_nothing_of_its_placement():
    """The same plan as at once, though labels, counts and batches follow before it is published."""
    at_once = Stream(OPTIONS.changed({"plan_ms": 0}))
    later = Stream()
    (want,) = at_once.send(1000, load(1))
    later.send(1000, load(1))
    for n in range(5):
        later.send(1001 + n, tokens(n))
    got = later.send(1200, tokens(9))[0]
    assert got.frame.physical_to_logical_map.tolist() == want.frame.physical_to_logical_map.tolist()
    assert got.frame.expected == want.frame.expected


def test_the_next_window_stays_open_until_the_placement_is_published():
    stream = Stream()
    stream.send(1000, load(1))
    assert stream.send(1050, load(2)) == stream.send(1060, load(3)) == []
    assert stream.state.closed == 1
    (event,) = stream.send(1100, load(4))
    assert isinstance(event.frame, PlacementPlan)
    assert stream.state.closed == 2
    counts = [load(n).logical_count for n in (2, 3, 4)]
    assert stream.state.ring[1].tolist() == np.sum(counts, axis=0).tolist()


def test_clocks_that_stand_still_delay_a_placement_by_eight_windows_at_most():
    stream = Stream(OPTIONS.changed({"shares_tokens": 0}))
    found = [stream.send(1000, load(n)) for n in range(20)]
    assert [n for n, events in enumerate(found) if events] == [8, 16]


def script() -> list[tuple[int, object]]:
    """Windows, batches and an acknowledgement of nothing new, at uneven times."""
    rng = np.random.default_rng(0)
    times = 1000 + rng.integers(1, 60, 60).cumsum()
    return [(int(at), load(n) if n % 4 == 0 else tokens(n)) for n, at in enumerate(times)]


def test_where_a_placement_is_computed_and_whether_the_worker_was_restarted_changes_no_byte():
    ahead = Ahead()
    plain, threaded, restarted = Stream(), Stream(ahead=ahead), Stream()
    found = []
    for stream in (plain, threaded, restarted):
        events = []
        for at_ms, frame in script():
            events += stream.send(at_ms, frame)
            if stream is restarted:
                stream.feed.restart(RoutingProcessor(OPTIONS))
        found.append([(event.id, event.frame.encode()) for event in events])
    assert sum(b"moved_experts" in body for _, body in found[0]) >= 8
    assert found[0] == found[1] == found[2]


def test_where_no_record_comes_any_more_a_tick_publishes_the_placement():
    stream = Stream()
    stream.send(1000, load(1))
    assert stream.tick(5000) == []  # a record came since the tick before
    (event,) = stream.tick(6000)
    assert (event.id, event.cause, event.frame.version, event.frame.ts_ns) == ("tick/m/2/0", None, 1100, 6000 * MS)
    assert not stream.state.planning.active
    assert stream.tick(7000) == stream.tick(8000) == []


def test_while_records_come_no_tick_publishes_even_where_they_are_old():
    """A backlog is read: the clock is far ahead of the records."""
    stream = Stream()
    stream.send(1000, load(1))
    stream.tick(10**9)
    stream.send(1001, tokens(1))
    assert stream.tick(10**9 + 1000) == []


def test_a_placement_that_came_into_force_meanwhile_is_not_overruled():
    stream = Stream(OPTIONS.changed({"acknowledge": True, "ttl_s": 0.15}))
    stream.send(1000, load(1))
    first = stream.send(1100, tokens(1))[0].frame
    stream.send(1300, load(2))
    stream.send(1301, PlacementAck(model="m", applied_version=first.version, ts_ns=1))
    second = stream.send(1400, tokens(2))[0].frame
    assert second.skip_reason == "superseded"
    assert second.base_version == first.version


def test_a_gpu_that_dies_is_planned_for_at_once_and_the_plan_that_was_being_made_is_dropped():
    stream = Stream()
    stream.send(1000, load(1))
    dead = TOPOLOGY.model_copy(update={"gpu_capacity": np.array([1, 0, 1, 1], np.float32)})
    (event,) = stream.send(1001, dead)
    assert (event.frame.replica_shares[:, 3:6] == 0).all()
    assert kinds(stream.send(1200, tokens(1))) == [RoutingPlan]


def test_a_gpu_that_dies_in_the_millisecond_of_a_window_s_end_does_not_get_that_window_s_plan():
    ahead = Ahead()
    stream = Stream(ahead=ahead)
    stream.send(1000, load(1))
    dead = TOPOLOGY.model_copy(update={"gpu_capacity": np.array([1, 0, 1, 1], np.float32)})
    (event,) = stream.send(1000, dead)
    assert (event.frame.replica_shares[:, 3:6] == 0).all()
    assert (event.frame.logical_replica_count >= 1).all()


def test_placements_switched_off_meanwhile_are_not_published():
    stream = Stream()
    stream.send(1000, load(1))
    stream.feed.configure(placement="off")
    assert kinds(stream.send(1200, tokens(1))) == [RoutingPlan]
    assert not stream.state.planning.active


@pytest.mark.parametrize(("every_s", "plans"), [(0.0, 6), (0.5, 2), (10.0, 1)])
def test_placements_are_planned_no_more_often_than_asked(every_s, plans):
    stream = Stream(OPTIONS.changed({"plan_ms": 0, "plan_every_s": every_s}))
    assert sum(len(stream.send(100_000 + 100 * n, load(n))) for n in range(6)) == plans
    assert stream.state.closed == 6


def test_a_clock_that_was_wrong_once_does_not_end_planning():
    stream = Stream(OPTIONS.changed({"plan_every_s": 10.0, "plan_ms": 0}))
    stream.send(10**13, load(1))
    assert kinds(stream.send(100_000, load(2))) == [PlacementPlan]


def test_the_plan_of_a_tick_can_be_named_for_a_model_with_the_longest_name():
    name = "x" * 200
    feed = Feed(RoutingProcessor(OPTIONS))
    for frame in (TOPOLOGY, load(1)):
        feed.send(frame.model_copy(update={"model": name}), 1000)
    assert feed.tick(2000).events == []
    (event,) = feed.tick(3000).events
    assert event.id == f"tick/{name}/2/0"
    assert event.frame.plan_id == event.id


@pytest.mark.parametrize("at_ms", [1000, 0, -1])
def test_placements_are_planned_though_the_records_clocks_stand_still(at_ms: int):
    stream = Stream(OPTIONS.changed({"plan_every_s": 1.0}))
    events = [event for window in range(24) for event in stream.send(at_ms, load(window))]
    assert kinds(events).count(PlacementPlan) == 2  # of windows 1 and 9; that of 17 follows


def test_nodes_are_not_looked_at_if_colocation_is_switched_off_while_a_plan_is_made():
    stream, never = Stream(OPTIONS.changed({"colocate": True})), Stream()
    for n in range(128):
        stream.send(1000, tokens(n))
        never.send(1000, tokens(n))
    assert stream.state.planning.active
    stream.feed.configure(colocate=False)
    got, want = stream.send(1100, tokens(0))[0].frame, never.send(1100, tokens(0))[0].frame
    assert got.physical_to_logical_map.tolist() == want.physical_to_logical_map.tolist()
    assert got.solver == want.solver


def test_a_proposal_of_the_far_future_does_not_hold_up_plans_for_ever():
    stream = Stream(OPTIONS.changed({"acknowledge": True, "plan_ms": 0}))
    (proposed,) = stream.send(4_000_000_000_000, load(1))
    assert proposed.frame.skip_reason is None
    (plan,) = stream.send(1_700_000_000_000, load(2))
    assert plan.frame.skip_reason is None


def test_a_tick_that_is_repeated_after_a_crash_says_the_same_version():
    """Consumers drop a repeated id, and would not know the other version that routing plans name."""
    plans = []
    for restarted_ms in (2000, 90_000):
        stream = Stream()
        stream.send(1000, load(1))
        stream.feed.restart(RoutingProcessor(OPTIONS))
        assert not stream.tick(restarted_ms)
        plans += stream.tick(restarted_ms + 1000)
    first, again = plans
    assert first.id == again.id
    assert first.frame.version == again.frame.version == 1100
    assert first.frame.physical_to_logical_map.tolist() == again.frame.physical_to_logical_map.tolist()


def broken(*_args, **_options):
    raise ValueError("a fault of the planner")


def test_a_planner_that_fails_costs_its_plan_and_no_record(monkeypatch, caplog):
    stream = Stream()
    stream.send(1000, load(1))
    monkeypatch.setattr(snapshot, "plan_placement", broken)
    failed, route = stream.send(1100, tokens(1))
    assert (failed.frame.skip_reason, failed.frame.expected) == (SkipReason.PLANNING_FAILED, None)
    assert failed.frame.version == failed.frame.base_version == route.frame.placement_version
    assert "a fault of the planner" in caplog.text
    assert not stream.state.planning.active
    assert kinds(stream.send(1101, tokens(2))) == [RoutingPlan]
    monkeypatch.undo()
    stream.send(1200, load(2))
    assert stream.send(1300, tokens(3))[0].frame.skip_reason is None


@pytest.mark.parametrize(
    ("room", "function"), [(snapshot, "plan_placement"), (placer, "placement_event"), (placer, "keep_placement")]
)
def test_a_fault_anywhere_on_the_way_to_a_plan_costs_that_plan_in_any_case(monkeypatch, room, function):
    """At once and later, next to the records and with them, of a window and of a changed topology."""
    dead = TOPOLOGY.model_copy(update={"gpu_capacity": np.array([1, 0, 1, 1], np.float32)})
    monkeypatch.setattr(room, function, broken)
    for plan_ms in (0.0, 100.0):
        for ahead in (None, Ahead()):
            stream = Stream(OPTIONS.changed({"plan_ms": plan_ms, "acknowledge": True}), ahead)
            events = [event for n in range(8) for event in stream.send(1000 + 60 * n, load(n))] + stream.send(2000, dead)
            plans = [event.frame for event in events if isinstance(event.frame, PlacementPlan)]
            assert len(plans) >= 3
            assert SkipReason.PLANNING_FAILED in [plan.skip_reason for plan in plans]
            assert stream.state.in_force.proposed_version <= max(plan.version for plan in plans)


def test_a_plan_that_is_late_waits_with_its_record_and_another_model_goes_on():
    ahead, gate = Ahead(), threading.Event()
    ahead.start("elsewhere", 0, lambda: lambda: gate.wait(600))
    late, other = Stream(ahead=ahead), Stream(OPTIONS.changed({"placement": "off"}), ahead)
    late.send(1000, load(1))
    record = late.feed.record(tokens(1), 1100)
    for _ in range(3):
        with pytest.raises(NotYet):
            late.feed.processor.process(Batch("m", [record]), late.state, 0)
    assert kinds(other.send(1100, tokens(1))) == [RoutingPlan]
    with pytest.raises(NotYet):
        late.feed.processor.on_tick(Tick("m", 2, 6000 * MS, idle=True), late.state)
    gate.set()
    placement, route = late.feed.send_batch([record]).events
    assert route.frame.placement_version == placement.frame.version
    assert placement.solver_s > 0
