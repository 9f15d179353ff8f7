"""Clocks: a record has its own time, or that of its arrival where its own cannot be right."""

from __future__ import annotations

import pytest
from confluent_kafka import Message

from qstream.stream.clocks import EARLIEST_MS, MOST_AHEAD_MS, Clocks

NOW_MS = 1_800_000_000_000


def message(timestamp_ms: int) -> Message:
    return Message(topic="t", partition=2, offset=9, timestamp=(1, timestamp_ms))


@pytest.mark.parametrize("own_ms", [NOW_MS, NOW_MS + MOST_AHEAD_MS, EARLIEST_MS, NOW_MS - 86_400_000])
def test_a_time_that_can_be_right_is_kept_also_that_of_an_old_recording(own_ms: int, caplog: pytest.LogCaptureFixture):
    assert Clocks("a", lambda: NOW_MS / 1000).time_of(message(own_ms)) == own_ms
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("own_ms", "said"),
    [
        (NOW_MS // 1000, "1970-01-21"),  # seconds
        (NOW_MS * 1000, "9999-12-31"),  # microseconds
        (NOW_MS + MOST_AHEAD_MS + 1, "2027-01-15"),
        (EARLIEST_MS - 1, "1999-12-31"),
        (0, "1970-01-01"),
        (-1, "1970-01-01"),  # a message without timestamp
    ],
)
def test_a_time_that_cannot_be_right_is_that_of_the_arrival_and_the_log_says_so(
    own_ms: int, said: str, caplog: pytest.LogCaptureFixture
):
    assert Clocks("a", lambda: NOW_MS / 1000).time_of(message(own_ms)) == NOW_MS
    (line,) = caplog.messages
    assert "timestamps of records must be milliseconds since 1970" in line
    assert f"({said}" in line
    assert "t/2/9" in line


def test_the_log_says_it_once_a_minute_and_topic(caplog: pytest.LogCaptureFixture):
    now_s = [NOW_MS / 1000]
    clocks = Clocks("a", lambda: now_s[0])
    for step_s in (0, 30, 29, 1, 59):
        now_s[0] += step_s
        assert clocks.time_of(message(1)) == int(now_s[0] * 1000)
    assert len(caplog.messages) == 2
