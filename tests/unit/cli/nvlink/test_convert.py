"""`qstream nvlink convert`: every real description goes out and comes back the same."""

from __future__ import annotations

import json

import networkx as nx
import pytest
import yaml

from qstream.nvlink.formats.read import read_topology
from qstream.nvlink.systems import generate
from schemas.fabric import FabricTopology
from schemas.frame import SAFETENSORS

FILES = (
    "azure/ndv4-topo.xml",
    "dgx1v.node_link.json",
    "nvidia_smi/gb200_query.xml",
    "rccl/topo_16p1h.xml",
    "topograph/medium.yaml",
    "topograph/tree.conf",
)


@pytest.mark.parametrize("file", FILES)
def test_a_fabric_survives_networkx_and_frames(invoke, fabrics, tmp_path, file):
    found = read_topology(fabrics / file)
    for to, name in (("networkx", "graph.json"), ("frame", "frame.json"), ("frame", "frame.safetensors")):
        result = invoke("convert", fabrics / file, "--to", to, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert read_topology(tmp_path / name).digest() == found.digest()
    assert FabricTopology.decode((tmp_path / "frame.safetensors").read_bytes(), SAFETENSORS).fabric == found.fabric


def test_without_out_it_goes_to_stdout_and_warnings_to_stderr(invoke, fabrics):
    result = invoke("convert", fabrics / "topograph" / "medium.yaml", "--to", "networkx")
    graph = nx.node_link_graph(json.loads(result.stdout), edges="edges")
    assert sum(kind == "gpu" for _, kind in graph.nodes(data="type")) == 64
    assert result.stderr.startswith("warning: no speeds in the file")


def test_slurm_has_each_host_once(invoke, fabrics):
    found = yaml.safe_load(invoke("convert", fabrics / "rccl" / "topo_8p_rome.xml", "--to", "slurm").stdout)
    assert [block["nodes"] for block in found[0]["block"]["blocks"]] == ["host-0"]  # two cliques of one host
    racks = yaml.safe_load(invoke("convert", "gb200-nvl72:2", "--to", "slurm").stdout)
    assert racks[0]["block"]["block_sizes"] == [18, 36]


def test_json_says_what_was_written(printed, tmp_path):
    data = printed("convert", "hgx-h100:2", "--to", "frame", "--out", tmp_path / "f.json")
    assert data["written"] == [str(tmp_path / "f.json")]
    assert data["digest"] == generate("hgx-h100", hosts=2).digest()
    assert data["bytes"] == (tmp_path / "f.json").stat().st_size


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("hgx-h100", "--to", "excel"), "--to must be one of networkx, frame, slurm, got 'excel'"),
        (("hgx-h100", "--to", "frame", "--json"), "--out must be given with --json"),
        (("no.xml", "--to", "frame"), "FILE must be a file that can be read"),
    ],
)
def test_what_is_wrong_is_named(invoke, words, wanted):
    result = invoke("convert", *words)
    assert result.exit_code == 2
    assert wanted in result.stderr


def test_the_input_is_not_overwritten(invoke, tmp_path):
    file = tmp_path / "f.json"
    invoke("convert", "hgx-h100", "--to", "frame", "--out", file)
    result = invoke("convert", file, "--to", "networkx", "--out", file)
    assert result.exit_code == 2
    assert "an output must be a file of its own" in result.stderr
