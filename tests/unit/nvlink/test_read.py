"""Every description of a real machine is read whole: its GPUs, links, adapters and domains, counted in the raw text."""

from __future__ import annotations

import json
import re

import networkx as nx
import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.nvlink import from_networkx, generate, read_topology, to_networkx
from schemas.fabric import GPU, LEAF, NIC, NVSWITCH, SPINE

RCCL = ("16p1h", "3p_pcie", "4p2h", "4p3l", "8p1h", "8p6l", "8p_90a", "8p_940", "8p_pcie", "8p_rome")


def count(topology, node_type: int) -> int:
    return int((topology.node_type == node_type).sum())


def fast(topology):
    return topology.link_kind <= 1


@pytest.mark.parametrize("name", RCCL)
def test_machines_of_rccl_have_what_their_files_say(fabrics, name):
    text = (fabrics / "rccl" / f"topo_{name}.xml").read_text()
    topology = read_topology(fabrics / "rccl" / f"topo_{name}.xml")
    assert topology.fabric == f"topo_{name}"
    assert count(topology, GPU) == text.count("<gpu ")
    assert count(topology, NIC) == text.count("<nic>")
    links = [int(found) for found in re.findall(r'<xgmi [^>]*count="(\d+)"', text)]
    assert topology.link_count[fast(topology)].sum() == sum(links)
    assert fast(topology).sum() == len(links)
    assert len(topology.domain_name) == {"3p_pcie": 0, "8p_pcie": 0, "4p2h": 2, "8p_rome": 2}.get(name, 1)
    assert (topology.node_type[: count(topology, GPU)] == GPU).all()
    slowest = topology.speed_gb_s[topology.link_kind == 2].min()
    nets = [int(found) / 8000 for found in re.findall(r'<net [^>]*speed="(\d+)"', text)]
    assert slowest == pytest.approx(min(*nets, 12.0), rel=1e-5) or slowest <= min(nets)


def test_effective_speeds_are_those_of_the_libraries(fabrics):
    topology = read_topology(fabrics / "rccl" / "topo_8p_940.xml")
    assert set(topology.link_gb_s[fast(topology)].tolist()) == {64.0}
    assert set(topology.speed_gb_s[fast(topology)].tolist()) == {48.0}
    pcie = (topology.link_kind == 2) & (topology.link_gb_s > 60)
    assert topology.speed_gb_s[pcie].max() == pytest.approx(3.94 * 16 * 0.76, rel=1e-4)
    mi250 = read_topology(fabrics / "rccl" / "topo_16p1h.xml")
    assert sorted(set(mi250.link_gb_s[fast(mi250)].tolist())) == [50.0, 100.0, 200.0]
    processors = mi250.link_kind == 4
    assert processors.sum() == 12
    assert set(mi250.link_gb_s[processors].tolist()) == {16.0}


def test_a_virtual_machine_shows_gpus_by_their_class_alone(fabrics):
    text = (fabrics / "azure" / "ndv4-topo.xml").read_text()
    topology = read_topology(fabrics / "azure" / "ndv4-topo.xml")
    assert count(topology, GPU) == text.count('class="0x0302') == 8
    assert count(topology, NIC) == text.count('class="0x0207') == 8
    assert topology.domain_name == ()


def test_a_query_gives_the_domain_and_one_switch_that_the_host_does_not_see(fabrics):
    text = (fabrics / "nvidia_smi" / "gb200_query.xml").read_text()
    topology = read_topology(fabrics / "nvidia_smi" / "gb200_query.xml")
    assert count(topology, GPU) == text.count("<gpu id=") == 4
    assert topology.domain_name == ("00000001-0000-0000-0000-000000000001.2",)
    assert count(topology, NVSWITCH) == 1
    assert set(topology.link_gb_s[fast(topology)].tolist()) == {900.0}
    assert topology.speed_gb_s[fast(topology)] == pytest.approx(18 * 40.1, rel=1e-5)


@pytest.mark.parametrize(
    ("before", "after", "domains", "down"),
    [
        ("00000001-0000-0000-0000-000000000001</clusterUuid>", "00000000-0000-0000-0000-000000000000</clusterUuid>", 0, 0),
        ("<cliqueId>2", "<cliqueId>N/A", 0, 0),
        ("<clusterUuid>00000001", "<clusterUuid>GPU is lost", 0, 4),
        ("<cliqueId>2", "<cliqueId>7", 1, 0),
    ],
)
def test_without_a_real_cluster_there_is_no_domain_whatever_the_state(fabrics, before, after, domains, down):
    text = (fabrics / "nvidia_smi" / "gb200_query.xml").read_text()
    topology = read_topology(text.replace(before, after))
    assert len(topology.domain_name) == domains
    assert (topology.node_health == 2).sum() == down


