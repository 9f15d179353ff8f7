"""The distributions: their names are ours on PyPI, and every text that tells how to install uses them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from qstream.install import DISTRIBUTION, install_hint

ROOT = Path(__file__).parents[2]
FOLDERS = ("agents", "deploy", "docs", "qstream", "schemas", "tests", ".ci")
TEXTS = {"", ".in", ".ini", ".json", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OTHER_PACKAGE = re.compile(r"pip3? install [^\n`#]*?(?<![\w./-])qstream(?![\w-])|[\"'`]?qstream\[[a-z]+\][\"'`]")


def texts() -> list[Path]:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS and path.is_file()]
    return [*files, *(path for path in ROOT.iterdir() if path.suffix in TEXTS and path.is_file())]


@pytest.mark.parametrize(
    "text", ["pip install qstream", "pip install -U 'qstream[demo]'", "'qstream[pandas]'", "`qstream[peers]`"]
)
def test_the_name_of_another_project_is_found(text):
    assert OTHER_PACKAGE.search(text)


@pytest.mark.parametrize(
    "text", [install_hint("demo"), "pip install .", "pip install qstream-client", "/opt/qstream/bin/pip install x"]
)
def test_our_own_names_are_not_mistaken_for_it(text):
    assert not OTHER_PACKAGE.search(text)


def test_no_text_tells_a_user_to_install_another_project_s_qstream():
    files = texts()
    assert len(files) > 100
    found = {path: OTHER_PACKAGE.findall(path.read_text(encoding="utf-8")) for path in files if path != Path(__file__)}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_client_has_bounds_python_and_licence_of_the_whole():
    client = tomllib.loads((ROOT / "deploy/client/pyproject.toml").read_text())["project"]
    assert set(client["dependencies"]) <= set(PROJECT["dependencies"])
    assert [client[name] for name in ("requires-python", "license")] == [PROJECT[name] for name in ("requires-python", "license")]


def test_hints_name_the_distribution_and_its_extras():
    assert PROJECT["name"] == DISTRIBUTION
    hints = re.compile(r"install_hint\([\"'](\w+)[\"']\)")
    named = {extra for path in (ROOT / "qstream").rglob("*.py") for extra in hints.findall(path.read_text())}
    assert named
    assert named <= PROJECT["optional-dependencies"].keys()
