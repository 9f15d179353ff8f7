"""Waiting: what is remembered of keys that lack something is bounded."""

from __future__ import annotations

import time

import pytest

from qstream.config import Settings
from qstream.contract import Record
from qstream.errors import Transient
from qstream.stream.wait import Waiting
from qstream.testing.sample import Ping

OLD_MS = 0  # records from long ago: only how long their key has lacked something decides


def lacking(waiting: Waiting, name: str) -> Record:
    """Have a record of the key wait for something, then lose its partition: the queue ends, what the key lacks stays."""
    record = Record("pings", 0, 0, name, Ping.of(name, 1), OLD_MS)
    waiting.keep(name, [record], [(record, Transient("not open"))], progress=False)
    waiting.keep(name, [], (), progress=False)
    return record


def test_of_more_lacking_keys_than_the_bound_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qstream.stream.wait.LACKING_MAX", 3)
    waiting = Waiting(Settings(give_up_s=0.05), "sample")
    records = [lacking(waiting, name) for name in "abcde"]
    time.sleep(0.1)
    assert [waiting.has_waited(record) for record in records] == [False, False, True, True, True]
    assert len(waiting._lacking) == 3


def test_a_key_that_lacks_something_for_long_keeps_its_place_and_is_counted_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qstream.stream.wait.LACKING_MAX", 3)
    waiting = Waiting(Settings(give_up_s=0.05), "sample")
    first = lacking(waiting, "a")
    time.sleep(0.1)
    for _ in range(10):
        lacking(waiting, "a")
    lacking(waiting, "b")
    lacking(waiting, "c")
    assert waiting.has_waited(first)
    assert list(waiting._lacking) == ["a", "b", "c"]
