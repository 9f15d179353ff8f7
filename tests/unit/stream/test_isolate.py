"""Isolation: one bad record costs one record, whatever it does."""

from __future__ import annotations

from typing import Any

import pytest

from qstream.contract import Batch, Event, Record, Result, Tick
from qstream.errors import Fatal, NotYet, Poison, Transient
from qstream.stream.isolate import isolate, isolate_tick
from qstream.testing.sample import Ping, Sample, Tally
from schemas.deadletter import MAX_STACK

SAMPLE = Sample("t", 1)
GOOD = (1, 2, 3, 4, 5, 6, 7)


def record(offset: int, act: str = "count", **headers: str) -> Record:
    ping = Ping.of("a", offset, act=act)
    pairs = [(name, value.encode()) for name, value in headers.items()]
    return Record(SAMPLE.pings.name, 0, offset, "a", ping, 1000 + offset, pairs, ping.encode(), b"a")


def never(_record: Record) -> bool:
    return False


def counted(*offsets: int) -> Tally:
    return Tally.of(*(Ping.of("a", offset) for offset in offsets))


@pytest.mark.parametrize("act", ["poison", "reject", "break"])
@pytest.mark.parametrize("at", [0, 3, 7])
def test_a_bad_record_becomes_a_dead_letter_and_the_others_count(act, at):
    records = [record(n, act if n == at else "count") for n in range(8)]
    outcome = isolate(SAMPLE, "a", records, None, never)
    assert outcome.state == counted(*(n for n in range(8) if n != at))
    assert [event.cause.offset for event in outcome.events] == [n for n in range(8) if n != at]
    assert [dead.letter.offset for dead in outcome.rejected] == [at]
    assert outcome.rejected[0].value == records[at].value
    assert outcome.waits is None


def test_many_bad_records_of_all_kinds_cost_only_themselves():
    acts = ["count", "break", "poison", "count", "break", "reject", "poison", "count"]
    outcome = isolate(SAMPLE, "a", [record(n, act) for n, act in enumerate(acts)], None, never)
    assert outcome.state == counted(0, 3, 7)
    assert sorted(dead.letter.offset for dead in outcome.rejected) == [1, 2, 4, 5, 6]


def test_an_unexpected_exception_leaves_its_class_and_the_end_of_its_stack():
    letter = isolate(SAMPLE, "a", [record(0, "break")], None, never).rejected[0].letter
    assert (letter.stage, letter.error_class) == ("process", "ZeroDivisionError")
    assert "ZeroDivisionError" in letter.stack_trace
    assert len(letter.stack_trace) <= MAX_STACK


def test_a_record_that_failed_before_counts_its_attempts():
    letter = isolate(SAMPLE, "a", [record(0, "break", qstream_attempts="2")], None, never).rejected[0].letter
    assert letter.attempts == 3


def test_processing_stops_at_the_record_that_must_wait_and_keeps_what_came_before():
    outcome = isolate(SAMPLE, "a", [record(n, "need" if n == 5 else "count") for n in range(8)], None, never)
    waiting, reason = outcome.waits
    assert waiting.offset == 5
    assert isinstance(reason, Transient)
    assert outcome.state == counted(0, 1, 2, 3, 4)
    assert len(outcome.events) == 5


def test_a_record_that_has_waited_long_enough_becomes_a_dead_letter():
    outcome = isolate(SAMPLE, "a", [record(n, "need" if n == 5 else "count") for n in range(8)], None, lambda r: r.offset == 5)
    assert outcome.waits is None
    assert [dead.letter.offset for dead in outcome.rejected] == [5]
    assert outcome.state == counted(0, 1, 2, 3, 4, 6, 7)


def test_fatal_passes_through():
    with pytest.raises(Fatal):
        isolate(SAMPLE, "a", [record(0), record(1, "fatal")], None, never)


def test_poison_that_names_no_record_of_the_batch_is_fatal():
    class Astray(Sample):
        def process(self, batch: Batch, state: Tally | None, now_ns: int) -> Result[Tally]:
            raise Poison(record(99), "not yours")

    with pytest.raises(Fatal, match="not in the batch"):
        isolate(Astray("t", 1), "a", [record(0)], None, never)


def test_nothing_to_do_changes_nothing():
    outcome = isolate(SAMPLE, "a", [], counted(1), never)
    assert (outcome.changed, outcome.events, outcome.rejected, outcome.waits) == (False, [], [], None)


def test_a_record_whose_result_is_not_ready_waits_however_long_that_takes():
    class Late(Sample):
        def process(self, batch: Batch, state: Tally | None, now_ns: int) -> Result[Tally]:
            if any(record.offset == 5 for record in batch.records):
                raise NotYet("not ready")
            return super().process(batch, state, now_ns)

    outcome = isolate(Late("t", 1), "a", [record(n) for n in range(8)], None, lambda _: True)
    assert outcome.waits is not None
    assert outcome.waits[0].offset == 5
    assert (outcome.rejected, outcome.state) == ([], counted(0, 1, 2, 3, 4))


class Careless(Sample):
    """The sample, which at a record or a tick of value 3 returns what it must not."""

    def __init__(self, wrong: Any) -> None:
        super().__init__("t", 1)
        self.wrong = wrong

    def process(self, batch: Batch, state: Tally | None, now_ns: int) -> Result[Tally]:
        if any(3 in record.frame.values for record in batch.records):
            return self.wrong
        return super().process(batch, state, now_ns)

    def on_tick(self, tick: Tick, state: Tally) -> Result[Tally]:
        return self.wrong


WRONG = {
    "nothing": (None, "must be a Result with a sequence of events, got None"),
    "a generator": (Result(iter(())), "must be a Result with a sequence of events, got Result"),
    "no frame": (Result([Event(SAMPLE.pongs, "a", "id/0", None, None)]), "the frame of event id/0 must be a Pong, got None"),
    "another frame": (Result([Event(SAMPLE.pongs, "a", "id/0", Tally.of(), None)]), "must be a Pong, got Tally"),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_result_costs_its_record_or_its_tick(wrong, message, caplog):
    careless = Careless(wrong)
    outcome = isolate(careless, "a", [record(n) for n in range(8)], None, never)
    assert outcome.state == counted(*(n for n in range(8) if n != 3))
    assert [dead.letter.offset for dead in outcome.rejected] == [3]
    assert (outcome.rejected[0].letter.error_class, message in outcome.rejected[0].letter.error_message) == ("TypeError", True)

    result = isolate_tick(careless, Tick("a", 1, 1, idle=False), counted(1))
    assert (list(result.events), result.state) == ([], None)
    assert "the tick of a failed" in caplog.text
