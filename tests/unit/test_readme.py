"""The README tells the truth: its commands run in CI, its options, settings, metrics, topics and Python exist."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from typer.testing import CliRunner

import qstream.metrics  # noqa: F401 registers every metric
from qstream.cli.main import app
from qstream.config import Settings
from qstream.routing.options import RoutingOptions
from schemas.generate import topics_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ROUTING = (ROOT / "qstream/routing/README.md").read_text()
CONSOLE = "\n".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL))


def test_the_newcomer_s_two_commands_are_the_ones_that_ci_runs():
    first_screen = README[: README.index("## ")]
    commands = re.findall(r"^\$ (make \w+)", first_screen, re.MULTILINE)
    assert commands == ["make demo", "make test"]
    ci = (ROOT / ".ci/run").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for command in commands:
        assert re.search(rf"^{command}\b", ci, re.MULTILINE)
        assert re.search(rf"^{command.removeprefix('make ')}:", makefile, re.MULTILINE)


def test_the_table_of_topics_is_the_registry():
    assert topics_table() in README


def commands() -> list[list[str]]:
    """Every `qstream ...` of the README, in console blocks and in text."""
    text = CONSOLE.replace("\\\n", " ")
    lines = re.findall(r"^\$ (?:.*&& )?(qstream [^#\n]*)", text, re.MULTILINE)
    lines += re.findall(r"`(qstream [^`\n]+)`", README + ROUTING)
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_and_option_exists(words):
    bare = itertools.takewhile(lambda word: not word.startswith("--"), words[1:])
    shown = CliRunner().invoke(app, [*bare, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    assert [option for option in options if option not in shown.output] == []


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_what_the_python_examples_import_exists(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)


def test_each_metric_exists_and_none_is_left_out():
    full = set(re.findall(r"`(qstream_[a-z_]+)", README))
    full |= {f"qstream_routing{name}" for name in re.findall(r"`(_[a-z_]+)[{`]", README)}
    kinds = {"counter": "_total", "info": "_info"}
    exported = {family.name + kinds.get(family.type, "") for family in REGISTRY.collect() if family.name.startswith("qstream_")}
    assert full == exported


def test_each_setting_exists():
    table = README[README.index("| setting (`QSTREAM_...`)") : README.index("The toggles of routing")]
    rows = [row.split("|")[1] for row in table.splitlines()[2:] if row.startswith("|")]
    names = {name.lower() for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}
    assert len(names) > 10
    assert names <= Settings.model_fields.keys()


def test_the_options_of_routing_and_their_defaults_are_documented():
    table = ROUTING[ROUTING.index("| option |") : ROUTING.index("## Recommended")]
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^`|]+)`? \| ", table, re.MULTILINE))
    defaults = {name: field.default for name, field in RoutingOptions.model_fields.items()}
    assert rows.keys() == defaults.keys()
    for name, written in rows.items():
        expected = str(defaults[name]).lower()
        assert written.strip() == expected or float(written) == float(expected)


def test_no_line_is_left_to_fill_in():
    assert "@@" not in README
