"""From the call of publish to the plan in a subscriber's hand, through the routing agent's worker on a real broker."""

from __future__ import annotations

import threading
import time

import numpy as np

from qstream.stream.client import PlanSubscriber, Publisher
from schemas.routing import RoutingPlan
from schemas.topics import EXPERTS_TOPOLOGY, ROUTING_PLAN, TOKENS_BATCH, TOPICS
from tests.benchmarks.bench_loop import token_batch, topology
from tests.benchmarks.worker import Servers, Worker, servers, worker

Row = tuple[str, float, str, str]

RATE = 200
SECONDS = 20
WARM_UP_S = 3
TOKENS = 64


def rows() -> list[Row]:
    """Quantiles of the latency at a steady rate, and what it costs the worker."""
    with servers(TOPICS) as at, worker("agents.routing:AGENT", at) as running:
        running.await_ready()
        latency_ms, cpu_share = _measure(at, running)
    label = f"publish to plan, {RATE} batches of {TOKENS} tokens a second"
    p50, p99, p999 = np.percentile(latency_ms, [50, 99, 99.9])
    return [
        (f"{label}: p50", p50, "ms", "-"),
        (f"{label}: p99", p99, "ms", "<= 20"),
        (f"{label}: p99.9", p999, "ms", "-"),
        ("  the worker's CPU meanwhile", 100 * cpu_share, "% of a core", "-"),
        ("  batches without a plan", RATE * SECONDS - len(latency_ms), "", "0"),
    ]


def _measure(at: Servers, running: Worker) -> tuple[list[float], float]:
    """Milliseconds of each batch after the warm-up, and the worker's CPU share."""
    sent: dict[str, float] = {}
    total = RATE * (WARM_UP_S + SECONDS)
    batches = [token_batch(number, TOKENS).model_copy(update={"batch_id": f"b{number}"}) for number in range(total)]

    def publish() -> None:
        with Publisher(at.kafka) as publisher:
            start = time.perf_counter()
            for number, batch in enumerate(batches):
                time.sleep(max(0.0, start + number / RATE - time.perf_counter()))
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
    steady = [batch.batch_id for batch in batches[RATE * WARM_UP_S :]]
    return [1e3 * (received[name] - sent[name]) for name in steady if name in received], share
