"""Identity: which log stands behind a topic's name, with how many partitions, and where they end, as the cluster says."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec, TopicDescription

from qstream.config import Settings, is_embedded
from qstream.contract import TopicPartition
from qstream.stream.cause import Cause, denied, open_client

log = logging.getLogger(__name__)
PERIOD_S = 3.0
REQUEST_S = 10.0
NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # of a broker before Kafka 2.8: 16 zero bytes

Answers = Mapping[str, "Future[TopicDescription]"]
Ends = Mapping[KafkaPartition, "Future[ListOffsetsResultInfo]"]


class Identities:
    """The identity of the log behind each topic, used by one thread.

    It is ``topic:<topic id>``, which is new at each creation of a topic; where a broker has none, ``cluster:<cluster id>``.
    `partitions` has those of each topic as the newest answer says; each answer is a new mapping. Why there is none is told by
    the client that reads the topics, which needs the same login and more rights; the log has it at debug level.
    """

    def __init__(self, settings: Settings, topics: Sequence[str]) -> None:
        self._topics = list(topics)
        config: dict[str, object] = {"bootstrap.servers": settings.bootstrap_servers, "client.id": settings.worker_id}
        config |= {name: value for name, value in settings.kafka_properties().items() if not name.startswith("fetch.")}
        self._cause = Cause()
        self._client = open_client(AdminClient, settings, config, self._cause)
        self.partitions: Mapping[str, tuple[int, ...]] = {}
        self._known: dict[str, str] = {}
        self._changed: dict[str, str] = {}
        self._cluster = ""
        self._pending: Answers = {}
        self._next = 0.0

    def ask(self, timeout_s: float) -> dict[str, str]:
        """The identities by topic; what cannot be said in time is left out."""
        try:
            self._cluster = self._client.list_topics(timeout=timeout_s).cluster_id or ""
            if is_embedded(self._cluster):  # which does not answer questions about topics
                return dict.fromkeys(self._topics, f"cluster:{self._cluster}")
            self._pending = {}  # an answer that was asked for before says less
            return self._note(self._read(self._request(timeout_s)))
        except KafkaException as exc:
            log.debug("the cluster does not say who it is: %s", self._cause.explain(exc.args[0]))
            return {}

    def changes(self) -> dict[str, str]:
        """The topics that have become another log since the last call, with its identity; asks without waiting."""
        if self._pending and all(answer.done() for answer in self._pending.values()):
            found, self._pending = self._read(self._pending), {}
            self._note(found)
        elif not self._pending and time.monotonic() >= self._next and not is_embedded(self._cluster):
            self._next = time.monotonic() + PERIOD_S
            self._pending = self._request(REQUEST_S)
        changed, self._changed = self._changed, {}
        return changed

    def ask_ends(self, partitions: Iterable[TopicPartition]) -> Ends:
        """Ask where partitions end for readers of committed records, without waiting; the embedded broker is not asked."""
        asked = {} if is_embedded(self._cluster) else {KafkaPartition(*at): OffsetSpec.latest() for at in partitions}
        if not asked:
            return {}
        ends: Ends = self._client.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=REQUEST_S)
        return ends

    def _note(self, found: dict[str, str]) -> dict[str, str]:
        self._changed |= {topic: name for topic, name in found.items() if self._known.get(topic, name) != name}
        self._known |= found
        return found

    def _request(self, timeout_s: float) -> Answers:
        answers: Answers = self._client.describe_topics(TopicCollection(self._topics), request_timeout=timeout_s)
        return answers

    def _read(self, answers: Answers) -> dict[str, str]:
        found, partitions = {}, dict(self.partitions)
        for topic, answer in answers.items():
            try:
                described = answer.result()
            except KafkaException as exc:
                right = denied(exc.args[0], topic=f"DESCRIBE on topic {topic}")
                log.debug("topic %s has no identity now: %s", topic, right or self._cause.explain(exc.args[0]))
            else:
                name = str(described.topic_id)
                found[topic] = f"cluster:{self._cluster}" if name == NO_ID else f"topic:{name}"
                partitions[topic] = tuple(at.id for at in described.partitions)
        self.partitions = partitions
        return found
