"""The loop on a real broker: every record answered once, with a stable id, in bounded batches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from confluent_kafka import Message

from qstream.contract import Result, Tick
from qstream.stream.loop import BatchLoop
from qstream.stream.partition import partition_of_key
from qstream.testing.rig import Rig, header, wait_until
from qstream.testing.sample import Ping, Tally

MakeRig = Callable[..., Rig]
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def pings(count: int, names: int = 7) -> list[Ping]:
    return [Ping.of(f"name-{i % names}", i, 2 * i) for i in range(count)]


def of(name: str, sent: Sequence[Ping]) -> Tally:
    return Tally.of(*(ping for ping in sent if ping.name == name))


def test_every_record_gives_one_event_under_its_own_id_and_every_state_is_exact(rig: Rig):
    sent = pings(500)
    rig.publish(sent)
    with rig.loop():
        wait_until(lambda: len(rig.pongs()) >= 500)
        wait_until(lambda: rig.committed_records() == 500)
    ids = [event_id for event_id, _ in rig.pongs()]
    assert Counter(ids) == Counter(rig.expected_ids(500))
    for name in {ping.name for ping in sent}:
        assert rig.tally(name) == of(name, sent)
        counts = [pong.count for _, pong in rig.pongs() if pong.name == name]
        assert counts == list(range(1, len(counts) + 1))


def test_an_event_keeps_the_key_and_carries_cloudevents_headers_and_the_trace_of_its_cause(rig: Rig):
    rig.publish([Ping.of("a", 1)], headers=[("traceparent", TRACE.encode()), ("tracestate", b"x=1"), ("private", b"no")])
    with rig.loop():
        wait_until(rig.pongs)
    (event,) = rig.tail(rig.sample.pongs)
    (cause,) = wait_until(lambda: rig.tail(rig.sample.pings))
    assert event.key() == b"a"
    headers = dict(event.headers())
    moment = headers.pop("ce_time").decode()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment)
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": f"{cause.topic()}/{cause.partition()}/{cause.offset()}/0".encode(),
        "ce_source": f"qstream/{rig.sample.name}".encode(),
        "ce_type": rig.sample.pongs.name.encode(),
        "ce_subject": b"a",
        "content-type": b"application/json",
        "traceparent": TRACE.encode(),
        "tracestate": b"x=1",
    }


def test_events_go_to_the_partition_that_a_java_producer_would_choose(rig: Rig):
    rig.publish(pings(60, names=60))
    with rig.loop():
        wait_until(lambda: len(rig.pongs()) == 60)
    events = rig.tail(rig.sample.pongs)
    expected = {m.key(): partition_of_key(m.key(), rig.sample.partitions) for m in events}
    assert {m.key(): m.partition() for m in events} == expected
    assert len(set(expected.values())) == rig.sample.partitions


def test_a_second_run_goes_on_where_the_first_stopped(rig: Rig):
    sent = pings(200)
    rig.publish(sent[:120])
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 120)
    rig.publish(sent[120:])
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 200)
    assert max(Counter(event_id for event_id, _ in rig.pongs()).values()) == 1
    assert rig.tally("name-0") == of("name-0", sent)


class Batches(BatchLoop[Tally]):
    """A loop that notes the batches that it turns."""

    seen: list[list[Message]]

    def turn(self, messages: Sequence[Message]) -> None:
        self.seen.append(list(messages))
        super().turn(messages)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[Message]]:
    seen: list[list[Message]] = []
    monkeypatch.setattr(Batches, "seen", seen, raising=False)
    monkeypatch.setattr("qstream.testing.rig.BatchLoop", Batches)
    return seen


def test_a_batch_holds_no_more_records_than_allowed(rig: Rig, batches: list[list[Message]]):
    rig.publish(pings(390))
    with rig.loop(max_batch_records=30, batch_window_ms=1000):  # which hardly a batch waits for: it is full before
        wait_until(lambda: rig.committed_records() == 390)
    assert max(map(len, batches)) == 30
    assert len({(m.partition(), m.offset()) for batch in batches for m in batch}) == 390


def test_a_batch_holds_no_more_bytes_than_allowed_and_one_record(rig: Rig, batches: list[list[Message]]):
    big = [Ping.of(f"name-{i % 3}", *range(1000)) for i in range(40)]  # 8 KB each
    rig.publish(big)
    with rig.loop(max_batch_bytes=50_000, batch_window_ms=1000):
        wait_until(lambda: rig.committed_records() == 40)
    sizes = [sum(len(m.value()) for m in batch) for batch in batches]
    largest = max(len(ping.encode()) for ping in big)
    assert max(sizes) <= 50_000 + largest
    assert max(map(len, batches)) >= 4
    assert rig.tally("name-0") == of("name-0", big)


def test_a_batch_waits_its_window_for_more_records(rig: Rig, batches: list[list[Message]], monkeypatch: pytest.MonkeyPatch):
    """A record that is published when another was taken comes with it, unless it is late: then the next pair may do it."""
    taken: list[int] = []
    monkeypatch.setattr("qstream.stream.consume._size", lambda message: taken.append(message.offset()) or len(message))
    with rig.loop(batch_window_ms=3000, max_batch_records=100):

        def come_together() -> bool:
            taken.clear()
            rig.publish([Ping.of("a", 1)])
            wait_until(lambda: taken)
            rig.publish([Ping.of("a", 2)])
            published = len(rig.tail(rig.sample.pings))
            wait_until(lambda: rig.committed_records() == published)
            return max(map(len, batches)) >= 2

        wait_until(come_together)


def test_a_compacted_input_is_read_whole_on_assignment_although_its_offsets_are_committed(rig: Rig):
    """The table of gates is read again by a worker that has lost its states: pings that need a gate find it open."""
    rig.publish([Ping.of("a", 0, act="open")], rig.sample.gates)
    with rig.loop():
        wait_until(lambda: rig.committed_records(rig.sample.gates) == 1)
    rig.store._redis.ask([("FLUSHALL",)])
    rig.publish([Ping.of("a", 5, act="need")])
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 1)
    assert rig.letters() == []
    tally = rig.tally("a")
    assert tally is not None
    assert (tally.count, tally.opened) == (2, True)


def test_a_compacted_input_read_again_changes_no_state_and_gives_no_letter_twice(rig: Rig):
    refused = [Ping.of("c", 3, act="poison"), Ping.of("a", 4, act="break")]
    rig.publish([Ping.of("a", 1, act="open"), Ping.of("b", 2, act="open"), *refused], rig.sample.gates)
    for _ in range(3):
        with rig.loop() as running:
            ends = running.loop.ledger.positions
            wait_until(lambda: sum(end for p, end in dict(ends).items() if p.topic == rig.sample.gates.name) == 4)  # noqa: B023
            wait_until(lambda: rig.committed_records(rig.sample.gates) == 4)
    assert rig.tally("a") == Tally.of(Ping.of("a", 1, act="open"))
    assert len(rig.pongs()) == 2
    assert len(rig.letters()) == len(refused)


def test_a_tombstone_on_a_compacted_input_is_passed_over(rig: Rig):
    rig.publish([Ping.of("a", 1, act="open")], rig.sample.gates)
    rig.publish_raw(rig.sample.gates.name, None, b"a")
    with rig.loop():
        wait_until(lambda: rig.committed_records(rig.sample.gates) == 2)
    assert rig.letters() == []


def test_a_tick_that_fails_costs_that_tick(rig: Rig, caplog: pytest.LogCaptureFixture):
    rig.publish([Ping.of("a", 1), Ping.of("b", 1)])
    processor = rig.processor(tick_s=0.2)
    plain = processor.on_tick

    def on_tick(tick: Tick, state: Tally) -> Result[Tally]:
        if tick.key == "a":
            raise RuntimeError("a fault of the module")
        return plain(tick, state)

    processor.on_tick = on_tick
    with rig.loop(processor):
        wait_until(lambda: len([1 for event_id, _ in rig.pongs() if event_id.startswith("tick/b/1/")]) >= 2)
        rig.publish([Ping.of("a", 2)])
        wait_until(lambda: len([1 for event_id, _ in rig.pongs() if not event_id.startswith("tick")]) == 3)
    assert "the tick of a failed" in caplog.text


def test_a_tick_gives_events_of_the_states_in_memory(rig: Rig):
    rig.publish([Ping.of("a", 1)])
    with rig.loop(rig.processor(tick_s=0.2)):
        wait_until(lambda: len([1 for event_id, _ in rig.pongs() if event_id.startswith("tick/a/1/")]) >= 2)
    assert all(header(m, "ce_subject") == "a" for m in rig.tail(rig.sample.pongs))