@pytest.mark.parametrize(
    ("name", "hosts", "domains", "leaves", "spines"),
    [
        ("nvl72.yaml", 72, 4, 4, 3),
        ("small-tree.yaml", 6, 2, 2, 1),
        ("medium.yaml", 8, 4, 4, 3),
        ("block.conf", 96, 12, 12, 1),
        ("tree.conf", 96, 96, 12, 7),
    ],
)
def test_trees_have_their_hosts_domains_and_switches(fabrics, name, hosts, domains, leaves, spines):
    topology = read_topology(fabrics / "topograph" / name, gpus_per_host=4)
    assert count(topology, GPU) == 4 * hosts
    assert len(set(topology.node_host[topology.node_type == GPU].tolist())) == hosts
    assert len(topology.domain_name) == domains
    assert (count(topology, LEAF), count(topology, SPINE)) == (leaves, spines)
    assert "no speeds in the file" in topology.warnings[0]
    uplinks = topology.link_gb_s[
        (topology.node_type[topology.link_src] == LEAF) & (topology.node_type[topology.link_dst] == SPINE)
    ]
    assert set(uplinks.tolist()) == {50.0 * 4 * hosts / leaves}


def test_names_of_trees_are_those_of_their_ranges(fabrics):
    topology = read_topology(fabrics / "topograph" / "small-tree.yaml", gpus_per_host=1)
    gpus = [name for name in topology.node_name if name.endswith("GPU0")]
    assert gpus == [f"{host}/GPU0" for host in ("I21", "I22", "I25", "I34", "I35", "I36")]
    assert topology.domain_name == ("nvl2", "nvl3")


def test_slurm_yaml_takes_the_default_topology():
    text = """
- topology: other
  flat: true
- topology: main
  cluster_default: true
  block:
    block_sizes: [4, 8]
    blocks:
      - {block: b1, nodes: "node[01-04]"}
      - {block: b2, nodes: "node[05-08]"}
"""
    topology = read_topology(text, gpus_per_host=2)
    assert topology.domain_name == ("b1", "b2")
    assert count(topology, GPU) == 16


def test_a_real_dgx1v_is_the_generated_one_under_other_labels(fabrics):
    given, drawn = (to_networkx(read_topology(fabrics / "dgx1v.node_link.json")), to_networkx(generate("dgx-1v")))
    gpus = drawn.subgraph([name for name, kind in drawn.nodes(data="type") if kind == "gpu"])
    scrambled = nx.relabel_nodes(gpus, dict(zip(gpus, np.random.default_rng(0).permutation(8).tolist(), strict=True)))
    same = nx.is_isomorphic(given, scrambled, edge_match=lambda one, other: one["bw_gb_s"] == other["bw_gb_s"])
    assert same
    assert given.number_of_edges() == 32
    assert sum(links for _, _, links in given.edges(data="links")) == 48


def test_every_file_comes_back_from_a_graph_and_from_node_link_data_under_both_keys(fabrics):
    files = [path for path in fabrics.rglob("*") if path.parent.name in ("rccl", "azure", "nvidia_smi", "topograph")]
    assert len(files) == 17
    for path in files:
        topology = read_topology(path)
        assert from_networkx(to_networkx(topology), fabric=topology.fabric) == topology
        for key in ("edges", "links"):
            text = json.dumps(nx.node_link_data(to_networkx(topology), edges=key))
            assert read_topology(text) == topology
        assert read_topology(topology.encode()) == topology
        assert read_topology(topology.encode("application/json")) == topology


NV18 = """
\t\x1b[4mGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tNIC1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV18\tNV18\tNV18\tPIX\tSYS\t0-55\t0\t\tN/A
GPU1\tNV18\t X \tNV18\tNV18\tNODE\tSYS\t0-55\t0\t\tN/A
GPU2\tNV18\tNV18\t X \tNV18\tSYS\tPXB\t56-111\t1\t\tN/A
GPU3\tNV18\tNV18\tNV18\t X \tSYS\tNODE\t56-111\t1\t\tN/A
NIC0\tPIX\tNODE\tSYS\tSYS\t X \tSYS\t\t\t\t
NIC1\tSYS\tSYS\tPXB\tNODE\tSYS\t X \t\t\t\t

Legend:

  X    = Self
  NV#  = Connection traversing a bonded set of # NVLinks

NIC Legend:

  NIC0: mlx5_0
  NIC1: mlx5_1
"""


def test_links_to_a_switch_are_no_links_between_pairs():
    topology = read_topology(NV18)
    assert (count(topology, GPU), count(topology, NIC), count(topology, NVSWITCH)) == (4, 2, 1)
    assert set(topology.link_gb_s[fast(topology)].tolist()) == {450.0}
    assert fast(topology).sum() == 8
    assert {"mlx5_0", "mlx5_1", "CPU0", "CPU1"} < set(topology.node_name)
    assert any("25 GB/s a link assumed" in warning for warning in topology.warnings)
    spaces = read_topology(NV18.replace("\t", "   "))
    assert spaces.digest() == topology.digest()


def test_a_gpu_with_fewer_links_is_degraded():
    text = NV18.replace("GPU3\tNV18\tNV18\tNV18", "GPU3\tNV16\tNV16\tNV16").replace("NV18\tSYS\tPXB", "NV16\tSYS\tPXB")
    text = text.replace("NV18\tNV18\tNV18\tPIX", "NV18\tNV18\tNV16\tPIX").replace("NV18\tNODE\tSYS\t0", "NV16\tNODE\tSYS\t0")
    topology = read_topology(text)
    assert topology.node_health.tolist()[:4] == [0, 0, 0, 1]


