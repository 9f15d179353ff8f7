"""`qstream energy cap`: a recording and a topology in, a plan out."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from qstream.cli.energy.cap import watts
from qstream.cli.main import app
from qstream.errors import ConfigError
from schemas.energy import EnergyPlan
from schemas.frame import JSON
from tests.unit.energy.racks import rack, topology_of


@pytest.fixture
def files(tmp_path):
    nodes, lines = rack(), []
    for _ in range(20):
        for node in nodes:
            node.advance(1)
            lines.append(node.telemetry("d").encode(JSON).decode())
    (tmp_path / "recording.jsonl").write_text("\n".join(lines))
    (tmp_path / "rack.json").write_bytes(topology_of(nodes, 9000).encode(JSON))
    return tmp_path


def run(files, *words):
    command = ["energy", "cap", str(files / "recording.jsonl"), "--topology", str(files / "rack.json"), *words]
    return CliRunner().invoke(app, command)


def test_the_plan_is_written_and_compared(files):
    result = run(files, "--budget", "3.2kW", "--out", str(files / "plan.json"))
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("default", "each node alone", "planned", "40 records"))
    plan = EnergyPlan.decode((files / "plan.json").read_bytes().strip(), JSON)
    assert plan.planned_w[0] <= 3200 == plan.budget_w[0]


def test_what_is_compared_comes_as_json(files):
    data = json.loads(run(files, "--budget", "1kW", "--json").stdout)
    assert [row["limits"] for row in data["compared"]] == ["default", "each node alone", "planned"]
    assert (data["plan"]["status"], data["plan"]["missing_w"], data["skipped"]) == ("infeasible", 600, 0)


def test_watts_are_read_with_their_unit_and_nothing_else():
    assert [watts(text) for text in ("2600", "40kW", " 1.2 MW", "7W")] == [2600, 40_000, 1_200_000, 7]
    for text in ("40 horses", "-3", "kW", "1e3"):
        with pytest.raises(ConfigError, match="--budget must be watts, such as 2600, 40kW"):
            watts(text)


def test_a_topology_that_cannot_be_read_is_named(files):
    (files / "rack.json").write_text("{}")
    result = run(files)
    assert result.exit_code != 0
    assert "rack.json" in result.output + str(result.exception)
