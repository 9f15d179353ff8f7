"""A few threads for solvers that run in this process: bounded, stopped at the deadline, refusing what they cannot serve."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import TypeVar

from qstream.quantum.record import Refused, Remaining
from schemas.solver import Reason

T = TypeVar("T")
_SMOOTHING = 0.2
# A solver sees this much less time than its caller has, so that it ends by itself and its answer is used.
_RESERVE_S = 0.002


class Lanes:
    """Up to `threads` solvers at a time, `queue_limit` waiting. Thread-safe.

    A thread cannot be killed: a solver has to ask for the time that remains, between steps of a few milliseconds.
    """

    def __init__(self, threads: int, queue_limit: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="qstream solve")
        self._threads = threads
        self._queue_limit = queue_limit
        self._lock = threading.Lock()
        self._closed = False
        self._inside = 0
        self._wait_s = 0.0

    def run(self, work: Callable[[Remaining], T], remaining_s: Remaining, estimate_s: float) -> tuple[T, float, float]:
        """The answer, the seconds that it waited for a thread, and its CPU time; `Refused` when no time remains."""
        self._admit(remaining_s(), estimate_s)
        stopped = threading.Event()
        asked = time.monotonic()
        reserve_s = min(_RESERVE_S, remaining_s() / 10)

        def left() -> float:
            return 0.0 if stopped.is_set() or self._closed else remaining_s() - reserve_s

        def begin() -> tuple[T, float, float]:
            before_s = time.thread_time()
            waited_s = time.monotonic() - asked
            with self._lock:
                self._wait_s += _SMOOTHING * (waited_s - self._wait_s)
            return work(left), waited_s, time.thread_time() - before_s

        try:
            future = self._pool.submit(begin)
        except RuntimeError:
            self._leave()
            raise Refused(Reason.UNAVAILABLE, "the runtime is closed") from None
        future.add_done_callback(lambda _: self._leave())
        try:
            return future.result(_timeout(remaining_s()))
        except CancelledError:
            raise Refused(Reason.UNAVAILABLE, "the runtime is closed") from None
        except TimeoutError:
            if future.done():
                raise
        stopped.set()
        if future.cancel():
            raise Refused(Reason.OVERLOADED, "no thread became free in time")
        raise Refused(Reason.TIMEOUT, "stopped at the deadline")

    def health(self) -> dict[str, object]:
        """The state as plain data."""
        with self._lock:
            return {"threads": self._threads, "inside": self._inside, "wait_ms": 1e3 * self._wait_s}

    def close(self) -> None:
        """Stop all solvers and end the threads."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _admit(self, remaining_s: float, estimate_s: float) -> None:
        with self._lock:
            if self._inside >= self._threads + self._queue_limit:
                raise Refused(Reason.OVERLOADED, f"{self._inside} requests are in {self._threads} threads and their queue")
            if self._inside >= self._threads and self._wait_s + estimate_s > remaining_s:
                expected_ms = 1e3 * (self._wait_s + estimate_s)
                raise Refused(Reason.OVERLOADED, f"{expected_ms:.1f} ms of waiting and work are more than remain")
            self._inside += 1

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1


def _timeout(seconds: float) -> float | None:
    return None if seconds == math.inf else max(0.0, seconds)
