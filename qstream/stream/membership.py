"""Membership: the client properties of a member of a consumer group."""

from __future__ import annotations

from typing import Final

from qstream.config import Settings

METADATA_MS: Final = 3000  # a topic that is created late is noticed by then


def consumer_config(settings: Settings, group: str) -> dict[str, object]:
    """librdkafka properties of a group member; in KIP-848 groups session and assignor are the broker's settings."""
    config: dict[str, object] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "group.id": group,
        "client.id": settings.worker_id,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 5,
        "queued.max.messages.kbytes": 16384,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 500,
        "topic.metadata.refresh.interval.ms": METADATA_MS,
    }
    if settings.group_protocol == "consumer":
        config["group.protocol"] = "consumer"
    else:
        config["partition.assignment.strategy"] = "cooperative-sticky"
        config["session.timeout.ms"] = settings.session_timeout_ms
        config["heartbeat.interval.ms"] = max(200, min(3000, settings.session_timeout_ms // 3))
    if settings.static_membership:
        config["group.instance.id"] = settings.worker_id
    return config | settings.kafka_properties()
