"""`qstream energy cap`: recordings and a topology in, a plan, its export and its report out."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qstream.cli.energy.cap import FILE_NAMES
from qstream.cli.energy.recordings import watts
from qstream.cli.main import app
from qstream.energy.formats.export import EXPORTERS
from qstream.errors import ConfigError
from schemas.energy import EnergyPlan
from schemas.frame import JSON
from schemas.power import PowerTopology
from tests.unit.energy.racks import rack, topology_of

SAMPLES = Path(__file__).parents[3] / "data" / "energy"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A recording of each node, a minute long, and the topology."""
    folder, nodes = tmp_path_factory.mktemp("recorded"), rack()
    lines = {node.node: [] for node in nodes}
    for _ in range(45):
        for node in nodes:
            node.advance(1)
            lines[node.node].append(node.telemetry("d").encode(JSON).decode())
    for name, texts in lines.items():
        (folder / f"{name}.jsonl").write_text("\n".join(texts))
    (folder / "rack.json").write_bytes(topology_of(nodes, 9000).encode(JSON))
    return folder


@pytest.fixture
def files(recorded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return recorded


def run(files, *words, recordings=("node-0.jsonl", "node-1.jsonl"), topology="rack.json"):
    command = ["energy", "cap", *(str(files / name) for name in recordings), "--topology", str(files / topology), *words]
    return CliRunner().invoke(app, command, env={"COLUMNS": "200", "NO_COLOR": "1"})


def printed(files, *words, code=0, **names):
    result = run(files, *words, "--json", **names)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_recordings_of_several_nodes_are_one_plan_that_is_written_and_compared(files):
    result = run(files, "--budget", "3.2kW", "--out", "plan.json")
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("default", "uniform", "planned", "90 records", "written: plan.json"))
    plan = EnergyPlan.decode(Path("plan.json").read_bytes().strip(), JSON)
    assert plan.planned_w[0] <= 3200 == plan.budget_w[0]
    assert (plan.state == 0).all()  # each node was heard to the end


def test_a_modelled_rack_can_be_planned_for_at_once(files):
    result = CliRunner().invoke(app, ["energy", "cap", "--example", "--export", "dynamo", "--json"])
    assert result.exit_code == 0, result.output
    _, uniform, planned = json.loads(result.stdout)["compared"]
    assert planned["speed"] > uniform["speed"]
    assert 'name: "decode"' in Path("dynamo-power.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--example", "--topology", "rack.json"], "RECORDING and --topology must be absent with --example"),
        (["--example", "gpus.csv"], "RECORDING and --topology must be absent with --example"),
        ([], "RECORDING and --topology must be given, or --example, got neither"),
        (["gpus.csv"], "--topology must be given with RECORDING"),
        (["--topology", "rack.json"], "RECORDING must be given with --topology"),
    ],
)
def test_what_is_missing_is_named(words, message):
    refused = CliRunner().invoke(app, ["energy", "cap", *words])
    assert refused.exit_code == 2
    assert message in " ".join(refused.output.split())


def test_the_rows_keep_what_they_say(files):
    default, uniform, planned = printed(files, "--budget", "3.2kW")["compared"]
    assert [row["limits"] for row in (default, uniform, planned)] == ["default", "uniform", "planned"]
    assert (default["at_most_w"], default["over_w"], default["speed"]) == (5600, 2400, 1)
    assert uniform["at_most_w"] <= 3200
    assert planned["at_most_w"] <= 3200
    assert planned["speed"] > uniform["speed"]
    assert planned["slowdown"] < uniform["slowdown"]


def test_no_watts_are_saved_without_a_cap(files):
    data = printed(files)
    assert [row["saved_w"] for row in data["compared"]] == [0, 0, 0]
    assert data["plan"]["expected"]["saved_w"] == 0


