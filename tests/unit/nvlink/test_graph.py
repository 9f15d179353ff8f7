"""Graphs and frames are inverse of each other, whatever a frame holds, and generated fabrics are what their data sheets say."""

from __future__ import annotations

import json

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.nvlink import from_networkx, generate, read_topology, to_networkx
from qstream.nvlink.graph import tidied
from schemas.fabric import GPU, HOST, FabricTopology


@st.composite
def topologies(draw):
    """Any sound topology: hosts at any place, links in any order."""
    total = draw(st.integers(2, 8))
    kinds = np.array([0, *draw(st.lists(st.integers(0, 7), min_size=total - 1, max_size=total - 1))], np.uint8)
    hosts = np.flatnonzero(kinds == HOST).tolist()
    on = np.array([draw(st.sampled_from([-1, *hosts])) for _ in range(total)], np.int32)
    domains = draw(st.integers(0, 2))
    pairs = [(a, b) for a in range(total) for b in range(total) if a != b]
    ends = draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=12, unique=True))
    count = len(ends)

    def floats() -> np.ndarray:
        return np.array(draw(st.lists(st.floats(0.5, 900, width=32), min_size=count, max_size=count)), np.float32)

    def bools(size: int) -> np.ndarray:
        return np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), np.bool_)

    return FabricTopology.build(
        fabric="any",
        ts_ns=draw(st.integers(0, 2**63 - 1)),
        source=draw(st.text(max_size=5)),
        node_name=tuple(f"n{at}" for at in range(total)),
        domain_name=tuple(f"d{at}" for at in range(domains)),
        warnings=tuple(draw(st.lists(st.text(min_size=1, max_size=5), max_size=2))),
        node_type=kinds,
        node_host=on,
        node_domain=np.array([draw(st.integers(-1, domains - 1)) for _ in range(total)], np.int32),
        node_health=np.array([draw(st.integers(0, 2)) for _ in range(total)], np.uint8),
        node_free=bools(total),
        link_src=np.array([a for a, _ in ends], np.int32),
        link_dst=np.array([b for _, b in ends], np.int32),
        link_kind=np.array([draw(st.integers(0, 7)) for _ in ends], np.uint8),
        link_count=np.array([draw(st.integers(1, 18)) for _ in ends], np.int32),
        link_gb_s=floats(),
        link_effective_gb_s=floats() if draw(st.booleans()) else None,
        link_latency_us=floats() if draw(st.booleans()) else None,
        link_up=draw(st.none() | st.just(np.array([False, *bools(count - 1).tolist()]))),
    )


@settings(max_examples=150, deadline=None)
@given(topologies(), st.sampled_from(["edges", "links"]))
def test_a_frame_comes_back_from_its_graph_and_its_node_link_data(topology, key):
    graph = to_networkx(topology)
    assert from_networkx(graph, fabric="any") == topology
    data = nx.node_link_data(graph, edges=key)
    assert read_topology(json.loads(json.dumps(data))) == topology


@settings(max_examples=50, deadline=None)
@given(topologies())
def test_a_graph_comes_back_from_its_frame(topology):
    graph = to_networkx(topology)
    again = to_networkx(from_networkx(graph, fabric="any"))
    assert dict(again.nodes(data=True)) == dict(graph.nodes(data=True))
    assert list(again.edges(data=True)) == list(graph.edges(data=True))


def test_a_host_that_is_only_named_is_no_node_of_the_graph():
    graph = nx.Graph()
    graph.add_node("0", type="gpu", host="0")
    graph.add_node("1", type="gpu", node="0")
    graph.add_edge("0", "1", kind="nvlink2", links=2, bw_gb_s=50.0)
    topology = from_networkx(graph, fabric="pair")
    assert topology.node_name == ("0", "1", "0")
    assert topology.node_host.tolist() == [2, 2, 2]
    back = to_networkx(topology)
    assert set(back) == {"0", "1"}
    assert {host for _, host in back.nodes(data="host")} == {"0"}
    assert back.number_of_edges() == 2


