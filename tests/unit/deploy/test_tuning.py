"""deploy/hpo: the commands of the examples exist, and their times fit each other."""

from __future__ import annotations

import re
import shlex
import subprocess

from typer.testing import CliRunner

from qstream.cli.hpo.command import parse_command, require_names
from qstream.cli.main import app
from qstream.cli.options import seconds
from tests.unit.deploy.folder import DEPLOY, load

TUNING = DEPLOY / "hpo"


def checked(words: list[str]) -> dict[str, str]:
    """The options of a worker's command, each of which exists, by name."""
    assert words[:3] == ["qstream", "hpo", "worker"]
    shown = CliRunner().invoke(app, ["hpo", "worker", "--help"], env={"COLUMNS": "200"}).stdout
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert all(name in shown for name in options)
    require_names(parse_command(options["--command"]), [])
    return options


def test_the_slurm_script_runs_a_worker_that_hears_of_its_end_in_time():
    text = (TUNING / "slurm.sh").read_text()
    assert subprocess.run(["bash", "-n", TUNING / "slurm.sh"], check=False).returncode == 0
    (command,) = re.findall(r"^exec (qstream .*)$", text, re.MULTILINE)
    options = checked(shlex.split(command))
    (warned_s,) = re.findall(r"--signal=B:TERM@(\d+)", text)
    assert seconds(options["--grace"]) < int(warned_s)


def test_the_job_keeps_names_over_restarts_and_waits_for_commands_to_end():
    spec = load(TUNING / "job.yaml")["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    options = checked([*container["command"], *container["args"]])
    assert spec["completionMode"] == "Indexed"
    assert seconds(options["--grace"]) < pod["terminationGracePeriodSeconds"]
    assert {volume["name"] for volume in pod["volumes"]} == {mount["name"] for mount in container["volumeMounts"]}
