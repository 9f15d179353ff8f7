"""deploy/node/: the commands of its units and containers exist, and set nothing unless somebody asks for it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from qstream.cli.main import app
from qstream.config import Settings
from tests.unit.deploy.folder import DEPLOY, load

NODE = DEPLOY / "node"
UNITS = sorted(NODE.glob("*.service"))
CONTAINERS = load(NODE / "daemonset.yaml")["spec"]["template"]["spec"]["containers"]


def started(unit):
    """The words that the unit runs, with its variables as the file of settings has them."""
    lines = [line for line in (NODE / "node.env").read_text().splitlines() if line and not line.startswith("#")]
    values = dict(line.split("=", 1) for line in lines)
    (command,) = re.findall(r"^ExecStart=/opt/qstream/bin/qstream (.*)$", unit.read_text(), re.MULTILINE)
    for name, value in values.items():
        command = command.replace(f"${{{name}}}", value).replace(f"${name}", value)
    assert "$" not in command
    return shlex.split(command), values


COMMANDS = [*(started(unit)[0] for unit in UNITS), *(container["args"] for container in CONTAINERS)]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_is_started_exists_and_sets_nothing_by_itself(words):
    shown = CliRunner().invoke(app, [*words[:2], "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    assert [word for word in words if word.startswith("--") and word not in shown.output] == []
    assert not {"--apply", "--allow"} & {*words}


def test_both_places_start_telemetry_and_an_actuator():
    assert sorted(words[1] for words in COMMANDS) == ["actuate", "actuate", "telemetry", "telemetry"]


def test_settings_of_the_environment_exist():
    _, values = started(UNITS[0])
    names = [*values, *(entry["name"] for container in CONTAINERS for entry in container["env"])]
    settings = [name.removeprefix("QSTREAM_").lower() for name in names if name.startswith("QSTREAM_")]
    assert settings
    assert {*settings} <= {*Settings.model_fields}


def test_by_default_no_container_has_a_right():
    for container in CONTAINERS:
        assert container["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_knows_every_setting_of_a_unit(unit, tmp_path):
    text = unit.read_text().replace("/opt/qstream/bin/qstream", shutil.which("true") or "/bin/true")
    copy = tmp_path / unit.name
    copy.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert "Unknown" not in done.stderr
