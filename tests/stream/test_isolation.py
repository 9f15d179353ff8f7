"""Records that cannot be processed, on a real broker: each becomes one dead letter, and the others go on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime

import numpy as np
import pytest
from confluent_kafka import Message
from prometheus_client import REGISTRY

from qstream.testing.rig import LoopThread, Rig, header, wait_until
from qstream.testing.sample import Ping, Tally
from schemas.deadletter import MAX_STACK, DeadLetter
from schemas.frame import FrameError
from tests.stream.raw_header import send_with_header

MakeRig = Callable[..., Rig]
KEY = b"a"


def good(*values: int) -> bytes:
    return Ping.of("a", *values).encode()


def the_letter(rig: Rig) -> tuple[DeadLetter, Message]:
    (found,) = wait_until(rig.letters)
    return found


def run_among_good_ones(rig: Rig, act: str, **fields: int) -> tuple[DeadLetter, Message]:
    """One record of that act among good ones of its key; all others must be counted."""
    sent = [Ping.of("a", i) for i in range(9)]
    rig.publish([*sent[:5], Ping.of("a", 99, act=act, **fields), *sent[5:]], headers=[("x", b"1"), ("none", None)])
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 10)
    assert rig.tally("a") == Tally.of(*sent)
    assert [pong.count for _, pong in rig.pongs()] == list(range(1, 10))
    return the_letter(rig)


@pytest.mark.parametrize(
    ("act", "error_class", "message"),
    [
        ("poison", "Poison", "poison on request"),
        ("reject", "Poison", "rejected on request"),
        ("break", "ZeroDivisionError", "division"),
    ],
)
def test_a_record_that_the_module_cannot_process_is_dead_lettered_alone(rig: Rig, act: str, error_class: str, message: str):
    letter, record = run_among_good_ones(rig, act)
    assert (letter.stage, letter.error_class, letter.attempts) == ("process", error_class, 1)
    assert (letter.topic, letter.offset) == (rig.sample.pings.name, 5)
    assert message in letter.error_message
    assert record.value() == Ping.of("a", 99, act=act).encode()
    assert record.key() == KEY
    assert DeadLetter.original(record.headers()) == [("x", b"1"), ("none", None)]


def test_the_letter_of_an_unexpected_exception_ends_with_its_stack(rig: Rig):
    letter, record = run_among_good_ones(rig, "break")
    assert "ZeroDivisionError" in letter.stack_trace.splitlines()[-1]
    assert "sample.py" in letter.stack_trace
    assert len(letter.stack_trace) <= MAX_STACK
    headers = dict(record.headers())
    assert headers["__connect.errors.topic"] == rig.sample.pings.name.encode()
    assert headers["__connect.errors.exception.class.name"] == b"ZeroDivisionError"
    assert headers["__connect.errors.exception.stacktrace"].decode() == letter.stack_trace


def wrong_dtype() -> bytes:
    return good(1).replace(b'"dtype":"I64"', b'"dtype":"F64"')


@pytest.mark.parametrize(
    ("value", "key", "headers", "message"),
    [
        (b"\xff\x00 no frame", KEY, [], "not a safetensors"),
        (None, KEY, [], "got null: a tombstone"),
        (b'{"name":"a","values":[1],', KEY, [], "not JSON"),
        (wrong_dtype(), KEY, [], "must be int64, got dtype F64"),
        (good(1).replace(b"Ping.v1", b"Ping.v2"), KEY, [], "must be Ping.v1"),
        (good(1), KEY, [("ce_type", b"qstream.ping.v2")], "got 'qstream.ping.v2'"),
        (good(1), b"b", [], "record key must be name 'a', got 'b'"),
        (good(1), b"\xff\xfe", [], "record key must be name"),
        (good(1), KEY, [("content-type", b"text/csv")], "content type must be"),
    ],
    ids=["noise", "null", "cut json", "dtype", "frame version", "type version", "key", "binary key", "content type"],
)
def test_a_record_that_cannot_be_read_is_dead_lettered_with_its_bytes(
    rig: Rig, value: bytes | None, key: bytes, headers: list[tuple[str, bytes]], message: str
):
    rig.publish_raw(rig.sample.pings.name, good(1), KEY, partition=0)
    rig.publish_raw(rig.sample.pings.name, value, key, headers, partition=0)
    rig.publish_raw(rig.sample.pings.name, good(2), KEY, partition=0)
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 3)
    assert rig.tally("a") == Tally.of(Ping.of("a", 1), Ping.of("a", 2))
    letter, record = the_letter(rig)
    assert (letter.stage, letter.error_class, letter.attempts, letter.offset) == ("decode", "FrameError", 1, 1)
    assert message in letter.error_message
    assert (record.value(), record.key()) == (value, key)
    assert DeadLetter.original(record.headers() or ()) == headers


def test_a_record_whose_headers_cannot_be_read_is_dead_lettered_without_them_and_can_be_redriven(rig: Rig):
    topic = rig.sample.pings.name
    rig.publish_raw(topic, good(1), KEY, partition=0)
    send_with_header(rig.settings.bootstrap_servers, topic, 0, KEY, good(2), "größe".encode("latin-1"))
    rig.publish_raw(topic, good(3), KEY, partition=0)
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 3)
        letter, record = the_letter(rig)
        assert (letter.stage, letter.error_class, letter.offset) == ("decode", "FrameError", 1)
        assert letter.error_message == r"names of headers must be UTF-8, got 'gr\\xf6\\xdfe'"
        assert (record.value(), record.key()) == (good(2), KEY)
        assert DeadLetter.original(record.headers()) == []
        rig.publish_raw(topic, record.value(), record.key(), partition=0)
        wait_until(lambda: rig.committed_records() == 4)
    assert rig.tally("a") == Tally.of(Ping.of("a", 1), Ping.of("a", 3), Ping.of("a", 2))


def test_both_wire_forms_are_read_with_and_without_their_content_type(rig: Rig):
    as_json = json.dumps({"name": "a", "values": [3]}).encode()
    for value, kind in ((good(1), b"application/vnd.safetensors"), (as_json, b"application/json; charset=utf-8")):
        rig.publish_raw(rig.sample.pings.name, value, KEY, [("content-type", kind)])
        rig.publish_raw(rig.sample.pings.name, value, KEY)
    rig.publish_raw(rig.sample.pings.name, good(4), KEY, [("content-type", None)])
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 5)
    assert rig.letters() == []
    tally = rig.tally("a")
    assert tally is not None
    assert tally.total == 1 + 1 + 3 + 3 + 4


def test_an_event_too_large_for_its_frame_makes_its_cause_a_dead_letter(rig: Rig):
    letter, record = run_large(rig, 1_100_000)
    assert (letter.stage, letter.error_class) == ("produce", FrameError.__name__)
    assert "must be at most 1000000 bytes" in letter.error_message
    assert record.value() == Ping.of("a", 1, act="large", size=1_100_000).encode()


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_an_event_too_large_for_the_broker_makes_its_cause_a_dead_letter_and_no_other(make_rig: MakeRig, delivery: str):
    """The broker refuses a whole batch of records for one of them: the others must still be delivered."""
    rig = make_rig(topic_config={"max.message.bytes": "20000"}, delivery=delivery)
    letter, _ = run_large(rig, 60_000)
    assert (letter.stage, letter.error_class) == ("produce", "KafkaException")
    assert "MSG_SIZE_TOO_LARGE" in letter.error_message


def run_large(rig: Rig, size: int) -> tuple[DeadLetter, Message]:
    before, large, after = Ping.of("a", 0), Ping.of("a", 1, act="large", size=size), Ping.of("a", 2)
    others = [Ping.of(f"b{i}", i) for i in range(8)]
    rig.publish([before, *others[:4], large, *others[4:], after])
    with rig.loop(batch_window_ms=200):
        wait_until(lambda: rig.committed_records() == 11)
    assert rig.tally("a") == Tally.of(before, large, after)
    assert {(pong.name, pong.count) for _, pong in rig.pongs()} == {("a", 1), ("a", 3), *((f"b{i}", 1) for i in range(8))}
    return the_letter(rig)


def test_an_event_of_the_largest_frame_allowed_is_delivered(rig: Rig):
    room = 1_000_000 - len(b"".join([b"x" * 400]))
    rig.publish([Ping.of("a", 1, act="large", size=room)])
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 1)
    assert rig.letters() == []
    assert len(rig.tail(rig.sample.pongs)[0].value()) > 999_000


def largest_record(rig: Rig) -> bytes:
    """Noise that fills a topic's largest record, published before a good one."""
    noise = np.random.default_rng(0).bytes(1_048_400)
    rig.publish_raw(rig.sample.pings.name, noise, KEY, partition=0)
    rig.publish_raw(rig.sample.pings.name, good(1), KEY, partition=0)
    return noise


