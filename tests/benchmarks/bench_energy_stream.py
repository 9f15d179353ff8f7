"""The energy agent's stream: what a GPU's sample costs, in one process and in the worker, and how soon a tick's plan comes.

The domain has 1,024 GPUs, the most that one may have, whose readings follow the caps of its plans: caps are probed all the time.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import numpy as np
from confluent_kafka import Consumer, KafkaError, Message, Producer

from qstream.contract import Batch, Record
from qstream.energy.options import EnergyOptions
from qstream.energy.processor import EnergyProcessor
from qstream.stream.client import PlanSubscriber, Publisher
from schemas.energy import EnergyPlan
from schemas.frame import SAFETENSORS
from schemas.power import GpuTelemetry, PowerTopology
from schemas.topics import ENERGY_PLAN, GPU_TELEMETRY, POWER_TOPOLOGY, TOPICS
from tests.benchmarks.bench_latency import ASKED, ECHOED, echo_of
from tests.benchmarks.worker import follow_input, program, servers, worker

Row = tuple[str, float, str, str]

GPUS: Final = 1024
BATCH: Final = 128  # records
SECONDS: Final = 65  # of readings: the first choice of caps comes after 60
RECORDS: Final = 24_000  # through the worker
PACE: Final = 2  # seconds of readings a second, for the time of a plan
PLANS: Final = 200
WARM_UP: Final = 30
PATIENCE: Final = 60
METRICS: Final = ("power_w", "power_instant_w", "power_limit_w", "power_limit_enforced_w", "sm_clock_mhz", "gpu_util", "temp_c")
COUNTERS: Final = ("energy_mj", "progress", "clock_event_reasons")
CLOCKS_MHZ: Final = np.arange(990, 1981, 30, dtype=np.float32)
LIMIT_W: Final = 700.0
QUICK: Final = {"mode": "apply", "plan_s": 1.0, "ttl_s": 1.0, "settle_s": 1.0, "measure_s": 3.0, "dwell_s": 1.0}


class Domain:
    """GPUs that serve and train, by the physics of `FakeNvml`, all at once: `clock_mhz` [GPUS] is what plans set."""

    def __init__(self, gpus_a_node: int) -> None:
        self.nodes, self.each = GPUS // gpus_a_node, gpus_a_node
        gpus = self.nodes * gpus_a_node
        rng = np.random.default_rng(0)
        serves = rng.random(gpus) < 0.5
        self.beta = np.where(serves, 0.15, rng.uniform(0.6, 0.9, gpus))
        self.activity = np.where(serves, 0.3, 0.9)
        self.clock_mhz = np.full(gpus, float(CLOCKS_MHZ[-1]))
        self.energy_mj, self.progress = np.zeros(gpus), np.zeros(gpus)
        self.uuid = tuple(f"GPU-{number:08x}-6a2f-4c1e-9d3b" for number in range(gpus))
        self.job = tuple(f"job-{number}" for number in range(gpus))
        self.rng, self.start_ms = rng, int(time.time()) // 10 * 10_000  # so that ticks fall on the same seconds in each run

    def topology(self) -> PowerTopology:
        gpus = len(self.uuid)
        return PowerTopology(
            domain="row",
            budget_w=0.75 * LIMIT_W * gpus,
            node=tuple(f"node-{node}" for node in range(self.nodes)),
            uuid=self.uuid,
            model=("h100",),
            node_of_gpu=np.repeat(np.arange(self.nodes, dtype=np.int32), self.each),
            model_of_gpu=np.zeros(gpus, np.int32),
            limit_min_w=np.full(gpus, 200, np.float32),
            limit_max_w=np.full(gpus, LIMIT_W, np.float32),
            limit_default_w=np.full(gpus, LIMIT_W, np.float32),
            opt_in=np.ones(gpus, np.uint8),
            sm_clock_mhz=CLOCKS_MHZ[None],
        )

    def at_ms(self, second: int, node: int) -> int:
        """When a node sends the readings of a second: one after the other."""
        return self.start_ms + 1000 * second + 1000 * node // self.nodes

    def apply(self, plan: EnergyPlan) -> None:
        """Set the clock caps of a plan, which names all GPUs in their order."""
        cap = plan.sm_clock_mhz.astype(np.float64)
        self.clock_mhz = np.where(cap > 0, cap, float(CLOCKS_MHZ[-1]))

    def second(self, number: int) -> Iterator[GpuTelemetry]:
        """The readings of each node in turn, after one second more."""
        part = self.clock_mhz / CLOCKS_MHZ[-1]
        power = 70 + self.activity * (LIMIT_W - 70) * (0.35 * part + 0.65 * part**3) * self.rng.uniform(0.99, 1.01, len(part))
        self.energy_mj += 1000 * power
        self.progress += 10_000 / (self.beta / part + 1 - self.beta)
        for node in range(self.nodes):
            mine = slice(node * self.each, (node + 1) * self.each)
            same = np.ones(self.each)
            value = [power[mine], power[mine], LIMIT_W * same, LIMIT_W * same, self.clock_mhz[mine], 99 * same, 60 * same]
            yield GpuTelemetry(
                domain="row",
                ts_ns=number * 10**9,
                node=f"node-{node}",
                boot_id="b",
                seq=number,
                uuid=self.uuid[mine],
                metric=METRICS,
                counter=COUNTERS,
                progress_unit="tokens",
                job=self.job[mine],
                workload=("decode",) * self.each,
                value=np.array(value, np.float32),
                count=np.array([self.energy_mj[mine], self.progress[mine], 0 * same]).astype(np.uint64),
            )


def rows() -> list[Row]:
    """What, value, unit and target of each measurement."""
    return [*sample_rows(8, ">= 100"), *sample_rows(72, ">= 500"), *tick_rows(), *worker_rows(), *plan_rows()]


def sample_rows(each: int, target: str) -> list[Row]:
    """From bytes to the state, between two plans: decode, fold, forecast; what a plan costs is a row of its own."""
    batches = [batch for _ in range(5) for batch in minute(each, EnergyOptions(plan_s=3600.0))]
    cost_s = statistics.median(took / records for took, records, _ in batches)
    return [
        (f"samples through decode, state and forecast, {each} GPUs a record: a core", each / cost_s / 1e3, "k/s", target),
        (f"  CPU a record of {each} GPUs", 1e6 * cost_s, "us", "-"),
    ]


def tick_rows() -> list[Row]:
    """What closing a tick costs besides its records, while a tenth of the GPUs, each with a job of its own, probe caps."""
    batches = minute(8, EnergyOptions(mode="apply"))
    plain = statistics.median(took for took, _, plans in batches if not plans)
    ticks = [1e3 * (took - plain) for took, _, plans in batches if plans]
    return [
        (f"CPU of a tick over {GPUS} GPUs that probe: median", statistics.median(ticks), "ms", "-"),
        ("  the longest: a tenth of the GPUs choose their next caps", max(ticks), "ms", "-"),
    ]


def minute(each: int, options: EnergyOptions) -> list[tuple[float, int, int]]:
    """CPU seconds, records and plans of each batch of a minute of a domain, whose GPUs follow the plans."""
    processor, domain = EnergyProcessor(options), Domain(each)
    processor.warm()
    first = Record(POWER_TOPOLOGY.name, 0, 0, "row", domain.topology(), domain.start_ms)
    state, found, step = processor.process(Batch("row", [first]), None, 0).state, [], max(1, BATCH // domain.nodes)
    for begin in range(1, SECONDS, step):
        bodies = [
            (domain.at_ms(second, node), frame.encode())
            for second in range(begin, begin + step)
            for node, frame in enumerate(domain.second(second))
        ]
        start = time.process_time()
        records = [Record(GPU_TELEMETRY.name, 0, 0, "row", GpuTelemetry.decode(body), moment_ms) for moment_ms, body in bodies]
        result = processor.process(Batch("row", records), state, 0)
        for event in result.events:
            event.frame.encode()
        found.append((time.process_time() - start, len(records), len(result.events)))
        state = result.state
        for event in result.events:
            domain.apply(event.frame)
    return found


def worker_rows() -> list[Row]:
    """The same through the energy agent's worker."""
    domain, headers = Domain(8), [("content-type", SAFETENSORS.encode())]
    with servers(TOPICS) as at:
        with Publisher(at.kafka) as publisher:
            publisher.publish(POWER_TOPOLOGY, domain.topology(), timestamp_ms=domain.start_ms)
            for second in range(1, RECORDS // domain.nodes + 1):
                for node, frame in enumerate(domain.second(second)):
                    moment = domain.at_ms(second, node)
                    publisher.publish_raw(GPU_TELEMETRY.name, b"row", frame.encode(), headers, timestamp_ms=moment)
        with worker("agents.energy:AGENT", at) as running:
            progress = follow_input(running, at, "energy", GPU_TELEMETRY, RECORDS // domain.nodes * domain.nodes)
    cpu_s, wall_s = progress.between()
    return [
        ("samples through the worker, 8 GPUs a record: a CPU second", 8 / cpu_s / 1e3, "k", ">= 50"),
        ("  a second of wall time", 8 / wall_s / 1e3, "k", "-"),
        ("  CPU a record of 8 GPUs", 1e6 * cpu_s, "us", "-"),
    ]


def plan_rows() -> list[Row]:
    """From the call that publishes the record that closes a tick to its plan in a subscriber's hand; and, at the same moments, a
    record of that size through a program that only echoes."""
    domain, sent, taken, asked, echoed = Domain(8), dict[str, float](), list[float](), dict[str, float](), list[float]()
    with (
        servers([*TOPICS, ASKED, ECHOED]) as at,
        worker("agents.energy:AGENT", at, options=QUICK) as running,
        program([sys.executable, "-m", "tests.benchmarks.echo", json.dumps(echo_of(at))]),
        Publisher(at.kafka) as publisher,
        PlanSubscriber(ENERGY_PLAN, EnergyPlan, at.kafka) as plans,
        closing(Consumer({"bootstrap.servers": at.kafka, "group.id": "bench.ear", "auto.offset.reset": "earliest"})) as ear,
    ):
        running.await_ready()
        domain.start_ms = int(time.time()) * 1000  # now: plans of an older time would be over
        publisher.publish(POWER_TOPOLOGY, domain.topology(), timestamp_ms=domain.start_ms)
        publisher.flush()
        ear.subscribe([ECHOED.name])
        producer = Producer(
            {"bootstrap.servers": at.kafka, "enable.idempotence": True, "linger.ms": 2, "compression.type": "lz4"}
        )
        start, cpu_s, second, missed = time.perf_counter(), running.cpu_s(), 0, 0
        while len(taken) < PLANS + WARM_UP and missed < PATIENCE:
            second += 1
            for node, frame in enumerate(domain.second(second)):
                body = frame.encode()
                _send(producer, body, domain.at_ms(second, node), sent)
                if node == domain.nodes // 2:  # about when a tick is closed
                    asked[str(second)] = time.perf_counter()
                    producer.produce(ASKED.name, body, headers=[("id", str(second))])
                due = start + (second + node / domain.nodes) / PACE
                while (plan := plans.poll(max(0.0, due - time.perf_counter()))) is not None:
                    now_s, cause = time.perf_counter(), plan.plan_id.removesuffix("/0")
                    while cause not in sent:  # its confirmation waits to be taken
                        producer.poll(0.1)
                    taken.append(now_s - sent[cause])
                    domain.apply(plan)
                if (message := ear.poll(0)) is not None and message.error() is None:
                    echoed.append(time.perf_counter() - asked[dict(message.headers() or ())["id"].decode()])
            missed = second - len(taken)
        share = (running.cpu_s() - cpu_s) / (time.perf_counter() - start)
        producer.flush()
    (p50, p99), (bare50, bare99) = (1e3 * np.percentile(each[WARM_UP:], [50, 99]) for each in (taken, echoed))
    label = f"record that closes a tick to its plan, {GPUS} GPUs"
    return [
        (f"{label}: p50", p50, "ms", "-"),
        (f"{label}: p99", p99, "ms", "<= 250"),
        ("  a record through a bare echo meanwhile: p50", bare50, "ms", "-"),
        ("  a record through a bare echo meanwhile: p99", bare99, "ms", "-"),
        (f"  the worker's CPU, {PACE * GPUS} samples and {PACE} plans a second", 100 * share, "% of a core", "-"),
        ("  ticks without a plan", PLANS + WARM_UP - len(taken), "", "0"),
    ]


def _send(producer: Producer, body: bytes, moment_ms: int, sent: dict[str, float]) -> None:
    """Publish readings; their id and the time of this call go into `sent` once the broker has said which offset they got."""
    now_s = time.perf_counter()

    def confirm(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            raise RuntimeError(str(error))
        sent[f"{message.topic()}/{message.partition()}/{message.offset()}"] = now_s

    producer.produce(
        GPU_TELEMETRY.name, body, b"row", headers=[("content-type", SAFETENSORS)], timestamp=moment_ms, on_delivery=confirm
    )
    producer.poll(0)