def test_a_draw_above_the_default_limit_is_no_saving(tmp_path):
    topology = PowerTopology(
        domain="d", budget_w=99_000.0, node=("node-0",), uuid=("GPU-a", "GPU-b"), node_of_gpu=np.zeros(2, np.int32),
        limit_min_w=np.full(2, 100, np.float32), limit_max_w=np.full(2, 400, np.float32),
        limit_default_w=np.full(2, 300, np.float32), opt_in=np.ones(2, np.uint8),
    )  # fmt: skip
    (tmp_path / "rack.json").write_bytes(topology.encode(JSON))
    rows = [f"2026/05/04 12:00:{s:02}.100, GPU-{gpu}, 370.00 W, 400.00 W" for s in range(40) for gpu in "ab"]
    (tmp_path / "gpus.csv").write_text("\n".join(["timestamp, uuid, power.draw [W], power.limit [W]", *rows]))
    data = printed(tmp_path, "--zone", "UTC", recordings=["gpus.csv"])
    assert [row["saved_w"] for row in data["compared"]] == [0, 0, 0]
    assert data["plan"]["expected"]["saved_w"] == 0


def test_caps_to_be_measured_next_are_named_where_progress_is_recorded(files):
    probes = printed(files)["probes"]
    assert len(probes) == 8
    assert all(1000 < mhz < 1980 for mhz in probes.values())


def test_a_budget_below_the_least_limits_is_infeasible_and_says_what_lacks(files):
    data = printed(files, "--budget", "1kW", code=1)
    assert (data["plan"]["status"], data["plan"]["missing_w"], data["compared"][2]["parked"]) == ("infeasible", 600, 7)
    said = run(files, "--budget", "1kW").stdout
    assert "infeasible: 600 W are missing even at the least limits; parked: GPU-node-0-0" in said
    assert "the topology says neither parked_w nor idle_w: parked GPUs are charged 15 % of their default limit" in said


@pytest.mark.parametrize("name", ["nvidia-smi", "dps"])
def test_an_export_goes_to_its_usual_file_and_is_a_script(files, name):
    assert run(files, "--export", name).exit_code == 0
    assert subprocess.run(["bash", "-n", FILE_NAMES[name]], check=False).returncode == 0
    assert run(files, "--export", name, "--export-to", "mine.sh").exit_code == 0
    assert Path("mine.sh").read_bytes() == Path(FILE_NAMES[name]).read_bytes()
    assert set(FILE_NAMES) == set(EXPORTERS)


def test_the_report_has_the_table_and_pictures_within_their_frames(files):
    assert run(files, "--budget", "3.2kW", "--html", "report.html").exit_code == 0
    page = Path("report.html").read_text()
    open_tags = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag != "meta":
                open_tags.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Balance().feed(page)
    assert not open_tags
    assert page.count("<svg") == 2
    assert "nan" not in page
    assert "http" not in page  # nothing is loaded from elsewhere
    numbers = [float(text) for text in re.findall(r"[MLHV ](-?\d+\.?\d*)", " ".join(re.findall(r' d="([^"]*)"', page)))]
    assert min(numbers) >= 0
    assert max(numbers) <= 860


