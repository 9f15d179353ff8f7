"""Admin: the topics of the registry on a cluster, created where absent, compared where present, never changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from qstream.config import is_embedded
from qstream.errors import Transient
from qstream.stream.cause import denied
from schemas.topics import Topic
from schemas.wording import must_be

Finding = Literal["missing", "created", "ok", "differs", "failed"]


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic of the registry as the cluster has it; `detail` says what differs or failed, and how to fix it."""

    topic: str
    finding: Finding
    partitions: int | None = None
    detail: str = ""


def inspect_topics(client: AdminClient, topics: Sequence[Topic], timeout_s: float = 10.0) -> list[TopicState]:
    """Compare the cluster's topics with the registry. `Transient` if no broker answers.

    The embedded broker does not report configurations: there, only the partitions are compared. Nor does a real one without
    the right to see them: then a topic that is "ok" has a `detail` that says so.
    """
    try:
        cluster = client.list_topics(timeout=timeout_s)
    except KafkaException as exc:
        raise Transient(f"no broker answers: {exc.args[0].str()}") from exc
    known = cluster.topics
    present = [topic for topic in topics if topic.name in known]
    embedded = is_embedded(cluster.cluster_id)
    configs, hidden = ({}, {}) if embedded else _configs(client, present, timeout_s)
    unseen = [] if embedded else hidden_topics(client, [topic.name for topic in topics if topic.name not in known], timeout_s)
    states = []
    for topic in topics:
        if topic.name in unseen:
            states.append(
                TopicState(
                    topic.name, "failed", detail=f"the Kafka user must have DESCRIBE on topic {topic.name}, or it does not exist"
                )
            )
        elif topic not in present:
            states.append(TopicState(topic.name, "missing", detail="create it by: qstream topics apply"))
        else:
            partitions = len(known[topic.name].partitions)
            faults = _differences(topic, partitions, configs.get(topic.name, {}))
            detail = "; ".join(faults) or hidden.get(topic.name, "")
            states.append(TopicState(topic.name, "differs" if faults else "ok", partitions, detail))
    return states


def hidden_topics(client: AdminClient, names: Sequence[str], timeout_s: float = 10.0) -> list[str]:
    """Those of the topics that this user may not see, whether they exist or not. Not for the embedded broker."""
    hidden = []
    asked = client.describe_topics(TopicCollection(list(names)), request_timeout=timeout_s) if names else {}
    for name, future in asked.items():
        try:
            future.result()
        except KafkaException as exc:
            if denied(exc.args[0]):
                hidden.append(name)
    return hidden


def apply_topics(
    client: AdminClient, topics: Sequence[Topic], replication: int | None = None, timeout_s: float = 15.0
) -> list[TopicState]:
    """Create the topics that are missing; those that differ are reported, not changed. `Transient` if no broker answers.

    `replication` None takes the cluster's default.
    """
    states = {state.topic: state for state in inspect_topics(client, topics, timeout_s)}
    missing = [topic for topic in topics if states[topic.name].finding == "missing"]  # not those that this user may not see
    new = [
        NewTopic(topic.name, num_partitions=topic.partitions, replication_factor=replication or -1, config=topic.config())
        for topic in missing
    ]
    futures = client.create_topics(new, operation_timeout=timeout_s, request_timeout=timeout_s) if new else {}
    for topic in missing:
        try:
            futures[topic.name].result()
            states[topic.name] = TopicState(topic.name, "created", topic.partitions)
        except KafkaException as exc:
            if exc.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:  # another apply was quicker
                states |= {state.topic: state for state in inspect_topics(client, [topic], timeout_s)}
            else:
                rights = dict.fromkeys(("topic", "cluster"), f"CREATE on topic {topic.name} or on the cluster")
                states[topic.name] = TopicState(topic.name, "failed", detail=denied(exc.args[0], **rights) or exc.args[0].str())
    _await_visible(client, [name for name, state in states.items() if state.finding == "created"], timeout_s)
    return [states[topic.name] for topic in topics]


def _await_visible(client: AdminClient, names: Sequence[str], timeout_s: float) -> None:
    """Brokers learn of a new topic a moment after its creation is confirmed: an agent started at once would miss it."""
    deadline = time.monotonic() + timeout_s
    while names and time.monotonic() < deadline:
        known = client.list_topics(timeout=timeout_s).topics
        if all(name in known and known[name].partitions for name in names):
            return
        time.sleep(0.05)


def _configs(
    client: AdminClient, topics: Sequence[Topic], timeout_s: float
) -> tuple[dict[str, Mapping[str, str]], dict[str, str]]:
    """The configurations by topic, and why they could not be seen."""
    configs: dict[str, Mapping[str, str]] = {}
    hidden: dict[str, str] = {}
    if not topics:
        return configs, hidden
    asked = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in topics]
    for resource, future in client.describe_configs(asked, request_timeout=timeout_s).items():
        try:
            configs[resource.name] = {name: entry.value for name, entry in future.result().items()}
        except KafkaException as exc:
            why = denied(exc.args[0], topic=f"DESCRIBE_CONFIGS on topic {resource.name}") or exc.args[0].str()
            hidden[resource.name] = f"its configuration could not be compared: {why}"
    return configs, hidden


def _differences(topic: Topic, partitions: int, config: Mapping[str, str]) -> list[str]:
    """What keeps the topic from serving: a wrong key order or lost records, not another retention."""
    faults = []
    if partitions != topic.partitions:
        faults.append(f"{partitions} partitions, the registry has {topic.partitions}: changing them would reorder keys")
    registry = topic.config()
    wanted = registry["cleanup.policy"]
    if config and wanted not in config.get("cleanup.policy", wanted).split(","):
        faults.append(must_be("cleanup.policy", repr(wanted), config["cleanup.policy"]))
    size = int(config.get("max.message.bytes", registry["max.message.bytes"]))
    if size < topic.max_bytes:
        faults.append(must_be("max.message.bytes", f"at least {topic.max_bytes}", size))
    stamps = config.get("message.timestamp.type", "LogAppendTime")
    if topic.broker_time and stamps != "LogAppendTime":
        faults.append(must_be("message.timestamp.type", "'LogAppendTime'", stamps))
    return faults
