"""The README of qstream.quantum tells the truth: its Python runs, its commands and solvers exist."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qstream.cli.main import app
from qstream.quantum.comparison import FAMILIES
from qstream.quantum.devices.pool import load_pool
from qstream.quantum.record import SolveMeta
from qstream.quantum.solvers import SOLVERS

README = (Path(__file__).parents[3] / "qstream/quantum/README.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_each_block_of_python_runs(block):
    exec(compile(block, "README.md", "exec"), {})


def test_the_pool_of_devices_is_one_that_can_be_loaded(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(\[\[devices.*?)```", README, re.DOTALL)
    (tmp_path / "devices.toml").write_text(text)
    assert load_pool(tmp_path / "devices.toml").device("lab").max_wires == 20


@pytest.mark.parametrize("line", re.findall(r"^\$ (qstream .*)$", README, re.MULTILINE))
def test_each_command_and_option_exists(line):
    words = shlex.split(line)
    bare = itertools.takewhile(lambda word: not word.startswith("--") and "." not in word, words[1:])
    shown = CliRunner().invoke(app, [*bare, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    assert [word for word in words if word.startswith("--") and word not in shown.output] == []


def test_the_table_names_every_solver():
    table = README[README.index("| name |") : README.index("A device by name")]
    assert set(re.findall(r"^\| `([^`]+)` ", table, re.MULTILINE)) == {*SOLVERS, "device:NAME", "auto"}


def test_what_is_said_of_the_record_is_in_it():
    section = README[README.index("## What the record means") : README.index("## When quantum")]
    names = re.findall(r"`([a-z_0-9]+)`", "\n".join(re.findall(r"^- ((?:`\w+`(?:, )?)+):", section, re.MULTILINE)))
    assert len(names) > 10
    assert all(name in SolveMeta.__dataclass_fields__ or name == "label" for name in names)


def test_the_measured_families_are_those_of_the_comparison():
    assert all(family in README for family in FAMILIES)


def test_no_line_is_left_to_fill_in():
    assert "@@" not in README
