"""The processor: what each record does to the state and the plans, and what is poison."""

import re

import numpy as np
import pytest

from qstream.routing.problem import contiguous
from qstream.testing.feed import Sent
from schemas import DispatchShares, ExpertLoad, ExpertTopology, PlacementPlan, RoutingPlan, TokenBatch
from tests.unit.routing.model import OPTIONS, TOPOLOGY, Stream, batch, load


def test_tokens_of_a_model_without_topology_wait():
    stream = Stream()
    assert stream.send(batch(1)) == Sent([], [])
    assert str(stream.feed.waiting("m")) == "model 'm' has no topology yet: publish it to qstream.experts.topology.v1"
    (event,) = stream.send(TOPOLOGY).events
    assert event.id == "qstream.tokens.batch.v1/0/0/0"


def test_each_batch_gets_a_routing_plan_and_a_full_window_a_placement_plan():
    stream = Stream()
    assert stream.send(TOPOLOGY).events == []
    kinds = [[type(event.frame) for event in stream.send(batch(n, layer=n % 2)).events] for n in range(4)]
    assert kinds == [[RoutingPlan], [RoutingPlan], [RoutingPlan], [RoutingPlan, PlacementPlan]]


def test_event_ids_name_the_record_and_the_plan_carries_its_id():
    stream = Stream()
    stream.send(TOPOLOGY)
    events = [event for n in range(4) for event in stream.send(batch(n, layer=n % 2)).events]
    assert [event.id for event in events[-2:]] == ["qstream.tokens.batch.v1/0/3/0", "qstream.tokens.batch.v1/0/3/1"]
    assert all(event.frame.plan_id == event.id for event in events)


def test_a_published_placement_is_in_force_for_the_batches_after_it():
    stream = Stream()
    stream.send(TOPOLOGY)
    placement = [e.frame for n in range(4) for e in stream.send(batch(n, layer=n % 2)).events][-1]
    assert (placement.base_version, placement.version, placement.skip_reason) == (1000, 1003, None)
    after = batch(9, layer=1)
    plan = stream.send(after).events[0].frame
    assert plan.placement_version == 1003
    assert placement.physical_to_logical_map[1][plan.slot_ids].tolist() == after.topk_ids.tolist()


def test_the_maps_of_a_plan_agree_with_each_other():
    stream = Stream()
    stream.send(TOPOLOGY)
    plan = stream.send(load("1")).events[0].frame
    slots_of, counts, shares = plan.logical_to_physical_map, plan.logical_replica_count, plan.replica_shares
    for layer in range(2):
        for expert in range(8):
            held = [slot for slot in slots_of[layer, expert] if slot >= 0]
            assert held == np.flatnonzero(plan.physical_to_logical_map[layer] == expert).tolist()
            assert len(held) == counts[layer, expert]
            assert shares[layer, held].sum() == pytest.approx(1.0)


def test_a_skipped_plan_keeps_version_and_placement_and_says_why():
    stream = Stream(OPTIONS.changed({"min_gain": 1.0}))
    stream.send(TOPOLOGY)
    before = stream.state.placement
    plan = stream.send(load("1")).events[0].frame
    assert (plan.version, plan.base_version, plan.physical_to_logical_map) == (1000, 1000, None)
    assert plan.skip_reason == "gain_too_small"
    assert stream.state.placement.tolist() == before.tolist()


def test_a_repeated_load_window_counts_once():
    stream = Stream(OPTIONS.changed({"window_tokens": 10_000}))
    stream.send(TOPOLOGY)
    for frame in (load("1"), load("1"), load("1", source="other"), load("2")):
        stream.send(frame)
    assert stream.state.open_count[0, 0] == 3 * 90


