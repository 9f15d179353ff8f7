"""`qstream energy telemetry|actuate`: what is refused before anything is read or set."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from qstream.cli.energy.node import allowed_uuids
from qstream.cli.main import app


def error_of(*words):
    result = CliRunner().invoke(app, ["energy", *words], env={"QSTREAM_CONFIG": None})
    assert result.exit_code == 2, result.output
    return result.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("telemetry", "--source", "smi"), "--source must be nvml, fake, fake:FILE, dcgm:URL, zeusd or zeusd:URL, got 'smi'"),
        (
            ("telemetry", "--source", "dcgm:here"),
            "URL must be such as http://localhost:9400/metrics or unix:///run/zeusd/zeusd.sock",
        ),
        (("telemetry", "--source", "fake", "--interval", "1"), "--interval must be a time above 0, such as 50ms or 2s, got '1'"),
        (("topology", "--budget", "much"), "--budget must be watts, such as 2600, 40kW or 1.2MW, got 'much'"),
        (("topology", "--budget", "1kW", "--clocks", "9:8"), "--clocks must be the lowest and the highest SM clock in MHz"),
        (("telemetry", "--node", "n" * 101), "--node must be 1 to 100 printable characters"),
        (("actuate", "--device", "fake", "--domain", ""), "--domain must be 1 to 200 printable characters, got ''"),
        (("actuate", "--device", "gpu"), "--device must be nvml, zeusd, zeusd:URL, fake, fake:FILE or null, got 'gpu'"),
        (("actuate", "--device", "fake", "--verify", "often"), "--verify must be a time above 0"),
        (("actuate", "--device", "fake", "--apply"), "--allow must be given with --apply, once for each GPU that may be set"),
        (("actuate", "--device", "fake:/proc/none/x"), "file of fake GPUs must be writable, got /proc/none/x: No such file"),
    ],
)
def test_what_cannot_be_read_or_set_is_said_at_once(words, error):
    assert error in error_of(words[0], "--domain", "d", *words[1:])


def test_an_actuator_that_may_set_needs_a_state_file_that_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    state = ("--state", str(tmp_path / "file" / "state.json"))
    error = error_of("actuate", "--domain", "d", "--device", "fake", "--apply", "--allow", "GPU-n-0", *state)
    assert "--state must be a file in a folder that can be written" in error


def test_uuids_may_be_in_a_file_and_a_missing_one_is_named(tmp_path):
    path = tmp_path / "allowed"
    path.write_text("# of row 1\nGPU-a\n\n GPU-b \n")
    assert allowed_uuids(["GPU-c", f"@{path}"]) == ["GPU-c", "GPU-a", "GPU-b"]
    error = error_of("actuate", "--domain", "d", "--device", "fake", "--apply", "--allow", f"@{tmp_path}/none")
    assert "--allow must be a uuid, or @ and the path of a file of them (No such file or directory)" in error
