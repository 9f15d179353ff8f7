"""Blocks are the sets of GPUs among which nothing differs: racks, boxes, or single GPUs where links are direct."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest

from qstream.nvlink import from_networkx, generate, read_topology, to_networkx
from qstream.nvlink.blocks import HOST_MEMORY_GB_S, blocks_of
from qstream.nvlink.collapse import collapse
from qstream.nvlink.systems import DOUBLE, SINGLE
from schemas.fabric import GPU
from schemas.plan import SkipReason
from tests.frames import at, changed


@pytest.mark.parametrize("system", ["hgx-a100", "hgx-h100", "hgx-b200", "gb200-nvl72"])
def test_a_healthy_box_is_one_block_in_which_nothing_blocks(system):
    topology = generate(system)
    blocks = blocks_of(topology)
    gpus = int((topology.node_type == GPU).sum())
    assert blocks.capacity.tolist() == [gpus]
    assert blocks.skip_reason == SkipReason.SINGLE_TIER == "single tier, nothing blocks"
    speed = {"hgx-a100": 300, "hgx-h100": 450, "hgx-b200": 900, "gb200-nvl72": 900}[system]
    np.testing.assert_allclose(blocks.distance, [[1 / speed]])


def test_direct_links_make_every_gpu_a_block_and_prices_are_those_of_its_links():
    blocks = blocks_of(generate("dgx-1v"))
    assert blocks.capacity.tolist() == [1] * 8
    assert blocks.skip_reason is None
    price = np.zeros((8, 8))
    for pairs, gb_s in ((DOUBLE, 50), (SINGLE, 25)):
        for a, b in pairs:
            price[a, b] = price[b, a] = 1 / gb_s
    for a in range(8):
        for b in range(8):
            if a != b and not price[a, b]:
                price[a, b] = 1 / (12 if a // 4 == b // 4 else 10)  # PCIe; the link between processors
    off = ~np.eye(8, dtype=bool)
    np.testing.assert_allclose(blocks.distance[off], price[off])


def test_pairs_without_any_link_go_through_the_memory_of_their_host(fabrics):
    blocks = blocks_of(read_topology(fabrics / "dgx1v.node_link.json"))
    off = ~np.eye(8, dtype=bool)
    values, counts = np.unique(blocks.distance[off], return_counts=True)
    np.testing.assert_allclose(values, [1 / 50, 1 / 25, 1 / HOST_MEMORY_GB_S])
    assert counts.tolist() == [16, 16, 24]


def test_racks_are_blocks_and_a_byte_above_the_leaf_costs_half_as_much_again():
    blocks = blocks_of(generate("gb200-nvl72", racks=3))
    assert blocks.name == ("rack0", "rack1", "rack2")
    np.testing.assert_allclose(blocks.distance * 900, np.where(np.eye(3, dtype=bool), 1, 27))
    boxes = blocks_of(generate("hgx-b200", racks=2, hosts=2))
    assert boxes.name == ("r0h0", "r0h1", "r1h0", "r1h1")
    np.testing.assert_allclose(boxes.distance[0] * 900, [1, 18, 27, 27])
    assert boxes.part.tolist() == [0] * 4


def test_leaves_with_few_uplinks_cost_what_they_are_short_of():
    topology = generate("hgx-b200", racks=2, hosts=4)
    slow = np.where(topology.node_type[topology.link_dst] == 6, 12.5, topology.link_gb_s).astype(np.float32)
    few = blocks_of(changed(topology, link_gb_s=slow))
    np.testing.assert_allclose(few.distance[0, [1, 4]] * 50, [1, 4])


def test_capacity_is_of_gpus_that_work_and_are_free():
    topology = generate("gb200-nvl72", racks=2)
    given = changed(
        topology, node_free=at(topology.node_free, slice(0, 8), value=False), node_health=at(topology.node_health, [8, 72], 2)
    )
    blocks = blocks_of(given)
    assert blocks.capacity.tolist() == [63, 71]
    assert blocks.block_of_gpu[[0, 8, 72, 73]].tolist() == [0, -1, -1, 1]


def test_a_gpu_with_fewer_links_is_a_block_of_its_own():
    topology = generate("hgx-h100")
    lame = (topology.link_src == 3) | (topology.link_dst == 3)
    half = np.where(lame, topology.link_gb_s / 2, topology.link_gb_s).astype(np.float32)
    blocks = blocks_of(changed(topology, link_gb_s=half))
    assert sorted(blocks.capacity.tolist()) == [1, 7]
    assert blocks.skip_reason is None
    np.testing.assert_allclose(blocks.distance * 450, [[1, 2], [2, 2]])


def test_links_that_are_down_carry_nothing():
    topology = generate("hgx-h100")
    up = np.ones(len(topology.link_src), np.bool_)
    up[(topology.link_src >= 8) | (topology.link_dst >= 8)] = False
    blocks = blocks_of(changed(topology, link_up=up))
    np.testing.assert_allclose(blocks.distance, 1 / HOST_MEMORY_GB_S)


def test_parts_without_connection_are_told_apart_and_hosts_hold_theirs_together(fabrics):
    graph = nx.Graph()
    for name in "abcd":
        graph.add_node(name, type="gpu")
    graph.add_edge("a", "b", bw_gb_s=50.0)
    graph.add_edge("c", "d", bw_gb_s=50.0)
    assert blocks_of(from_networkx(graph, fabric="f")).part.tolist() == [0, 1]
    rome = blocks_of(read_topology(fabrics / "rccl" / "topo_8p_rome.xml"))  # two hives of one host
    assert set(rome.part.tolist()) == {0}
    assert rome.capacity.tolist() == [2] * 4
    assert np.isfinite(rome.distance).all()


def test_trees_of_schedulers_get_dearer_level_by_level(fabrics):
    blocks = blocks_of(read_topology(fabrics / "topograph" / "nvl72.yaml", gpus_per_host=4))
    assert blocks.name == ("nvl-1-1", "nvl-1-2", "nvl-2-1", "nvl-2-2")
    np.testing.assert_allclose(blocks.distance[0] * 900, [1, 27, 40.5, 40.5])


def test_blocks_do_not_follow_the_labels_of_nodes():
    topology = generate("hgx-h100", racks=2, hosts=2)
    graph = to_networkx(topology)
    names = list(graph)
    np.random.default_rng(1).shuffle(names)
    mixed = nx.DiGraph(**graph.graph)
    mixed.add_nodes_from((name, graph.nodes[name]) for name in names)
    mixed.add_edges_from(graph.edges(data=True))
    one, other = blocks_of(topology), blocks_of(from_networkx(mixed, fabric="f"))
    order = [other.name.index(name) for name in one.name]
    np.testing.assert_allclose(other.distance[np.ix_(order, order)], one.distance)


def test_parallel_switches_become_one_and_nothing_else_changes():
    topology = generate("gb200-nvl72", racks=2)
    less, place = collapse(topology)
    assert (less.link_kind == 0).sum() == 2 * 72 * 2
    assert (less.link_count[less.link_kind == 0] == 18).all()
    assert less.link_gb_s[less.link_kind == 0] == pytest.approx(900)
    assert [less.node_name[at] for at in place[:72].tolist()] == list(topology.node_name[:72])
    np.testing.assert_allclose(blocks_of(less).distance, blocks_of(topology).distance)
    sick = changed(topology, node_health=at(topology.node_health, list(topology.node_name).index("r0s3"), 1))
    assert (collapse(sick)[0].node_type == 1).sum() == 3
    again, same = collapse(less)
    assert again == less
    assert same.tolist() == list(range(len(less.node_name)))