def test_undirected_edges_are_links_in_both_directions():
    graph = nx.MultiGraph([(1, 2, {"kind": "nvlink"}), (1, 2, {"kind": "pcie"}), (3, 2, {"links": 2})])
    nx.set_node_attributes(graph, "gpu", "type")
    topology = from_networkx(graph, fabric="f")
    assert topology.link_src.tolist() == [0, 1, 1, 2]
    assert topology.link_gb_s.tolist() == [25, 25, 50, 50]
    assert "second link between 1 and 2: left out" in topology.warnings


@pytest.mark.parametrize(
    ("system", "gpus", "gb_s", "switches"),
    [
        ("dgx-1v", 8, 150, 0),
        ("hgx-a100", 8, 300, 6),
        ("hgx-h100", 8, 450, 4),
        ("hgx-b200", 8, 900, 2),
        ("gb200-nvl72", 72, 900, 18),
    ],
)
def test_generated_boxes_have_the_speed_of_their_data_sheets(system, gpus, gb_s, switches):
    topology = generate(system)
    assert (topology.node_type == GPU).sum() == gpus
    assert (topology.node_type == 1).sum() == switches
    out = np.bincount(topology.link_src, topology.link_gb_s * (topology.link_kind == 0), len(topology.node_name))
    assert set(out[topology.node_type == GPU].tolist()) == {gb_s}
    assert topology.warnings == ()
    assert topology.fabric == system
    assert from_networkx(to_networkx(topology), fabric=system) == topology


def test_eight_racks_with_rails_are_as_many_links_as_published_and_fit_a_record():
    topology = generate("gb200-nvl72", racks=8)
    assert (topology.node_type == GPU).sum() == 576
    assert (topology.node_type != HOST).sum() == 768
    assert len(topology.link_src) == 22_144
    assert len(topology.encode()) <= 400_000
    graph = to_networkx(topology)
    assert graph.number_of_nodes() == 768
    uplinks = [gb_s for a, b, gb_s in graph.edges("r0l0", data="bw_gb_s") if b.startswith("x")]
    assert uplinks == [250.0] * 4
    boxes = generate("hgx-h100", racks=2, hosts=4)
    assert (boxes.node_type == GPU).sum() == 64
    assert len(boxes.domain_name) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"system": "hgx"}, "system must be one of dgx-1v, .* got 'hgx'"),
        ({"system": "dgx-1v", "racks": 0}, "racks must be at least 1, got 0"),
        ({"system": "dgx-1v", "hosts": 0}, "hosts must be at least 1, got 0"),
        ({"system": "gb200-nvl72", "hosts": 2}, "hosts must be 1 for a rack of trays, got 2"),
        ({"system": "hgx-h100", "racks": 10_000}, "GPUs must be at most 16384"),
    ],
)
def test_fabrics_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ProblemError, match=message):
        generate(**arguments)


def test_a_frame_from_a_topic_keeps_its_links_and_says_what_is_odd():
    healthy = generate("hgx-h100")
    assert tidied(healthy) is healthy
    odd = FabricTopology.build(
        fabric="odd",
        node_name=("a", "b", "c"),
        node_type=np.zeros(3, np.uint8),
        node_host=np.full(3, -1, np.int32),
        node_domain=np.full(3, -1, np.int32),
        node_health=np.zeros(3, np.uint8),
        node_free=np.ones(3, np.bool_),
        link_src=np.array([0, 0, 1, 0, 2, 0], np.int32),
        link_dst=np.array([1, 1, 0, 0, 0, 1], np.int32),
        link_kind=np.array([0, 0, 0, 0, 2, 2], np.uint8),
        link_count=np.ones(6, np.int32),
        link_gb_s=np.full(6, 25, np.float32),
    )
    clean = tidied(odd)
    assert clean.link_up.tolist() == [True, False, True, False, True, True]
    assert clean.node_health.tolist() == [0, 0, 1]
    assert clean.warnings == (
        "1 links from a node to itself: not used",
        "1 second links between a pair: not used",
        "1 links have one direction only",
        "c has no NVLink or xGMI, others have: degraded",
    )
    assert tidied(clean).warnings == clean.warnings
    assert to_networkx(clean).number_of_edges("a", "b") == 1