def test_tokens_without_gate_are_assigned_and_not_counted():
    stream = Stream()
    stream.send(TOPOLOGY)
    plan = stream.send(batch(1, layer=None)).events[0].frame
    assert plan.assignment.shape == (128,)
    assert stream.state.open_count.sum() == 0


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (batch(1, layer=2), r"layer must be 0 to 1, as in the topology, got 2"),
        (
            batch(1, experts=99).model_copy(update={"topk_ids": np.full((128, 2), 8, np.int32)}),
            r"topk_ids must be experts 0 to 7, as in the topology, got 8",
        ),
        (
            ExpertLoad(model="m", window_id="1", t0_ns=0, t1_ns=1, num_tokens=1, logical_count=np.ones((2, 9), np.int64)),
            r"logical_count must be \[2 layers, 8 experts\], as in the topology, got shape \[2, 9\]",
        ),
        (
            TOPOLOGY.model_copy(update={"gpu_capacity": np.array([1, 0, 0, 1], np.float32)}),
            r"gpu_capacity must be above 0 for at least 8 slots, .* got capacity in 6 slots",
        ),
    ],
)
def test_what_contradicts_the_topology_is_dead_and_changes_nothing(frame, reason):
    stream = Stream()
    stream.send(TOPOLOGY)
    before = stream.state
    result = stream.send(frame)
    assert result.events == []
    assert len(result.dead) == 1
    assert re.search(reason, result.dead[0].error_message)
    assert stream.state == before


def test_a_changed_topology_starts_afresh_and_readers_learn_what_its_slots_mean():
    stream = Stream()
    assert stream.send(TOPOLOGY).events == []
    stream.send(load("1"))
    before = stream.state.in_force.version
    assert stream.send(TOPOLOGY).events == []
    assert stream.state.closed == 1
    changed = TOPOLOGY.model_copy(update={"num_gpus": 8})
    plan = stream.send(changed).events[0].frame
    assert (plan.reset_reason, plan.base_version, plan.version) == ("topology_changed", before, stream.state.in_force.version)
    assert plan.version > before
    assert plan.physical_to_logical_map.tolist() == contiguous(changed).tolist()
    assert (stream.state.closed, stream.state.placement.shape) == (0, (2, 24))


def test_versions_rise_even_if_the_state_is_lost():
    stream, again = Stream(), Stream()
    for each in (stream, again):
        each.send(TOPOLOGY)
    stream.send(load("1"))
    assert again.send(load("2"), 1050).events[0].frame.version > stream.state.in_force.version


def test_the_plan_of_a_large_model_fits_its_message():
    topology = ExpertTopology(model="m", num_layers=61, num_logical_experts=384, num_gpus=64, slots_per_gpu=8, num_nodes=8)
    stream = Stream(OPTIONS.changed({"steps": 0}))
    stream.send(topology)
    count = (1000 * np.random.default_rng(0).lognormal(0, 1.5, (61, 384))).astype(np.int64)
    plan = (
        stream.send(ExpertLoad(model="m", window_id="1", t0_ns=0, t1_ns=1, num_tokens=1 << 20, logical_count=count))
        .events[0]
        .frame
    )
    assert plan.logical_to_physical_map is None
    assert len(plan.move_layer) > 5000
    assert PlacementPlan.decode(plan.encode()) == plan


def test_counts_beyond_any_model_saturate_and_the_records_that_follow_are_answered():
    stream = Stream(OPTIONS.changed({"window_tokens": 1 << 20, "shares_tokens": 2048}))
    stream.send(TOPOLOGY)
    most = np.full((2, 8), 2**53, np.int64)
    for n in range(1100):
        frame = ExpertLoad(model="m", window_id=str(n), t0_ns=0, t1_ns=1, num_tokens=1, logical_count=most)
        assert stream.send(frame).dead == []
    kinds = []
    for n in range(32):
        sent = stream.send(batch(n, layer=n % 2))
        assert sent.dead == []
        kinds += [type(event.frame) for event in sent.events]
    assert kinds.count(RoutingPlan) == 32
    assert DispatchShares in kinds
    assert stream.state.open_count.max() > 0
    assert (stream.state.open_count >= 0).all()


def test_a_load_window_of_no_token_is_refused_with_the_field():
    stream = Stream()
    stream.send(TOPOLOGY)
    (dead,) = stream.send(load("1", tokens=0)).dead
    assert dead.error_message == "num_tokens must be above 0 where experts received tokens, got 0"


def test_queues_beyond_any_server_saturate():
    stream = Stream(OPTIONS.changed({"labels": 2}))
    stream.send(TOPOLOGY)
    sent = stream.send(load("1", tokens=1, queued={f"l{n}": 2**63 - 1 for n in range(9)}))
    assert sent.dead == []
    assert stream.state.queued == {"l0": 2**53, "l1": 2**53, "other": 2**53}


