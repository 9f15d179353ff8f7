"""Redrive: dead letters back to the topic that they came from, and the memory of which ones went."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from qstream.config import Settings
from qstream.errors import ConfigError, Transient
from qstream.stream.cause import denied, refusal
from qstream.stream.decode import ATTEMPTS_HEADER
from qstream.stream.faults import raise_first, raise_if_fatal
from qstream.stream.groups import group_client
from qstream.stream.headers import headers_of
from qstream.stream.producers import Producers, producer_config
from qstream.stream.read import read_all
from schemas.deadletter import DeadLetter
from schemas.frame import FrameError
from schemas.topics import dead_letter_topic
from schemas.wording import must_be

MAX_ATTEMPTS: Final = 5  # failures of a record after which it is not sent back unless more are asked for
_TOGETHER: Final = 100  # letters that are sent, confirmed and remembered together
_ANSWER_S: Final = 10.0
_METADATA_BYTES: Final = 4000  # brokers keep 4096 (offset.metadata.max.bytes)


@dataclass(frozen=True, slots=True, eq=False)
class DeadRecord:
    """One record of a dead-letter topic: the reason, the record itself, and whether it was sent back already.

    `refusal` says why it can never be, empty if it can: any user who may write to the topic can forge a letter, so what a letter
    says is no reason to write anywhere with the rights of the user who redrives it.
    """

    letter: DeadLetter
    message: Message
    redriven: bool
    refusal: str = ""


def dead_records(settings: Settings, agent: str, inputs: Collection[str]) -> tuple[list[DeadRecord], int]:
    """All dead letters that the agent's topic holds, by partition and offset; and how many records are not.

    A record that was dead-lettered twice (delivered again before its commit) counts as redriven in both places. `inputs`
    are the names of the topics that the agent reads: letters go back to no other.
    """
    topic = dead_letter_topic(agent).name
    messages = sorted(read_all(settings, topic), key=lambda message: (message.partition(), message.offset()))
    letters: list[tuple[DeadLetter, Message, str]] = []
    for message in messages:
        try:
            letter = DeadLetter.from_headers(headers_of(message))
        except FrameError:
            continue
        letters.append((letter, message, _refusal(agent, letter, inputs)))
    memory = _recall(settings, agent, {message.partition() for message in messages})
    done = {_failed(letter) for letter, message, refusal in letters if not refusal and _remembers(memory, message)}
    found = [
        DeadRecord(letter, message, not refusal and _failed(letter) in done, refusal) for letter, message, refusal in letters
    ]
    return found, len(messages) - len(letters)


def _refusal(agent: str, letter: DeadLetter, inputs: Collection[str]) -> str:
    """Why a letter can never be sent back; empty if it can."""
    if letter.topic not in inputs:
        return must_be("its topic", f"an input of agent {agent}", letter.topic)
    if letter.omitted_bytes:
        return (
            f"it came without the record's {letter.omitted_bytes} bytes, which were too large to go with it; they are at that "
            f"topic, partition and offset as long as the topic keeps them: publish them again from there"
        )
    return ""


def exhausted(letter: DeadLetter, max_attempts: int) -> str:
    """Why a letter is not sent back again, because its record failed too often; empty if it did not."""
    if letter.attempts < max_attempts:
        return ""
    return f"its record has failed {letter.attempts} times, and --max-attempts is {max_attempts}"


def named_letters(agent: str, records: Sequence[DeadRecord], ids: Iterable[str]) -> list[DeadRecord]:
    """All of `records` whose id is in `ids`; `ConfigError` names an id that none of them has."""
    wanted = set(ids)
    if unknown := wanted - {record.letter.id for record in records}:
        raise ConfigError(f"no dead letter of agent {agent} has the id {min(unknown)!r}; see them by: qstream dlq list")
    return [record for record in records if record.letter.id in wanted]


def choose_letters(
    agent: str, records: Sequence[DeadRecord], ids: Iterable[str], max_attempts: int = MAX_ATTEMPTS
) -> list[DeadRecord]:
    """Those of `named_letters` that were not redriven yet, each id once, by partition and offset; errors as there, and
    `ConfigError` for one that can never be sent back or has failed too often."""
    named = named_letters(agent, records, ids)
    for record in named:
        if reason := record.refusal or ("" if record.redriven else exhausted(record.letter, max_attempts)):
            raise ConfigError(f"dead letter {record.letter.id} cannot be sent back: {reason}")
    chosen = {_failed(record.letter): record for record in reversed(named) if not record.redriven}
    return sorted(chosen.values(), key=lambda record: (record.message.partition(), record.message.offset()))


def redrive(
    settings: Settings, agent: str, records: Sequence[DeadRecord], ids: Iterable[str], max_attempts: int = MAX_ATTEMPTS
) -> list[DeadRecord]:
    """Send the letters named by `ids` back to their topics, each id once, and remember them; returns what was sent.

    Bytes, key and headers are those of the original record; the header ``qstream_attempts`` counts its failures. Letters
    already redriven are passed over. The memory is the committed offset of the group ``<prefix>.<agent>.redrive``, before
    which everything went, and the offsets beyond it that went by name, in the offset's metadata. It is written after every
    hundred letters with those that the broker has confirmed, so the next redrive goes on where this one ended: at most the
    last hundred are sent again, and none is lost. A topic that does not take a letter gets no more; the others get theirs.

    Parameters
    ----------
    records
        All of `dead_records`.
    ids
        ``<topic>/<partition>/<offset>`` of the original records.
    max_attempts
        A record that failed so often stays where it is.

    Raises
    ------
    ConfigError
        As `choose_letters`, or too many single letters were named for the memory to hold.
    DeliveryFailed, NotAllowed, Transient
        Not everything was confirmed or remembered.
    """
    chosen = choose_letters(agent, records, ids, max_attempts)
    if not chosen:
        return []
    _memory(records, [record.letter.id for record in chosen])  # refused before anything is sent
    producers = Producers(settings, producer_config(settings))
    sent, faults = _send_all(settings, agent, producers, records, chosen)
    for topic, error in faults.items():
        if error is not None:
            producers.raise_if_denied(error, topic)
        raise producers.not_confirmed(len(chosen) - len(sent), error)
    return sent


def _send_all(
    settings: Settings, agent: str, producers: Producers, records: Sequence[DeadRecord], chosen: Sequence[DeadRecord]
) -> tuple[list[DeadRecord], dict[str, KafkaError | None]]:
    """Send the chosen letters in parts and remember what is confirmed; what was, and by topic the first fault."""
    sent: list[DeadRecord] = []
    faults: dict[str, KafkaError | None] = {}
    for start in range(0, len(chosen), _TOGETHER):
        part = [record for record in chosen[start : start + _TOGETHER] if record.letter.topic not in faults]
        with producers.failures_named(cluster=f"WRITE on topic {', '.join(sorted({r.letter.topic for r in part}))}"):
            failed = _send(producers, part, settings.delivery_timeout_ms / 1000 + 1) if part else {}
        for n, error in failed.items():
            faults.setdefault(part[n].letter.topic, error)
        if confirmed := [record for n, record in enumerate(part) if n not in failed]:
            sent += confirmed
            _remember(settings, agent, _memory(records, [record.letter.id for record in sent]))
    return sent, faults


def _send(producers: Producers, records: Sequence[DeadRecord], timeout_s: float) -> dict[int, KafkaError | None]:
    """Send letters; the numbers of those that the broker has not confirmed, each with the reason, None for no answer."""
    failed: dict[int, KafkaError | None] = {}

    def report(n: int, error: KafkaError | None, _message: Message | None) -> None:
        if error is not None:
            failed[n] = error

    producer = producers.of(None)
    for n, record in enumerate(records):
        value, key, headers = record.message.value(), record.message.key(), _headers(record)
        try:
            producer.produce(record.letter.topic, value, key, on_delivery=partial(report, n), headers=headers)
        except KafkaException as exc:
            if producers.cause.fatal is not None:
                raise
            failed[n] = exc.args[0]
    if producers.flush(timeout_s):
        return {n: failed.get(n) for n in range(len(records))}
    for error in failed.values():
        if error is not None:
            raise_if_fatal(error)
    return failed


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


def _recall(settings: Settings, agent: str, partitions: Iterable[int]) -> dict[int, tuple[int, list[range]]]:
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


def _remembers(memory: Mapping[int, tuple[int, list[range]]], message: Message) -> bool:
    floor, single = memory[message.partition()]
    return message.offset() < floor or any(message.offset() in span for span in single)


def _memory(records: Sequence[DeadRecord], sending: Iterable[str]) -> list[KafkaPartition]:
    """What to commit once `sending` is delivered."""
    names = set(sending)
    by_partition: dict[int, list[tuple[int, bool]]] = {}
    for record in records:
        if record.refusal:  # never sent, so never to be remembered: a forger could else fill the memory
            continue
        done = record.redriven or record.letter.id in names
        by_partition.setdefault(record.message.partition(), []).append((record.message.offset(), done))
    topic = records[0].message.topic()
    memory = []
    for partition, offsets in by_partition.items():
        floor = next((offset for offset, done in offsets if not done), offsets[-1][0] + 1)
        text = _write_ranges([(offset, done) for offset, done in offsets if offset > floor])
        if len(text) > _METADATA_BYTES:
            raise ConfigError(
                "too many single letters are named for the broker to remember: redrive with --all, "
                "and with a --max-attempts above theirs"
            )
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


def _read_ranges(text: str) -> list[range]:
    ranges: list[range] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if first.isdigit() and (last or first).isdigit():
            ranges.append(range(int(first), int(last or first) + 1))
    return ranges
