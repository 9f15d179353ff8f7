"""`qstream energy schedule`: a graph of tasks in, when and where they run out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from qstream.cli.energy.schedule import clock
from qstream.cli.main import app
from qstream.energy.graph_offline import bundled_graph
from qstream.energy.train_gnn import train_gnn
from qstream.learn.model import to_bytes
from schemas.frame import JSON
from schemas.tasks import EnergySchedule
from tests.unit.energy import pipelines
from tests.unit.energy.graphs import graph
from tests.unit.energy.racks import rack, topology_of


@pytest.fixture
def files(tmp_path):
    (tmp_path / "tasks.json").write_bytes(graph(tasks=6).encode(JSON))
    (tmp_path / "rack.json").write_bytes(topology_of(rack(), 1000, idle_w=np.full(8, 50, np.float32)).encode(JSON))
    return tmp_path


def run(*words):
    return CliRunner().invoke(app, ["energy", "schedule", *map(str, words)])


def test_the_bundled_graph_has_a_lower_peak_than_as_soon_as_possible():
    result = run("--example")
    assert result.exit_code == 0, result.output
    assert all(words in result.stdout for words in ("as soon as possible", "planned", "bound", "tune-chat", "14 tasks"))
    data = json.loads(run("--example", "--json").stdout)["schedule"]
    assert data["bound_w"] <= data["peak_w"] < data["simple_peak_w"] / 3
    assert data["task"] == list(bundled_graph().task)


def test_with_a_topology_tasks_have_nodes_and_the_peak_stands_against_the_budget(files):
    out = files / "out.json"
    result = run(files / "tasks.json", "--topology", files / "rack.json", "--budget", "0.3kW", "--out", out)
    assert result.exit_code == 1, result.output
    plan = EnergySchedule.decode(out.read_bytes(), JSON)
    assert plan.node_of_task.min() == 0
    assert plan.peak_w > 400  # eight idle GPUs
    assert (plan.budget_w, plan.missing_w) == (300, plan.peak_w - 300)
    assert f"{plan.missing_w:.0f} W above the budget of 300 W" in result.stdout
    assert f"{out}" in result.stdout


def test_the_seed_can_be_set_as_any_other_option(files):
    for words in (("--seed", "7"), ("--set", "seed=7")):
        assert json.loads(run(files / "tasks.json", "--json", *words).stdout)["schedule"]["solver"]["seed"] == 7


def test_circuits_say_what_they_are_and_what_random_choices_reach(files):
    result = run(files / "tasks.json", "--set", "qaoa=true", "--set", "deterministic=false", "--set", "shots=64")
    assert "6 tasks, 2 layers, 64 shots, seed 0; taken" in result.stdout
    assert "random choices instead of a circuit" in result.stdout
    assert "qaoa (simulated-subspace" in result.stdout


def test_deadlines_that_cannot_be_met_are_named_and_end_with_1(files):
    deadline = np.array([-1, 1, -1, -1, -1, -1], np.int32)
    (files / "tasks.json").write_bytes(graph(tasks=6, deadline=deadline).encode(JSON))
    result = run(files / "tasks.json")
    assert result.exit_code == 1
    assert "deadlines that cannot be met: task-1" in result.stdout


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"slots": 0}, "TaskGraph.v1.slots must be greater than or equal to 1, got 0"),
        (
            {"together": [[0, 1]], "edges": [[0, 1]]},
            "tasks.json: edges must be without a cycle, got a cycle of the tasks ['task-0', 'task-1']",
        ),
        ({"edges": [[0, 1], [1, 0]]}, "edges must be without a cycle, got a cycle before or through 'task-1'"),
        ({"release": [99] * 6}, "release must be 0 to 19, got values from 99 to 99"),
    ],
)
def test_a_wrong_graph_is_named_with_file_field_value_and_rule(files, changed, message):
    fields = json.loads((files / "tasks.json").read_text()) | changed
    (files / "tasks.json").write_text(json.dumps(fields))
    result = run(files / "tasks.json")
    assert result.exit_code == 2
    assert message in result.output
    assert "tasks.json" in result.output


def test_wrong_arguments_are_named(files):
    for words, message in (
        ((), "TASKS.json must be a file, or absent with --example, got None"),
        ((files / "none.json",), "TASKS.json must be a file that can be read"),
        ((files / "tasks.json", "--out", files / "tasks.json"), "--out must be a file of its own, not an input"),
        (("--example", "--topology", files / "rack.json"), "domain of the graph must be 'd', as in the topology, got 'row-1'"),
    ):
        result = run(*words)
        assert result.exit_code == 2
        assert message in result.output


def test_times_are_hours_minutes_and_seconds_from_the_begin():
    assert [clock(seconds) for seconds in (0, 59, 3600, 86_399.6)] == ["+0:00:00", "+0:00:59", "+1:00:00", "+24:00:00"]


def test_a_trained_model_predicts_tasks_that_were_not_measured_and_a_file_that_is_none_is_refused(tmp_path):
    made, _ = train_gnn([pipelines.graph(seed) for seed in range(20)], seed=0, deadline_s=600, rounds=0)
    model, tasks = tmp_path / "gnn.safetensors", tmp_path / "tasks.json"
    model.write_bytes(to_bytes(made))
    tasks.write_bytes(pipelines.pair(500)[0].encode(JSON))
    plan = json.loads(run(tasks, "--model", model, "--json").stdout)["schedule"]
    assert plan["fallback_reason"] == "twin_is_better"
    without = json.loads(run(tasks, "--set", "gnn=true", "--json").stdout)["schedule"]
    assert without["fallback_reason"] == "model_missing"
    assert plan["peak_w"] <= without["peak_w"]
    assert "not all that was asked for answered: twin_is_better" in run(tasks, "--model", model).stdout
    refused = run(tasks, "--model", tasks)
    assert refused.exit_code == 2
    assert "--model must be what qstream learn train has written" in " ".join(refused.output.split())
    model.write_bytes(to_bytes(replace(made, kind="ridge")))
    assert "--model must be what learn train energy gnn has written" in " ".join(run(tasks, "--model", model).output.split())


def test_no_edges_may_be_an_empty_list_and_a_misspelt_field_is_said(files):
    fields = json.loads((files / "tasks.json").read_text()) | {"edges": [], "together": [], "deadlines": [1] * 6}
    (files / "tasks.json").write_text(json.dumps(fields))
    result = run(files / "tasks.json")
    assert result.exit_code == 0, result.output
    assert "6 tasks, 0 edges" in result.stdout
    assert "TaskGraph.v1 has no deadlines: ignored" in result.stderr
