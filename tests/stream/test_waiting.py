"""Records that must wait, on a real broker: their key waits in order, all others go on, and no event is lost or repeated."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qstream.contract import Batch, Result
from qstream.embedded.redis import EmbeddedRedis
from qstream.testing.java_kafka import JavaKafka
from qstream.testing.kafka_jars import java_available
from qstream.testing.rig import PATIENCE_S, Rig, wait_until
from qstream.testing.sample import Ping, Sample, Tally

MakeRig = Callable[..., Rig]


def publish(rig: Rig, partition: int, *pings: Ping) -> None:
    for ping in pings:
        rig.publish_raw(rig.sample.pings.name, ping.encode(), ping.name.encode(), flush=False, partition=partition)
    rig.flush()


def numbers(name: str, *values: int) -> list[Ping]:
    return [Ping.of(name, value) for value in values]


def test_a_key_whose_record_must_wait_waits_in_order_while_the_others_go_on(rig: Rig):
    a, b = [*numbers("a", 1, 2), Ping.of("a", 3, act="need"), *numbers("a", 4, 5)], numbers("b", *range(40))
    publish(rig, 0, *a)
    publish(rig, 1, *b[:20])
    with rig.loop():
        wait_until(lambda: len([pong for _, pong in rig.pongs() if pong.name == "b"]) == 20)
        publish(rig, 1, *b[20:])
        wait_until(lambda: rig.tally("b") == Tally.of(*b))
        wait_until(lambda: rig.tally("a") == Tally.of(*a[:2]))
        gate = Ping.of("a", 9, act="open")
        rig.publish([gate], rig.sample.gates)
        wait_until(lambda: rig.committed_records() == 45)
    assert rig.tally("a") == Tally.of(*a[:2], gate, *a[2:])
    assert rig.letters() == []
    assert len({event_id for event_id, _ in rig.pongs()}) == 46


def test_other_keys_of_a_partition_with_a_waiting_record_go_on_and_the_commit_does_not_pass_it(rig: Rig, tmp_path: Path):
    publish(rig, 0, *numbers("b", 1), Ping.of("a", 1, act="need"), *numbers("b", 2), Ping.of("a", 2), *numbers("c", 1))
    with rig.program(tmp_path / "one.log", give_up_s=3600) as one:
        wait_until(lambda: rig.tally("c") and rig.tally("b") == Tally.of(*numbers("b", 1, 2)), saying=one.log_tail)
        publish(rig, 0, *numbers("d", 1))
        wait_until(lambda: rig.tally("d"), saying=one.log_tail)
        wait_until(lambda: rig.committed_records() == 1)
        assert rig.tally("a") is None
        one.kill()
    rig.publish([gate := Ping.of("a", 0, act="open")], rig.sample.gates)
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 6)
    assert rig.tally("a") == Tally.of(gate, *numbers("a", 1, 2))
    assert rig.tally("b") == Tally.of(*numbers("b", 1, 2))
    assert len({event_id for event_id, _ in rig.pongs()}) == 7


def test_more_waiting_records_than_allowed_pause_their_partition_alone(make_rig: MakeRig):
    rig = make_rig(max_waiting_records=50, max_batch_records=20, give_up_s=3600)
    waiting = [Ping.of("a", i, act="need") for i in range(200)]
    publish(rig, 0, *waiting)
    with rig.loop() as running:
        wait_until(lambda: running.loop.status().waiting >= 50)
        publish(rig, 1, *numbers("b", *range(100)))
        wait_until(lambda: rig.tally("b") == Tally.of(*numbers("b", *range(100))))
        assert running.loop.status().waiting <= 70
        gate = Ping.of("a", 0, act="open")
        rig.publish([gate], rig.sample.gates)
        wait_until(lambda: rig.committed_records() == 300)
    assert rig.tally("a") == Tally.of(gate, *waiting)


def test_a_record_that_waits_does_not_wait_on_once_its_key_has_what_it_lacks(make_rig: MakeRig):
    rig = make_rig(give_up_s=3600, retry_max_s=600)
    publish(rig, 0, Ping.of("a", 1, act="need"), *numbers("a", 2))
    with rig.loop() as running:
        wait_until(lambda: running.loop.status().waiting == 2)
        for queue in running.loop.waiting._queues.values():
            queue.due += 1e6
        rig.publish([gate := Ping.of("a", 0, act="open")], rig.sample.gates)
        wait_until(lambda: rig.committed_records() == 2)
    assert rig.tally("a") == Tally.of(gate, *numbers("a", 1, 2))


class Slow(Sample):
    """A sample that takes its time for each record, and for the last one of `b` until the first answers were seen."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.answered = threading.Event()

    def process(self, batch: Batch, state: Tally | None, now_ns: int) -> Result[Tally]:
        time.sleep(0.01 * len(batch.records))
        if batch.key == "b" and any(record.frame == Ping.of("b", 199) for record in batch.records):
            assert self.answered.wait(PATIENCE_S), "no answer left before the last record"
        return super().process(batch, state, now_ns)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_the_first_answers_of_a_long_batch_leave_before_the_last_record_is_processed(make_rig: MakeRig, delivery: str):
    rig = make_rig(delivery=delivery, transaction_timeout_ms=6000)
    sent = numbers("a", *range(200)) + numbers("b", *range(200))
    publish(rig, 0, *sent)
    slow = Slow(rig.sample.name, rig.sample.partitions)
    with rig.loop(slow):
        wait_until(rig.pongs)
        slow.answered.set()
        wait_until(lambda: rig.committed_records() == 400)
    assert Counter(event_id for event_id, _ in rig.pongs()) == Counter(rig.expected_ids(400))
    assert [rig.tally(name) for name in "ab"] == [Tally.of(*numbers(name, *range(200))) for name in "ab"]


