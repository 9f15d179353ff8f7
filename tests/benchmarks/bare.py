"""The loop to compare with: confluent-kafka, pydantic and Redis without qstream; run as ``python -m tests.benchmarks.bare``.

It gives the guarantees that users write by hand: an answer for each report, all confirmed, then the states of all nodes in Redis,
then the offsets. It keeps no ids, fences no earlier owner, isolates no bad record and counts nothing.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Annotated

import numpy as np
import redis
from confluent_kafka import Consumer, KafkaError, Message, Producer
from numpy.typing import NDArray
from pydantic import BaseModel, Field

Count = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Report(BaseModel):
    """What a node reports each second."""

    node: Annotated[str, Field(min_length=1, max_length=200)]
    ts_ns: Count
    power_w: list[Finite]
    counters: list[Int64]


class Answer(BaseModel):
    """The answer to one report."""

    node: str
    reports: int
    power_w: float


class Node:
    """The sums over the reports of one node."""

    def __init__(self) -> None:
        self.reports = 0
        self.energy_j: NDArray[np.float64] = np.zeros(8)
        self.counters: NDArray[np.int64] = np.zeros(110, np.int64)

    def add(self, reports: list[Report]) -> list[Answer]:
        """Count reports, one answer each."""
        power = np.array([report.power_w for report in reports])
        self.energy_j += power.sum(0)
        self.counters += np.array([report.counters for report in reports], np.int64).sum(0)
        answers = []
        for report, watts in zip(reports, power.sum(1).tolist(), strict=True):
            self.reports += 1
            answers.append(Answer(node=report.node, reports=self.reports, power_w=watts))
        return answers

    def fields(self) -> dict[str, bytes]:
        return {"reports": str(self.reports).encode(), "energy_j": self.energy_j.tobytes(), "counters": self.counters.tobytes()}


def run(kafka: str, redis_url: str, source: str, target: str, group: str) -> None:
    """Answer until SIGTERM."""
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    consumer = Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": 5,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": kafka,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 2,
            "compression.type": "lz4",
            "delivery.report.only.error": True,
        }
    )
    store = redis.Redis.from_url(redis_url)
    nodes: dict[str, Node] = {}
    consumer.subscribe([source])
    while running:
        messages = [message for message in consumer.consume(500, 0.1) if message.error() is None]
        if messages:
            _turn(messages, nodes, producer, target, store)
            consumer.commit(asynchronous=True)
    consumer.close()


def _refuse(error: KafkaError | None, _message: Message) -> None:
    """End the program if an answer is not confirmed: without a callback, flush would return as if it were."""
    if error is not None:
        raise SystemExit(f"an answer was not delivered: {error}")


def _turn(messages: list[Message], nodes: dict[str, Node], producer: Producer, target: str, store: redis.Redis) -> None:
    groups: dict[str, list[Report]] = {}
    for message in messages:
        report = Report.model_validate_json(message.value())
        groups.setdefault(report.node, []).append(report)
    for name, reports in groups.items():
        for answer in nodes.setdefault(name, Node()).add(reports):
            producer.produce(target, answer.model_dump_json().encode(), name.encode(), on_delivery=_refuse)
    producer.flush()
    with store.pipeline(transaction=False) as pipeline:
        for name in groups:
            pipeline.hset(f"bare:{name}", mapping=nodes[name].fields())  # type: ignore[arg-type]
        pipeline.execute()


if __name__ == "__main__":
    run(**json.loads(sys.argv[1]))
