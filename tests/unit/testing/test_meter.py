"""The meter: what it learns does not depend on batches, nor on being stored and read again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from qstream.contract import Record
from qstream.state.fields import pack, unpack
from qstream.testing.agents import check_agent
from qstream.testing.meter import AGENT, MeterState, Outlook, Reading, examples, read


def after(parts: Sequence[Sequence[Record]], stored: bool = False) -> MeterState:
    state = MeterState.start()
    for records in parts:
        _, state = read(state, "host-3", records)
        if stored:
            state = unpack(MeterState, pack(state))
    return state


def test_the_meter_keeps_what_agents_promise() -> None:
    check_agent(AGENT)


@pytest.mark.parametrize("cut", [1, 7, 10, 39])
def test_a_split_into_batches_changes_no_byte_of_what_is_learnt(cut: int) -> None:
    records = examples()
    assert after([records[:cut], records[cut:]]).encode() == after([records]).encode()


def test_a_state_that_is_stored_and_read_after_each_reading_ends_in_the_same_bytes() -> None:
    records = examples()
    assert after([[record] for record in records], stored=True).encode() == after([records]).encode()


def test_readings_that_come_twice_or_never_show_in_the_counters() -> None:
    records = examples()
    state = after([[*records[:10], records[9], *records[12:20]]])
    assert (state.repeated, state.missed, state.forecast.steps) == (1, 2, 19)


def test_rewards_count_once_however_often_and_whenever_they_come() -> None:
    readings = [Reading.of("host-3", n, 0.5, earned) for n, earned in enumerate([{1: 1.0}, {0: 1.0}, {0: 0.0}, {2: 1.0, 1: 0.0}])]
    records = [Record("meter.reading.v1", 0, n, "host-3", reading, 1000 + n) for n, reading in enumerate(readings)]
    events, state = read(MeterState.start(), "host-3", records)
    newest = events[-1].frame
    assert isinstance(newest, Outlook)
    assert (newest.matched, newest.unmatched) == (state.guess.rewards, state.guess.unmatched)
    assert newest.matched + newest.unmatched == 5
    assert newest.unmatched >= 1, "the second reward of the first guess"