def test_damaged_rows_are_counted_on_stderr(files, tmp_path):
    damaged = (files / "node-0.jsonl").read_text().replace('"seq":3', '"seq":"x"', 1)
    (tmp_path / "node-0.jsonl").write_text(damaged)
    words = ["energy", "cap", "node-0.jsonl", "--topology", str(files / "rack.json"), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "node-0.jsonl: 1 damaged row left out" in result.stderr
    assert json.loads(result.stdout)["skipped"] == 1


def test_the_samples_of_exporters_and_nvidia_smi_are_planned_from(tmp_path):
    uuids = [f"GPU-0{node}{gpu}00000-0000-4000-8000-00000000000{gpu}" for node in (1, 2) for gpu in (0, 1)]
    limit = np.full(4, 700, np.float32)
    topology = PowerTopology(
        domain="d", budget_w=2000.0, node=("gpu-node-01", "gpu-node-02"), uuid=tuple(uuids),
        node_of_gpu=np.array([0, 0, 1, 1], np.int32), limit_min_w=limit - 500, limit_max_w=limit, limit_default_w=limit,
        opt_in=np.array([1, 1, 1, 1], np.uint8), mig=np.array([0, 0, 0, 1], np.uint8),
    )  # fmt: skip
    (tmp_path / "rack.json").write_bytes(topology.encode(JSON))
    for name in ("dcgm_exporter_4_5.prom", "dcgm_exporter_4_6.prom"):
        data = json.loads(run(SAMPLES, "--json", recordings=[name], topology=tmp_path / "rack.json").stdout)
        assert len(data["plan"]["uuid"]) == 3  # a partitioned GPU is not a target
        assert data["compared"][2]["at_most_w"] <= 2000
    result = run(SAMPLES, "--zone", "UTC", recordings=["nvidia_smi.csv"], topology=tmp_path / "rack.json")
    assert result.exit_code == 0, result.output
    assert "1 GPU not heard" in result.stdout


def test_watts_are_read_with_their_unit_and_nothing_else():
    assert [watts(text) for text in ("2600", "40kW", " 1.2 MW", "7W", "900W")] == [2600, 40_000, 1_200_000, 7, 900]
    for text in ("40 horses", "-3", "kW", "1e3", "40kw", "4O", "", "nan", "40kW\n3"):
        with pytest.raises(ConfigError, match="--budget must be watts, such as 2600, 40kW"):
            watts(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "lots"], "--budget must be watts, such as 2600, 40kW or 1.2MW, got 'lots'"),
        (["--export", "slurm"], "--export must be one of nvidia-smi, dps, dynamo, got 'slurm'"),
        (["--export-to", "x.sh"], "--export must be given with --export-to"),
        (["--set", "max_slowdown=7"], "max_slowdown"),
        (
            ["--out", "same", "--html", "same"],
            "an output must be a file of its own, neither an input nor another",
        ),
        (["--out", "no/such/folder"], "an output must be a file that can be written, got no/such/folder: No such file"),
        (["--export", "dynamo"], "plan must be of GPUs whose workload"),
    ],
)
def test_wrong_words_are_refused_and_nothing_is_written(files, words, message):
    result = run(files, *words)
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
    assert not list(Path().iterdir())


def test_a_recording_named_twice_is_refused(files):
    result = run(files, recordings=("node-0.jsonl", "../" + files.name + "/node-0.jsonl"))
    assert result.exit_code == 2
    assert "RECORDING must be files that are named once each, got" in " ".join(result.output.split())


def test_an_input_is_never_overwritten(files):
    result = run(files, "--out", str(files / "rack.json"))
    assert "an output must be a file of its own" in result.output + str(result.exception)
    assert PowerTopology.decode((files / "rack.json").read_bytes(), JSON).domain == "d"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"limit_min_w": [900] * 8}, ": limit_min_w must be at most limit_max_w, 700 W, of GPU-node-0-0, got 900.0"),
        ({"uuid": ["GPU-a"] * 8}, ": uuid must be distinct names, got 'GPU-a' twice"),
        ({"node_of_gpu": [7] * 8}, ": node_of_gpu must be 0 to 1, a node of `node`, got values from 7 to 7"),
        ({"inner": ["a", "b"], "inner_parent": [1, 0]}, ": inner_parent must be a tree, got a cycle above 'a'"),
        ({"budget_w": "4kW"}, ".budget_w must be a valid number, got '4kW'"),
    ],
)
def test_a_topology_that_breaks_a_rule_is_refused_by_field_value_and_rule(files, wrong, message):
    given = json.loads((files / "rack.json").read_bytes()) | wrong
    Path("wrong.json").write_text(json.dumps(given))
    result = run(files, topology=Path("wrong.json").resolve())
    assert result.exit_code != 0
    assert f"wrong.json: PowerTopology.v1{message}" in result.output + str(result.exception)


def test_a_topology_or_recording_that_cannot_be_used_is_named(files, tmp_path):
    (tmp_path / "rack.json").write_text("{}")
    (tmp_path / "empty.csv").write_text("")
    for words in (
        ["energy", "cap", str(files / "node-0.jsonl"), "--topology", "rack.json"],
        ["energy", "cap", "empty.csv", "--topology", str(files / "rack.json")],
    ):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2
        assert any(name in result.output + str(result.exception) for name in ("rack.json", "empty.csv"))
