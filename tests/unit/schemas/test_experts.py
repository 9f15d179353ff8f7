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
        ({"num_gpus": 1}, "num_gpus * slots_per_gpu must be at least 4 slots, one an expert, got 2"),
        ({"slots_per_gpu": 5}, "slots_per_gpu must be at most 4, since a GPU holds no two replicas of one expert, got 5"),
        ({"top_k": 5}, "top_k must be at most 4, the experts of a layer, got 5"),
        ({"num_nodes": 5}, "num_nodes must be at most 4, the GPUs, got 5"),
        ({"num_nodes": 2, "node_of_gpu": [0, 0, 1, 2]}, "node_of_gpu must be 0 to 1, got values from 0 to 2"),
        ({"num_nodes": 2, "node_of_gpu": [0, 0, 1, -1]}, "node_of_gpu must be 0 to 1, got values from -1 to 1"),
        ({"num_nodes": 2, "node_of_gpu": [0, 1, 1]}, "len(node_of_gpu) must be 4, one a GPU, got 3"),
        ({"node_of_gpu": []}, "len(node_of_gpu) must be 4, one a GPU, got 0"),
        ({"gpu_capacity": [1.0] * 5}, "len(gpu_capacity) must be 4, one a GPU, got 5"),
        ({"gpu_capacity": [1.0, 1.0, 1.0, -0.5]}, "gpu_capacity must be >= 0, got values from -0.5 to 1.0"),
        ({"rank_cost": np.zeros((3, 3))}, "len(rank_cost) must be 4, one a GPU, got 3"),
        ({"rank_cost": np.zeros((4, 3))}, "axis 'gpus' of rank_cost must be as long as in rank_cost, 4, got 3"),
        ({"rank_cost": -np.ones((4, 4))}, "rank_cost must be >= 0, got values from -1.0"),
        ({"num_layers": 0}, "num_layers must be greater than or equal to 1"),
        (
            {"num_gpus": 65536, "slots_per_gpu": 4096, "num_logical_experts": 4096},
            "slots_per_gpu must be at most 1048576, got 536870912",
        ),
        (
            {"num_gpus": 65536, "slots_per_gpu": 1, "num_logical_experts": 65536},
            "num_logical_experts must be at most 67108864, got 8589934592",
        ),
        ({"num_gpus": 65537}, "num_gpus must be less than or equal to 65536"),
        ({"num_logical_experts": 4.0}, "num_logical_experts must be a valid integer"),
        ({"rdma_gb_s": 0}, "rdma_gb_s must be greater than 0"),
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
        ({"logical_count": [[-1]]}, "logical_count must be 0 to 2**53, token counts, got values from -1 to -1"),
        ({"logical_count": [[2**53 + 1]]}, "logical_count must be 0 to 2**53, token counts, got values from"),
        (
            {"logical_count": [1]},
            "logical_count must be int64 [layers, experts] without an empty axis, got numbers in place of lists",
        ),
        (
            {"logical_count": []},
            "logical_count must be int64 [layers, experts] without an empty axis, got an empty or ragged list",
        ),
        ({"t0_ns": 3}, "t1_ns must be at least t0_ns, 3, got 2"),
        ({"source_count": [[[1, 2]]]}, "axis 'experts' of source_count must be as long as in logical_count, 1, got 2"),
        ({"physical_count": [[1], [2]]}, "axis 'layers' of physical_count must be as long as in logical_count, 1, got 2"),
        ({"cooccurrence": [[[1, 2]]]}, "axis 'experts' of cooccurrence must be as long as in logical_count, 1, got 2"),
        ({"transition": [[[-1]]]}, "transition must be 0 to 2**53, token counts, got values from"),
        ({"queued_by_label": {"a": -1}}, "queued_by_label.a must be greater than or equal to 0"),
        ({"queued_by_label": {"": 1}}, "queued_by_label"),
        ({"queued_by_label": {str(i): 1 for i in range(4097)}}, "must be at most 4096 entries, got 4097"),
        ({"phase": "warm-up"}, "phase must be 'prefill', 'decode' or 'mixed', got 'warm-up'"),
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
    assert f"ExpertTopology.v1.{field} must be less than or equal to" in message


@pytest.mark.parametrize(
    ("layers", "experts", "gpus", "slots"),
    [(61, 256, 320, 2), (61, 256, 4096, 2), (58, 256, 144, 2), (60, 384, 1024, 4), (12, 2048, 2048, 8), (94, 128, 4096, 2)],
)
def test_the_largest_clusters_and_models_are_topologies(layers, experts, gpus, slots):
    assert ExpertTopology(num_layers=layers, num_logical_experts=experts, num_gpus=gpus, slots_per_gpu=slots).num_slots
