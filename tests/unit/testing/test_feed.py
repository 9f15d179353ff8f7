"""Feed runs a processor as the loop does: order, offsets, states, dead letters, waiting records and ticks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import pytest

from qstream.contract import Batch, Event, Result, Tick
from qstream.errors import ConfigError, Fatal, OptionError
from qstream.testing.feed import Feed
from qstream.testing.sample import Ping, Pong, Sample, Tally
from schemas.control import Control
from schemas.frame import Frame
from schemas.topics import CONTROL


def feed(**options: Any) -> Feed[Tally]:
    return Feed(Sample("s", 1).configure(options))


def test_offsets_count_by_partition_and_ids_name_them():
    run = feed()
    run.send(Ping.of("a", 1), 10)
    run.send(Ping.of("b", 2), 11)
    run.send(Ping.of("a", 3), 12, partition=1)
    run.send(Ping.of("a", 3), 12, topic=run.processor.gates)
    assert [event.id for event in run.events] == ["s.ping.v1/0/0/0", "s.ping.v1/0/1/0", "s.ping.v1/1/0/0", "s.gate.v1/0/0/0"]
    assert [event.cause.timestamp_ms for event in run.events] == [10, 11, 12, 12]


def test_each_key_has_its_own_state():
    run = feed()
    run.send(Ping.of("a", 1), 0)
    run.send(Ping.of("b", 5), 0)
    run.send(Ping.of("a", 2), 0)
    assert (run.state("a").total, run.state("b").total, run.state("c")) == (3, 5, None)
    assert [pong.total for pong in run.frames(Pong)] == [1, 5, 3]


def test_a_batch_is_processed_key_by_key():
    run = feed()
    sent = run.send_batch([run.record(Ping.of(name, value), 0) for name, value in (("a", 1), ("b", 2), ("a", 3))])
    assert [event.key for event in sent.events] == ["a", "a", "b"]
    assert run.state("a").total == 4


@pytest.mark.parametrize(("act", "error"), [("poison", "Poison"), ("reject", "Poison"), ("break", "ZeroDivisionError")])
def test_a_record_at_fault_becomes_a_dead_letter_and_the_others_count(act, error):
    run = feed()
    batch = [Ping.of("a", 1), Ping.of("a", 2, act=act), Ping.of("a", 4)]
    sent = run.send_batch([run.record(ping, 0) for ping in batch])
    assert [(letter.id, letter.error_class) for letter in sent.dead] == [("s.ping.v1/0/1", error)]
    assert run.dead == sent.dead
    assert run.state("a").total == 5


def test_a_record_that_waits_holds_up_its_key_in_its_partition_until_it_can_be_processed():
    run = feed()
    assert run.send(Ping.of("a", 1, act="need"), 0).events == []
    assert "a is not open" in str(run.waiting("a"))
    assert run.send(Ping.of("a", 2), 0).events == []
    assert run.send(Ping.of("b", 2), 0).events != []
    assert run.waiting("b") is None
    opened = run.send(Ping.of("a", 4, act="open"), 0, topic=run.processor.gates)
    assert [event.id for event in opened.events] == ["s.gate.v1/0/0/0", "s.ping.v1/0/0/0", "s.ping.v1/0/1/0"]
    assert run.waiting("a") is None
    assert run.state("a").total == 7


def test_in_a_batch_records_of_other_partitions_pass_one_that_waits():
    run = feed()
    pings = [run.record(Ping.of("a", 1, act="need"), 0), run.record(Ping.of("a", 2), 0)]
    sent = run.send_batch([*pings, run.record(Ping.of("a", 4, act="open"), 0, topic=run.processor.gates)])
    assert [event.id for event in sent.events] == ["s.gate.v1/0/0/0"]
    assert [event.frame.total for event in run.send(Ping.of("a", 8), 0).events] == [5, 7, 15]


def test_fatal_is_raised():
    with pytest.raises(Fatal):
        feed().send(Ping.of("a", act="fatal"), 0)


def test_options_change_while_it_runs_and_a_wrong_one_is_refused():
    run = feed()
    run.configure(factor=10)
    run.send(Ping.of("a", 1), 0)
    assert run.state("a").total == 10
    with pytest.raises(OptionError):
        run.configure(nonesuch=1)


def test_a_frame_that_the_processor_does_not_read_is_refused():
    with pytest.raises(ConfigError, match=r"frame must be one that s reads \(Ping, Ping\), got Control"):
        feed().send(Control.example(), 0)


class Clocked(Sample):
    """Forgets a key at its second idle tick; notes what each tick was."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.ticks: list[Tick] = []

    def on_tick(self, tick: Tick, state: Tally) -> Result[Tally]:
        self.ticks.append(tick)
        if tick.idle and state.total < 0:
            return Result(forget=True)
        event = Event(self.pongs, tick.key, tick.event_id(0), Pong(name=tick.key, count=1, total=1, digest=1), None)
        return Result([event], (), state.model_copy(update={"total": -1}))


