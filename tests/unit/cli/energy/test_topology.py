"""`qstream energy topology`: what a recording says of its GPUs is a topology that a plan can be made for."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from qstream.cli.main import app
from qstream.energy.formats.topology import recorded_topology
from qstream.errors import ProblemError
from schemas.frame import JSON
from schemas.power import PowerTopology
from tests.unit.cli.energy.smi import csv_of
from tests.unit.energy.racks import rack

WORDS = ("--domain", "rack-1", "--zone", "UTC")


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for node in rack(2, 2):
        names.append(f"{node.node}.csv")
        (tmp_path / names[-1]).write_text(csv_of(node, 12))
    return names


def run(*words):
    return CliRunner().invoke(app, ["energy", *map(str, words)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_recorded_gpus_are_described_and_can_be_planned_for(recordings):
    result = run("topology", *recordings, *WORDS, "--budget", "1.8kW", "--opt-in", "all", "--out", "rack.json")
    assert result.exit_code == 0, result.output
    assert "2 nodes, 4 GPUs, 4 of them may be given targets; written: rack.json" in result.stdout
    found = PowerTopology.decode(Path("rack.json").read_bytes().strip(), JSON)
    assert (found.node, found.node_of_gpu.tolist(), found.budget_w) == (("node-0", "node-1"), [0, 0, 1, 1], 1800)
    assert (found.limit_min_w[0], found.limit_max_w[0], found.limit_default_w[0]) == (200, 700, 700)
    planned = run("cap", *recordings, "--topology", "rack.json", "--zone", "UTC")
    assert planned.exit_code == 0, planned.output
    assert "4 of 4 GPUs may be given targets" in planned.stdout


def test_clocks_that_are_given_are_those_of_all_gpus(recordings):
    printed = run("topology", *recordings, *WORDS, "--budget", "2kW", "--clocks", "345:400")
    found = PowerTopology.decode(printed.stdout.encode(), JSON)
    assert (found.sm_clock_mhz.tolist(), found.model_of_gpu.tolist()) == ([[345, 360, 375, 390]], [0] * 4)


def test_no_gpu_opts_in_by_itself_and_one_can_alone(recordings):
    printed = run("topology", *recordings, *WORDS, "--budget", "2kW")
    assert PowerTopology.decode(printed.stdout.encode(), JSON).opt_in.tolist() == [0] * 4
    one = run("topology", *recordings, *WORDS, "--budget", "2kW", "--opt-in", "GPU-node-1-0")
    assert PowerTopology.decode(one.stdout.encode(), JSON).opt_in.tolist() == [0, 0, 1, 0]


def test_a_recording_without_limits_gives_gpus_that_are_never_targets(tmp_path):
    sample = Path(__file__).parents[3] / "data" / "energy" / "nvidia_smi.csv"
    found = PowerTopology.decode(run("topology", sample, *WORDS, "--budget", "2kW", "--opt-in", "all").stdout.encode(), JSON)
    assert found.limit_min_w.tolist() == [-1, -1]
    said = run("topology", sample, *WORDS, "--budget", "2kW", "--opt-in", "all", "--out", tmp_path / "t.json").stdout
    assert "0 of them may be given targets (2 without known limits: set limit_min_w," in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--budget", "2kW", "--opt-in", "GPU-9"), "opt_in must be a GPU of the recording, or all, got GPU-9"),
        (("--budget", "a lot"), "--budget must be watts"),
        (("--budget", "2kW", "--out", "node-0.csv"), "--out must be another file than a recording, got 'node-0.csv'"),
    ],
)
def test_what_makes_no_topology_is_refused(recordings, words, message):
    result = run("topology", *recordings, *WORDS, *words)
    assert result.exit_code == 2
    assert message in result.output + str(result.exception)


def test_a_gpu_on_two_nodes_is_refused(recordings):
    Path("other.csv").write_text(Path("node-0.csv").read_text())
    result = run("topology", *recordings, "other.csv", *WORDS, "--budget", "2kW")
    assert "node of GPU-node-0-0 must be the same in all of its readings" in result.output + str(result.exception)


def test_no_reading_at_all_makes_no_topology():
    with pytest.raises(ProblemError, match="readings must be of 1 or more GPUs of domain 'd', got none"):
        recorded_topology([], domain="d", budget_w=1000.0, opt_in=["GPU-9"])
