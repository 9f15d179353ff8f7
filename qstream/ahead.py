"""Ahead: results are computed in another thread before they are asked for, one job at a time, keys in turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from qstream.errors import NotYet

Value = TypeVar("Value")
MOST_WAITING = 256  # keys whose job has not begun; a further one is started when it is asked for again
KEPT = 256  # results; those that were computed first go first


@dataclass(frozen=True, slots=True, eq=False)
class _Job(Generic[Value]):
    """What is computed of one snapshot of a key."""

    snapshot: Hashable
    compute: Callable[[], Value]


@dataclass(frozen=True, slots=True, eq=False)
class _Done(Generic[Value]):
    """A value, or the error that came in its place."""

    value: Value | None
    error: Exception | None


class Ahead(Generic[Value]):
    """Results by key, each of one snapshot of what the key's plan is made of.

    The newest snapshot of a key wins: it takes the place of an older one that has not begun, so a key has one job at most in
    the queue, and keys come in turn. No call waits: a result that is not there yet is `NotYet`, and asking later gives it. The
    functions must be pure, and the snapshot must stand for all that they depend on: then nothing but time
    depends on when, and how often, a result was computed. Any thread may call the methods. What is being computed at the end
    of the process ends with it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, _Job[Value]] = {}
        self._current: tuple[str, Hashable] | None = None
        self._done: dict[tuple[str, Hashable], _Done[Value]] = {}
        self._alive = False

    def start(self, key: str, snapshot: Hashable, prepare: Callable[[], Callable[[], Value]]) -> None:
        """Have the result of a snapshot computed, unless it is there or under way.

        `prepare` makes the function that computes it; it is called here, and only if there is something to compute.
        """
        with self._changed:
            if (key, snapshot) in self._done or self._current == (key, snapshot):
                return
            waiting = self._waiting.get(key)
            if waiting is None and len(self._waiting) >= MOST_WAITING:
                return
            if waiting is None or waiting.snapshot != snapshot:
                self._waiting[key] = _Job(snapshot, prepare())
            if not self._alive:
                self._alive = True
                threading.Thread(target=self._run, name="qstream ahead", daemon=True).start()

    def result(self, key: str, snapshot: Hashable, prepare: Callable[[], Callable[[], Value]]) -> Value:
        """The result of a snapshot, which is started as by `start` if it was not.

        Raises
        ------
        NotYet
            It is not there yet.
        Exception
            What the function raised.
        """
        self.start(key, snapshot, prepare)
        with self._changed:
            done = self._done.get((key, snapshot))
        if done is None:
            raise NotYet(f"what is computed for {key!r} is not ready")
        if done.error is not None:
            raise done.error
        return done.value  # type: ignore[return-value]  # which is a Value where there is no error

    def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is left to compute; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._alive, timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._alive = False
                    self._changed.notify_all()
                    return
                key = next(iter(self._waiting))
                job = self._waiting.pop(key)
                self._current = key, job.snapshot
            value, error = None, None
            try:
                value = job.compute()
            except Exception as raised:  # noqa: BLE001 whatever it is, it is raised where the result is asked for
                error = raised
            with self._changed:
                self._current = None
                self._done[key, job.snapshot] = _Done(value, error)
                if len(self._done) > KEPT:
                    del self._done[next(iter(self._done))]