def test_exactly_once_a_worker_that_dies_while_a_key_waits_repeats_no_event_of_the_others(
    make_rig: MakeRig, durable_redis: EmbeddedRedis, tmp_path: Path
):
    """Redis is gone before it dies, so that the states of the events behind the waiting record are lost as well."""
    rig = make_rig(delivery="exactly_once", transaction_timeout_ms=6000, redis_url=durable_redis.url)
    behind = [Ping.of(f"name-{i % 3}", i) for i in range(60)]
    publish(rig, 0, *numbers("b", 1), Ping.of("a", 1, act="need"), *behind[:30])
    with rig.program(tmp_path / "one.log", give_up_s=3600) as one:
        wait_until(lambda: len(rig.pongs()) == 31 and rig.tally("name-0"), saying=one.log_tail)
        durable_redis.kill()
        publish(rig, 0, *behind[30:])
        wait_until(lambda: len(rig.pongs()) == 61, saying=one.log_tail)
        one.kill()
    durable_redis.start()
    gate = Ping.of("a", 0, act="open")
    with rig.program(tmp_path / "two.log", give_up_s=3600) as two:
        wait_until(lambda: rig.tally("name-0") == Tally.of(*behind[::3]), saying=two.log_tail)
        rig.publish([gate], rig.sample.gates)
        wait_until(lambda: rig.committed_records() >= 62, saying=two.log_tail)
        wait_until(lambda: rig.tally("a") == Tally.of(gate, *numbers("a", 1)), saying=two.log_tail)
    assert max(Counter(event_id for event_id, _ in rig.pongs()).values()) == 1
    assert len(rig.pongs()) == 63


def test_two_keys_that_wait_in_one_partition_are_both_answered(rig: Rig):
    publish(rig, 0, Ping.of("a", 1, act="need"), Ping.of("b", 2, act="need"), Ping.of("a", 3), Ping.of("b", 4))
    with rig.loop():
        rig.publish([Ping.of("b", 0, act="open")], rig.sample.gates)
        wait_until(lambda: rig.tally("b") is not None)
        rig.publish([Ping.of("a", 0, act="open")], rig.sample.gates)
        wait_until(lambda: rig.committed_records() == 4)
    assert rig.tally("a") == Tally.of(Ping.of("a", 0, act="open"), *numbers("a", 1, 3))
    assert rig.tally("b") == Tally.of(Ping.of("b", 0, act="open"), *numbers("b", 2, 4))


