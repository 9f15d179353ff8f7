"""`qstream nvlink schedule`: matrices and jobs, next to rotation and matchings; transfers as CSV; and what wrong input gets."""

from __future__ import annotations

import csv

import numpy as np
import pytest


@pytest.fixture
def sparse(tmp_path):
    """A file of sparse skewed bytes between 16 ports, with something on the diagonal, which is no transfer."""
    rng = np.random.default_rng(3)
    sent = np.rint(rng.lognormal(0, 1.5, (16, 16)) * (rng.random((16, 16)) < 0.4) * 1e6)
    np.fill_diagonal(sent, 5)
    np.save(tmp_path / "m.npy", sent)
    return tmp_path / "m.npy"


def test_ours_is_at_the_bound_and_the_peers_are_beside_it(printed, sparse):
    data = printed("schedule", sparse)
    found = {row["name"]: row["over_bound"] for row in data["schedules"]}
    assert found["qstream"] <= 1.005
    assert found["rotation, barriers"] > 1.5
    assert found["matchings (LAP), barriers"] >= found["qstream"]
    assert 0.99 < found["no order, fair sharing"] < 1.1
    assert data["modelled"]
    sent = np.load(sparse)
    assert sum(each["bytes"] for each in data["transfers"]) == sent.sum() - np.trace(sent)


def test_with_barriers_it_is_no_worse_than_matchings(printed, sparse):
    data = printed("schedule", sparse, "--barriers", "--startup-us", 2)
    found = {row["name"]: row["span_us"] for row in data["schedules"]}
    assert found["qstream"] <= found["matchings (LAP), barriers"]
    assert "no order, fair sharing" not in found


def test_transfers_go_to_a_file_in_the_order_of_their_start(invoke, sparse, tmp_path):
    result = invoke("schedule", sparse, "--out", tmp_path / "order.csv")
    assert result.exit_code == 0, result.output
    assert "(modelled)" in result.stdout
    starts = [float(row["start_us"]) for row in csv.DictReader((tmp_path / "order.csv").read_text().splitlines())]
    assert starts == sorted(starts)


def test_a_full_port_is_told(invoke, tmp_path):
    sent = np.zeros((6, 6))
    sent[1:, 0] = 1e9
    np.savetxt(tmp_path / "incast.csv", sent, delimiter=",")
    assert "no order matters" in invoke("schedule", tmp_path / "incast.csv").stdout


def test_ports_of_a_job_are_the_nics_of_its_gpus(printed):
    data = printed("schedule", "--dp", 24, "--ep", 24, "--topology", "hgx-h100:3")
    assert data["ports"] == 24
    for each in data["transfers"]:
        assert each["src"][-1] == each["dst"][-1]
        assert each["src"][:4] != each["dst"][:4]
    assert printed("schedule", "--tp", 8, "--topology", "hgx-h100")["skip_reason"] == "single tier, nothing blocks"


def test_nothing_to_send_and_wrong_speeds_are_named(invoke, sparse, tmp_path):
    np.save(tmp_path / "empty.npy", np.eye(4))
    result = invoke("schedule", tmp_path / "empty.npy")
    assert result.exit_code != 0
    assert "bytes" in result.output
    assert invoke("schedule", sparse, "--gb-s", "0").exit_code != 0
