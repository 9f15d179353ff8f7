"""From the call of publish to the plan in a subscriber's hand, through the routing agent's worker on a real broker.

What the broker and the machine cost by themselves is measured in the same run: the same bodies at the same rate through a program
that only echoes records, in turns of a few seconds.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer
from numpy.typing import NDArray

from qstream.stream.client import PlanSubscriber, Publisher
from schemas.routing import RoutingPlan
from schemas.tokens import TokenBatch
from schemas.topics import EXPERTS_TOPOLOGY, PLACEMENT_PLAN, ROUTING_PLAN, TOKENS_BATCH, TOPICS, Topic
from tests.benchmarks.bench_loop import token_batch, topology
from tests.benchmarks.worker import Servers, count_events, program, servers, worker

Row = tuple[str, float, str, str]

TURNS = 4
SECONDS = 5
WARM_UP_S = 10  # the broker compiles its paths meanwhile
GRACE_S = 10
QUANTUM = {"qaoa": True, "hqc": True, "deadline_ms": 50}
ASKED = Topic("bench.asked.v1", TokenBatch, "model", "input", "what is echoed")
ECHOED = Topic("bench.echoed.v1", TokenBatch, "model", "plan", "the echo")
Send = Callable[[TokenBatch], object]
Receive = Callable[[], str | None]


def rows() -> list[Row]:
    """Small batches, then large ones while circuits and enumeration improve every placement."""
    return _rows("", 200, 64, "<= 20", {}) + _rows(", QAOA and HQC on", 10, 10_000, "<= 50", QUANTUM)


def _rows(note: str, rate: int, tokens: int, target: str, options: dict[str, Any]) -> list[Row]:
    """Quantiles of the latency at a steady rate, next to those of the echo, and what it costs the worker."""
    kinds = [token_batch(number, tokens) for number in range(26 * (1 if tokens > 1000 else 8))]
    with (
        servers([*TOPICS, ASKED, ECHOED]) as at,
        worker("agents.routing:AGENT", at, options=options) as running,
        program([sys.executable, "-m", "tests.benchmarks.echo", json.dumps(echo_of(at))]),
        Publisher(at.kafka) as publisher,
        ExitStack() as opened,
    ):
        running.await_ready()
        publisher.publish(EXPERTS_TOPOLOGY, topology())
        plans = opened.enter_context(PlanSubscriber(ROUTING_PLAN, RoutingPlan, at.kafka))
        echo = _Echo(at)

        def receive() -> str | None:
            plan = plans.poll(0.1)
            return None if plan is None else plan.batch_id

        def through(send: Send, receive: Receive, seconds: int, turn: str) -> list[float]:
            count = rate * seconds
            batches = [kinds[n % len(kinds)].model_copy(update={"batch_id": f"{turn}-{n}"}) for n in range(count)]
            return latency_ms(batches, rate, send, receive)

        planned, echoed, cpu_s, wall_s = [], [], 0.0, 0.0
        for turn in range(TURNS + 1):
            seconds = SECONDS if turn else WARM_UP_S
            before, started = running.cpu_s(), time.perf_counter()
            answered = through(lambda batch: publisher.publish(TOKENS_BATCH, batch), receive, seconds, f"plan-{turn}")
            used, took = running.cpu_s() - before, time.perf_counter() - started
            returned = through(echo.send, echo.receive, seconds, f"echo-{turn}")
            if turn:
                planned, echoed, cpu_s, wall_s = planned + answered, echoed + returned, cpu_s + used, wall_s + took
        placements = count_events(at, PLACEMENT_PLAN)
        echo.close()
    label = f"publish to plan, {rate} batches of {tokens} tokens a second{note}"
    (p50, p99, p999), (bare50, bare99, _) = _quantiles(planned), _quantiles(echoed)
    return [
        (f"{label}: p50", p50, "ms", "-"),
        (f"{label}: p99", p99, "ms", target),
        (f"{label}: p99.9", p999, "ms", "-"),
        ("  the same bodies through a bare echo, in turns: p50", bare50, "ms", "-"),
        ("  the same bodies through a bare echo, in turns: p99", bare99, "ms", "-"),
        ("  p99 of publish to plan over that of the echo", p99 / bare99, "x", "-" if options else "<= 1.5"),
        ("  the worker's CPU meanwhile", 100 * cpu_s / wall_s, "% of a core", "-"),
        ("  placements planned, warm-up included", placements, "", "-"),
        ("  batches without a plan", rate * SECONDS * TURNS - len(planned), "", "0"),
    ]


def _quantiles(latency_ms: list[float]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.percentile(latency_ms, [50, 99, 99.9])
    return found


def latency_ms(batches: list[TokenBatch], rate: int, send: Send, receive: Receive) -> list[float]:
    """Milliseconds from the call of `send` to the answer, of each batch that has one."""
    sent: dict[str, float] = {}
    received: dict[str, float] = {}

    def publish() -> None:
        start = time.perf_counter()
        for number, batch in enumerate(batches):
            time.sleep(max(0.0, start + number / rate - time.perf_counter()))
            sent[batch.batch_id] = time.perf_counter()
            send(batch)

    producer = threading.Thread(target=publish)
    producer.start()
    deadline = time.perf_counter() + len(batches) / rate + GRACE_S
    while len(received) < len(batches) and time.perf_counter() < deadline:
        name = receive()
        if name is not None:
            received[name] = time.perf_counter()
    producer.join()
    return [1e3 * (received[name] - start) for name, start in sent.items() if name in received]


def echo_of(at: Servers) -> dict[str, str]:
    """The arguments of the program that echoes."""
    return {"kafka": at.kafka, "source": ASKED.name, "target": ECHOED.name}


class _Echo:
    """The two ends of the echo, without qstream."""

    def __init__(self, at: Servers) -> None:
        self._producer = Producer(
            {"bootstrap.servers": at.kafka, "enable.idempotence": True, "linger.ms": 2, "compression.type": "lz4"}
        )
        self._consumer = Consumer({"bootstrap.servers": at.kafka, "group.id": "bench.ear", "auto.offset.reset": "earliest"})
        self._consumer.subscribe([ECHOED.name])

    def send(self, batch: TokenBatch) -> None:
        self._producer.produce(ASKED.name, batch.encode(), batch.model, headers=[("id", batch.batch_id.encode())])
        self._producer.poll(0)

    def receive(self) -> str | None:
        message = self._consumer.poll(0.1)
        if message is None or message.error() is not None:
            return None
        return str(dict(message.headers() or ())["id"].decode())

    def close(self) -> None:
        self._producer.flush()
        self._consumer.close()
