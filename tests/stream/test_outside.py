"""A module of another package: known by its entry point alone, it runs on the embedded broker, and every command knows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qstream.embedded.kafka import EmbeddedKafka
from qstream.stream.client import Publisher
from schemas.topics import CONTROL, TOPICS

OUTSIDE = Path(__file__).parent / "outside"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 240

Command = Callable[..., str]


def environment() -> dict[str, str]:
    """That of a user who has the package installed and no settings of qstream."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QSTREAM_")}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(OUTSIDE)]), "PYTHONUNBUFFERED": "1"}


def qstream(*words: str, stdin: str | None = None, code: int = 0) -> str:
    """The output of a command that ends with `code`."""
    command = [sys.executable, "-m", "qstream.cli", *words]
    done = subprocess.run(
        command, env=environment(), input=stdin, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@contextmanager
def running(*words: str) -> Iterator[dict[str, str]]:
    """An agent with its own servers, and their addresses."""
    command = [sys.executable, "-m", "qstream.cli", "run", *words, "-b", "embedded", "--redis", "embedded"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            exports = [process.stdout.readline().strip().removeprefix("export ").split("=", 1) for _ in range(2)]
            yield dict(exports)
        finally:
            process.terminate()
            _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said


def test_records_in_and_plans_out_by_the_shared_commands():
    hot = {"frame": "RackHeat.v1", "rack": "r7", "ts_ns": 1, "inlet_c": [26.0, 28.0]}
    empty = hot | {"rack": "r8", "inlet_c": []}
    with running("pumps", "--port", "0", "--loglevel", "ERROR") as servers:
        broker = servers["QSTREAM_BOOTSTRAP_SERVERS"]
        lines = "\n".join(json.dumps(frame) for frame in (hot, empty, hot))
        published = json.loads(qstream("publish", "-", "--json", "-b", broker, stdin=lines))
        assert published == {"published": 3, "topics": {"pumps.rack.heat.v1": 3}}

        wait = ("--from-start", "--timeout", str(PATIENCE_S), "-b", broker)
        plans = qstream("watch", "pumps.pump.plan.v1", "--key", "r7", "--count", "2", *wait)
        assert plans.count("r7: 20.0 l/min") == 2
        heats = qstream("watch", "pumps.rack.heat.v1", "--key", "r7", "--count", "2", *wait)
        assert heats.count("r7  inlet_c 2") == 2

        qstream("watch", "pumps.dlq", "--count", "1", *wait)
        (letter,) = json.loads(qstream("dlq", "list", "--json", "-b", broker))
        assert (letter["agent"], letter["error"]) == ("pumps", "Poison")
        assert "inlet_c must have at least one sensor" in qstream("dlq", "show", letter["id"], "-b", broker)
        paused = json.loads(qstream("control", "pumps", "--pause", "--json", "-b", broker))
        assert (paused["agent"], paused["paused"]) == ("pumps", True)
        assert f"all {len(TOPICS) + 3} exist" in qstream("doctor", "-b", broker, "--redis", servers["QSTREAM_REDIS_URL"])


def test_help_and_tables_know_it():
    assert "  pumps " in qstream("--help")
    assert "The pumps module sets the pump of each rack by its temperature." in qstream("pumps", "--help").replace("\n ", "")
    listed = {row["topic"] for row in json.loads(qstream("topics", "list", "--registry", "--json"))}
    assert {"pumps.rack.heat.v1", "pumps.pump.plan.v1", "qstream.pumps.dlq.v1"} <= listed


def test_it_passes_the_conformance_checks():
    code = (
        "from agents.registry import find_agent; from qstream.testing.agents import check_agent; check_agent(find_agent('pumps'))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("routing = qstream_pumps.agent:AGENT", "agent 'routing' must be declared once"),
        ("broken = qstream_pumps.nonesuch:AGENT", "agent 'broken' must be importable, got ModuleNotFoundError"),
        ("other = qstream_pumps.agent:AGENT", "must be 'other', as it is registered, got 'pumps'"),
        ("other = qstream_pumps.agent:line", "must be an Agent"),
    ],
)
def test_a_wrong_entry_point_is_named_and_costs_the_others_nothing(entry, reason, tmp_path):
    folder = tmp_path / "wrong-0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 0.1\n")
    (folder / "entry_points.txt").write_text(f"[qstream.agents]\n{entry}\n")
    paths = os.pathsep.join([environment()["PYTHONPATH"], str(tmp_path)])
    name = entry.split(" ")[0]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qstream.cli", *words]
        return subprocess.run(command, env=environment() | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)

    refused = run("run", name)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert reason in refused.stderr
    assert run("--help").returncode == 0
    if name != "routing":  # ours: then nothing can be said without it
        assert "qstream.tokens.batch.v1" in run("topics", "list", "--registry").stdout


PLAN = "faulty.pump.plan.v1"
FAULTY = """
from agents.registry import Agent
from qstream_pumps.frames import RACK_HEAT, PumpPlan
from qstream_pumps.processor import PumpProcessor
from schemas.topics import Topic

PLAN = Topic("faulty.pump.plan.v1", PumpPlan, "rack", "plan", "flows", partitions=1)


class Faulty(PumpProcessor):
    name = "faulty"

    def configure(self, options):
        if options.get("limit") == "text":
            return [][0]
        return self


def processor(settings):
    return Faulty().configure(settings.options)


def line(frame):
    return 1 / 0


AGENT = Agent(name="faulty", purpose="fails", topics=(RACK_HEAT, PLAN), processor=processor, lines="faulty:line",
              commands="faulty:line")
"""


def test_a_fault_in_the_code_of_a_module_is_one_line_that_names_the_module_the_exception_and_the_place(tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    folder = tmp_path / "faulty-0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 0.1\n")
    (folder / "entry_points.txt").write_text("[qstream.agents]\nfaulty = faulty:AGENT\n")
    paths = os.pathsep.join([environment()["PYTHONPATH"], str(tmp_path)])

    def refused(*words: str) -> str:
        command = [sys.executable, "-m", "qstream.cli", *words]
        done = subprocess.run(command, env=environment() | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        return done.stderr.strip().splitlines()[-1]

    at = f"{tmp_path}/faulty.py:"
    fault = f"must not fail, got IndexError at {at}15: list index out of range"
    assert refused("run", "faulty", "--set", "limit=text") == f"Error: the processor of agent 'faulty' {fault}"
    assert refused("faulty", "--help").startswith("Error: commands of agent 'faulty' must be a typer app, got <function line")
    with EmbeddedKafka({CONTROL.name: 1, PLAN: 1}) as broker:
        address = broker.bootstrap_servers
        said = refused("control", "faulty", "--set", "limit=text", "-b", address)
        assert said == f"Error: configure of agent 'faulty' {fault}"
        plan = '{"frame": "PumpPlan.v1", "plan_id": "x", "ts_ns": 1, "solver": {"solver": "s"}, "rack": "r1", "flow_lpm": 1}'
        with Publisher(address) as publisher:
            publisher.publish_raw(PLAN, b"r1", plan.encode())
        said = refused("watch", PLAN, "--from-start", "--count", "1", "--timeout", str(PATIENCE_S), "-b", address)
        assert said == f"Error: lines of agent 'faulty' must not fail, got ZeroDivisionError at {at}24: division by zero"
