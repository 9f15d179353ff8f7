"""What one telemetry event costs a worker's process, next to a bare loop and to Quix Streams on the same broker in the same run.

Quix Streams is measured where QSTREAM_QUIX_PYTHON names a Python that has it: ``python -m venv DIR``, then
``DIR/bin/pip install quixstreams==3.28.* pydantic`` and ``QSTREAM_QUIX_PYTHON=DIR/bin/python make bench ARGS="--only event"``.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from agents.registry import Agent
from qstream.contract import Batch, Event, Processor, Result
from qstream.embedded.redis import EmbeddedRedis
from qstream.stream.client import Publisher
from schemas.deadletter import DeadLetter
from schemas.frame import JSON, SAFETENSORS, Axes, ContentType, Count, Frame, Name, TimeNs
from schemas.topics import CONTROL, Topic, dead_letter_name
from tests.benchmarks.worker import ROOT, Servers, Worker, count_events, follow, program, servers, worker

Row = tuple[str, float, str, str]

EVENTS = 100_000
ROUNDS = 3
NODES = 8
GPUS = 8
COUNTERS = 110
QUIX_PYTHON = os.environ.get("QSTREAM_QUIX_PYTHON", "")


class Telemetry(Frame):
    """What a node reports each second: watts by GPU, and the values of its counters."""

    node: Name
    ts_ns: TimeNs
    power_w: Annotated[NDArray[np.float32], Axes("gpus")]
    counters: Annotated[NDArray[np.int64], Axes("counters")]


class Usage(Frame):
    """The answer to one report."""

    node: Name
    reports: Count
    power_w: float


class NodeState(Frame):
    """Sums over the reports of one node."""

    reports: Count
    energy_j: Annotated[NDArray[np.float64], Axes("gpus")]
    counters: Annotated[NDArray[np.int64], Axes("counters")]


REPORTS: dict[ContentType, Topic] = {
    JSON: Topic("bench.telemetry.v1", Telemetry, "node", "input", "reports of nodes"),
    SAFETENSORS: Topic("bench.frames.v1", Telemetry, "node", "input", "the same reports as frames"),
}
USAGE = Topic("bench.usage.v1", Usage, "node", "plan", "an answer for each report")
LETTERS = Topic(dead_letter_name("telemetry"), DeadLetter, "topic", "dead-letter", "what could not be read", 1)


class Sums(Processor[NodeState]):
    """As little as a stateful module can do, so that the loop is what is measured."""

    name = "telemetry"
    outputs = (USAGE,)
    state = NodeState

    def __init__(self, source: Topic) -> None:
        self.inputs = (source,)

    def process(self, batch: Batch, state: NodeState | None, now_ns: int) -> Result[NodeState]:
        reports = 0 if state is None else state.reports
        energy = np.zeros(GPUS) if state is None else state.energy_j.copy()
        counters = np.zeros(COUNTERS, np.int64) if state is None else state.counters.copy()
        frames = [record.frame for record in batch.records if isinstance(record.frame, Telemetry)]
        power = np.stack([report.power_w for report in frames])
        energy += power.sum(0)
        counters += np.stack([report.counters for report in frames]).sum(0)
        events = []
        for record, watts in zip(batch.records, power.sum(1).tolist(), strict=True):
            reports += 1
            usage = Usage(node=batch.key, reports=reports, power_w=watts)
            events.append(Event(USAGE, batch.key, record.event_id(0), usage, record))
        return Result(events, (), NodeState(reports=reports, energy_j=energy, counters=counters))


def _agent(source: Topic) -> Agent:
    return Agent(name="telemetry", purpose="sums reports", topics=(source, USAGE), processor=lambda settings: Sums(source))


OF_JSON = _agent(REPORTS[JSON])
OF_FRAMES = _agent(REPORTS[SAFETENSORS])


def rows() -> list[Row]:
    """Medians over rounds in which all run one after the other, so that a slow moment of the machine meets all of them."""
    bodies, size = _bodies()
    cost: dict[str, list[float]] = {}
    with servers([*REPORTS.values(), USAGE, LETTERS, CONTROL]) as at:
        for content_type, topic in REPORTS.items():
            _publish(at, topic, content_type, bodies[content_type])
        for number in range(ROUNDS):
            for name, run in CONTENDERS.items():
                if name != "quix" or QUIX_PYTHON:
                    cost.setdefault(name, []).append(_cpu_us(at, run, f"{name}-{number}"))
    return [
        (f"event of {size:.0f} B of JSON, a state a key, an answer each: CPU", _median(cost["json"]), "us", "<= 20"),
        ("  in a bare loop with pydantic, same state and answers", _median(cost["bare"]), "us", "-"),
        ("  the same event as a safetensors frame", _median(cost["frame"]), "us", "-"),
        ("  on Quix Streams with the same validation", _median(cost.get("quix", [])), "us", "-"),
        ("event as JSON over the bare loop", _ratio(cost, "json", "bare"), "x", "<= 1.2"),
        ("event as a frame over the event as JSON", _ratio(cost, "frame", "json"), "x", "<= 0.5"),
        ("event as JSON over Quix Streams", _ratio(cost, "json", "quix"), "x", "<= 0.5" if QUIX_PYTHON else "-"),
    ]


def _ratio(cost: dict[str, list[float]], above: str, below: str) -> float:
    """Median of the rounds' own ratios."""
    return _median([a / b for a, b in zip(cost[above], cost.get(below, []), strict=False)])


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else math.nan


