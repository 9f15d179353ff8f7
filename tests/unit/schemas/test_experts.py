"""Expert topology and load: any valid one survives, and the rules of slots, nodes and counters hold."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from schemas import JSON, ExpertLoad, ExpertTopology, FrameError

TOPOLOGY = {"num_layers": 2, "num_logical_experts": 4, "num_gpus": 4, "slots_per_gpu": 2}
LOAD = {"model": "m", "window_id": "1", "t0_ns": 1, "t1_ns": 2, "num_tokens": 3}
COUNTS = st.integers(0, 2**53)
NAMES = st.text(min_size=1, max_size=20)


@st.composite
def loads(draw):
    layers, experts = draw(st.integers(1, 3)), draw(st.integers(1, 4))

    def counts(*shape):
        return draw(st.none() | npst.arrays(np.int64, shape, elements=COUNTS))

    start = draw(st.integers(0, 2**62))
    return ExpertLoad(
        model=draw(NAMES),
        source=draw(NAMES),
        window_id=draw(NAMES),
        t0_ns=start,
        t1_ns=start + draw(st.integers(0, 2**61)),
        num_tokens=draw(st.integers(0, 2**63 - 1)),
        phase=draw(st.sampled_from(["prefill", "decode", "mixed"])),
        queued_by_label=draw(st.none() | st.dictionaries(NAMES, st.integers(0, 2**63 - 1), max_size=3)),
        logical_count=draw(npst.arrays(np.int64, (layers, experts), elements=COUNTS)),
        source_count=counts(layers, draw(st.integers(1, 3)), experts),
        physical_count=counts(layers, draw(st.integers(1, 5))),
        cooccurrence=counts(layers, experts, experts),
        transition=counts(draw(st.integers(1, 3)), experts, experts),
    )


@given(load=loads())
def test_any_valid_load_survives_both_forms(load, round_trip):
    round_trip(load)


@given(
    gpus=st.integers(1, 12), nodes=st.integers(1, 12), slots=st.integers(1, 4), spare=st.integers(0, 3), seed=st.integers(0, 99)
)
def test_any_valid_topology_survives_and_spreads_gpus_evenly_in_order(gpus, nodes, slots, spare, seed, round_trip):
    nodes, experts = min(nodes, gpus), max(slots, gpus * slots - spare)
    rng = np.random.default_rng(seed)
    topology = ExpertTopology(
        num_layers=3,
        num_logical_experts=experts,
        num_nodes=nodes,
        num_gpus=gpus,
        slots_per_gpu=slots,
        gpu_capacity=rng.random(gpus),
        rank_cost=rng.random((gpus, gpus)),
        rdma_gb_s=rng.random() + 0.1,
    )
    round_trip(topology)
    assert topology.num_slots == gpus * slots
    sizes = np.bincount(topology.nodes(), minlength=nodes)
    assert (np.diff(topology.nodes()) >= 0).all()
    assert sizes.sum() == gpus
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= 1


def test_given_nodes_are_kept():
    topology = ExpertTopology(**TOPOLOGY, num_nodes=3, node_of_gpu=[2, 0, 2, 1])
    assert topology.nodes().tolist() == [2, 0, 2, 1]
    assert topology.nodes().dtype == np.int32


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_gpus": 1}, "num_gpus * slots_per_gpu = 2 slots, allowed are at least 4"),
        ({"slots_per_gpu": 5}, "slots_per_gpu is 5, allowed are at most 4"),
        ({"top_k": 5}, "top_k is 5, allowed are at most 4"),
        ({"num_nodes": 5}, "num_nodes is 5, allowed are at most 4"),
        ({"num_nodes": 2, "node_of_gpu": [0, 0, 1, 2]}, "node_of_gpu has values from 0 to 2, allowed is 0 to 1"),
        ({"num_nodes": 2, "node_of_gpu": [0, 0, 1, -1]}, "node_of_gpu has values from -1 to 1, allowed is 0 to 1"),
        ({"num_nodes": 2, "node_of_gpu": [0, 1, 1]}, "node_of_gpu has 3 entries, allowed are 4, one a GPU"),
        ({"node_of_gpu": []}, "node_of_gpu has 0 entries"),
        ({"gpu_capacity": [1.0] * 5}, "gpu_capacity has 5 entries"),
        ({"gpu_capacity": [1.0, 1.0, 1.0, -0.5]}, "gpu_capacity has values from -0.5 to 1.0, allowed is >= 0"),
        ({"rank_cost": np.zeros((3, 3))}, "rank_cost has 3 entries"),
        ({"rank_cost": np.zeros((4, 3))}, "axis 'gpus' has length 3 in rank_cost but 4 in rank_cost"),
        ({"rank_cost": -np.ones((4, 4))}, "rank_cost has values from -1.0"),
        ({"num_layers": 0}, "num_layers: Input should be greater than or equal to 1"),
        ({"num_gpus": 65537}, "num_gpus: Input should be less than or equal to 65536"),
        ({"num_logical_experts": 4.0}, "num_logical_experts: Input should be a valid integer"),
        ({"rdma_gb_s": 0}, "rdma_gb_s: Input should be greater than 0"),
    ],
    ids=str,
)
def test_topologies_that_cannot_be_are_refused(fields, said):
    with pytest.raises(FrameError) as caught:
        ExpertTopology.build(**TOPOLOGY | fields)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"logical_count": [[-1]]}, "logical_count has values from -1 to -1, allowed is 0 to 2**53, token counts"),
        ({"logical_count": [[2**53 + 1]]}, "allowed is 0 to 2**53"),
        ({"logical_count": [1]}, "logical_count: got numbers in place of lists, allowed is int64 [layers, experts]"),
        ({"logical_count": []}, "logical_count: got an empty or ragged list"),
        ({"t0_ns": 3}, "t1_ns is 2, allowed are at least t0_ns = 3"),
        ({"source_count": [[[1, 2]]]}, "axis 'experts' has length 2 in source_count but 1 in logical_count"),
        ({"physical_count": [[1], [2]]}, "axis 'layers' has length 2 in physical_count but 1 in logical_count"),
        ({"cooccurrence": [[[1, 2]]]}, "axis 'experts' has length 2"),
        ({"transition": [[[-1]]]}, "transition has values"),
        ({"queued_by_label": {"a": -1}}, "queued_by_label.a: Input should be greater than or equal to 0"),
        ({"queued_by_label": {"": 1}}, "queued_by_label"),
        ({"queued_by_label": {str(i): 1 for i in range(4097)}}, "got 4097 entries, allowed are at most 4096"),
        ({"phase": "warm-up"}, "phase: Input should be 'prefill', 'decode' or 'mixed', got 'warm-up'"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_loads_that_cannot_be_are_refused(fields, said):
    with pytest.raises(FrameError) as caught:
        ExpertLoad.build(**LOAD | {"logical_count": [[1]]} | fields)
    assert said in str(caught.value)


SIZES = ["num_layers", "num_logical_experts", "num_groups", "top_k", "num_nodes", "num_gpus", "slots_per_gpu"]


@pytest.mark.parametrize("field", SIZES)
def test_a_claim_of_a_billion_is_refused_at_no_cost(field, refuse):
    message = refuse(ExpertTopology, json.dumps(TOPOLOGY | {field: 10**9}).encode(), JSON)
    assert f"ExpertTopology.v1.{field}: Input should be less than or equal to" in message