def test_a_record_that_has_waited_long_enough_is_dead_lettered_and_its_key_goes_on(make_rig: MakeRig):
    rig = make_rig(give_up_s=0.5)
    publish(rig, 0, Ping.of("a", 1, act="need"), Ping.of("a", 2))
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 2)
    ((letter, record),) = rig.letters()
    assert (letter.stage, letter.error_class, letter.error_message) == ("process", "Transient", "a is not open")
    assert record.value() == Ping.of("a", 1, act="need").encode()
    assert rig.tally("a") == Tally.of(Ping.of("a", 2))


def test_many_records_that_wait_for_the_same_thing_are_given_up_together(make_rig: MakeRig):
    """One after another they would hold up the partition for give_up_s each: here two minutes."""
    rig = make_rig(give_up_s=2.0)
    publish(rig, 0, *(Ping.of("a", i, act="need") for i in range(60)), Ping.of("b", 1))
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 61)
    assert len({letter.id for letter, _ in rig.letters()}) == 60
    assert rig.tally("b") == Tally.of(Ping.of("b", 1))


@pytest.fixture
def own_kafka() -> Iterator[JavaKafka]:
    if (reason := java_available()) is not None:
        pytest.skip(reason)
    with JavaKafka() as cluster:
        yield cluster


def test_a_broker_that_dies_and_comes_back_costs_no_record_and_no_commit_too_many(own_kafka: JavaKafka, make_rig: MakeRig):
    """Killed while records flow: what was not confirmed is sent again, under the same ids."""
    rig = make_rig(bootstrap_servers=own_kafka.bootstrap_servers, delivery_timeout_ms=1500)
    sent = [Ping.of(f"name-{i % 5}", i) for i in range(400)]
    rig.publish(sent)
    with rig.loop(rig.processor(pause_s=0.01), max_batch_records=20):
        wait_until(lambda: len(rig.pongs()) >= 100)
        own_kafka.kill()
        own_kafka.start()
        wait_until(lambda: rig.committed_records() == 400, saying=own_kafka.log_tail)
    expected = rig.expected_ids(400)
    wait_until(lambda: {event_id for event_id, _ in rig.pongs()} == expected)
    for name in (f"name-{i}" for i in range(5)):
        assert rig.tally(name) == Tally.of(*(ping for ping in sent if ping.name == name))


def test_records_that_the_broker_does_not_confirm_are_not_committed(own_kafka: JavaKafka, make_rig: MakeRig, tmp_path: Path):
    rig, broker_stands = make_rig(bootstrap_servers=own_kafka.bootstrap_servers, delivery_timeout_ms=500), tmp_path / "stands"
    sent = [*numbers("a", *range(4)), Ping.of("a", 4, act="hold"), *numbers("a", *range(5, 12))]
    rig.publish(sent)
    with rig.loop(rig.processor(hold=str(broker_stands)), max_batch_records=1) as running:
        wait_until(lambda: rig.pongs())
        os.kill(own_kafka.pids[0], signal.SIGSTOP)
        broker_stands.touch()
        try:
            wait_until(lambda: running.loop.retry.failures > 0)
            positions = running.loop.ledger.positions
            assert sum(positions.values()) < 12
        finally:
            os.kill(own_kafka.pids[0], signal.SIGCONT)
        wait_until(lambda: rig.committed_records() == 12, saying=own_kafka.log_tail)
    assert rig.tally("a") == Tally.of(*sent)
    wait_until(lambda: len({event_id for event_id, _ in rig.pongs()}) == 12)  # the reader needs the broker again as well
