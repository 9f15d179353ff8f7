"""The page "Write a module" is true: its files, copied as they stand, make an agent, here and as a package of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Under other names of the same length, so that a checkout that has a module `cooling` already can be tested too.
NAMES = {"cooling": "coolant", "Cooling": "Coolant", "COOLING": "COOLANT", "RoomTelemetry": "HallTelemetry"}
PAGE = re.sub("|".join(NAMES), lambda found: NAMES[found[0]], (ROOT / "docs/pages/howto/module.md").read_text())
HERE, ELSEWHERE = PAGE.split("## A package of its own\n")
TITLED = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
MOVED = {
    "from schemas.topics import COOLANT": "from my_coolant.topics import COOLANT",
    "schemas.coolant": "my_coolant.frames",
    "qstream.coolant": "my_coolant",
}


def run(folder: Path, *words: str) -> str:
    """What a command prints in that folder, where the folder's packages are found first."""
    path = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the page's files in it."""
    copy = tmp_path_factory.mktemp("checkout") / "repository"
    hidden = shutil.ignore_patterns("__pycache__")
    for name in ("agents", "deploy", "docs", "qstream", "schemas", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=hidden)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name, text in TITLED.findall(HERE):
        if name == "schemas/topics.py":
            add_topics(copy / name, text)
        else:
            write(copy / name, text)
    run(copy, "-m", "ruff", "check", "--no-cache", "--quiet", "--select", "I", "--fix", "schemas/topics.py")
    return copy


def add_topics(path: Path, text: str) -> None:
    """Do what the page says of the table of topics: the import, the rows, and their names in the tuple."""
    imported, rows = text.split("\n\n", 1)
    names = "".join(f"    {name},\n" for name in re.findall(r"^(\w+) = ", rows, re.MULTILINE))
    table = "TOPICS: tuple[Topic, ...] = (\n"
    before = path.read_text()
    assert table in before
    path.write_text(
        before.replace("from schemas.deadletter", f"{imported}\nfrom schemas.deadletter", 1).replace(
            table, rows + "\n" + table + names
        )
    )


def test_the_module_of_the_page_passes_its_tests_and_the_conformance_tests(checkout):
    run(checkout, "-m", "schemas.generate")
    assert run(checkout, "-m", "schemas.generate", "--check") == ""
    chosen = ("tests/unit/coolant", "tests/conformance", "-k", "coolant or Coolant or Hall")
    printed = run(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen)
    assert re.search(r"^1\d passed", printed, re.MULTILINE), printed


def test_all_else_that_names_the_module_is_written_from_its_files(checkout):
    write(checkout / "qstream/coolant/README.md", "# Coolant\n")
    run(checkout, "-m", "docs.generate")
    assert run(checkout, "-m", "docs.generate", "--check") == ""
    for page, link in (("README.md", "qstream/coolant/README.md"), ("docs/pages/modules/index.md", "coolant.md")):
        assert f"\n| [coolant]({link}) | decides how fast the fans" in (checkout / page).read_text()
    assert 'ports: ["127.0.0.1:${COOLANT_PORT:-6067}:6066"]' in (checkout / "deploy/compose/compose.yaml").read_text()
    assert "\nCOOLANT_PORT=6067\n" in (checkout / "deploy/compose/.env.example").read_text()
    assert (
        'label_values(qstream_ready{agent=~\\"coolant\\"}, agent)'
        in (checkout / "deploy/grafana/dashboards/coolant.json").read_text()
    )
    chosen = ("tests/contract/test_modules.py", "tests/unit/deploy", "-k", "coolant or compose or env or agents")
    run(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen)


def test_the_module_of_the_page_keeps_the_house_s_rules(checkout):
    files = [name for name, _ in TITLED.findall(HERE)]
    run(checkout, "-m", "ruff", "check", "--no-cache", *files)
    run(checkout, "-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")


def test_the_same_files_make_an_agent_of_a_package_of_its_own(tmp_path):
    for name, text in TITLED.findall(HERE):
        for old, new in MOVED.items():
            text = text.replace(old, new)
        moved = {"schemas/coolant.py": "my_coolant/frames.py", "agents/coolant.py": "my_coolant/agent.py"}
        if name != "schemas/topics.py":
            write(tmp_path / moved.get(name, name.replace("qstream/coolant", "my_coolant").replace("unit/coolant/", "")), text)
    for name, text in TITLED.findall(ELSEWHERE):
        write(tmp_path / name, text)
    # What pip writes of the page's pyproject.toml.
    entry = re.search(r"^coolant = \"(.*)\"$", ELSEWHERE, re.MULTILINE)
    assert entry is not None
    write(tmp_path / "my_coolant-0.1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: my-coolant\nVersion: 0.1.0\n")
    write(tmp_path / "my_coolant-0.1.0.dist-info/entry_points.txt", f"[qstream.agents]\ncoolant = {entry[1]}\n")
    printed = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "tests")
    assert re.search(r"^8 passed", printed, re.MULTILINE), printed
    found = run(tmp_path, "-c", "from agents.registry import find_agent; print(find_agent('coolant').dead_letters.name)")
    assert found == "qstream.coolant.dlq.v1\n"
