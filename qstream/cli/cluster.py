"""Cluster: the first question to a broker, with a clear answer when there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from qstream.cli.options import LOCAL_BROKER, QUIET, START_HINT
from qstream.config import Settings, is_embedded
from qstream.errors import Transient, Unreachable
from qstream.stream.admin import hidden_topics
from qstream.stream.cause import Cause, open_client
from schemas.topics import Topic

ANSWER_S: Final = 10.0
CREATE: Final = "create by: qstream topics apply"
REFUSAL_S: Final = 1.0  # by then a client knows that its login or TLS fails, which more time would not change


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """An answering cluster: a client for it, its topics, how many brokers it has, and whether it is an embedded one."""

    client: AdminClient
    topics: frozenset[str]
    brokers: int
    embedded: bool


def reach(settings: Settings, timeout_s: float = ANSWER_S) -> Cluster:
    """Ask the cluster who it is; `Unreachable` names the address, why it does not answer, and what to do."""
    cause = Cause()
    properties = {"bootstrap.servers": settings.bootstrap_servers} | QUIET | settings.kafka_properties()
    client = open_client(AdminClient, settings, properties, cause)
    try:
        known = _first_answer(client, cause, timeout_s)
    except KafkaException as exc:
        error = exc.args[0]
        found = "refuses this client" if cause.is_refusal else "does not answer"
        fix = cause.fix(error) or (START_HINT if settings.bootstrap_servers == LOCAL_BROKER else "")
        raise Unreachable(f"Kafka at {settings.bootstrap_servers} {found}: {cause.explain(error)}", fix) from exc
    embedded = is_embedded(known.cluster_id)
    return Cluster(client, frozenset(known.topics), len(known.brokers), embedded)


def require_topics(cluster: Cluster, topics: Sequence[Topic]) -> None:
    """`Transient` that names the missing topics and the command that creates them, or the right to see them that is missing."""
    missing = [topic.name for topic in topics if topic.name not in cluster.topics]
    if not missing:
        return
    if hidden := [] if cluster.embedded else hidden_topics(cluster.client, missing):
        raise Transient(f"the Kafka user must have DESCRIBE on topic {', '.join(hidden)}, or they do not exist")
    fix = "start the broker again: it has the topics of what is installed then" if cluster.embedded else CREATE
    raise Transient(f"the cluster lacks {', '.join(missing)}; {fix}")


def _first_answer(client: AdminClient, cause: Cause, timeout_s: float) -> ClusterMetadata:
    """The cluster's metadata; KafkaException if there is none in time, at once if the client is refused."""
    first_s = min(REFUSAL_S, timeout_s)
    try:
        return client.list_topics(timeout=first_s)
    except KafkaException:
        client.poll(0)  # serves the error callback
        if cause.is_refusal or first_s == timeout_s:
            raise
    try:
        return client.list_topics(timeout=timeout_s - first_s)
    except KafkaException:
        client.poll(0)
        raise