def test_the_largest_record_is_dead_lettered_whole(rig: Rig):
    noise = largest_record(rig)
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 2)
    letter, record = the_letter(rig)
    assert (letter.stage, letter.offset) == ("decode", 0)
    assert record.value() == noise


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_a_record_too_large_for_the_dead_letter_topic_leaves_its_letter_without_the_bytes(make_rig: MakeRig, delivery: str):
    """Its offset tells where the bytes are; it must not hold up the partition."""
    rig = make_rig(delivery=delivery, letter_config={"max.message.bytes": "1048576"})
    largest_record(rig)
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 2)
    assert rig.tally("a") == Tally.of(Ping.of("a", 1))
    letter, record = the_letter(rig)
    assert (letter.stage, letter.offset) == ("decode", 0)
    assert (record.value(), record.key()) == (None, KEY)
    assert letter.omitted_bytes > 1_000_000


def test_a_record_from_a_far_future_is_answered_as_any_other(make_rig: MakeRig):
    rig = make_rig(ping_config={"message.timestamp.after.max.ms": str(2**63 - 1)})
    rig.publish_raw(rig.sample.pings.name, good(1), KEY, partition=0, timestamp=2**62)
    rig.publish_raw(rig.sample.pings.name, b"noise", KEY, partition=0, timestamp=2**62)
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 2)
    assert [pong.count for _, pong in rig.pongs()] == [1]
    assert the_letter(rig)[0].timestamp_ms == 2**62


