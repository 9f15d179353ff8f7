"""The loop inside the Faust worker on a real Kafka and a real Redis: what an event and a token cost the worker's process."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from agents.registry import Agent
from qstream.contract import Batch, Event, Processor, Record, Result
from qstream.routing.options import RoutingOptions
from qstream.routing.processor import RoutingProcessor
from qstream.stream.client import Publisher
from schemas.deadletter import DeadLetter
from schemas.experts import ExpertTopology
from schemas.frame import JSON, SAFETENSORS, Axes, Count, Frame, Name, TimeNs
from schemas.tokens import TokenBatch
from schemas.topics import CONTROL, EXPERTS_TOPOLOGY, ROUTING_PLAN, TOKENS_BATCH, TOPICS, Topic, dead_letter_name
from tests.benchmarks.worker import Servers, follow, servers, worker

Row = tuple[str, float, str, str]

EVENTS = 100_000
NODES = 8
GPUS = 8
COUNTERS = 110
BATCHES = 12_000
TOKENS = 256
TOP_K = 6
LAYERS = 26
EXPERTS = 64
GROUP = 64


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


REPORTS = Topic("bench.telemetry.v1", Telemetry, "node", "input", "reports of nodes")
USAGE = Topic("bench.usage.v1", Usage, "node", "plan", "an answer for each report")
LETTERS = Topic(dead_letter_name("telemetry"), DeadLetter, "topic", "dead-letter", "what could not be read", 1)


class Sums(Processor[NodeState]):
    """As little as a stateful module can do, so that the loop is what is measured."""

    name = "telemetry"
    inputs = (REPORTS,)
    outputs = (USAGE,)
    state = NodeState

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


AGENT = Agent(name="telemetry", purpose="sums reports", topics=(REPORTS, USAGE), processor=lambda settings: Sums())


def rows() -> list[Row]:
    """What, value, unit and target of each measurement."""
    return [*event_rows(), *token_rows(), *worker_token_rows()]


def event_rows() -> list[Row]:
    """JSON reports of a node's 8 float and 110 integer values, as two arrays; the state of each node in Redis."""
    rng = np.random.default_rng(0)
    bodies = [report(rng, number) for number in range(64)]
    size = statistics.mean(len(body) for _, body in bodies)
    answer = len(Usage(node="node-007", reports=EVENTS // NODES, power_w=4321.25).encode())
    with servers([REPORTS, USAGE, LETTERS, CONTROL]) as at:
        with Publisher(at.kafka) as publisher:
            for number in range(EVENTS):
                node, body = bodies[number % len(bodies)]
                publisher.publish_raw(REPORTS.name, node.encode(), body, [("content-type", JSON.encode())])
        with worker("tests.benchmarks.bench_loop:AGENT", at, max_batch_records=500) as running:
            progress = follow(running, at, USAGE, EVENTS)
            resident = running.resident_mib()
    cpu_s, wall_s = progress.between()
    return [
        (f"loop, {size:.0f} B of JSON in, {answer} B out, a state a key: CPU an event", cpu_s * 1e6, "us", "<= 20"),
        ("  wall time an event", wall_s * 1e6, "us", "-"),
        ("  events a second", 1 / wall_s, "", "-"),
        ("  resident memory after it", resident, "MiB", "<= 300"),
    ]


def report(rng: np.random.Generator, number: int) -> tuple[str, bytes]:
    """A node's name, one for each partition, and its report."""
    node = f"node-{number % NODES:03d}"
    fields: dict[str, Any] = {
        "node": node,
        "ts_ns": 1_700_000_000_000_000_000 + number,
        "power_w": rng.uniform(100, 700, GPUS).round(1).tolist(),
        "counters": rng.integers(100_000, 9_999_999, COUNTERS).tolist(),
    }
    return node, json.dumps(fields, separators=(",", ":")).encode()


def token_rows() -> list[Row]:
    """Bytes to bytes in one process: decode, process with routing plans, encode; groups of records of one model."""
    bodies = [token_batch(number).encode() for number in range(GROUP)]
    found = []
    for label, target, options in (
        ("routing plans", ">= 1", RoutingOptions(placement="off")),
        ("routing and placement plans", "-", RoutingOptions()),
    ):
        processor = RoutingProcessor(options)
        processor.warm()
        first = Record(EXPERTS_TOPOLOGY.name, 0, 0, "m", topology(), 1_700_000_000_000)
        state = processor.process(Batch("m", [first]), None, 0).state

        def turn(processor: RoutingProcessor = processor) -> None:
            nonlocal state
            records = [Record(TOKENS_BATCH.name, 0, i, "m", TokenBatch.decode(body), 1) for i, body in enumerate(bodies)]
            result = processor.process(Batch("m", records), state, 0)
            state = result.state
            for event in result.events:
                event.frame.encode()

        cpu_s = _cpu_s(turn, 200) / GROUP
        found.append((f"tokens through decode, state and {label}: a core", TOKENS / cpu_s / 1e6, "M/s", target))
        found.append((f"  CPU a batch of {TOKENS} tokens, top-{TOP_K} of {EXPERTS}", cpu_s * 1e6, "us", "-"))
    return found


def worker_token_rows() -> list[Row]:
    """The same through the routing agent's worker."""
    found = []
    for label, target, options in (
        ("routing plans", ">= 1", {"placement": "off"}),
        ("routing and placement plans", "-", {}),
    ):
        with servers(TOPICS) as at:
            publish_batches(at, BATCHES)
            with worker("agents.routing:AGENT", at, options=options) as running:
                progress = follow(running, at, ROUTING_PLAN, BATCHES)
        cpu_s, wall_s = progress.between()
        found += [
            (f"tokens through the worker, {label}: a CPU second", TOKENS / cpu_s / 1e6, "M", target),
            ("  a second of wall time", TOKENS / wall_s / 1e6, "M", "-"),
            (f"  CPU a batch of {TOKENS} tokens", cpu_s * 1e6, "us", "-"),
        ]
    return found


def publish_batches(at: Servers, number: int) -> None:
    """The topology, then token batches."""
    bodies = [token_batch(n).encode() for n in range(GROUP)]
    headers = [("content-type", SAFETENSORS.encode())]
    with Publisher(at.kafka) as publisher:
        publisher.publish(EXPERTS_TOPOLOGY, topology())
        for n in range(number):
            publisher.publish_raw(TOKENS_BATCH.name, b"m", bodies[n % GROUP], headers)


def topology() -> ExpertTopology:
    """A small model on two nodes of four GPUs."""
    return ExpertTopology(
        model="m", num_layers=LAYERS, num_logical_experts=EXPERTS, top_k=TOP_K, num_nodes=2, num_gpus=8, slots_per_gpu=9
    )


def token_batch(number: int, tokens: int = TOKENS) -> TokenBatch:
    """Tokens of one layer, with a gate that likes some experts more than others."""
    rng = np.random.default_rng(number)
    liked = rng.gumbel(size=(tokens, EXPERTS)) - 0.03 * np.arange(EXPERTS)
    return TokenBatch(
        batch_id=f"step-{number}",
        ts_ns=1_700_000_000_000_000_000,
        model="m",
        layer=number % LAYERS,
        token_id=rng.integers(0, 2**63, tokens).astype(np.uint64),
        topk_ids=np.argsort(-liked, 1)[:, :TOP_K].astype(np.int32),
    )


def _cpu_s(work: Callable[[], object], repeats: int) -> float:
    """Median over ten rounds of the CPU time of one call."""
    work()
    rounds = []
    for _ in range(10):
        start = time.process_time()
        for _ in range(repeats // 10):
            work()
        rounds.append((time.process_time() - start) / (repeats // 10))
    return statistics.median(rounds)
