"""`qstream nvlink simulate`: modelled times of a job in linear order and as placed."""

from __future__ import annotations

import json

import numpy as np
import pytest


def test_the_time_of_all_falls_with_the_placement(printed, invoke):
    words = ("simulate", "--tp", 8, "--dp", 8, "--ep", 32, "--pp", 2, "--topology", "gb200-nvl72:2")
    data = printed(*words)
    assert data["modelled"]
    assert data["placements"]["qstream"][-1]["time_us"] <= data["placements"]["linear"][-1]["time_us"]
    text = invoke(*words).stdout
    assert "all at once" in text
    assert "times are modelled, none is measured" in text


@pytest.mark.parametrize("system", ["hgx-b200", "gb200-nvl72"])
def test_a_healthy_box_gains_nothing(printed, system):
    data = printed("simulate", "--dp", 8, "--ep", 8, "--topology", system)
    assert data["skip_reason"] == "single tier, nothing blocks"
    assert data["placements"]["linear"] == data["placements"]["qstream"]


def test_real_workloads_and_matrices_drain_on_real_machines(printed, fabrics, tmp_path):
    data = printed("simulate", fabrics / "simai" / "llama7b_tp2.txt", "--dp", 4, "--topology", fabrics / "rccl" / "topo_8p1h.xml")
    for parts in data["placements"].values():
        assert all(part["time_us"] >= part["bound_us"] for part in parts)
    np.save(tmp_path / "m.npy", np.full((8, 8), 1e9))
    data = printed("simulate", tmp_path / "m.npy", "--topology", fabrics / "azure" / "ndv4-topo.xml")
    assert [part["kind"] for part in data["placements"]["linear"]] == ["pairs"]


def test_what_nothing_joins_has_no_time_and_that_is_said(invoke, tmp_path):
    ends = [{"source": 0, "target": 1}, {"source": 2, "target": 3}]
    nodes = [{"id": n, "type": "gpu"} for n in range(4)]
    (tmp_path / "f.json").write_text(json.dumps({"nodes": nodes, "edges": [{**e, "bw_gb_s": 25} for e in ends]}))
    result = invoke("simulate", "--tp", 4, "--topology", tmp_path / "f.json")
    assert result.exit_code == 0, result.output
    assert "none: some pairs of ranks have no way to one another" in result.stdout


def test_wrong_words_are_named(invoke):
    assert "--topology must be given" in invoke("simulate", "--tp", 4).stderr
    assert "JOB must be a file" in invoke("simulate", "--topology", "dgx-1v").stderr
