"""`qstream nvlink show`: real descriptions and drawn systems, and what wrong files get."""

from __future__ import annotations

import json
import re

import pytest

from qstream.nvlink.formats.read import read_topology
from qstream.nvlink.survey import survey
from qstream.nvlink.systems import SYSTEMS
from schemas.frame import JSON

SINGLE_TIER = "single tier, nothing blocks"


@pytest.mark.parametrize(
    ("file", "gpus", "helps"),
    [
        ("azure/ndv4-topo.xml", 8, {"placement"}),
        ("dgx1v.node_link.json", 8, {"placement", "routes"}),
        ("nvidia_smi/gb200_query.xml", 4, set()),
        ("rccl/topo_16p1h.xml", 16, {"placement", "routes"}),
        ("rccl/topo_8p_940.xml", 8, {"routes"}),
        ("rccl/topo_8p_pcie.xml", 8, set()),
        ("topograph/medium.yaml", 64, {"placement", "rails"}),
        ("topograph/tree.conf", 768, {"placement", "rails"}),
        ("topograph/block.conf", 768, {"placement", "rails"}),
    ],
)
def test_real_machines_say_what_they_have_and_what_can_be_won(printed, fabrics, file, gpus, helps):
    data = printed("show", fabrics / file)
    assert data["gpus"] == gpus == sum(row["gpus"] for row in data["domains"])
    assert {each["name"] for each in data["decisions"] if each["helps"]} == helps
    assert data["nothing_to_optimise"] is (not helps)
    assert sum(tier["pairs"] for tier in data["tiers"]) == gpus * (gpus - 1) // 2
    assert all(tier["modelled"] for tier in data["tiers"])


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name != "dgx-1v"])
def test_a_healthy_box_has_nothing_to_win_and_that_is_said(invoke, printed, system):
    assert printed("show", system)["skip_reason"] == SINGLE_TIER
    text = invoke("show", system).stdout
    assert f"Nothing to optimise: {SINGLE_TIER}." in text
    assert "modelled" in text


def test_several_boxes_have(printed):
    data = printed("show", "gb200-nvl72:3")
    assert {each["name"] for each in data["decisions"] if each["helps"]} == {"placement", "rails", "shares"}
    assert [row["hosts"] for row in data["domains"]] == [18, 18, 18]


def test_standard_input_is_read_like_the_file(printed, fabrics):
    file = fabrics / "rccl" / "topo_8p1h.xml"
    given = printed("show", "-", given=file.read_bytes())
    assert given["digest"] == printed("show", file)["digest"] == read_topology(file).digest()


def test_what_is_down_is_counted(printed, tmp_path, fabrics):
    graph = json.loads((fabrics / "dgx1v.node_link.json").read_text())
    graph["nodes"][0]["health"] = "down"
    graph["nodes"][1]["free"] = False
    (tmp_path / "box.json").write_text(json.dumps(graph))
    data = printed("show", tmp_path / "box.json")
    assert data["gpus"] == 8
    assert data["free_gpus"] == 6
    assert sum(row["down"] for row in data["domains"]) == 1


def test_many_domains_are_cut_and_that_is_said(invoke, fabrics):
    text = invoke("show", fabrics / "topograph" / "tree.conf").stdout
    assert "... and 80 more, shown by --json" in text
    assert "warning: no speeds in the file" in text


def test_a_frame_shows_the_same(printed, tmp_path, fabrics):
    found = read_topology(fabrics / "topograph" / "medium.yaml")
    (tmp_path / "frame.json").write_bytes(found.encode(JSON))
    assert printed("show", tmp_path / "frame.json")["digest"] == found.digest()
    assert survey(found).nothing_to_win is False


@pytest.mark.parametrize(
    ("body", "code", "wanted"),
    [
        (None, 2, r"FILE must be a file that can be read \(No such file or directory\), got '.*topo.xml'"),
        (b"", 1, r"a topology must be of one of the formats"),
        (b"hello\n", 1, r"a topology must be of one of the formats .* got 'hello'"),
        (b"\xff\xfe\x00", 1, r"must be text in UTF-8"),
        (b"<system><cpu></system>", 1, r"XML must be well-formed"),
        (b"<other/>", 1, r"root of XML must be one of system, nvidia_smi_log, got 'other'"),
        (b'<!DOCTYPE s [<!ENTITY a "b">]><system>&a;</system>', 1, r"XML must be .*entit"),
        (b'{"nodes": []}', 1, r"edges must be given, under edges or links"),
        (b'{"nodes": [{"id": 0, "type": "gpu"}], "edges": []}', 1, r"link"),
        (b"blocks: &a [*a, *a]\n", 1, r"alias"),
    ],
)
def test_a_wrong_file_gets_one_line_that_names_it(invoke, tmp_path, body, code, wanted):
    file = tmp_path / "topo.xml"
    if body is not None:
        file.write_bytes(body)
    result = invoke("show", file)
    assert result.exit_code == code
    assert result.stderr.startswith("Error: ")
    assert re.search(wanted, result.stderr), result.stderr
    assert str(file) in result.stderr


def test_unknown_words_get_what_is_allowed(invoke):
    wrong = invoke("show", "hgx-h100", "--format", "excel")
    assert wrong.exit_code == 2
    assert "--format must be one of auto, node-link, nccl" in wrong.stderr
    assert invoke("show", "hgx-h100:0").exit_code == 1
    unknown = invoke("show", "hgx-h900:2")
    assert unknown.exit_code == 2
    assert "FILE must be a file" in unknown.stderr


def test_what_has_no_end_is_not_read_to_it(invoke):
    result = invoke("show", "/dev/zero")
    assert result.exit_code == 1
    assert "size of zero must be at most 16000000 bytes" in result.stderr
