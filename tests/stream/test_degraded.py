"""Redis stops, dies, comes back with and without its data: events keep coming, nothing is committed that is not saved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from qstream.embedded.redis import EmbeddedRedis
from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping, Tally

MakeRig = Callable[..., Rig]


def pings(count: int, start: int = 0) -> list[Ping]:
    return [Ping.of(f"name-{i % 6}", i) for i in range(start, start + count)]


def metric(rig: Rig, name: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"agent": rig.sample.name})


def all_exact(rig: Rig, sent: Sequence[Ping]) -> None:
    wait_until(lambda: rig.committed_records() == len(sent), saying=rig.committed)
    for name in sorted({ping.name for ping in sent}):
        assert rig.tally(name) == Tally.of(*(ping for ping in sent if ping.name == name)), name
    assert {event_id for event_id, _ in rig.pongs()} == rig.expected_ids(len(sent))


def warm_up(rig: Rig, sent: Sequence[Ping]) -> None:
    rig.publish(sent)
    wait_until(lambda: rig.committed_records() == len(sent))


def test_while_redis_does_not_answer_events_come_from_memory_and_nothing_is_committed(rig: Rig, redis_server: EmbeddedRedis):
    sent = pings(300)
    with rig.loop() as running:
        warm_up(rig, sent[:60])
        wait_until(lambda: metric(rig, "qstream_degraded") == 0)
        redis_server.pause()
        rig.publish(sent[60:])
        wait_until(lambda: len(rig.pongs()) == 300)
        wait_until(lambda: metric(rig, "qstream_degraded") == 1)
        wait_until(lambda: running.loop.status().uncommitted == 240)
        status = running.loop.status()
        assert (status.degraded, status.ready) == (True, True)
        assert rig.committed_records() == 60
        redis_server.resume()
        all_exact(rig, sent)
        wait_until(lambda: metric(rig, "qstream_degraded") == 0)
        wait_until(lambda: running.loop.status().uncommitted == 0)


def test_when_too_much_is_uncommitted_the_inputs_pause_until_redis_answers(rig: Rig, redis_server: EmbeddedRedis):
    sent = pings(400)
    with rig.loop(max_uncommitted_records=100, max_batch_records=20) as running:
        warm_up(rig, sent[:60])
        redis_server.pause()
        rig.publish(sent[60:])
        wait_until(lambda: running.loop.settling.stalled)
        wait_until(lambda: running.loop.status().last_turn_age_s < 1)
        uncommitted = running.loop.ledger.uncommitted
        assert 100 <= uncommitted <= 120
        assert len(rig.pongs()) < 200
        redis_server.resume()
        all_exact(rig, sent)


def test_a_redis_that_dies_and_comes_back_empty_gets_back_what_the_worker_knows(rig: Rig, redis_server: EmbeddedRedis):
    sent = pings(300)
    with rig.loop():
        warm_up(rig, sent[:100])
        redis_server.kill()
        rig.publish(sent[100:200])
        wait_until(lambda: len(rig.pongs()) == 200)
        redis_server.start()
        rig.publish(sent[200:])
        all_exact(rig, sent)


def test_a_redis_that_comes_back_with_its_data_goes_on(make_rig: MakeRig, durable_redis: EmbeddedRedis):
    rig = make_rig(redis_url=durable_redis.url)
    sent = pings(300)
    with rig.loop():
        warm_up(rig, sent[:100])
        for start in (100, 200):
            durable_redis.kill()
            rig.publish(sent[start : start + 50])
            wait_until(lambda start=start: len(rig.pongs()) >= start + 50)
            durable_redis.start()
            rig.publish(sent[start + 50 : start + 100])
        all_exact(rig, sent)


def test_a_worker_that_dies_while_redis_is_away_leaves_everything_to_the_next(
    rig: Rig, redis_server: EmbeddedRedis, tmp_path: Path
):
    sent = pings(200)
    with rig.program(tmp_path / "one.log", worker_id="one") as one:
        warm_up(rig, sent[:60])
        redis_server.pause()
        rig.publish(sent[60:])
        wait_until(lambda: len(rig.pongs()) == 200, saying=one.log_tail)
        one.kill()
    redis_server.resume()
    assert rig.committed_records() == 60
    with rig.loop():
        all_exact(rig, sent)


def test_a_worker_that_starts_while_redis_is_away_waits_and_says_so(rig: Rig, redis_server: EmbeddedRedis):
    sent = pings(60)
    rig.publish(sent)
    redis_server.pause()
    with rig.loop() as running:
        wait_until(lambda: metric(rig, "qstream_degraded") == 1)
        assert running.loop.status().degraded
        assert rig.pongs() == []
        redis_server.resume()
        all_exact(rig, sent)


def test_a_key_that_is_new_while_redis_is_away_waits_and_the_known_ones_of_other_partitions_go_on(
    rig: Rig, redis_server: EmbeddedRedis
):
    """Without Redis it is unknown whether a key has a state: guessing that it has none could undo one."""

    def publish(partition: int, *pings: Ping) -> None:
        for ping in pings:
            rig.publish_raw(rig.sample.pings.name, ping.encode(), ping.name.encode(), partition=partition)

    with rig.loop():
        publish(0, Ping.of("known", 1))
        publish(1, Ping.of("other", 1))
        wait_until(lambda: rig.committed_records() == 2)
        redis_server.pause()
        publish(1, Ping.of("new", 1))
        publish(0, Ping.of("known", 2))
        wait_until(lambda: len(rig.pongs()) == 3)
        assert {pong.name for _, pong in rig.pongs()} == {"known", "other"}
        redis_server.resume()
        wait_until(lambda: rig.committed_records() == 4)
    assert rig.tally("new") == Tally.of(Ping.of("new", 1))
    assert rig.tally("known") == Tally.of(Ping.of("known", 1), Ping.of("known", 2))


@pytest.mark.parametrize("leaves", ["one", "two"])
def test_partitions_that_move_while_redis_is_away_are_counted_right_by_their_next_owner(
    rig: Rig, redis_server: EmbeddedRedis, leaves: str
):
    sent = pings(300)
    with rig.loop(worker_id="one") as one, rig.loop(worker_id="two") as two:
        wait_until(lambda: len(two.loop.intake.assigned) == len(one.loop.intake.assigned) == 4)
        warm_up(rig, sent[:60])
        redis_server.pause()
        rig.publish(sent[60:150])
        wait_until(lambda: len(rig.pongs()) == 150)
        leaving, staying = (one, two) if leaves == "one" else (two, one)
        leaving.stop()
        wait_until(lambda: len(staying.loop.intake.assigned) == 8)
        rig.publish(sent[150:])
        redis_server.resume()
        all_exact(rig, sent)


def test_a_worker_that_starts_while_redis_is_away_takes_no_partitions_from_those_that_work(rig: Rig, redis_server: EmbeddedRedis):
    sent = pings(200)
    with rig.loop(worker_id="one") as one:
        warm_up(rig, sent[:60])
        redis_server.pause()
        with rig.loop(worker_id="two") as two:
            wait_until(lambda: two.loop.settling.degraded)
            rig.publish(sent[60:])
            wait_until(lambda: len(rig.pongs()) == 200)
            status = two.loop.status()
            assert (status.running, status.ready, status.partitions) == (True, False, 0)
            assert "Timeout" in status.store_error
            redis_server.resume()
            wait_until(lambda: len(two.loop.intake.assigned) == len(one.loop.intake.assigned) == 4)
            all_exact(rig, sent)
