"""Descriptions from strangers: what would grow, loop or reach out is refused by name, before it is expanded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.nvlink import read_job, read_topology
from qstream.nvlink.formats.xml_tree import MAX_BYTES, MAX_ELEMENTS, read_xml

BOMB = '<!DOCTYPE system [<!ENTITY a "x"><!ENTITY b "&a;&a;&a;">]><system><cpu numaid="&b;"/></system>'
OUTSIDE = '<!DOCTYPE system [<!ENTITY a SYSTEM "file:///etc/passwd">]><system>&a;</system>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "XML must be without entities, got entity 'a'"),
        (OUTSIDE, "XML must be without entities"),
        ('<!DOCTYPE system SYSTEM "other.dtd"><system>&what;</system>', "XML must be without entities, got entity 'what'"),
        ("<system>" + "<pci>" * 100, "depth of XML must be at most 64"),
        ("<system>" + "<pci/>" * MAX_ELEMENTS + "</system>", f"elements of XML must be at most {MAX_ELEMENTS}"),
        ("<system>" + " " * MAX_BYTES + "</system>", f"size of XML must be at most {MAX_BYTES} bytes"),
        ("<system><cpu></system>", "XML must be well-formed"),
        ("<other/>", "root of XML must be one of system, nvidia_smi_log, got 'other'"),
        ("<system><cpu numaid='0'/></system>", "a topology must be one with GPUs, got none"),
        ("<nvidia_smi_log></nvidia_smi_log>", "a topology must be one with GPUs, got none"),
    ],
)
def test_hostile_xml_is_refused(text, message):
    with pytest.raises(ProblemError, match=message):
        read_topology(text)


def test_a_dtd_that_is_only_named_is_passed_over():
    assert read_xml(b'<!DOCTYPE a SYSTEM "nvsmi_device_v13.dtd"><a><b> c </b></a>').find("b") == "c"


def gpu_with(inside: str, **attributes: str) -> str:
    pci = '<pci busid="1:0" class="0x030200" link_speed="16 GT/s" link_width="16">'
    return f'<system version="1"><cpu numaid="0">{pci}<gpu dev="0" sm="90">{inside}</gpu></pci></cpu></system>'


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (
            '<nvlink target="2:0" count="4" tclass="0x030200"/>',
            "target of nvlink of GPU0 must be the bus id of a device, got '2:0'",
        ),
        ('<nvlink target="2:0" count="-4" tclass="0x068000"/>', "count of nvlink of GPU0 must be 1 to 10000, got '-4'"),
        ('<nvlink target="2:0" count="99999" tclass="0x068000"/>', "count of nvlink of GPU0 must be 1 to 10000"),
    ],
)
def test_links_that_make_no_sense_are_refused(inside, message):
    with pytest.raises(ProblemError, match=message):
        read_topology(gpu_with(inside))


def test_oddities_are_taken_with_a_warning():
    itself = '<nvlink target="1:0" count="4" tclass="0x030200"/><fan/>'
    hidden = '<nvlink target="fffffff:ff:ff.0" count="18" tclass="0x068000"/>'
    topology = read_topology(gpu_with(itself + hidden))
    assert "unknown elements, ignored: fan" in topology.warnings
    assert "link from GPU0 to itself: left out" in topology.warnings
    assert topology.link_count.tolist().count(18) == 2
    twice = gpu_with("").replace("</cpu>", '<pci busid="1:0" class="0x038000" link_speed="" link_width="16"/></cpu>')
    topology = read_topology(twice)
    assert (topology.node_type == 0).sum() == 2
    assert "bus id 1:0 stands twice: links to it go to GPU0" in topology.warnings
    assert "PCIe speed of 1:0 unknown: 12 GB/s assumed" in topology.warnings


def node_link(nodes, edges, **more):
    return {"nodes": nodes, "edges": edges} | more


A, B = {"id": "a", "type": "gpu"}, {"id": "b", "type": "gpu"}


def edge(**fields):
    return {"source": "a", "target": "b", "kind": "nvlink", "links": 1, "bw_gb_s": 25.0} | fields


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (node_link([A, B], []), "link_src must be of at least one link"),
        ({"nodes": [A, B]}, "edges must be given, under edges or links, got neither"),
        (node_link([A, B], [edge()]) | {"edges": {}}, "edges must be a list of objects"),
        (node_link([A], [edge()]), "target of a link must be the name of a node, got 'b'"),
        (node_link([A, {"id": "b", "type": "cat"}], [edge()]), "type of node 'b' must be one of gpu, .* got 'cat'"),
        (node_link([A, {"id": "b"}], [edge()]), "type of node 'b' must be one of gpu, .* got nothing"),
        (node_link([A, {"type": "gpu"}], [edge()]), "node 1 must be one with an id"),
        (node_link([A, A], [edge()]), "names of nodes must be distinct, got 'a' twice"),
        (node_link([A, B | {"health": "fine"}], [edge()]), "health of node 'b' must be one of ok, degraded, down, got 'fine'"),
        (node_link([A, B | {"free": 1}], [edge()]), "free of node 'b' must be true or false, got 1"),
        (node_link([A, B], [edge(bw_gb_s=-1)]), "bw_gb_s of the link from a to b must be a finite number above 0, got -1"),
        (node_link([A, B], [edge(bw_gb_s=0)]), "bw_gb_s of the link from a to b must be a finite number above 0"),
        (node_link([A, B], [edge(bw_gb_s=float("nan"))]), "bw_gb_s of the link from a to b must be a finite number"),
        (node_link([A, B], [edge(bw_gb_s=1e300)]), "bw_gb_s of the link from a to b must be at most 10000 GB/s a link, in bytes"),
        (node_link([A, B], [edge(bw_gb_s=400_000)]), "must be at most 10000 GB/s a link, in bytes, got 400000"),
        (node_link([A, B], [edge(bw_gb_s=None, bw_gbps=400)]), "bw_gb_s of edge a to b must be given, in bytes, got bw_gbps"),
        (node_link([A, B], [edge(bw_gb_s="25")]), "bw_gb_s of edge a to b must be a number, got '25'"),
        (node_link([A, B], [edge(links=0)]), "links of the link from a to b must be 1 to 1000000, got 0"),
        (node_link([A, B], [edge(links=10**12)]), "links of the link from a to b must be 1 to 1000000"),
        (node_link([A, B], [edge(kind="rope")]), "kind of edge a to b must be one of nvlink, .* got 'rope'"),
        (node_link([A | {"type": "nic"}, B | {"type": "nic"}], [edge()]), "node_type must be of at least one GPU"),
        (node_link([A, B], [{"source": "a"}]), "edge 0 must be one with source and target"),
    ],
)  # fmt: skip
def test_graphs_that_break_a_rule_are_refused_by_field_value_and_rule(given, message):
    for source in (given, json.dumps(given)):
        with pytest.raises(ProblemError, match=message):
            read_topology(source)


def test_graphs_that_are_odd_are_taken_with_a_warning():
    nodes = [A, B, {"id": "c", "type": "gpu"}, {"id": "d", "type": "gpu", "colour": "red"}]
    edges = [
        edge(), edge(), edge(target="a"), edge(source="b", target="a"),
        {"source": "c", "target": "d", "kind": "pcie4"},
    ]  # fmt: skip
    topology = read_topology(node_link(nodes, edges, directed=True))
    assert topology.warnings == (
        "second link between a and b: left out",
        "link from a to itself: left out",
        "speed of pcie links unknown: 12 GB/s a link assumed",
        "unknown attributes, ignored: colour",
        "1 links have one direction only",
        "2 parts of GPUs without connection: each is planned for itself",
        "c has no NVLink or xGMI, others have: degraded",
        "d has no NVLink or xGMI, others have: degraded",
    )
    assert topology.node_health.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SwitchName=a Switches=b\nSwitchName=b Switches=a\nSwitchName=c Nodes=n1\n", "switches must be a tree"),
        ("SwitchName=a Switches=b\nSwitchName=c Nodes=n1\n", "a switch below another must be described too, got 'b'"),
        ("SwitchName=a Nodes=n[1-9999999]\n", "a list of names must be at most 65536 names"),
        ("SwitchName=a Nodes=n[1-300][1-300]\n", "a list of names must be at most 65536 names"),
        ("SwitchName=a Nodes=n[1-\n", "a list of names must be names with ranges in brackets"),
        ("SwitchName=a Nodes=n[9-1]\n", "a range of names must be rising, got '9-1'"),
        ("BlockName=a Nodes=n1\nBlockName=b Nodes=n1\n", "nodes of blocks must be in one block each, got 'n1' twice"),
        ("BlockName=a Nodes=n1\nColour=red\n", "line 2 must be SwitchName=, BlockName= or BlockSizes="),
        ("blocks:\n- &a {nodes: [x]}\n- *a\n", "YAML must be without aliases"),
        ("blocks:\n- {nodes: [x], nodes: [y]}\n", "keys of a mapping must be distinct"),
        ("blocks: 3\n", "blocks must be a list of mappings"),
        ("switches: {}\nblocks: []\n", "a topology must be one with nodes"),
        ("blocks:\n" + "[" * 3000 + "\n", "YAML must be well-formed"),
        ('{"nodes": ' + "[" * 100_000, "a topology must be JSON"),
    ],
)
def test_hostile_trees_and_texts_are_refused(text, message):
    with pytest.raises(ProblemError, match=message):
        read_topology(text)


@pytest.mark.parametrize("name", ["rccl/topo_8p1h.xml", "azure/ndv4-topo.xml", "dgx1v.node_link.json", "topograph/medium.yaml",
                                  "topograph/block.conf", "topograph/tree.conf", "simai/llama7b_tp2.txt"])  # fmt: skip
def test_damaged_files_are_read_or_refused_and_never_anything_else(fabrics, name):
    whole = (fabrics / name).read_bytes()
    read = read_job if name.startswith("simai") else read_topology
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        at = int(rng.integers(len(damaged)))
        kind = int(rng.integers(4))
        if kind == 0:
            damaged[at : at + int(rng.integers(1, 40))] = b""
        elif kind == 1:
            damaged[at:at] = rng.choice([b"-1", b"1e999", b'"', b"[", b"\xff", b"0", b"&x;", b"\n", b"NaN", b"*a", b"9" * 30])
        elif kind == 2:
            other = int(rng.integers(len(damaged)))
            damaged[at:at] = damaged[other : other + 60]
        else:
            digits = [place for place, byte in enumerate(damaged) if 48 <= byte <= 57]
            damaged[int(rng.choice(digits))] = int(rng.integers(48, 58))
        try:
            read(bytes(damaged))
        except ProblemError:
            refused += 1
    assert refused
