"""Sends every record of one topic to another, with confluent-kafka alone; run as ``python -m tests.benchmarks.echo``."""

from __future__ import annotations

import json
import signal
import sys

from confluent_kafka import Consumer, Producer


def run(kafka: str, source: str, target: str) -> None:
    """Echo until SIGTERM, with the properties of the worker's own clients."""
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "bench.echo", "auto.offset.reset": "earliest"})
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True, "linger.ms": 2, "compression.type": "lz4"})
    consumer.subscribe([source])
    while running:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            producer.produce(target, message.value(), message.key(), headers=message.headers())
        producer.poll(0)
    producer.flush()
    consumer.close()


if __name__ == "__main__":
    run(**json.loads(sys.argv[1]))
