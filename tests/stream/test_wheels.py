"""The published wheels: the client works with its four dependencies alone, and the two share no file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import venv
import zipfile
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest

from deploy.wheels import build

DEPENDENCIES = {"confluent-kafka", "numpy", "pydantic", "safetensors"}
PROGRAM = """
import importlib.util, json, sys
from qstream import Exchange, PlanSubscriber, Publisher
from schemas import JSON, TOPICS, TokenBatch
from schemas.topics import TOKENS_BATCH
batch = TokenBatch.example()
assert all(TokenBatch.decode(batch.encode(form), form) == batch for form in (JSON, "application/vnd.safetensors"))
with Publisher(sys.argv[1]) as publisher:
    publisher.publish(TOKENS_BATCH, batch)
with PlanSubscriber(TOKENS_BATCH, TokenBatch, sys.argv[1], from_start=True) as subscriber:
    read = next(subscriber.drain(240.0))
found = [name for name in sys.argv[2:] if importlib.util.find_spec(name)]
print(json.dumps({"same": read == batch, "found": found, "file": importlib.util.find_spec(Exchange.__module__).origin}))
"""
ABSENT = ("agents", "faust", "numba", "pandas", "prometheus_client", "pydantic_settings", "redis", "scipy", "torch")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels by the name of their distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    build(folder, ["--no-build-isolation"])
    return {path.name.split("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def bare(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the client's wheel and what it requires, linked from this environment, and nothing else."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheels["qstream-client"]) as wheel:
        wheel.extractall(site)
    for needed in with_dependencies(requirements(wheels["qstream-client"])):
        for top in {Path(file).parts[0] for file in needed.files or () if file.parts[0] != ".."}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(needed.locate_file(top))))
    return home / "bin" / "python"


def with_dependencies(names: set[str]) -> list[Distribution]:
    """The distributions of these names and all that they require, extras left out."""
    found: dict[str, Distribution] = {}
    left = set(names)
    while left:
        name = left.pop()
        found[name] = distribution(name)
        lines = [line for line in found[name].requires or () if "extra ==" not in line and "python_version <" not in line]
        left |= {name_of(line) for line in lines} - found.keys()
    return list(found.values())


def name_of(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None, requirement
    return name[0].lower().replace("_", "-")


def requirements(wheel: Path) -> set[str]:
    """The names that a wheel requires without extras."""
    with zipfile.ZipFile(wheel) as opened:
        (metadata,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        lines = Parser().parsestr(opened.read(metadata).decode()).get_all("Requires-Dist", [])
    return {name_of(line) for line in lines if "extra ==" not in line}


def test_the_client_s_wheel_publishes_and_reads_with_its_four_dependencies_alone(bare, embedded_kafka):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "QSTREAM_"))}
    command = [bare, "-c", PROGRAM, embedded_kafka.bootstrap_servers, *ABSENT]
    done = subprocess.run(command, capture_output=True, text=True, env=clean, cwd=bare.parent, check=False)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["same"]
    assert printed["found"] == []
    assert Path(printed["file"]).is_relative_to(bare.parents[1])


def test_the_client_requires_four_distributions_and_the_optimizer_the_client_at_its_version(wheels):
    assert requirements(wheels["qstream-client"]) == DEPENDENCIES
    assert "qstream-client" in requirements(wheels["qstream-optimizer"])
    versions = {path.name.split("-")[1] for path in wheels.values()}
    assert len(versions) == 1


def test_the_two_wheels_share_no_file_and_hold_all_of_the_tree(wheels):
    names = {distribution: set(zipfile.ZipFile(path).namelist()) for distribution, path in wheels.items()}
    client, optimizer = names["qstream-client"], names["qstream-optimizer"]
    assert client & optimizer == set()
    assert {name for name in client if name.startswith("agents/")} == set()
    root = Path(__file__).parents[2]
    sources = [path for folder in ("agents", "qstream", "schemas") for path in (root / folder).rglob("*.py")]
    data = [path for end in ("npz", "md") for path in (root / "qstream").rglob(f"*.{end}")]
    assert {str(path.relative_to(root)) for path in (*sources, *data)} <= client | optimizer


def test_the_record_of_each_wheel_lists_its_files(wheels):
    for path in wheels.values():
        with zipfile.ZipFile(path) as opened:
            assert opened.testzip() is None
            (record,) = (name for name in opened.namelist() if name.endswith(".dist-info/RECORD"))
            listed = {line.rsplit(",", 2)[0] for line in opened.read(record).decode().splitlines()}
        assert listed == set(opened.namelist())
