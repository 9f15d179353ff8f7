"""The processor: what each record does to the state and the plans, and what is poison."""

import re
from collections import Counter

import numpy as np
import pytest

from qstream.contract import Tick
from qstream.errors import OptionError
from qstream.quantum.runtime import QuantumRuntime
from qstream.routing.memory import RoutingState
from qstream.routing.options import RoutingOptions
from qstream.routing.problem import contiguous
from qstream.routing.processor import RoutingProcessor
from qstream.routing.score import balancedness
from qstream.testing.feed import Feed, Sent
from schemas import DispatchShares, ExpertLoad, ExpertTopology, PlacementAck, PlacementPlan, RoutingPlan, TokenBatch

TOPOLOGY = ExpertTopology(model="m", num_layers=2, num_logical_experts=8, top_k=2, num_nodes=2, num_gpus=4, slots_per_gpu=3)
OPTIONS = RoutingOptions(window_tokens=256, windows=4, steps=200, min_gain=0.0, plan_ms=0, plan_every_s=0)


class Stream:
    """Feeds one model record by record, one a millisecond and topic."""

    def __init__(self, options: RoutingOptions = OPTIONS, processor: RoutingProcessor | None = None) -> None:
        self.feed = Feed(processor or RoutingProcessor(options))
        self.sent: Counter[type] = Counter()

    def send(self, frame, at_ms: int | None = None) -> Sent:
        at_ms = 1000 + self.sent[type(frame)] if at_ms is None else at_ms
        self.sent[type(frame)] += 1
        return self.feed.send(frame, at_ms)

    @property
    def state(self) -> RoutingState:
        return self.feed.state("m")


def batch(seed: int, layer: int | None = 0, tokens: int = 128, experts: int = 8) -> TokenBatch:
    rng = np.random.default_rng(seed)
    gate = {} if layer is None else {"topk_ids": np.minimum(rng.geometric(0.4, (tokens, 2)) - 1, experts - 1).astype(np.int32)}
    return TokenBatch(
        batch_id=f"b{seed}", ts_ns=5, model="m", layer=layer, token_id=np.arange(tokens, dtype=np.uint64) + seed * 1000, **gate
    )


def load(window: str, source: str = "s", tokens: int = 256, queued: dict[str, int] | None = None) -> ExpertLoad:
    count = np.tile(np.array([90, 50, 40, 30, 20, 10, 10, 6]), (2, 1))
    return ExpertLoad(
        model="m",
        source=source,
        window_id=window,
        t0_ns=0,
        t1_ns=1,
        num_tokens=tokens,
        logical_count=count,
        queued_by_label=queued,
    )


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


DEAD = TOPOLOGY.model_copy(update={"gpu_capacity": np.array([1, 0, 1, 1], np.float32)})


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
    stream = Stream(OPTIONS.changed({"placement": "off", "routing_plans": False, "shares_tokens": 256}))
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


def labelled(seed: int, name: str, experts: list[int], layer: int) -> TokenBatch:
    plain = batch(seed, layer)
    ids = np.random.default_rng(seed).choice(experts, (128, 1)).astype(np.int32)
    ids = np.concatenate([ids, (ids + 1) % 8], axis=1)
    return TokenBatch(**dict(plain) | {"topk_ids": ids, "label": np.zeros(128, np.int32), "label_names": (name,)})


