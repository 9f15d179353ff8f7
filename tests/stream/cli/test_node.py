"""Telemetry and actuator as processes on a real broker: what ends them, what is put back, and that nothing unsafe is set."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from qstream.config import Settings
from qstream.node import FakeNvml
from qstream.node.fake_file import FiledNvml
from qstream.stream.client import PlanSubscriber, Publisher
from qstream.stream.read import frame_of, read_all
from qstream.testing.rig import wait_until
from schemas.energy import EnergyAck, EnergyPlan
from schemas.frame import JSON
from schemas.power import GpuTelemetry, PowerTopology
from schemas.topics import ENERGY_ACK, ENERGY_PLAN, GPU_TELEMETRY

UUIDS = FakeNvml(node="n1").uuids
Started = Callable[..., "subprocess.Popen[str]"]


class Node:
    """An actuator of fake GPUs in a file, as a process, and what a planner and a person see of it."""

    def __init__(self, kafka: str, started: Started, folder: Path, domain: str) -> None:
        self.kafka, self.domain = kafka, domain
        self._started, self._versions = started, count(1)
        self._gpus, self._state = folder / "gpus.jsonl", folder / "state.json"
        self.acks = PlanSubscriber(ENERGY_ACK, EnergyAck, kafka, key=domain)
        self.publisher = Publisher(kafka)

    def start(self, *words: str, allow: tuple[str, ...] = UUIDS) -> subprocess.Popen[str]:
        """Start the actuator, and wait until it reads plans."""
        allowed = [word for uuid in allow for word in ("--allow", uuid)]
        given = ["--domain", self.domain, "--node", "n1", "--device", f"fake:{self._gpus}", "--state", str(self._state)]
        process = self._started("energy", "actuate", *given, "-b", self.kafka, *allowed, *words)
        assert process.stderr is not None
        while "plans are read" not in (line := process.stderr.readline()):
            assert line, "it ended"
        return process

    def plan(self, limit_w: object, clock: object = -1.0, *, mode: str = "apply", ttl_s: float = 600.0, **more: object) -> str:
        """Publish a plan for all GPUs; its id."""
        version = next(self._versions)
        fields = {"domain": self.domain, "plan_id": f"p{version}", "ts_ns": time.time_ns(), "version": version, "fence": 1}
        plan = EnergyPlan(
            **fields | {"mode": mode, "ttl_s": ttl_s, "uuid": UUIDS} | more,
            power_limit_w=np.broadcast_to(limit_w, len(UUIDS)).astype(np.float32),
            sm_clock_mhz=np.broadcast_to(clock, len(UUIDS)).astype(np.float32),
        )
        self.publisher.publish(ENERGY_PLAN, plan)
        return plan.plan_id

    def ack_of(self, plan_id: str) -> EnergyAck:
        """The next acknowledgement of the plan."""
        self.publisher.flush()

        def found() -> EnergyAck | None:
            ack = self.acks.poll(0.1)
            return ack if ack is not None and ack.plan_id == plan_id else None

        return wait_until(found)

    def limits_w(self) -> list[float]:
        """What is enforced now."""
        gpus = FiledNvml(self._gpus, node="n1")
        return [gpus.power_limit_w(uuid) for uuid in UUIDS]

    def writes(self) -> list[dict[str, object]]:
        """All that was ever set."""
        return [json.loads(line) for line in self._gpus.read_text().splitlines()]


@pytest.fixture
def node(cluster: str, started: Started, tmp_path: Path, topic_prefix: str) -> Iterator[Node]:
    made = Node(cluster, started, tmp_path, topic_prefix)
    yield made
    made.acks.close()


def test_readings_are_published_until_the_count(cluster: str, started: Started, topic_prefix: str):
    words = ["--domain", topic_prefix, "--node", "n1", "--source", "fake", "--interval", "50ms", "--count", "3"]
    process = started("energy", "telemetry", *words, "-b", cluster)
    _, errors = process.communicate()
    assert process.returncode == 0
    assert errors.splitlines()[-1].startswith("3 records")  # a slow broker may confirm late
    records = read_all(Settings(bootstrap_servers=cluster), GPU_TELEMETRY.name)
    frames = [frame_of(record, GpuTelemetry) for record in records if record.key() == topic_prefix.encode()]
    assert [(frame.node, frame.seq, frame.uuid) for frame in frames] == [("n1", seq, UUIDS) for seq in (1, 2, 3)]
    energy = [frame.count[frame.counter.index("energy_mj")] for frame in frames if frame.count is not None]
    assert (energy[0] < energy[2]).all()


def test_gpus_that_report_themselves_are_described_and_published(
    cluster: str, started: Started, invoke: Callable[..., Result], topic_prefix: str, tmp_path: Path
):
    words = ["--domain", topic_prefix, "--node", "n1", "--source", "fake", "--interval", "100ms"]
    process = started("energy", "telemetry", *words, "-b", cluster)
    path = tmp_path / "topology.json"
    given = ["--domain", topic_prefix, "--budget", "4kW", "--opt-in", "all", "--clocks", "345:1980", "--listen", "500ms"]
    wait_until(lambda: invoke("energy", "topology", *given, "--out", path, "-b", cluster).exit_code == 0)
    found = PowerTopology.decode(path.read_bytes(), JSON)
    assert (found.node, found.uuid, found.budget_w, found.opt_in.tolist()) == (("n1",), UUIDS, 4000, [1] * 8)
    assert invoke("publish", path, "-b", cluster).exit_code == 0
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0


def test_without_apply_a_plan_is_printed_and_nothing_is_set(node: Node):
    process = node.start(allow=())
    ack = node.ack_of(node.plan([300, 199, *[700] * 6], [1590, *[-1] * 7]))
    assert (ack.dry_run, ack.result[:2], node.writes()) == (True, ("ok", "refused"), [])
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate()
    assert printed.splitlines()[:3] == [
        f"{node.domain}  n1  dry run  7 ok, 1 refused",
        "  GPU-n1-0: would set: 300 W, 1590 MHz",
        "  GPU-n1-1: refused: 199 W, no clock cap",
    ]


def test_sigterm_puts_the_defaults_back(node: Node):
    process = node.start("--apply")
    ack = node.ack_of(node.plan(300))
    assert (ack.dry_run, set(ack.result), ack.enforced_limit_w.tolist()) == (False, {"ok"}, [300] * 8)
    assert node.limits_w() == [300] * 8
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert node.limits_w() == [700] * 8
    assert Counter(node.ack_of(ack.plan_id).result) == {"expired": 8}


def test_after_sigkill_the_next_start_puts_the_defaults_back(node: Node):
    process = node.start("--apply")
    node.ack_of(plan_id := node.plan(300, 1590))
    process.kill()
    process.wait()
    assert node.limits_w() == [300] * 8
    node.start("--apply")
    assert node.limits_w() == [700] * 8
    assert Counter(node.ack_of(plan_id).result) == {"expired": 8}


def test_a_storm_of_plans_on_the_topic_sets_nothing_unsafe(node: Node):
    rng = np.random.default_rng(3)
    process = node.start("--apply", allow=UUIDS[:6])
    for _ in range(300):
        limit = rng.choice([-1, 1e-3, 150, 199.9, 200, 350, 700, 700.1, 4e5], 8)
        clock = rng.choice([-1, 1, 344.9, 345, 1590, 1980, 1981, 1e9], 8)
        more = {"fence": int(rng.integers(0, 3)), "mode": str(rng.choice(["apply", "apply", "dry_run", "recommend"]))}
        node.plan(limit, clock, **more, **({"ts_ns": time.time_ns() - 10**12} if rng.random() < 0.1 else {}))
    node.ack_of(node.plan(400, fence=3))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    writes = node.writes()
    assert len(writes) > 100
    assert {write["uuid"] for write in writes} == {*UUIDS[:6]}
    limits = [write["asked"] for write in writes if write["knob"] == "power_limit_w"]
    clocks = [write["asked"] for write in writes if write["knob"] == "sm_clock_mhz"]
    assert 200 <= min(limits) <= max(limits) <= 700
    assert all(mhz is None or 345 <= mhz <= 1980 for mhz in clocks)
    assert node.limits_w() == [700] * 8
