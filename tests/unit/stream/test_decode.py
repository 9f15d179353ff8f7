"""Decoding: a message is a record, or a dead letter that says why; never an exception."""

from __future__ import annotations

import json

import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from qstream.stream.decode import Rejected, attempts, by_key, decode, reject
from qstream.testing.sample import Ping, Sample
from schemas.deadletter import MAX_MESSAGE, MAX_STACK, DeadLetter
from schemas.frame import JSON, SAFETENSORS, FrameError

SAMPLE = Sample("t", 1)
TOPICS = {topic.name: topic for topic in SAMPLE.inputs}
PING = Ping.of("a", 1, 2)
KEY = b"a"


def message(value: bytes | None, key: bytes | None = KEY, headers=None, topic: str = SAMPLE.pings.name, timestamp=(1, 77)):
    return Message(topic=topic, partition=2, offset=9, key=key, value=value, headers=headers, timestamp=timestamp)


def rejected(*args, **fields) -> Rejected:
    records, (dead,) = decode([message(*args, **fields)], TOPICS)
    assert records == []
    return dead


@pytest.mark.parametrize("form", [SAFETENSORS, JSON])
@pytest.mark.parametrize("named", [True, False, None])
def test_both_forms_are_read_whether_or_not_the_header_names_it(form, named):
    """None is a header without value."""
    headers = {True: [("content-type", form.encode())], False: [], None: [("content-type", None)]}[named]
    (record,), dead = decode([message(PING.encode(form), headers=headers)], TOPICS)
    assert dead == []
    assert record.frame == PING
    assert (record.topic, record.partition, record.offset, record.key) == (SAMPLE.pings.name, 2, 9, "a")
    assert (record.timestamp_ms, record.raw_key, record.value) == (77, KEY, PING.encode(form))
    assert record.id == f"{SAMPLE.pings.name}/2/9"


def test_a_content_type_may_have_parameters():
    (record,), _ = decode([message(PING.encode(JSON), headers=[("content-type", b"application/json; charset=utf-8")])], TOPICS)
    assert record.frame == PING


def test_a_record_without_key_takes_the_key_of_its_frame():
    (record,), _ = decode([message(PING.encode(), key=None)], TOPICS)
    assert (record.key, record.raw_key) == ("a", None)


def test_a_message_without_timestamp_counts_as_time_0():
    (record,), _ = decode([message(PING.encode(), timestamp=(0, -1))], TOPICS)
    assert record.timestamp_ms == 0


@pytest.mark.parametrize(
    ("value", "key", "headers", "reason"),
    [
        (b"noise", KEY, None, "not a safetensors"),
        (None, KEY, None, "value must be a Ping, got null: a tombstone"),
        (b"", KEY, None, "not a safetensors"),
        (b"{}", KEY, None, "name"),
        (PING.encode().replace(b"Ping.v1", b"Ping.v2"), KEY, None, "must be Ping.v1"),
        (PING.encode(), KEY, [("ce_type", b"t.ping.v2")], "header ce_type must be 't.ping.v1', got 't.ping.v2'"),
        (PING.encode(), KEY, [("ce_type", b"\xff")], "header ce_type"),
        (PING.encode(), KEY, [("content-type", b"text/csv")], "content type must be"),
        (PING.encode(), KEY, [("content-type", b"application/json")], "not JSON"),
        (PING.encode(), b"b", None, "record key must be name 'a', got 'b'"),
        (PING.encode(), b"", None, "record key must be name 'a', got ''"),
        (PING.encode(), b"\xff", None, "record key must be name"),
    ],
)
def test_what_cannot_be_read_becomes_a_dead_letter_with_its_own_bytes_and_the_rule(value, key, headers, reason):
    dead = rejected(value, key, headers)
    assert (dead.value or b"", dead.key or b"", list(dead.headers)) == (value or b"", key, headers or [])
    letter = dead.letter
    assert reason in letter.error_message
    assert (letter.topic, letter.partition, letter.offset, letter.timestamp_ms) == (SAMPLE.pings.name, 2, 9, 77)
    assert (letter.stage, letter.error_class, letter.attempts, letter.stack_trace) == ("decode", "FrameError", 1, "")


def test_the_type_of_the_topic_itself_is_accepted():
    (record,), _ = decode([message(PING.encode(), headers=[("ce_type", SAMPLE.pings.name.encode()), ("ce_type", None)])], TOPICS)
    assert record.frame == PING


def test_a_tombstone_is_passed_over_on_a_table_only():
    assert decode([message(None, topic=SAMPLE.gates.name)], TOPICS) == ([], [])
    assert rejected(None).letter.stage == "decode"


def test_good_and_bad_messages_keep_their_order():
    values = [PING.encode(), b"noise", PING.encode(), b"noise"]
    messages = [Message(topic=SAMPLE.pings.name, partition=0, offset=n, key=KEY, value=value) for n, value in enumerate(values)]
    records, dead = decode(messages, TOPICS)
    assert [record.offset for record in records] == [0, 2]
    assert [letter.letter.offset for letter in dead] == [1, 3]


def test_records_are_grouped_by_key_in_order():
    names = "abacb"
    messages = [
        Message(topic=SAMPLE.pings.name, partition=0, offset=n, key=name.encode(), value=Ping.of(name, n).encode())
        for n, name in enumerate(names)
    ]
    groups = by_key(decode(messages, TOPICS)[0])
    assert {key: [record.offset for record in group] for key, group in groups.items()} == {"a": [0, 2], "b": [1, 4], "c": [3]}


@pytest.mark.parametrize(
    ("value", "count"), [(b"3", 3), (None, 0), (b"", 0), (b"-1", 0), (b"x", 0), (b"1" * 7, 0), ("٣".encode(), 0)]
)
def test_attempts_are_read_from_the_header_and_nonsense_counts_as_none(value, count):
    assert attempts([("other", b"9"), ("qstream_attempts", value)]) == count
    assert rejected(b"noise", headers=[("qstream_attempts", value)]).letter.attempts == count + 1


@given(value=st.binary(max_size=200), key=st.binary(max_size=20) | st.none(), text=st.binary(max_size=30))
def test_no_bytes_raise_anything(value, key, text):
    headers = [("content-type", text), ("ce_type", text), ("qstream_attempts", text), ("traceparent", text)]
    dead = rejected(value, key, headers)
    assert DeadLetter.from_headers(dead.letter.headers()) == dead.letter


def test_a_letter_of_an_error_ends_with_its_stack_and_is_bounded():
    (record,), _ = decode([message(PING.encode())], TOPICS)

    def deep(level: int) -> None:
        if level == 0:
            raise RuntimeError("x" * 50_000)
        deep(level - 1)

    with pytest.raises(RuntimeError) as caught:
        deep(300)
    letter = reject(record, caught.value, "process").letter
    assert len(letter.stack_trace) == MAX_STACK
    assert letter.stack_trace.rstrip().endswith("xxx")
    assert len(letter.error_message) == MAX_MESSAGE
    assert DeadLetter.from_headers(letter.headers()) == letter


def test_an_error_without_text_is_named_by_its_class():
    (record,), _ = decode([message(PING.encode())], TOPICS)
    assert reject(record, FrameError(), "produce").letter.error_message == "FrameError"


def test_an_error_that_quotes_half_a_surrogate_is_written_all_the_same():
    (record,), _ = decode([message(json.dumps({"name": "a", "values": [1]}).encode())], TOPICS)
    assert reject(record, ValueError("\ud800"), "process").letter.error_message == "?"