def _bodies() -> tuple[dict[ContentType, list[tuple[str, bytes]]], float]:
    """The node and the bytes of 64 reports in both forms, and the mean size of the JSON."""
    rng = np.random.default_rng(0)
    frames = [
        Telemetry(
            node=f"node-{number % NODES:03d}",
            ts_ns=1_700_000_000_000_000_000 + number,
            power_w=rng.uniform(100, 700, GPUS).round(1).astype(np.float32),
            counters=rng.integers(100_000, 9_999_999, COUNTERS),
        )
        for number in range(64)
    ]
    texts = [(frame.node, _text(frame)) for frame in frames]
    packed = [(frame.node, frame.encode()) for frame in frames]
    return {JSON: texts, SAFETENSORS: packed}, statistics.mean(len(text) for _, text in texts)


def _text(frame: Telemetry) -> bytes:
    """JSON as a producer without qstream writes it."""
    fields: dict[str, Any] = {
        "node": frame.node,
        "ts_ns": frame.ts_ns,
        "power_w": [round(watts, 1) for watts in frame.power_w.tolist()],
        "counters": frame.counters.tolist(),
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def _publish(at: Servers, topic: Topic, content_type: ContentType, bodies: list[tuple[str, bytes]]) -> None:
    headers = [("content-type", content_type.encode())]
    with Publisher(at.kafka) as publisher:
        for number in range(EVENTS):
            node, body = bodies[number % len(bodies)]
            publisher.publish_raw(topic.name, node.encode(), body, headers)


Run = Callable[[Servers, str], Any]


def _cpu_us(at: Servers, run: Run, group: str) -> float:
    """CPU of the contender's process an event, with an empty store and a group of its own."""
    before = count_events(at, USAGE)
    with EmbeddedRedis() as redis, run(Servers(at.kafka, redis.url), group) as running:
        cpu_s, _ = follow(running, at, USAGE, EVENTS, before=before).between()
    return cpu_s * 1e6


def _qstream(name: str) -> Run:
    return lambda at, group: worker(f"tests.benchmarks.bench_event:{name}", at, max_batch_records=500, group_prefix=group)


@contextmanager
def _bare(at: Servers, group: str) -> Iterator[Worker]:
    given = {"kafka": at.kafka, "redis_url": at.redis, "source": REPORTS[JSON].name, "target": USAGE.name, "group": group}
    with program([sys.executable, "-m", "tests.benchmarks.bare", json.dumps(given)]) as running:
        yield running


@contextmanager
def _quix(at: Servers, group: str) -> Iterator[Worker]:
    given = {"kafka": at.kafka, "source": REPORTS[JSON].name, "target": USAGE.name, "group": group}
    with program([QUIX_PYTHON, str(ROOT / "tests/benchmarks/quix.py"), json.dumps(given)]) as running:
        yield running


CONTENDERS: dict[str, Run] = {"bare": _bare, "json": _qstream("OF_JSON"), "frame": _qstream("OF_FRAMES"), "quix": _quix}
