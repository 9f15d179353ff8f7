"""Ticks on a real broker: every key is reached, also a silent one, all events leave together, and idle keys are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from qstream.contract import Result, Tick, TopicPartition
from qstream.metrics import PRODUCED
from qstream.stream.partition import partition_of_key
from qstream.testing.rig import LoopThread, Rig, wait_until
from qstream.testing.sample import Ping, Sample, SampleOptions, Tally

MakeRig = Callable[..., Rig]


class Noted(Sample):
    """A sample that reads pings alone, notes its ticks, and where it `ends` them forgets the names that are idle."""

    def __init__(self, *arguments: Any, ends: bool = False) -> None:
        super().__init__(*arguments)
        self.inputs = (self.pings,)
        self.ends = ends
        self.ticks: list[Tick] = []

    def on_tick(self, tick: Tick, state: Tally) -> Result[Tally]:
        self.ticks.append(tick)
        return Result(forget=True) if self.ends and tick.idle else super().on_tick(tick, state)


def noted(rig: Rig, ends: bool = False, tick_s: float = 0.2, **options: float) -> Noted:
    return Noted(rig.sample.name, rig.sample.partitions, SampleOptions(tick_s=tick_s, **options), ends=ends)


def names(ticks: Sequence[Tick]) -> set[str]:
    return {tick.key for tick in ticks}


def test_after_a_restart_ticks_reach_the_keys_that_send_nothing_any_more(rig: Rig):
    rig.publish([Ping.of(f"name-{i}", i) for i in range(20)])
    with rig.loop(noted(rig)):
        wait_until(lambda: rig.committed_records() == 20)
    silent = noted(rig)
    with rig.loop(silent):
        wait_until(lambda: len(names(silent.ticks)) == 20)
    assert {tick.version for tick in silent.ticks} == {1}


def test_after_a_rebalance_each_key_ticks_at_the_worker_that_owns_its_partition(rig: Rig):
    rig.publish([Ping.of(f"name-{i}", i) for i in range(40)])
    one, two = noted(rig), noted(rig)

    def tick_between_them() -> bool:
        ticked = [names(sample.ticks) for sample in (one, two)]
        return all(ticked) and len(set.union(*ticked)) == 40

    with rig.loop(one) as first:
        wait_until(lambda: len(names(one.ticks)) == 40)
        with rig.loop(two, worker_id="worker-1") as second:
            wait_until(lambda: names(two.ticks))
            wait_until(lambda: first.loop.status().partitions + second.loop.status().partitions == 4)
            one.ticks.clear()
            two.ticks.clear()
            wait_until(tick_between_them)
        wait_until(lambda: first.loop.status().partitions == 4)
        one.ticks.clear()
        wait_until(lambda: len(names(one.ticks)) == 40)


def test_a_key_is_idle_from_the_second_tick_without_a_record_on(rig: Rig):
    sample = noted(rig)
    rig.publish([Ping.of("a", 1)])
    with rig.loop(sample):
        wait_until(lambda: len([tick for tick in sample.ticks if tick.idle]) >= 2)
        assert not sample.ticks[0].idle
        rig.publish([Ping.of("a", 2)])
        wait_until(lambda: rig.tally("a") == Tally.of(Ping.of("a", 1), Ping.of("a", 2)))
        wait_until(lambda: [tick.idle for tick in sample.ticks if tick.version == 2][-2:] == [True, True])
    assert not next(tick for tick in sample.ticks if tick.version == 2).idle


def test_the_first_tick_after_a_restart_is_not_idle_and_a_backlog_is_not_taken_for_silence(rig: Rig):
    """The second worker needs seconds for what has piled up, in which the name ticks many times."""
    rig.publish([Ping.of("a", 1)])
    with rig.loop(noted(rig)):
        wait_until(lambda: rig.committed_records() == 1)
    (where,) = rig.tail(rig.sample.pings)
    for number in range(30):
        other = Ping.of("b", number).encode()
        rig.publish_raw(rig.sample.pings.name, other, b"b", partition=where.partition())
    rig.publish([Ping.of("a", 2)])
    sample = noted(rig, tick_s=0.05, pause_s=0.1)
    with rig.loop(sample, max_batch_records=1):
        wait_until(lambda: any(tick.idle for tick in sample.ticks if tick.key == "a"))
    ticks = [tick for tick in sample.ticks if tick.key == "a"]
    assert [tick for tick in ticks if tick.version == 1]
    assert all(tick.version == 2 for tick in ticks if tick.idle)


def test_all_events_of_a_tick_are_delivered_with_one_wait_and_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    waits: list[int] = []
    rig.publish([Ping.of(f"name-{i}", i) for i in range(1000)])
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 1000)
    sample, observed = noted(rig, tick_s=1.0), []
    rig.publish([Ping.of("now", 1)])
    with rig.loop(sample) as running:
        loop = running.loop
        monkeypatch.setattr(loop, "observe", observed.append)
        send = loop.outbox.send
        monkeypatch.setattr(loop.outbox, "send", lambda events, dead: waits.append(len(events)) or send(events, dead))
        rig.publish([Ping.of(f"name-{i}", i) for i in range(1000)])
        wait_until(lambda: 1000 in waits)
        wait_until(lambda: len([event for event in observed if event.cause is None]) >= 1000)
    counted = PRODUCED.labels(rig.sample.name, rig.sample.pongs.name)._value.get()
    assert counted >= 2000


def test_a_round_of_many_parts_does_not_wait_for_records_between_them(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qstream.stream.ticks.TOGETHER", 2)
    sample, waits = noted(rig, tick_s=0.5), []
    with rig.loop(sample) as running:
        loop, poll = running.loop, running.loop.intake.poll
        monkeypatch.setattr(loop.intake, "poll", lambda wait_s: waits.append((loop.ticks.is_behind, wait_s)) or poll(wait_s))
        wait_until(lambda: any(wait_s > 0 for _, wait_s in waits))  # while no key ticks
        rig.publish([Ping.of(f"name-{i}", i) for i in range(40)])
        wait_until(lambda: len([1 for behind, _ in waits if behind]) >= 40)
    assert {wait_s for behind, wait_s in waits if behind} == {0.0}


def test_a_key_that_a_tick_ends_is_gone_from_store_and_index(rig: Rig):
    rig.publish([Ping.of("a", 1), Ping.of("b", 1)])
    sample = noted(rig, ends=True)
    with rig.loop(sample):
        wait_until(lambda: rig.committed_records() == 2)
        wait_until(lambda: rig.tally("a") is None and rig.tally("b") is None)
    later = noted(rig)
    rig.publish([Ping.of("c", 1)])
    with rig.loop(later):
        wait_until(lambda: len(later.ticks) >= 5)
    assert names(later.ticks) == {"c"}


class Seen(NamedTuple):
    """One tick: its key, whether a gate had fed the state, and the partitions that the worker owned when it ticked."""

    key: str
    opened: bool
    owned: frozenset[TopicPartition]


class Both(Noted):
    """The same with both topics, which two workers may own apart: each ping counts, and each tick counts as well."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.inputs = (self.pings, self.gates)
        self.running: LoopThread | None = None
        self.seen: list[Seen] = []

    def on_tick(self, tick: Tick, state: Tally) -> Result[Tally]:
        assert self.running is not None
        self.seen.append(Seen(tick.key, state.opened, frozenset(self.running.loop.intake.assigned)))
        result = super().on_tick(tick, state)
        return Result(result.events, state=state.model_copy(update={"total": state.total + 1_000_000}))

    def feeds(self, key: str) -> tuple[TopicPartition, TopicPartition]:
        """Where the key's gates and its pings lie. A gate that has fed the state comes first, by the topics' names."""
        number = partition_of_key(key.encode(), self.partitions)
        return TopicPartition(self.gates.name, number), TopicPartition(self.pings.name, number)