def test_few_links_to_each_are_links_between_pairs():
    head = "     GPU0 GPU1 GPU2 CPU Affinity\n"
    rows = "GPU0 X NV2 NV1 0-9\nGPU1 NV2 X SYS 0-9\nGPU2 NV1 SYS X 10-19\n"
    topology = read_topology(head + rows)
    assert count(topology, NVSWITCH) == 0
    assert sorted(topology.link_gb_s[fast(topology)].tolist()) == [25, 25, 50, 50]


IBNET = """
# Topology file: generated on Mon Jan  1 00:00:00 2026
switchguid=0x1(1)
Switch\t41 "S-01"\t\t# "MF0;leaf1:MQM9700/U1" enhanced port 0 lid 1 lmc 0
[1]\t"H-11"[1](11) \t\t# "node1 mlx5_0" lid 11 4xNDR
[2]\t"H-21"[1](21) \t\t# "node2 mlx5_0" lid 21 4xNDR
[40]\t"S-03"[1]\t\t# "MF0;spine1:MQM9700/U1" lid 3 4xNDR
[41]\t"H-99"[1](99) \t\t# "Mellanox Technologies Aggregation Node" lid 99 4xHDR

Switch\t41 "S-02"\t\t# "MF0;leaf2:MQM9700/U1" enhanced port 0 lid 2 lmc 0
[1]\t"H-12"[1](12) \t\t# "node1 mlx5_1" lid 12 4xHDR
[2]\t"H-22"[1](22) \t\t# "node2 mlx5_1" lid 22 4xHDR
[40]\t"S-03"[2]\t\t# "MF0;spine1:MQM9700/U1" lid 3 4xNDR
[39]\t"S-03"[3]\t\t# "MF0;spine1:MQM9700/U1" lid 3 4xNDR

Switch\t64 "S-03"\t\t# "MF0;spine1:MQM9700/U1" enhanced port 0 lid 3 lmc 0
[1]\t"S-01"[40]\t\t# "MF0;leaf1:MQM9700/U1" lid 1 4xNDR
[2]\t"S-02"[40]\t\t# "MF0;leaf2:MQM9700/U1" lid 2 4xNDR
[3]\t"S-02"[39]\t\t# "MF0;leaf2:MQM9700/U1" lid 2 4xNDR

Ca\t1 "H-99"\t\t# "Mellanox Technologies Aggregation Node"
[1](99) \t"S-01"[41]\t\t# lid 99 lmc 0 "MF0;leaf1:MQM9700/U1" lid 1 4xHDR
Ca\t1 "H-11"\t\t# "node1 mlx5_0"
[1](11) \t"S-01"[1]\t\t# lid 11 lmc 0 "MF0;leaf1:MQM9700/U1" lid 1 4xNDR
Ca\t1 "H-12"\t\t# "node1 mlx5_1"
[1](12) \t"S-02"[1]\t\t# lid 12 lmc 0 "MF0;leaf2:MQM9700/U1" lid 2 4xHDR
Ca\t1 "H-21"\t\t# "node2 mlx5_0"
[1](21) \t"S-01"[2]\t\t# lid 21 lmc 0 "MF0;leaf1:MQM9700/U1" lid 1 4xNDR
Ca\t1 "H-22"\t\t# "node2 mlx5_1"
[1](22) \t"S-02"[2]\t\t# lid 22 lmc 0 "MF0;leaf2:MQM9700/U1" lid 2 4xHDR
"""


def test_an_infiniband_fabric_has_its_rails_and_no_adapters_of_its_switches():
    topology = read_topology(IBNET, gpus_per_host=2)
    assert (count(topology, GPU), count(topology, NIC), count(topology, LEAF), count(topology, SPINE)) == (4, 4, 2, 1)
    speed = {(a, b): (edge["links"], edge["bw_gb_s"]) for a, b, edge in to_networkx(topology).edges(data=True)}
    assert speed["node1/mlx5_0", "leaf1"] == (1, 50.0)
    assert speed["leaf2", "node2/mlx5_1"] == (1, 25.0)
    assert speed["leaf2", "spine1"] == speed["spine1", "leaf2"] == (2, 100.0)
    assert ("node1/GPU1", "node1/mlx5_1") in speed
    assert topology.domain_name == ("node1", "node2")


def test_what_is_no_description_is_refused_by_name(tmp_path):
    with pytest.raises(ProblemError, match="source must be a file that can be read"):
        read_topology(tmp_path / "none.xml")
    with pytest.raises(ProblemError, match="a topology must be of one of the formats node-link, nccl"):
        read_topology("hello\nworld\n")
    with pytest.raises(ProblemError, match="format must be one of auto"):
        read_topology("{}", format="yaml")
    with pytest.raises(ProblemError, match="gpus_per_host must be 1 to 1024, got 0"):
        read_topology("{}", gpus_per_host=0)
