"""Redrive: dead letters back to the topic that they came from, and the memory of which ones went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from qstream.config import Settings
from qstream.errors import ConfigError, Transient
from qstream.stream.cause import denied, refusal
from qstream.stream.client import Publisher
from qstream.stream.decode import ATTEMPTS_HEADER
from qstream.stream.faults import raise_first
from qstream.stream.groups import group_client
from qstream.stream.headers import headers_of
from qstream.stream.read import read_all
from schemas.deadletter import DeadLetter
from schemas.frame import FrameError
from schemas.topics import dead_letter_topic

_ANSWER_S: Final = 10.0
_METADATA_BYTES: Final = 4000  # brokers keep 4096 (offset.metadata.max.bytes)


@dataclass(frozen=True, slots=True, eq=False)
class DeadRecord:
    """One record of a dead-letter topic: the reason, the record itself, and whether it was sent back already."""

    letter: DeadLetter
    message: Message
    redriven: bool


def dead_records(settings: Settings, agent: str) -> tuple[list[DeadRecord], int]:
    """All dead letters that the agent's topic holds, by partition and offset; and how many records are not.

    A record that was dead-lettered twice (delivered again before its commit) counts as redriven in both places.
    """
    topic = dead_letter_topic(agent).name
    messages = sorted(read_all(settings, topic), key=lambda message: (message.partition(), message.offset()))
    letters: list[tuple[DeadLetter, Message]] = []
    for message in messages:
        try:
            letters.append((DeadLetter.from_headers(headers_of(message)), message))
        except FrameError:
            continue
    memory = _recall(settings, agent, {message.partition() for message in messages})
    done = {_failed(letter) for letter, message in letters if _remembers(memory, message)}
    return [DeadRecord(letter, message, _failed(letter) in done) for letter, message in letters], len(messages) - len(letters)


def named_letters(agent: str, records: Sequence[DeadRecord], ids: Iterable[str]) -> list[DeadRecord]:
    """All of `records` whose id is in `ids`; `ConfigError` names an id that none of them has."""
    wanted = set(ids)
    if unknown := wanted - {record.letter.id for record in records}:
        raise ConfigError(f"no dead letter of agent {agent} has the id {min(unknown)!r}; see them by: qstream dlq list")
    return [record for record in records if record.letter.id in wanted]


def choose_letters(agent: str, records: Sequence[DeadRecord], ids: Iterable[str]) -> list[DeadRecord]:
    """Those of `named_letters` that were not redriven yet, each id once, by partition and offset; errors as there, and
    `ConfigError` for one that came without its bytes."""
    named = named_letters(agent, records, ids)
    for record in named:
        if size := record.letter.omitted_bytes:
            raise ConfigError(
                f"dead letter {record.letter.id} came without the record's {size} bytes, which were too large to go with it; "
                f"they are at that topic, partition and offset as long as the topic keeps them: publish them again from there"
            )
    chosen = {_failed(record.letter): record for record in reversed(named) if not record.redriven}
    return sorted(chosen.values(), key=lambda record: (record.message.partition(), record.message.offset()))


def redrive(settings: Settings, agent: str, records: Sequence[DeadRecord], ids: Iterable[str]) -> list[DeadRecord]:
    """Send the letters named by `ids` back to their topics, each id once, and remember them; returns what was sent.

    Bytes, key and headers are those of the original record; the header ``qstream_attempts`` counts its failures. Letters
    already redriven are passed over. The memory is the committed offset of the group ``<prefix>.<agent>.redrive``, before
    which everything went, and the offsets beyond it that went by name, in the offset's metadata. It is written when all
    is confirmed: a failure before that means that letters are sent again, never that they are lost.

    Parameters
    ----------
    records
        All of `dead_records`.
    ids
        ``<topic>/<partition>/<offset>`` of the original records.

    Raises
    ------
    ConfigError
        An id is unknown, or too many single letters were named for the memory to hold.
    DeliveryFailed, Transient
        Not everything was confirmed or remembered.
    """
    sent = choose_letters(agent, records, ids)
    if not sent:
        return []
    memory = _memory(records, [record.letter.id for record in sent])
    with Publisher(settings.bootstrap_servers, settings=settings) as publisher:
        for record in sent:
            publisher.publish_raw(record.letter.topic, record.message.key(), record.message.value(), _headers(record))
    _remember(settings, agent, memory)
    return sent


def _failed(letter: DeadLetter) -> tuple[str, int]:
    """The record that failed: by its time as well, because offsets repeat when a topic is created again."""
    return letter.id, letter.timestamp_ms


def _headers(record: DeadRecord) -> list[tuple[str, bytes | None]]:
    """The original headers, with the failures so far."""
    original = DeadLetter.original(headers_of(record.message))
    return [*(header for header in original if header[0] != ATTEMPTS_HEADER), (ATTEMPTS_HEADER, b"%d" % record.letter.attempts)]


def _memory_client(settings: Settings, agent: str) -> Consumer:
    return group_client(settings, _memory_group(settings, agent))


def _memory_group(settings: Settings, agent: str) -> str:
    return f"{settings.group_prefix}.{agent}.redrive"


def _recall(settings: Settings, agent: str, partitions: Iterable[int]) -> dict[int, tuple[int, set[int]]]:
    """By partition the offset before which all were redriven, and single offsets beyond it."""
    topic = dead_letter_topic(agent).name
    asked = [KafkaPartition(topic, partition) for partition in partitions]
    if not asked:
        return {}
    consumer = _memory_client(settings, agent)
    try:
        committed = consumer.committed(asked, timeout=_ANSWER_S)
    except KafkaException as exc:
        error = refusal(consumer) or exc.args[0]  # of a right on the group the call itself says only that time ran out
        rights = {"group": f"DESCRIBE on group {_memory_group(settings, agent)}", "topic": f"DESCRIBE on topic {topic}"}
        raise Transient(f"the broker does not say what was redriven: {denied(error, **rights) or error.str()}") from exc
    finally:
        consumer.close()
    return {found.partition: (max(found.offset, 0), _read_ranges(found.metadata or "")) for found in committed}


def _remembers(memory: Mapping[int, tuple[int, set[int]]], message: Message) -> bool:
    floor, single = memory[message.partition()]
    return message.offset() < floor or message.offset() in single


def _memory(records: Sequence[DeadRecord], sending: Iterable[str]) -> list[KafkaPartition]:
    """What to commit once `sending` is delivered."""
    names = set(sending)
    by_partition: dict[int, list[tuple[int, bool]]] = {}
    for record in records:
        done = record.redriven or record.letter.id in names
        by_partition.setdefault(record.message.partition(), []).append((record.message.offset(), done))
    topic = records[0].message.topic()
    memory = []
    for partition, offsets in by_partition.items():
        floor = next((offset for offset, done in offsets if not done), offsets[-1][0] + 1)
        text = _write_ranges([(offset, done) for offset, done in offsets if offset > floor])
        if len(text) > _METADATA_BYTES:
            raise ConfigError("too many single letters are named for the broker to remember: redrive with --all")
        memory.append(KafkaPartition(topic, partition, floor, text))
    return memory


def _remember(settings: Settings, agent: str, memory: list[KafkaPartition]) -> None:
    consumer = _memory_client(settings, agent)
    try:
        raise_first(consumer.commit(offsets=memory, asynchronous=False))
    except KafkaException as exc:
        why = denied(exc.args[0], group=f"READ on group {_memory_group(settings, agent)}") or exc.args[0].str()
        raise Transient(f"letters sent but not remembered, the next redrive sends them again: {why}") from exc
    finally:
        consumer.close()


def _write_ranges(offsets: Sequence[tuple[int, bool]]) -> str:
    """``5-9,12`` for the offsets that are done; a range spans offsets that hold no letter."""
    ranges: list[list[int]] = []
    follows = False
    for offset, done in offsets:
        if done and follows:
            ranges[-1][1] = offset
        elif done:
            ranges.append([offset, offset])
        follows = done
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)


def _read_ranges(text: str) -> set[int]:
    offsets: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            offsets.update(range(int(first), int(last or first) + 1))
    return offsets