def test_ticks_reach_each_key_with_a_state_know_silence_and_may_end_a_key():
    processor = Clocked("s", 1)
    run = Feed(processor)
    run.send(Ping.of("a", 1), 0)
    run.send(Ping.of("never", act="poison"), 0)
    assert [event.id for event in run.tick(5).events] == ["tick/a/1/0"]
    assert run.state("a").total == -1
    run.tick(6)
    assert [(tick.key, tick.version, tick.now_ns, tick.idle) for tick in processor.ticks] == [
        ("a", 1, 5_000_000, False),
        ("a", 2, 6_000_000, True),
    ]
    assert run.state("a") is None
    assert run.tick(7).events == []
    run.send(Ping.of("a", 1), 8)
    assert run.state("a").count == 1


def test_another_worker_goes_on_from_the_stored_states_and_takes_no_key_for_silent():
    run = Feed(Clocked("s", 1))
    run.send(Ping.of("a", 1), 0)
    run.tick(5)
    stored = run.state("a")
    run.restart(Clocked("s", 1))
    assert run.state("a") == stored
    assert run.state("a") is not stored
    run.tick(6)
    assert [(tick.version, tick.idle) for tick in run.processor.ticks] == [(2, False)]
    assert [event.id for event in run.send(Ping.of("a", 1), 7).events] == ["s.ping.v1/0/1/0"]


class Expiring(Sample):
    state_ttl_s = 10.0


def test_a_state_that_does_not_change_for_its_time_to_live_is_gone():
    run = Feed(Expiring("s", 1))
    run.send(Ping.of("a", 1), 1000)
    run.tick(11_000)
    assert run.state("a") is not None
    run.tick(11_001)
    assert run.state("a") is None


class Ruled(Sample):
    """Multiplies by what the table of controls says."""

    tables = (CONTROL,)
    factor = 1
    rows: Mapping[str, Mapping[str, Frame]] | None = None

    def with_tables(self, rows: Mapping[str, Mapping[str, Frame]]) -> Self:
        changed = type(self)(self.name, self.partitions, self.options)
        row = rows[CONTROL.name].get("s")
        changed.factor = 1 if row is None else row.options["factor"]
        changed.rows = rows
        return changed

    def process(self, batch: Batch, state: Tally | None, now_ns: int) -> Result[Tally]:
        result = super().process(batch, state, now_ns)
        return Result(result.events, result.dead, result.state.model_copy(update={"total": result.state.total * self.factor}))


def test_rows_of_a_table_reach_the_processor_before_the_next_batch():
    run = Feed(Ruled("s", 1))
    assert run.send(Control(agent="s", ts_ns=0, options={"factor": 7}), 0).events == []
    run.send(Ping.of("a", 2), 1)
    assert run.state("a").total == 14


def test_a_processor_knows_its_tables_before_the_first_row_as_in_the_loop():
    run = Feed(Ruled("s", 1))
    assert run.processor.rows == {CONTROL.name: {}}
    before = run.processor.rows
    run.send(Control(agent="s", ts_ns=0, options={"factor": 7}), 0)
    assert before == {CONTROL.name: {}}


def test_options_leave_rows_as_they_are_and_both_hold_after_a_restart():
    run = Feed(Ruled("s", 1))
    run.send(Control(agent="s", ts_ns=0, options={"factor": 7}), 0)
    run.configure(factor=10)
    with pytest.raises(OptionError):
        run.configure(nonesuch=1)
    for restart in (False, True):
        if restart:
            run.restart(Ruled("s", 1))
        assert (run.processor.factor, run.processor.options.factor) == (7, 10)