@pytest.mark.parametrize("waits", ["low", "high"])
def test_the_tokens_that_wait_by_label_shape_the_next_plan(waits):
    """Half of the window was of each label; what waits is of one, and the plan is better for it than one that does not know."""
    experts = {"low": [0, 1, 2], "high": [4, 5, 6]}
    plans = []
    for queued in ({waits: 4096}, None):
        stream = Stream(OPTIONS.changed({"window_tokens": 1024, "move_cost": 0.0, "routing_plans": False}))
        stream.send(TOPOLOGY)
        for n in range(14):
            name = ("low", "high")[n // 2 % 2]
            stream.send(labelled(n, name, experts[name], n % 2))
        (event,) = stream.send(load("1", queued=queued)).events
        plans.append(event.frame.physical_to_logical_map)
        assert stream.state.label_names == ("low", "high")
        assert stream.state.queued is None
    unseen = np.concatenate([labelled(n, waits, experts[waits], 0).topk_ids for n in range(90, 99)])
    ahead = np.bincount(unseen.ravel(), minlength=8)
    informed, blind = (balancedness(plan, np.tile(ahead, (2, 1)).astype(float), 4) for plan in plans)
    assert informed > blind


def test_without_labels_in_the_options_nothing_is_kept_of_them():
    stream = Stream(OPTIONS.changed({"labels": 0}))
    stream.send(TOPOLOGY)
    stream.send(labelled(1, "a", [1, 2], 0))
    stream.send(load("1", queued={"a": 5}, tokens=1))
    assert (stream.state.label_names, stream.state.label_count, stream.state.queued) == ((), None, None)


@pytest.mark.parametrize("colocate", [True, False])
def test_experts_of_one_token_move_onto_one_node_if_asked(colocate):
    """Tokens choose among even or among odd experts; the contiguous placement spreads both over both nodes."""
    stream = Stream(OPTIONS.changed({"window_tokens": 2048, "colocate": colocate}))
    stream.send(TOPOLOGY)
    rng = np.random.default_rng(0)
    touched, planned = [], []
    for n in range(60):
        ids = rng.random((128, 4)).argsort(1)[:, :2].astype(np.int32) * 2 + rng.integers(0, 2, (128, 1), dtype=np.int32)
        events = stream.send(TokenBatch(**dict(batch(n, n % 2)) | {"topk_ids": ids})).events
        touched.append(events[0].frame.metrics.cross_node_copies_per_token)
        planned += [n for event in events if isinstance(event.frame, PlacementPlan) and event.frame.skip_reason is None]
    if colocate:
        assert max(touched[planned[0] + 1 :]) < 0.5 * min(touched[: planned[0]])
    else:
        assert min(touched) > 0.3
        assert stream.state.sample is None


def test_pairs_that_loads_bring_place_experts_on_nodes_as_well():
    """Experts e and e + 4 serve the same tokens, says the producer; the contiguous placement has them on both nodes."""
    stream = Stream(OPTIONS.changed({"colocate": True}))
    stream.send(TOPOLOGY)
    pairs = np.zeros((2, 8, 8), np.int64)
    pairs[:, range(4), range(4, 8)] = 1000
    even = np.full((2, 8), 64)
    frame = ExpertLoad(model="m", window_id="1", t0_ns=0, t1_ns=1, num_tokens=256, logical_count=even, cooccurrence=pairs)
    (event,) = stream.send(frame).events
    node_of_slot = np.repeat(TOPOLOGY.nodes(), TOPOLOGY.slots_per_gpu)
    for row in event.frame.physical_to_logical_map:
        nodes = [set(node_of_slot[row == expert].tolist()) for expert in range(8)]
        assert nodes[:4] == nodes[4:]


def test_windows_by_circuits_improve_the_plan_and_say_what_they_were_worth():
    plain, windows = Stream(), Stream(OPTIONS.changed({"qaoa": True, "hqc": True, "circuit_slots": 6, "steps": 0}))
    plans = []
    for stream in (plain, windows):
        stream.send(TOPOLOGY)
        plans.append(stream.send(load("1")).events[0].frame)
    record = plans[1].solver
    assert (record.depth, record.shots, record.n) == (2, 32, 6)
    assert record.asked == ("qaoa", "hqc")
    # The loads are so even that no window wins: the answer is the classical one, and says so.
    assert (record.solver, record.execution, record.kept) == ("lpt-swap", "classical", 0)
    assert record.tried > 0
    assert record.objective <= record.twin
    assert record.control is not None
    assert plans[1].fallback_reason is None
    again = Stream(OPTIONS.changed({"qaoa": True, "hqc": True, "circuit_slots": 6, "steps": 0}))
    again.send(TOPOLOGY)
    assert again.send(load("1")).events[0].frame.encode() == plans[1].encode()


def test_a_device_that_cannot_be_had_leaves_the_deterministic_plan_and_says_why():
    stream = Stream(OPTIONS.changed({"qaoa": True, "device": "lightning.qubit"}))  # without a runtime, where devices live
    stream.send(TOPOLOGY)
    plan = stream.send(load("1")).events[0].frame
    assert plan.fallback_reason == "unavailable"
    assert plan.skip_reason is None
    alone = Stream(OPTIONS.changed({"qaoa": True, "device": "lightning.qubit", "deterministic": False}))
    alone.send(TOPOLOGY)
    plan = alone.send(load("1")).events[0].frame
    assert (plan.skip_reason, plan.fallback_reason) == ("no_answer", "unavailable")


def test_a_device_answers_windows_and_an_unknown_one_is_refused_when_it_is_named():
    with QuantumRuntime() as runtime:
        processor = RoutingProcessor(OPTIONS, lambda: runtime)
        with pytest.raises(OptionError, match="nonesuch"):
            processor.configure({"qaoa": True, "device": "nonesuch"})
        stream = Stream(processor=processor)
        stream.feed.configure(qaoa=True, device="lightning.qubit", circuit_slots=6, steps=0)
        stream.send(TOPOLOGY)
        plan = stream.send(load("1")).events[0].frame
    assert plan.fallback_reason is None
    assert plan.solver.asked == ("qaoa",)
    assert plan.solver.shots == 32
    assert plan.solver.tried > 0
