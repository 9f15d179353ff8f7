"""Score: what became of each reading, and what the newest answer says of the learning."""

from __future__ import annotations

from typing import Any

import numpy as np

from qstream.testing.readings import SECOND, Outlook, Reading
from schemas.deadletter import DeadLetter
from schemas.frame import Frame


class Score:
    """Readings by number until they are answered. `newest` is the answer to the highest number: its counters are the state's."""

    def __init__(self) -> None:
        self.waiting: dict[int, float] = {}
        self.newest: Outlook | None = None
        self.killed = False
        self.published_models: list[int] = []
        self._answered: set[int] = set()
        self._loads: list[float] = []
        self._guesses: dict[int, str] = {}
        self._latency_s: list[float] = []
        self._twice = 0
        self._dead_letters = 0

    def earned(self, number: int, load: float) -> dict[int, float]:
        """What the guess of a second ago has earned, where its answer has come: 1 if it was right, else 0."""
        about = number - SECOND
        if about not in self._guesses:
            return {}
        rose = float(np.mean([*self._loads[about + 1 :], load])) > self._loads[about]
        return {about: float(self._guesses[about] == ("rises" if rose else "falls"))}

    @property
    def loads(self) -> list[float]:
        """All readings so far."""
        return list(self._loads)

    def published(self, reading: Reading, at_s: float) -> None:
        self._loads.append(reading.load)
        self.waiting[reading.number] = at_s

    def received(self, frame: Frame, at_s: float) -> None:
        if isinstance(frame, DeadLetter):
            self._dead_letters += 1
            return
        if not isinstance(frame, Outlook):
            return
        sent_s = self.waiting.pop(frame.number, None)
        if sent_s is None:
            self._twice += 1  # two answers of different ids to one number
            return
        self._latency_s.append(at_s - sent_s)
        self._guesses[frame.number] = frame.guess
        self._answered |= {frame.model_version} - {-1}
        if self.newest is None or frame.number > self.newest.number:
            self.newest = frame

    def figures(self, seconds: float, repeated: int) -> dict[str, Any]:
        """The figures for JSON; empty without an answer.

        Learning steps: the state of the newest answer, number N, must have learnt from N + 1 readings, each once. Its `updates`
        counts the learner's steps, `repeated` those of a number that it had seen; what is missing of N + 1 was lost.
        """
        newest = self.newest
        if newest is None:
            return {}
        p50, p99 = np.percentile(np.array(self._latency_s) * 1e3, [50, 99]).tolist()
        return {
            "seconds": seconds,
            "readings": len(self._loads),
            "forecasts": len(self._latency_s),
            "error_over_persistence": newest.error / newest.error_of_last if newest.error_of_last else None,
            "coverage": newest.within / newest.met if newest.met else None,
            "updates": newest.updates,
            "updates_lost": newest.number + 1 - (newest.updates - newest.repeated),
            "updates_twice": newest.repeated + self._twice,
            "rewards": newest.matched,
            "rewards_unmatched": newest.unmatched,
            "promotions": newest.promotions,
            "rollbacks": newest.rollbacks,
            "model_versions": {"published": list(self.published_models), "answered": sorted(self._answered)},
            "latency_ms": {"p50": p50, "p99": p99},
            "dead_letters": self._dead_letters,
            "repeated": repeated,
            "lost": len(self.waiting),
        }
