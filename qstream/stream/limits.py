"""Limits: how many keys a worker may have, and how large their states may be, so that one producer cannot exhaust the others."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from qstream.config import Settings
from qstream.errors import StateLimit
from schemas.frame import Frame
from schemas.wording import Shown, must_be

_HEADER_BYTES = 512  # of a frame without its arrays, roughly


class Limits:
    """The bytes of the states of all keys that this worker has loaded or made, in memory or only in the store.

    A state that does not grow is always taken. One that grows beyond a limit is refused, and the record at fault becomes a
    dead letter. Where all states together are at their limit, a key with less than its equal share may still grow: so many
    small keys, or few large ones, never stop the others. A key whose state the store has deleted by now makes room for others.
    """

    def __init__(self, settings: Settings) -> None:
        self.max_keys = settings.max_keys
        self.max_key_bytes = settings.max_key_bytes
        self.max_state_bytes = settings.max_state_bytes
        self._bytes: dict[str, int] = {}
        self._ends: OrderedDict[str, float] = OrderedDict()  # when the store deletes a state, the earliest first
        self._total = 0

    def note(self, key: str, state: Frame | None) -> None:
        """Take note of a state as it is in the store, None where there is none."""
        size = 0 if state is None else frame_bytes(state)
        self._total += size - self._bytes.pop(key, 0)
        if size:
            self._bytes[key] = size

    def forget(self, keys: Iterable[str]) -> None:
        """Drop keys that are not this worker's any more, or have ended."""
        for key in keys:
            self._total -= self._bytes.pop(key, 0)
            self._ends.pop(key, None)

    def expires(self, key: str, at: float | None) -> None:
        """Take note of when the store deletes the state of a key, on the clock of `time.monotonic`; None is never."""
        self._ends.pop(key, None)
        if at is not None and key in self._bytes:
            self._ends[key] = at

    def keep(self, keys: Iterable[str]) -> None:
        """Drop all keys but these."""
        self.forget(self._bytes.keys() - set(keys))

    def admit(self, key: str, before: Frame | None, after: Frame) -> None:
        """Take a new state of a key; `StateLimit` names the setting that it would exceed."""
        size, was = frame_bytes(after), 0 if before is None else frame_bytes(before)
        self._ends.pop(key, None)
        self._forget_deleted()
        known = self._bytes.get(key, was)
        if size > was:
            if size > self.max_key_bytes:
                raise _limit("max_key_bytes", f"the state of {key!r:.80}", "bytes", self.max_key_bytes, size)
            if before is None and key not in self._bytes and len(self._bytes) >= self.max_keys:
                raise _limit("max_keys", "the worker's states", "keys", self.max_keys, len(self._bytes) + 1)
            total = self._total + size - known
            if total > self.max_state_bytes and size > self.max_state_bytes // (len(self._bytes) + 1):
                raise _limit("max_state_bytes", "the worker's states", "bytes", self.max_state_bytes, total)
        self._total += size - self._bytes.get(key, 0)
        self._bytes[key] = size

    def _forget_deleted(self) -> None:
        """The earliest end comes first as long as all states live equally long; after a change some are noticed later."""
        now = time.monotonic()
        while self._ends and self._ends[key := next(iter(self._ends))] <= now:
            self.forget([key])


def frame_bytes(frame: Frame) -> int:
    """Bytes of the arrays of a frame and of the frames in it."""
    return sum(
        _HEADER_BYTES + sum(array.nbytes for array in vars(one).values() if isinstance(array, np.ndarray))
        for one in _frames(frame)
    )


def _frames(value: object) -> Iterator[Frame]:
    """The frames in a value: itself, and those in its fields, lists, tuples and dicts."""
    if isinstance(value, Frame):
        yield value
        for part in vars(value).values():
            if isinstance(part, Frame | list | tuple | Mapping):
                yield from _frames(part)
    elif isinstance(value, Mapping):
        yield from (found for part in value.values() if not isinstance(part, str | int | float) for found in _frames(part))
    elif isinstance(value, list | tuple):
        yield from (found for part in value if not isinstance(part, str | int | float) for found in _frames(part))


def _limit(setting: str, what: str, unit: str, most: int, found: int) -> StateLimit:
    return StateLimit(must_be(what, f"at most {most} {unit}, by the setting {setting}", Shown(str(found))))
