"""Ahead: a result is computed in another thread before it is asked for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

Value = TypeVar("Value")
KEPT = 256  # results; those that were started first go first


class Ahead(Generic[Value]):
    """Results by key, computed one after the other in a thread that lives while there is something to compute.

    The functions must be pure, and a key must stand for all that they depend on: then nothing but time depends on whether a
    result was computed before it is asked for, during that, or not at all. Any thread may call the methods. What is being
    computed at the end of the process ends with it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: deque[tuple[Future[Value], Callable[[], Value]]] = deque()
        self._results: dict[Hashable, Future[Value]] = {}
        self._running = False

    def start(self, key: Hashable, compute: Callable[[], Value]) -> None:
        """Have the result of `key` computed, unless it was started already."""
        with self._lock:
            if key not in self._results:
                self._results[key] = Future()
                self._jobs.append((self._results[key], compute))
                if not self._running:
                    self._running = True
                    threading.Thread(target=self._run, name="qstream ahead", daemon=True).start()
                while len(self._results) > KEPT:
                    self._results.pop(next(iter(self._results))).cancel()

    def result(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The result of `key`, waited for if need be, and computed here if it was never started."""
        with self._lock:
            started = self._results.get(key)
        try:
            return compute() if started is None else started.result()
        except CancelledError:
            return compute()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._running = bool(self._jobs)
                if not self._running:
                    return
                future, compute = self._jobs.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(compute())
                except Exception as error:  # noqa: BLE001 whatever it is, it is raised where the result is asked for
                    future.set_exception(error)
