"""The processor with more than counts: tokens that wait by label, experts that go together, circuits and devices."""

import numpy as np
import pytest

from qstream.errors import OptionError
from qstream.quantum.runtime import QuantumRuntime
from qstream.routing.processor import RoutingProcessor
from qstream.routing.score import balancedness
from schemas import ExpertLoad, PlacementPlan, TokenBatch
from tests.unit.routing.model import OPTIONS, TOPOLOGY, Stream, batch, load


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
