"""README and docs tell the truth: their commands exist and run, their Python runs, the reference is that of the code."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import itertools
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from docs import generate
from docs.dashboards import DASHBOARDS, PANELS
from qstream.cli.main import app
from tests.unit.cli.energy.smi import csv_of
from tests.unit.energy.racks import rack

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs/pages"
WRITTEN = [
    ROOT / "README.md",
    ROOT / "qstream/energy/README.md",
    ROOT / "qstream/routing/README.md",
    ROOT / "qstream/compression/README.md",
    ROOT / "qstream/node/README.md",
    *sorted(page for page in PAGES.rglob("*.md") if page.parent.name != "reference"),
]
NEEDS_A_SERVER = ("localhost:9092", "EPLB_POLICIES")
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```\n(?:\n?```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """One block of code of a page, and the output that the page shows below it."""

    page: Path
    language: str
    code: str
    output: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.code.strip().splitlines()[0]}"


BLOCKS = [Block(page, *found) for page in WRITTEN for found in FENCE.findall(page.read_text())]
PYTHON = [block for block in BLOCKS if block.language == "python" and block.page.stem != "module"]
OFFLINE = [block for block in PYTHON if not any(word in block.code for word in NEEDS_A_SERVER)]


def commands() -> list[list[str]]:
    """Every `qstream ...` of the pages, in console blocks and in text."""
    console = "".join(block.code for block in BLOCKS if block.language == "console").replace("\\\n", " ")
    lines = re.findall(r"^\$ (?:.*&& )?(qstream [^#\n&]*)", console, re.MULTILINE)
    lines += [line for page in WRITTEN for line in re.findall(r"`(qstream [a-z][^`\n]*)`", page.read_text())]
    known = [line for line in lines if "cooling" not in line]  # the module that a page builds: tests/contract/test_new_module.py
    return [shlex.split(line) for line in dict.fromkeys(line.strip() for line in known)]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_and_option_exists(words):
    bare = itertools.takewhile(lambda word: not word.startswith("--") and "." not in word, words[1:])
    shown = CliRunner().invoke(app, [*bare, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    assert [option for option in options if option not in shown.output] == []


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_what_the_python_examples_import_exists(block):
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names)


@pytest.mark.parametrize("block", OFFLINE, ids=str)
def test_python_that_needs_no_server_prints_what_the_page_shows(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.code, block.page.name, "exec"), {})
    assert printed.getvalue() == block.output


def offline_commands() -> list[tuple[str, str]]:
    """Commands on the bundled recording, each with the lines that its page shows below it."""
    found = []
    for block in BLOCKS:
        if block.language == "console":
            found += re.findall(r"^\$ (qstream [^\n]*--example [^\n]*)\n((?:(?!\$ )[^\n]*\n)*)", block.code, re.MULTILINE)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("command", "output"), offline_commands(), ids=lambda part: part.splitlines()[0] if part else "")
def test_a_command_on_the_bundled_recording_prints_what_the_page_shows(command, output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, shlex.split(command)[1:], env={"COLUMNS": "100", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    printed = [line.strip() for line in shown.output.splitlines()]
    assert [line for line in output.splitlines() if line.strip() not in printed] == []


def test_the_pages_on_power_limits_run_on_recordings_of_two_nodes(tmp_path, monkeypatch):
    """The commands of the page in their order, each with the lines that the page shows below it."""
    monkeypatch.chdir(tmp_path)
    for node in rack(2, 4):
        (tmp_path / f"{node.node}.csv").write_text(csv_of(node, 60))
    console = [block.code for block in BLOCKS if block.language == "console" and block.page.stem == "power-offline"]
    found = re.findall(r"^\$ (qstream [^\n>]*)[^\n]*\n((?:(?!\$ )[^\n]*\n)*)", "".join(console), re.MULTILINE)
    assert len(found) == 5
    for command, output in found:
        shown = CliRunner().invoke(app, shlex.split(command)[1:], env={"COLUMNS": "100", "NO_COLOR": "1"})
        assert shown.exit_code == ("1.4kW" in command), shown.output
        printed = [line.strip() for line in shown.stdout.splitlines()]
        assert [line for line in output.splitlines() if line.strip() not in printed] == []
    assert {path.name for path in tmp_path.iterdir()} >= {"rack.json", "plan.json", "report.html", "power-limits.sh"}


def test_the_newcomer_s_two_commands_are_the_ones_that_ci_runs():
    readme = WRITTEN[0].read_text()
    found = re.findall(r"^\$ (make \w+)", readme[: readme.index("## ")], re.MULTILINE)
    assert found == ["make demo", "make test"]
    ci, makefile = (ROOT / ".ci/run").read_text(), (ROOT / "Makefile").read_text()
    for command in found:
        assert re.search(rf"^(time )?make\b.* {command.removeprefix('make ')}\b", ci, re.MULTILINE)
        assert re.search(rf"^{command.removeprefix('make ')}:", makefile, re.MULTILINE)


def test_the_readme_is_short_and_its_links_lead_somewhere():
    readme = WRITTEN[0].read_text()
    assert len(readme.encode()) <= 8192
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", readme)
    assert len(links) > 10
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", sorted(ROOT.glob("qstream/*/README.md")), ids=lambda page: page.parent.name)
def test_every_source_file_that_a_module_s_readme_names_exists(page):
    named = set(re.findall(r"`([\w./]+\.py)`", page.read_text()))
    assert [name for name in sorted(named) if not (page.parent / name).exists() and not (ROOT / name).exists()] == []


def test_the_reference_is_that_of_the_code():
    assert generate.check() == []


def test_every_setting_option_and_field_of_the_reference_says_what_it_means():
    rows = [
        f"{name}: {row}"
        for name in ("settings.md", "options.md", "frames.md")
        for row in (PAGES / "reference" / name).read_text().splitlines()
        if row.startswith("| `")
    ]
    assert len(rows) > 150
    assert [row for row in rows if re.search(r"\|\s*\|", row)] == []


def test_a_page_that_differs_from_the_code_is_named(tmp_path):
    for path in (
        "README.md",
        "deploy/compose/compose.yaml",
        "deploy/compose/.env.example",
        "docs/pages/modules/index.md",
        "docs/pages/howto/learning.md",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    shutil.copytree(ROOT / PANELS, tmp_path / PANELS)
    generate.write(tmp_path)
    assert generate.check(tmp_path) == []
    reference, readme = tmp_path / generate.REFERENCE, tmp_path / "README.md"
    (reference / "metrics.md").write_text("# Metrics\n")
    (reference / "old.md").write_text("# Old\n")
    (tmp_path / DASHBOARDS / "old.json").write_text("{}")
    readme.write_text(readme.read_text().replace("| [routing](", "| [router]("))
    assert generate.check(tmp_path) == [
        "docs/pages/reference/metrics.md: differs from the code",
        "README.md: differs from the code",
        "docs/pages/reference/old.md: no page of the reference",
        "deploy/grafana/dashboards/old.json: no dashboard with panels",
    ]
    readme.write_text("no block")
    with pytest.raises(ValueError, match=r"README\.md must have one line 'begin modules' and one 'end modules', got 0"):
        generate.check(tmp_path)
