"""Tick: what keys do by the clock, on the newest states of all keys whose first partition this worker owns."""

from __future__ import annotations

import time
from collections.abc import Collection, Container
from contextlib import suppress
from typing import Generic, TypeVar

from qstream.contract import Processor, Result, Tick, TopicPartition
from qstream.errors import StoreUnavailable
from qstream.stream.cache import Entry
from qstream.stream.commit import Ledger
from qstream.stream.consume import Intake
from qstream.stream.isolate import isolate_tick
from schemas.frame import Frame

S = TypeVar("S", bound=Frame)
SWEEP_S = 60.0  # at least, between two searches for keys that have expired where nothing ticks
TOGETHER = 1000  # keys that tick between two batches, with one wait for the delivery of their events


class Ticks(Generic[S]):
    """Rounds of ticks: one begins every `tick_s`, and takes its keys in parts, between batches.

    A key is idle if since its last tick no record of it was read, none of it waits, no other worker wrote its state, and
    everything was read that stood in its partitions at the last tick: so a backlog is never taken for silence.
    """

    def __init__(self, ledger: Ledger[S], intake: Intake, topics: Collection[str]) -> None:
        self.ledger = ledger
        self.intake = intake
        self.topics = topics
        self.shared = len(topics) > 1  # workers that own partitions of two topics may feed one key
        self._next = self._next_sweep = 0.0
        self._unswept: list[str] = []
        self._now_ns = 0
        self._left: list[str] = []
        self._ends: dict[TopicPartition, int] = {}
        self._read: set[TopicPartition] = set()

    @property
    def is_behind(self) -> bool:
        """Whether keys of the present round have not had their tick yet."""
        return bool(self._left)

    def due(self, period_s: float | None) -> list[str]:
        """The keys that tick now, none if it is not time."""
        if period_s is None:
            self._left.clear()
            return []
        if not self._left and time.monotonic() >= self._next:
            self._next = time.monotonic() + period_s
            self._begin()
        count = min(TOGETHER, self.ledger.tick_room())
        keys, self._left = self._left[:count], self._left[count:]
        return keys

    def sweep(self, ttl_s: float | None) -> None:
        """While nothing ticks, have keys whose states have expired leave the index: a part of them, if it is time."""
        if ttl_s is None:
            return
        with suppress(StoreUnavailable):  # what is passed over is looked at in the next round
            if not self._unswept and time.monotonic() >= self._next_sweep:
                self._next_sweep = time.monotonic() + max(SWEEP_S, ttl_s)
                self._find_keys()
                self._unswept = self.ledger.keys.all()
            part, self._unswept = self._unswept[:TOGETHER], self._unswept[TOGETHER:]
            self.ledger.end_expired(part)

    def run(self, processor: Processor[S], keys: list[str], waiting: Container[str]) -> dict[str, Result[S]]:
        """The results of the keys that tick here; without the store, of those whose states are in memory."""
        try:
            self.ledger.fetch(keys, self.shared)
        except StoreUnavailable:
            keys = [key for key in keys if self.ledger.cached(key) is not None]
        results = {}
        for key in keys:
            entry = self.ledger.cached(key)
            if entry is None or entry.state is None:
                if entry is None or not entry.dirty:
                    self.ledger.keys.end(key)
            elif self.ledger.is_ours(entry, self.topics):
                tick = Tick(key, entry.stored.version, self._now_ns, self._is_idle(key, entry, waiting))
                results[key] = isolate_tick(processor, tick, entry.state)
        return results

    def finish(self, keys: list[str]) -> None:
        """Note that these keys have had their tick and that what came of it is saved, as far as the store answers."""
        for key in keys:
            if (entry := self.ledger.cached(key)) is not None and entry.state is not None:
                self.ledger.keys.ticked(key, entry.stored.version)
        self.ledger.shrink()

    def _begin(self) -> None:
        self._now_ns = time.time_ns()
        with suppress(StoreUnavailable):  # the keys that are known tick from memory
            self._find_keys()
        self._left = self.ledger.keys.all()
        positions, ends = self.ledger.positions, self._ends
        behind = {p for p in self.intake.assigned if not 0 <= ends.get(p, -1) <= positions.get(p, -1)}
        self._read = self.intake.assigned - (behind - self.intake.reached())
        self._ends = self.intake.newest()

    def _find_keys(self) -> None:
        self.ledger.adopt(self.intake.assigned)
        self.ledger.find_keys()

    def _is_idle(self, key: str, entry: Entry[S], waiting: Container[str]) -> bool:
        ours = entry.seen.keys() & self.intake.assigned
        return key not in waiting and self.ledger.keys.is_idle(key, entry.stored.version) and ours <= self._read
