"""The processor, told what became of its plans: acknowledgements, and GPUs that die or slow down."""

import numpy as np
import pytest

from qstream.contract import Tick
from qstream.routing.processor import RoutingProcessor
from qstream.testing.feed import Feed, Sent
from schemas import DispatchShares, PlacementAck, PlacementPlan
from tests.unit.routing.model import OPTIONS, TOPOLOGY, Stream, batch, load

DEAD = TOPOLOGY.model_copy(update={"gpu_capacity": np.array([1, 0, 1, 1], np.float32)})


def test_with_acknowledgements_a_placement_is_in_force_when_a_consumer_has_applied_it():
    stream = Stream(OPTIONS.changed({"acknowledge": True}))
    stream.send(TOPOLOGY)
    (first,) = (event.frame for event in stream.send(load("1")).events)
    assert stream.send(batch(1)).events[0].frame.placement_version == first.base_version
    (second,) = (event.frame for event in stream.send(load("2")).events)
    assert second.skip_reason == "not_acknowledged"
    assert stream.send(PlacementAck(model="m", applied_version=first.version, ts_ns=1)).dead == []
    assert stream.send(batch(2)).events[0].frame.placement_version == first.version
    assert np.array_equal(stream.state.placement, first.physical_to_logical_map)
    assert stream.send(PlacementAck(model="m", applied_version=first.version, ts_ns=2)).dead == []  # another consumer's


def test_a_placement_that_nobody_acknowledges_in_time_gives_way_to_another():
    stream = Stream(OPTIONS.changed({"acknowledge": True, "ttl_s": 0.001}))
    stream.send(TOPOLOGY)
    first = stream.send(load("1")).events[0].frame
    stream.send(batch(1))
    stream.send(load("2"))
    third = stream.send(load("3")).events[0].frame
    assert third.version > first.version
    assert third.base_version == first.base_version
    (dead,) = stream.send(PlacementAck(model="m", applied_version=first.version, ts_ns=1)).dead
    assert dead.error_message.startswith("applied_version must be ")
    assert dead.error_message.endswith(f"got {first.version}")
    assert str(third.version) in dead.error_message


def test_an_acknowledgement_of_a_model_without_topology_waits():
    feed = Feed(RoutingProcessor(OPTIONS))
    ack = PlacementAck.example()
    assert feed.send(ack, 0) == Sent([], [])
    assert "has no topology yet" in str(feed.waiting(ack.model))


def test_a_gpu_that_dies_while_a_placement_waits_for_its_acknowledgement_is_planned_for_right_after_it():
    stream = Stream(OPTIONS.changed({"acknowledge": True}))
    stream.send(TOPOLOGY)
    first = stream.send(load("1")).events[0].frame
    (refused,) = (event.frame for event in stream.send(DEAD).events)
    assert refused.skip_reason == "not_acknowledged"
    (event,) = stream.send(PlacementAck(model="m", applied_version=first.version, ts_ns=1)).events
    repair = event.frame
    assert (repair.base_version, repair.skip_reason) == (first.version, None)
    assert not np.isin(repair.logical_to_physical_map, np.arange(3, 6)).any()
    assert (repair.logical_replica_count >= 1).all()
    assert stream.send(PlacementAck(model="m", applied_version=repair.version, ts_ns=2)).events == []  # nothing more is owed


@pytest.mark.parametrize("idle", [False, True])
def test_a_gpu_that_dies_is_planned_for_as_well_once_the_acknowledgement_is_overdue(idle: bool):
    """With the next record, or by a tick where none comes: a repeated tick says the same."""
    stream = Stream(OPTIONS.changed({"acknowledge": True, "ttl_s": 0.001}))
    stream.send(TOPOLOGY)
    first = stream.send(load("1")).events[0].frame
    stream.send(DEAD)
    state, late_ns = stream.state, first.ts_ns + 10**9
    if idle:
        plans = [stream.feed.processor.on_tick(Tick("m", 7, late_ns + n, idle=True), state).events[0].frame for n in range(2)]
        assert stream.feed.processor.on_tick(Tick("m", 7, first.ts_ns, idle=True), state).events == ()
        assert plans[0].version == plans[1].version
    else:
        plans = [e.frame for e in stream.send(batch(1), at_ms=9000).events if isinstance(e.frame, PlacementPlan)]
    assert plans[0].skip_reason is None
    assert plans[0].base_version == first.base_version
    assert plans[0].version > first.version
    assert not np.isin(plans[0].logical_to_physical_map, np.arange(3, 6)).any()


def test_a_gpu_that_dies_serves_nothing_from_that_record_on_and_slots_and_history_stay():
    stream = Stream(OPTIONS.changed({"shares_tokens": 256}))
    stream.send(TOPOLOGY)
    stream.send(load("1"))
    before = stream.state
    (event,) = stream.send(DEAD).events
    plan = event.frame
    assert (plan.base_version, plan.skip_reason, plan.reset_reason) == (before.in_force.version, None, None)
    assert stream.state.closed == before.closed
    dead = np.arange(3, 6)
    assert (plan.replica_shares[:, dead] == 0).all()
    assert plan.physical_to_logical_map[:, dead].tolist() == before.placement[:, dead].tolist()
    assert not np.isin(plan.logical_to_physical_map, dead).any()
    assert (plan.logical_replica_count >= 1).all()
    assert not np.isin(stream.send(batch(1)).events[0].frame.slot_ids, dead).any()
    shares = [event.frame for event in stream.send(load("2")).events if isinstance(event.frame, DispatchShares)]
    assert (shares[0].shares[:, dead] == 0).all()
    (event,) = stream.send(TOPOLOGY).events  # it is back
    assert event.frame.base_version == stream.state.in_force.version or event.frame.skip_reason is None


def test_a_model_that_begins_with_a_dead_gpu_tells_readers_where_its_experts_are():
    stream = Stream()
    (event,) = stream.send(DEAD).events
    plan = event.frame
    assert plan.reset_reason == "capacity_missing"
    live = [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert plan.physical_to_logical_map[:, live].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 0]] * 2
    assert stream.state.placement.tolist() == plan.physical_to_logical_map.tolist()


def test_dispatch_shares_follow_the_speed_of_gpus():
    slow = TOPOLOGY.model_copy(update={"slots_per_gpu": 8, "gpu_capacity": np.array([1, 0.25, 1, 0], np.float32)})
    stream = Stream(OPTIONS.changed({"placement": "off", "routing_plans": False, "shares_tokens": 256, "learn": "off"}))
    stream.send(slow)
    shares = stream.send(load("1")).events[0].frame
    tokens = load("1").logical_count[0]
    on_gpu = (shares.shares[0] * tokens[stream.state.placement[0]]).reshape(4, 8).sum(1)
    np.testing.assert_allclose(on_gpu / on_gpu.sum(), slow.gpu_capacity / slow.gpu_capacity.sum(), atol=1e-3)
    assert shares.score.balancedness == pytest.approx(1.0, abs=2e-3)
    assert shares.score.balancedness_even == pytest.approx(0.25 * 3 / 2.25)


def test_tokens_of_an_expert_that_only_a_dead_gpu_has_stop_no_shares():
    stream = Stream(OPTIONS.changed({"placement": "off", "routing_plans": False, "shares_tokens": 256}))
    stream.send(TOPOLOGY)
    stream.send(DEAD)  # experts 4 and 5 are nowhere else
    result = stream.send(load("1"))
    assert result.dead == []
    assert isinstance(result.events[0].frame, DispatchShares)
