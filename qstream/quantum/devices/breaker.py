"""A circuit breaker: a device that fails repeatedly is left alone, then probed once in the background."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Open after `failures` within `window_s`; half-open when a probe is taken after `cooldown_s`; the probe decides.

    Requests are served only while it is closed: no request is ever the probe. Thread-safe; `clock` is monotonic.

    >>> now = 0.0
    >>> breaker = Breaker(failures=2, window_s=10, cooldown_s=5, clock=lambda: now)
    >>> breaker.failed(); breaker.state
    'closed'
    >>> breaker.failed(); breaker.state
    'open'
    >>> now = 5.0
    >>> breaker.take_probe(), breaker.take_probe(), breaker.state
    (True, False, 'half_open')
    >>> breaker.succeeded(); breaker.state
    'closed'
    """

    def __init__(self, failures: int, window_s: float, cooldown_s: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._window_s = window_s
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failed_at: deque[float] = deque(maxlen=failures)
        self._opened_at = 0.0
        self._state: State = "closed"

    @property
    def state(self) -> State:
        return self._state

    def probe_at(self) -> float | None:
        """When a probe may be taken; None unless it is open."""
        with self._lock:
            return self._opened_at + self._cooldown_s if self._state == "open" else None

    def take_probe(self) -> bool:
        """Become half-open, if open for long enough; a caller that gets True must report success or failure."""
        with self._lock:
            if self._state != "open" or self._clock() < self._opened_at + self._cooldown_s:
                return False
            self._state = "half_open"
            return True

    def failed(self) -> None:
        """A request or the probe failed."""
        with self._lock:
            now = self._clock()
            if self._state == "half_open":
                self._open(now)
            elif self._state == "closed":
                self._failed_at.append(now)
                if len(self._failed_at) == self._limit and now - self._failed_at[0] <= self._window_s:
                    self._open(now)

    def succeeded(self) -> None:
        """The probe succeeded. Successes of requests do not count: the window alone forgets failures."""
        with self._lock:
            if self._state == "half_open":
                self._state = "closed"

    def _open(self, now: float) -> None:
        self._state = "open"
        self._opened_at = now
        self._failed_at.clear()
