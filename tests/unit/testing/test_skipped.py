"""What a run lacked is named with the way to get it, and in CI only what is excused may be lacking."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.skipped import part_of, summary, unexcused

ROOT = Path(__file__).parents[3]
KAFKA = "no real Kafka broker: no docker on PATH; no Java Kafka: no java under JAVA_HOME or on PATH: Kafka needs Java 17 or newer"
DATA = "esft_routing.npz was not found: set QSTREAM_DATA"


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (KAFKA, "Java 17 and Maven"),
        ("/usr/bin/java is Java 11: Kafka needs Java 17 or newer", "Java 17 and Maven"),
        ("no Kafka jars in /cache and no mvn on PATH to fetch them", "Java 17 and Maven"),
        ("promtool is not installed", "promtool"),
        ("docker compose is not installed", "docker compose"),
        (DATA, "the recordings"),
        ("could not import 'pennylane': No module named 'pennylane'", "a Python package"),
    ],
)
def test_a_reason_names_the_part_that_was_missing(reason: str, name: str) -> None:
    part = part_of(reason)
    assert part is not None
    assert part.name == name


def test_the_summary_counts_the_tests_that_lacked_a_part() -> None:
    lines = summary([KAFKA, DATA, KAFKA, "no reason at all"])
    assert lines == [
        "2 skipped without Java 17 and Maven: apt-get install openjdk-17-jre-headless maven",
        "1 skipped without the recordings: set QSTREAM_DATA to the folder that holds them",
    ]


def test_in_ci_only_parts_that_cannot_be_installed_are_excused() -> None:
    assert unexcused([KAFKA, DATA, "no reason at all", KAFKA]) == [KAFKA, "no reason at all"]


@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("", 0)])
def test_a_run_that_lacks_a_part_fails_in_ci_and_says_how_to_get_it(ci: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("import pytest\ndef test_one(): pytest.skip('promtool is not installed')\n")
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "-p", "tests.skipped", "-q", str(tmp_path)]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert "1 skipped without promtool: apt-get install prometheus" in done.stdout
    assert ("which fails the run" in done.stdout) == (status == 1)