def test_a_topology_whose_plans_cannot_travel_is_refused():
    big = ExpertTopology(model="m", num_layers=128, num_logical_experts=1024, num_gpus=256, slots_per_gpu=8)
    assert "must be small enough for plans of 4000000 bytes" in Stream().send(big).dead[0].error_message


def test_placement_and_routing_plans_can_be_switched_off():
    quiet = Stream(OPTIONS.changed({"placement": "off", "routing_plans": False}))
    quiet.send(TOPOLOGY)
    assert quiet.send(load("1")).events == []
    assert quiet.send(batch(1)).events == []
    assert quiet.state.closed == 1


def test_experts_under_a_capacity_are_what_is_routed_counted_and_queued():
    stream = Stream(OPTIONS.changed({"capacity_factor": 1.0, "queues": True}))
    stream.send(TOPOLOGY)
    frame = batch(1)
    plan = stream.send(frame).events[0].frame
    even = 128 * 2 // 8
    assert np.bincount(frame.topk_ids.ravel(), minlength=8).max() > 2 * even
    assert np.bincount(plan.expert_ids.ravel(), minlength=8).tolist() == [even] * 8
    assert stream.state.open_count[0].tolist() == stream.state.live_count[0].tolist() == [even] * 8
    assert stream.state.placement[0][plan.slot_ids].tolist() == plan.expert_ids.tolist()
    assert plan.queue_end.tolist() == [even * (e + 1) for e in range(8)]
    assert 0 < plan.metrics.gate_kept < 1


def test_requests_go_where_the_experts_of_their_label_are_and_stay_where_they_are_in_progress():
    """Experts 0-3 and 4-7 on a node each, labels that ask for one half; 16 requests of 8 tokens."""
    topology = TOPOLOGY.model_copy(update={"slots_per_gpu": 2, "num_layers": 1})
    stream = Stream(OPTIONS.changed({"placement": "off", "request_nodes": True}))
    stream.send(topology)
    request = np.arange(128, dtype=np.uint64) // 8
    rng = np.random.default_rng(0)

    def ask(**changes):
        label = (request % 2).astype(np.int32)
        ids = (rng.random((128, 4)).argsort(1)[:, :2] + 4 * label[:, None]).astype(np.int32)
        frame = dict(batch(1)) | {"topk_ids": ids, "label": label, "label_names": ("low", "high"), "request_id": request}
        return stream.send(TokenBatch(**frame | changes)).events[0].frame

    ask()
    plan = ask()
    assert plan.request_id.tolist() == list(range(16))
    assert plan.request_node.tolist() == [n % 2 for n in range(16)]
    blind = ask(topk_ids=None, layer=None)  # what is known of the labels decides
    assert blind.request_node.tolist() == [n % 2 for n in range(16)]
    running = ask(src_rank=np.where(request % 2, 0, 3).astype(np.int32))
    assert running.request_node.tolist() == [1 - n % 2 for n in range(16)]
    assert ask(request_id=None).request_node is None


def test_dispatch_shares_follow_the_tokens_that_came_since_the_last_ones():
    stream = Stream(OPTIONS.changed({"placement": "off", "routing_plans": False, "shares_tokens": 256}))
    stream.send(TOPOLOGY)
    assert stream.send(load("1", tokens=255)).events == []
    (event,) = stream.send(load("2", tokens=1)).events
    shares = event.frame
    assert isinstance(shares, DispatchShares)
    assert (event.id, shares.placement_version) == ("qstream.experts.load.v1/0/1/0", 1000)
    assert shares.gate_choices == 2 * 2 * 256
    placement = contiguous(TOPOLOGY)
    for layer in range(2):
        sums = np.bincount(placement[layer], shares.shares[layer], minlength=8)
        assert np.allclose(sums, 1, atol=1e-6)
    assert shares.score.balancedness > shares.score.balancedness_even
    assert stream.send(load("3", tokens=255)).events == []


def test_shares_of_a_closing_window_are_those_of_its_new_placement():
    stream = Stream(OPTIONS.changed({"shares_tokens": 256}))
    stream.send(TOPOLOGY)
    placement, shares = (event.frame for event in stream.send(load("1")).events)
    assert placement.skip_reason is None
    assert shares.placement_version == placement.version > placement.base_version
