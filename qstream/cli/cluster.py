"""Cluster: the first question to a broker, with a clear answer when there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from qstream.cli.options import LOCAL_BROKER, QUIET, START_HINT
from qstream.config import Settings, is_embedded
from qstream.errors import Transient
from schemas.topics import Topic

ANSWER_S: Final = 10.0
CREATE: Final = "create by: qstream topics apply"


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """An answering cluster: a client for it, its topics, how many brokers it has, and whether it is an embedded one."""

    client: AdminClient
    topics: frozenset[str]
    brokers: int
    embedded: bool


def reach(settings: Settings, timeout_s: float = ANSWER_S) -> Cluster:
    """Ask the cluster who it is; `Transient` names the address and what to do if no broker answers in time."""
    client = AdminClient({"bootstrap.servers": settings.bootstrap_servers} | QUIET | settings.kafka_properties())
    try:
        known = client.list_topics(timeout=timeout_s)
    except KafkaException as exc:
        hint = f"; {START_HINT}" if settings.bootstrap_servers == LOCAL_BROKER else ""
        raise Transient(f"no Kafka broker answers at {settings.bootstrap_servers}: {exc.args[0].str()}{hint}") from exc
    embedded = is_embedded(known.cluster_id)
    return Cluster(client, frozenset(known.topics), len(known.brokers), embedded)


def require_topics(cluster: Cluster, topics: Sequence[Topic]) -> None:
    """`Transient` that names the missing topics and the command that creates them."""
    missing = [topic.name for topic in topics if topic.name not in cluster.topics]
    if missing:
        fix = "start the broker again: it has the topics of what is installed then" if cluster.embedded else CREATE
        raise Transient(f"the cluster lacks {', '.join(missing)}; {fix}")
