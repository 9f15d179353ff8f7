"""From the call of publish to the plan in a subscriber's hand, through the routing agent's worker on a real broker."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from qstream.stream.client import PlanSubscriber, Publisher
from schemas.routing import RoutingPlan
from schemas.topics import EXPERTS_TOPOLOGY, PLACEMENT_PLAN, ROUTING_PLAN, TOKENS_BATCH, TOPICS
from tests.benchmarks.bench_loop import token_batch, topology
from tests.benchmarks.worker import Servers, Worker, count_events, servers, worker

Row = tuple[str, float, str, str]

SECONDS = 20
WARM_UP_S = 3
QUANTUM = {"qaoa": True, "hqc": True, "deadline_ms": 50}


def rows() -> list[Row]:
    """Small batches, then large ones while circuits and enumeration improve every placement."""
    small = _rows("", 200, 64, "<= 20", {})
    return small + _rows(", QAOA and HQC on", 10, 10_000, "<= 50", QUANTUM)


def _rows(note: str, rate: int, tokens: int, target: str, options: dict[str, Any]) -> list[Row]:
    """Quantiles of the latency at a steady rate, and what it costs the worker."""
    with servers(TOPICS) as at, worker("agents.routing:AGENT", at, options=options) as running:
        running.await_ready()
        latency_ms, placements, cpu_share = _measure(at, running, rate, tokens)
    label = f"publish to plan, {rate} batches of {tokens} tokens a second{note}"
    p50, p99, p999 = np.percentile(latency_ms, [50, 99, 99.9])
    return [
        (f"{label}: p50", p50, "ms", "-"),
        (f"{label}: p99", p99, "ms", target),
        (f"{label}: p99.9", p999, "ms", "-"),
        ("  the worker's CPU meanwhile", 100 * cpu_share, "% of a core", "-"),
        ("  placements planned, warm-up included", placements, "", "-"),
        ("  batches without a plan", rate * SECONDS - len(latency_ms), "", "0"),
    ]


def _measure(at: Servers, running: Worker, rate: int, tokens: int) -> tuple[list[float], int, float]:
    """Milliseconds of each batch after the warm-up; of all, how many placements were planned, and the worker's CPU share."""
    sent: dict[str, float] = {}
    total = rate * (WARM_UP_S + SECONDS)
    kinds = [token_batch(number, tokens) for number in range(26 * (1 if tokens > 1000 else 8))]
    batches = [kinds[number % len(kinds)].model_copy(update={"batch_id": f"b{number}"}) for number in range(total)]

    def publish() -> None:
        with Publisher(at.kafka) as publisher:
            start = time.perf_counter()
            for number, batch in enumerate(batches):
                time.sleep(max(0.0, start + number / rate - time.perf_counter()))
                sent[batch.batch_id] = time.perf_counter()
                publisher.publish(TOKENS_BATCH, batch)

    with Publisher(at.kafka) as publisher:
        publisher.publish(EXPERTS_TOPOLOGY, topology())
    with PlanSubscriber(ROUTING_PLAN, RoutingPlan, at.kafka) as plans:
        plans.wait_assigned()
        producer = threading.Thread(target=publish)
        producer.start()
        received: dict[str, float] = {}
        cpu_s, started = running.cpu_s(), time.perf_counter()
        deadline = started + WARM_UP_S + SECONDS + 10
        while len(received) < total and time.perf_counter() < deadline:
            plan = plans.poll(0.1)
            if plan is not None:
                received[plan.batch_id] = time.perf_counter()
        share = (running.cpu_s() - cpu_s) / (time.perf_counter() - started)
        producer.join()
    steady = [batch.batch_id for batch in batches[rate * WARM_UP_S :]]
    latency_ms = [1e3 * (received[name] - sent[name]) for name in steady if name in received]
    return latency_ms, count_events(at, PLACEMENT_PLAN), share
