"""Exactly once: read-committed readers see each event once over deaths, aborts and zombies, and states follow."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import redis

from qstream.contract import Event, Record, Result, Tick
from qstream.embedded.kafka import EmbeddedKafka
from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import EXIT_FATAL, ConfigError, Fenced
from qstream.state.store import StateStore
from qstream.state.write import Write
from qstream.stream.client import PlanSubscriber
from qstream.stream.loop import BatchLoop
from qstream.stream.produce import Outbox
from qstream.testing.rig import Rig, header, wait_until
from qstream.testing.sample import Ping, Pong, Sample, SampleOptions, Tally
from tests.stream.careless import report_carelessly

MakeRig = Callable[..., Rig]
SLOW = {"pause_s": 0.01}


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    return make_rig(delivery="exactly_once", transaction_timeout_ms=6000)


def pings(count: int, start: int = 0) -> list[Ping]:
    return [Ping.of(f"name-{i % 8}", i) for i in range(start, start + count)]


def once_each(rig: Rig, sent: Sequence[Ping]) -> None:
    expected = Counter(rig.expected_ids(len(sent)))
    wait_until(lambda: len(rig.pongs()) >= len(sent), saying=lambda: len(rig.pongs()))
    wait_until(lambda: all(rig.tally(name) == of(name, sent) for name in {ping.name for ping in sent}))
    assert Counter(event_id for event_id, _ in rig.pongs()) == expected
    for name in {ping.name for ping in sent}:
        counts = [pong.count for _, pong in rig.pongs() if pong.name == name]
        assert counts == list(range(1, len(counts) + 1))


def of(name: str, sent: Sequence[Ping]) -> Tally:
    return Tally.of(*(ping for ping in sent if ping.name == name))


def test_a_worker_whose_transaction_hangs_ends_and_says_so() -> None:
    hanging = "import time; from qstream.stream.produce import _watchdog as dog\nwith dog(0.01): time.sleep(1e6)"
    ended = subprocess.run([sys.executable, "-c", hanging], capture_output=True, text=True, check=False)
    assert ended.returncode == EXIT_FATAL
    assert "a transaction did not end within 0.01 s" in ended.stderr


def test_each_record_gives_one_event_and_the_next_run_goes_on(rig: Rig):
    sent = pings(300)
    rig.publish(sent[:200])
    with rig.loop():
        once_each(rig, sent[:200])
    rig.publish(sent[200:])
    with rig.loop():
        once_each(rig, sent)


def test_a_worker_killed_in_the_middle_shows_readers_each_event_once(rig: Rig, tmp_path: Path):
    sent = pings(400)
    with rig.program(tmp_path / "one.log", SLOW, max_batch_records=20) as one:
        rig.publish(sent[:250])
        wait_until(lambda: len(rig.pongs()) > 60, saying=one.log_tail)
        one.kill()
    rig.publish(sent[250:])
    with rig.program(tmp_path / "two.log", max_batch_records=50) as two:
        wait_until(lambda: len(rig.pongs()) >= 400, saying=two.log_tail)
        once_each(rig, sent)


@pytest.fixture
def durable_rig(make_rig: MakeRig, durable_redis: EmbeddedRedis) -> Rig:
    return make_rig(delivery="exactly_once", transaction_timeout_ms=6000, redis_url=durable_redis.url)


def test_states_behind_the_committed_offsets_are_rebuilt_without_a_second_event(
    durable_rig: Rig, durable_redis: EmbeddedRedis, tmp_path: Path
):
    """Redis is gone; transactions commit; the worker dies before it can write the states that belong to them."""
    rig, sent = durable_rig, pings(160)
    with rig.program(tmp_path / "one.log", max_batch_records=20) as one:
        rig.publish(sent[:40])
        wait_until(lambda: rig.tally("name-7") == of("name-7", sent[:40]), saying=one.log_tail)
        wait_until(lambda: sum(rig.store.watermarks().values()) >= 40)
        durable_redis.kill()
        rig.publish(sent[40:80])
        wait_until(lambda: len(rig.pongs()) >= 80, saying=one.log_tail)
        wait_until(lambda: rig.committed_records() >= 80)
        one.kill()
    durable_redis.start()
    assert rig.tally("name-7") == of("name-7", sent[:40])
    rig.publish(sent[80:])
    with rig.program(tmp_path / "two.log") as two:
        wait_until(lambda: len(rig.pongs()) >= 160, saying=two.log_tail)
        once_each(rig, sent)


def test_states_behind_the_very_first_transaction_are_rebuilt_too(durable_rig: Rig, durable_redis: EmbeddedRedis, tmp_path: Path):
    rig, sent, redis_is_gone = durable_rig, [Ping.of("a", i) for i in range(40)], tmp_path / "gone"
    sent[0] = Ping.of("a", 0, act="hold")
    rig.publish(sent[:20])
    with redis.Redis(port=durable_redis.port) as client:
        client.config_set("slowlog-max-len", 10_000)
        client.config_set("slowlog-log-slower-than", 0)  # every command
    with rig.program(tmp_path / "one.log", {"hold": str(redis_is_gone)}) as one:
        wait_until(lambda: has_loaded(durable_redis, rig), saying=one.log_tail)
        durable_redis.kill()
        redis_is_gone.touch()
        wait_until(lambda: rig.committed_records() >= 20, saying=one.log_tail)
        one.kill()
    durable_redis.start()
    assert rig.tally("a") is None
    rig.publish(sent[20:])
    with rig.program(tmp_path / "two.log", {"hold": str(redis_is_gone)}) as two:
        wait_until(lambda: len(rig.pongs()) >= 40, saying=two.log_tail)
        once_each(rig, sent)


def has_loaded(server: EmbeddedRedis, rig: Rig) -> bool:
    """Whether the worker has read the state of "a", the last that it reads before its first batch, since the log began."""
    with redis.Redis(port=server.port) as client:
        asked = {entry["command"] for entry in client.slowlog_get(10_000)}
    return f"HGETALL qstream:{{{rig.sample.name}:a}}".encode() in asked


def test_an_aborted_transaction_leaves_nothing_to_see_and_comes_again(make_rig: MakeRig):
    """An event that the broker refuses aborts the transaction of all events sent with it."""
    rig = make_rig(partitions=1, delivery="exactly_once", topic_config={"max.message.bytes": "20000"})
    sent = [Ping.of(f"name-{i}", i) for i in range(12)]
    rig.publish([*sent[:6], Ping.of("large", 1, act="large", size=50_000), *sent[6:]])
    with rig.loop(batch_window_ms=1000, max_batch_records=len(sent) + 1):
        wait_until(rig.letters)
        wait_until(lambda: len(rig.pongs()) >= 12)
        wait_until(lambda: rig.tally("large"))
    assert sorted(pong.name for _, pong in rig.pongs()) == sorted(ping.name for ping in sent)
    assert len(rig.letters()) == 1
    uncommitted = [pong.name for _, pong in rig.pongs("read_uncommitted")]
    assert len(uncommitted) > 12, "the test aborted nothing"


def test_a_zombie_with_the_same_transactional_id_is_fenced(rig: Rig):
    sent = pings(40)
    zombie = rig.loop()
    rig.publish(sent[:20])
    wait_until(lambda: len(rig.pongs()) == 20)
    with rig.loop():
        rig.publish(sent[20:])
        once_each(rig, sent)
        rig.publish(more := pings(40, start=40))
        wait_until(lambda: not zombie.alive)
        once_each(rig, sent + more)
    assert isinstance(zombie.error, Fenced)


@pytest.mark.parametrize("report", [Outbox._report, report_carelessly], ids=["heard", "lost"])
def test_a_worker_that_is_fenced_in_a_transaction_says_so_also_if_its_client_loses_the_error(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, report: Callable[..., None]
):
    monkeypatch.setattr(Outbox, "_report", report)
    zombie, heir = (Outbox(rig.settings, rig.sample.name, rig.sample.letters.name) for _ in "ab")
    ping = Ping.of("a", 1)
    cause = Record(rig.sample.pings.name, 0, 0, "a", ping, 0)
    pong = Pong(name="a", count=1, total=1, digest=1)
    events = [Event(rig.sample.pongs, "a", cause.event_id(n), pong, cause) for n in range(20)]

    def be_fenced_before_sending() -> None:
        with zombie.transaction({}, None):
            heir.start(lambda _: None)
            zombie.send(events, [])

    zombie.start(lambda _: None)
    with pytest.raises(Fenced, match="another worker with this identity took over"):
        be_fenced_before_sending()
    assert rig.pongs() == []


def test_a_tick_is_delivered_in_a_transaction_of_its_own(rig: Rig):
    rig.publish([Ping.of("a", 1)])
    with rig.loop(rig.processor(tick_s=0.2)):
        wait_until(lambda: [event_id for event_id, _ in rig.pongs() if event_id.startswith("tick/a/")])


class Once(Sample):
    """A sample of which each name ticks once: with an event, and a million more in its state."""

    def on_tick(self, tick: Tick, state: Tally) -> Result[Tally]:
        if state.total >= 1_000_000:
            return Result()
        return Result(super().on_tick(tick, state).events, state=state.model_copy(update={"total": state.total + 1_000_000}))


class Died(Exception):
    """Stands for the death of a worker between a transaction and the write of the states."""


def test_a_tick_whose_worker_dies_before_its_state_is_written_comes_again_under_the_same_id_and_counts_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
):
    once = Once(rig.sample.name, rig.sample.partitions, SampleOptions(tick_s=0.2))
    save_all = StateStore[Tally].save_all

    def save_or_die(store: StateStore[Tally], writes: Sequence[Write[Tally]]) -> object:
        if any(write.state is not None and write.state.total >= 1_000_000 for write in writes):
            raise Died
        return save_all(store, writes)

    rig.publish([Ping.of("a", 1)])
    with monkeypatch.context() as patched:
        patched.setattr(StateStore, "save_all", save_or_die)
        dying = rig.loop(once)
        wait_until(lambda: not dying.alive)
    assert isinstance(dying.error, Died)
    assert rig.tally("a") == Tally.of(Ping.of("a", 1))
    with rig.loop(once):
        wait_until(lambda: (tally := rig.tally("a")) is not None and tally.total > 1)
    stored = rig.store.load("a")
    assert stored.state is not None
    assert (stored.version, stored.state.total) == (2, 1_000_001)
    ticks = [message for message in rig.tail(rig.sample.pongs) if header(message, "ce_id") == "tick/a/1/0"]
    assert len(ticks) == 2
    assert ticks[0].value() == ticks[1].value()
    with PlanSubscriber(rig.sample.pongs, Pong, rig.bootstrap_servers, from_start=True) as plans:
        found: list[Pong] = []

        def repeated() -> int:
            found.extend(plans.drain(0.1))
            return plans.repeated

        wait_until(repeated)
    assert (len(found), plans.repeated) == (2, 1)


def test_exactly_once_on_the_embedded_broker_is_refused_with_the_way_out(
    embedded_kafka: EmbeddedKafka, redis_server: EmbeddedRedis, rig: Rig
):
    settings = rig.settings.model_copy(update={"bootstrap_servers": embedded_kafka.bootstrap_servers})
    loop = BatchLoop(Sample("sample"), settings, StateStore(redis_server.url, "sample", Tally))
    with pytest.raises(ConfigError, match=r"exactly_once.*embedded broker cannot.*--bootstrap-servers"):
        loop.run()
    loop.intake.close()