def test_times_in_seconds_are_counted_and_the_answers_have_the_time_of_arrival(make_rig: MakeRig):
    rig = make_rig(ping_config={"retention.ms": "-1"})  # else the broker deletes records with an old time at its next check
    for n in range(3):
        rig.publish_raw(rig.sample.pings.name, good(n), KEY, timestamp=int(time.time()))
    began_ms = int(time.time() * 1000)
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 3)
    events = rig.tail(rig.sample.pongs)
    times = [datetime.fromisoformat(header(event, "ce_time")).timestamp() * 1000 for event in events]
    assert len(times) == 3
    assert all(began_ms <= moment <= time.time() * 1000 for moment in times)
    labels = {"agent": rig.sample.name, "topic": rig.sample.pings.name}
    assert REGISTRY.get_sample_value("qstream_wrong_clocks_total", labels) == 3


def test_a_redriven_record_that_fails_again_counts_its_attempts(rig: Rig):
    rig.publish([Ping.of("a", 1, act="break")])
    with rig.loop():
        letter, record = the_letter(rig)
        headers = [*DeadLetter.original(record.headers()), ("qstream_attempts", str(letter.attempts).encode())]
        rig.publish_raw(letter.topic, record.value(), record.key(), headers)
        wait_until(lambda: len(rig.letters()) == 2)
    again, _ = rig.letters()[1]
    assert (letter.attempts, again.attempts) == (1, 2)
    assert again.offset == letter.offset + 1


def test_keys_beyond_the_setting_become_dead_letters_that_name_it_and_the_others_go_on(rig: Rig):
    with rig.loop(max_keys=2):
        rig.publish([Ping.of("a", 1), Ping.of("b", 1)])
        wait_until(lambda: len(rig.pongs()) == 2)
        rig.publish([Ping.of("c", 1), Ping.of("a", 2), Ping.of("b", 2)])
        wait_until(lambda: len(rig.pongs()) == 4 and len(rig.letters()) == 1)
    letter, _ = rig.letters()[0]
    assert (letter.error_class, letter.stage) == ("StateLimit", "process")
    assert letter.error_message == "the worker's states must be at most 2 keys, by the setting max_keys, got 3"


def test_a_dead_letter_topic_that_is_missing_holds_the_record_back_and_loses_nothing(make_rig: MakeRig):
    rig = make_rig()
    with rig.loop(delivery_timeout_ms=1000) as running:
        wait_until(lambda: running.loop.status().partitions)  # it has seen all topics, which a start waits for
        rig.delete_topic(rig.sample.letters)
        rig.publish([Ping.of("a", 1, act="break")])
        wait_until(lambda: running.loop.retry.failures > 0)
        assert rig.committed_records() == 0
        rig.create_topic(rig.sample.letters)
        wait_until(lambda: rig.committed_records() == 1)
    assert len(rig.letters()) == 1


def test_fatal_ends_the_loop_without_commit(rig: Rig):
    rig.publish([Ping.of("a", 1), Ping.of("a", 2, act="fatal")])
    running: LoopThread = rig.loop()
    wait_until(lambda: not running.alive)
    assert type(running.error).__name__ == "Fatal"
    assert rig.committed_records() == 0
    assert rig.pongs() == []