def test_ticks_of_a_key_fed_by_two_workers_come_from_one_of_them_and_lose_no_update(make_rig: MakeRig):
    """Every tick adds a million to the total, every record its value; a tick is judged by what its worker owned just then.

    Two workers share three partitions a topic: one has an odd number of them, and so a gate without the pings of its keys.
    """
    rig = make_rig(partitions=3)
    one, two = (Both(rig.sample.name, rig.sample.partitions, SampleOptions(tick_s=0.05)) for _ in "ab")
    keys = [f"name-{i}" for i in range(12)]

    def ticked_apart() -> bool:
        gates_alone = [tick for tick in (*one.seen, *two.seen) if tick.opened and {*one.feeds(tick.key)} - tick.owned]
        return bool(gates_alone)

    with rig.loop(one) as one.running, rig.loop(two, worker_id="worker-1") as two.running:
        wait_until(lambda: all(sample.running and sample.running.loop.intake.assigned for sample in (one, two)))
        for number in range(20):
            rig.publish([Ping.of(key, number) for key in keys])
            rig.publish([Ping.of(key, number, act="open") for key in keys], rig.sample.gates)
        wait_until(lambda: rig.committed_records() == rig.committed_records(rig.sample.gates) == 20 * len(keys))
        wait_until(ticked_apart)
    for tick in (*one.seen, *two.seen):
        gate, ping = one.feeds(tick.key)
        assert (gate if tick.opened else ping) in tick.owned
    for key in keys:
        tally = rig.tally(key)
        assert tally is not None
        assert tally.count == 40
        assert tally.total % 1_000_000 == 2 * sum(range(20))
    assert sum(tally.total for key in keys if (tally := rig.tally(key))) >= 1_000_000
