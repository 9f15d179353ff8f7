"""`qstream nvlink routes`: time, bound and peers of jobs and matrices, and what cannot be routed."""

from __future__ import annotations

import json

import numpy as np
import pytest


def test_traffic_of_a_box_without_switches_beside_its_peers(printed, tmp_path):
    demand = np.random.default_rng(0).lognormal(0, 1, (8, 8)) * 1e8
    np.save(tmp_path / "m.npy", demand)
    data = printed("routes", tmp_path / "m.npy", "--topology", "dgx-1v")
    drain = {row["name"]: row["drain_us"] for row in data["routes"]}
    assert drain["qstream"] <= data["bound_us"] * 1.001
    assert drain["qstream"] < drain["one shortest path"] < drain["no relays, one path"]
    assert data["modelled"]
    assert sum(path["bytes"] for path in data["paths"]) == pytest.approx(data["bytes"])
    without = printed("routes", tmp_path / "m.npy", "--topology", "dgx-1v", "--no-relay")
    assert not any(name.startswith("r0h0g") for path in without["paths"] for name in path["nodes"][1:-1])


def test_a_switched_box_has_one_way(printed):
    data = printed("routes", "--tp", 8, "--topology", "hgx-h100")
    assert {round(row["over_bound"], 3) for row in data["routes"]} == {1.0}


def test_ranks_go_where_they_run(printed, tmp_path):
    (tmp_path / "now.json").write_text(json.dumps(["r0h0g6", "r0h0g2"]))
    data = printed("routes", "--tp", 2, "--topology", "dgx-1v", "--current", tmp_path / "now.json")
    assert {(path["nodes"][0], path["nodes"][-1]) for path in data["paths"]} == {("r0h0g6", "r0h0g2"), ("r0h0g2", "r0h0g6")}


def test_people_read_a_table(invoke):
    result = invoke("routes", "--tp", 4, "--dp", 2, "--topology", "dgx-1v")
    assert result.exit_code == 0, result.output
    assert "fullest link, us (modelled)" in result.stdout
    assert "no routes drain sooner than" in result.stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--tp", 8), "--topology must be given"),
        (("--topology", "dgx-1v"), "JOB must be a file"),
        (("--tp", 16, "--topology", "dgx-1v"), "ranks must be as many as they have GPUs, got 16 ranks, 8 GPUs"),
        (("--tp", 8, "--dp", 512, "--topology", "hgx-h100:512"), "sources times links"),
    ],
)
def test_what_cannot_be_routed_is_named(invoke, words, wanted):
    result = invoke("routes", *words)
    assert result.exit_code != 0
    assert wanted in result.stderr
