"""The import contracts cover every folder of qstream, and refuse what a module must not do; each on a copy with a fault."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agents.names import files
from agents.registry import find_agent
from tests.contract.rooms import MODULES, ROOT, modules

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
LAYERS = next(contract for contract in SETTINGS["contracts"] if contract["type"] == "rooms")["layers"]
SHARED = {name.strip() for layer in LAYERS if layer != MODULES for name in layer.split("|")}


def test_every_folder_is_a_shared_room_or_a_module():
    folders = {path.parent.name for path in (ROOT / "qstream").glob("*/__init__.py")}
    unknown = folders - SHARED - set(modules())
    assert not unknown, f"{unknown} must have a processor.py, as a module has, or a line in the layers of pyproject.toml"
    assert not SHARED & set(modules())


def test_every_module_has_an_agent_and_every_agent_a_module():
    assert {f"qstream.{name}" for name in modules()} == {find_agent(name).package for name in files()}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and contracts as they are, with one more module."""
    for package in ("qstream", "agents", "schemas"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=lambda _, names: [n for n in names if n == "__pycache__"])
    (tmp_path / "tests/contract").mkdir(parents=True)
    shutil.copy(ROOT / "tests/contract/rooms.py", tmp_path / "tests/contract")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "qstream/eighth").mkdir()
    (tmp_path / "qstream/eighth/__init__.py").write_text("")
    (tmp_path / "qstream/eighth/processor.py").write_text("import numpy\nfrom qstream.contract import Batch\n")
    return tmp_path


def lint(folder: Path) -> tuple[int, str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_new_module_is_covered_without_a_line_in_the_contracts(copy: Path):
    assert lint(copy)[0] == 0


def test_what_a_module_must_not_import_is_named(copy: Path):
    (copy / "qstream/eighth/processor.py").write_text(
        "import redis\nimport qstream.routing.options\nimport qstream.stream.loop\n"
    )
    code, said = lint(copy)
    assert code == 1
    for forbidden in ("redis", "qstream.routing.options", "qstream.stream.loop"):
        assert f"qstream.eighth.processor -> {forbidden}" in said


def test_a_folder_that_no_contract_covers_is_named(copy: Path):
    (copy / "qstream/attic").mkdir()
    (copy / "qstream/attic/__init__.py").write_text("")
    code, said = lint(copy)
    assert code == 1
    assert "attic" in said
