"""Score: what became of each reading, and what the newest answer says of the learning."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from qstream.testing.readings import SECOND, Outlook, Reading
from schemas.deadletter import DeadLetter
from schemas.frame import Frame
from schemas.learning import Decisions


class Watched(NamedTuple):
    """What a version of a model said next to the incumbent, at one reading."""

    number: int
    version: int
    incumbent: float
    offered: float


class Score:
    """Readings by number until they are answered. `newest` is the answer to the highest number: its counters are the state's."""

    def __init__(self) -> None:
        self.waiting: dict[int, float] = {}
        self.newest: Outlook | None = None
        self.published_models: dict[int, str] = {}
        self._answered: set[int] = set()
        self._loads: list[float] = []
        self._guesses: dict[int, str] = {}
        self._said: dict[int, tuple[float, float]] = {}
        self._times_s: list[tuple[float, float]] = []
        self._newest_s = 0.0
        self._killed_s: float | None = None
        self._watched: list[Watched] = []
        self._wealth: dict[int, float] = {}
        self._twice = 0
        self._logged = 0
        self._dead_letters = 0

    def killed(self) -> None:
        """The worker was killed just after the newest reading was published."""
        self._killed_s = self._newest_s

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
        self.waiting[reading.number] = self._newest_s = at_s

    def received(self, frame: Frame, at_s: float) -> None:
        if isinstance(frame, DeadLetter):
            self._dead_letters += 1
            return
        if isinstance(frame, Decisions):
            self._logged += len(frame.arm)
            return
        assert isinstance(frame, Outlook)
        sent_s = self.waiting.pop(frame.number, None)
        if sent_s is None:
            self._twice += 1  # two answers of different ids to one number
            return
        self._times_s.append((sent_s, at_s))
        self._guesses[frame.number] = frame.guess
        self._said[frame.number] = frame.mean, frame.bound
        self._answered |= {frame.model_version} - {-1}
        if frame.offered_by >= 0:
            self._watched.append(Watched(frame.number, frame.offered_by, frame.incumbent, frame.offered))
            self._wealth[frame.offered_by] = max(frame.wealth, self._wealth.get(frame.offered_by, 0.0))
        if self.newest is None or frame.number > self.newest.number:
            self.newest = frame

    def last_second(self) -> tuple[float, float, float] | None:
        """Forecast, bound and outcome of the newest second that is over and was forecast."""
        about = len(self._loads) - 1 - SECOND
        came = self._came(about) if about in self._said else None
        return None if came is None else (*self._said[about], came)

    def figures(self, seconds: float, repeated: int) -> dict[str, Any]:
        """The figures for JSON; empty without an answer.

        Learning steps: the state of the newest answer, number N, must have learnt from N + 1 readings, each once. Its `updates`
        counts the learner's steps, `repeated` those of a number that it had seen; what is missing of N + 1 was lost.
        """
        newest = self.newest
        if newest is None:
            return {}
        return {
            "seconds": seconds,
            "readings": len(self._loads),
            "forecasts": len(self._times_s),
            "error_over_persistence": newest.error / newest.error_of_last if newest.error_of_last else None,
            "coverage": newest.within / newest.met if newest.met else None,
            "updates": newest.updates,
            "updates_lost": newest.number + 1 - (newest.updates - newest.repeated),
            "updates_twice": newest.repeated + self._twice,
            "rewards": newest.matched,
            "rewards_unmatched": newest.unmatched,
            "decisions_logged": self._logged,
            "promotions": newest.promotions,
            "rollbacks": newest.rollbacks,
            "model_versions": {"published": list(self.published_models), "answered": sorted(self._answered)},
            "models": [self._of_model(version) for version in self.published_models],
            **self._latency(),
            "dead_letters": self._dead_letters,
            "repeated": repeated,
            "lost": len(self.waiting),
        }

    def _of_model(self, version: int) -> dict[str, Any]:
        """How a model did next to the incumbent, on forecasts whose second has come; `wealth` is the highest of its guard's."""
        losses = [
            (abs(said.offered - came), abs(said.incumbent - came))
            for said in self._watched
            if said.version == version and (came := self._came(said.number)) is not None
        ]
        own, incumbent = np.array(losses).sum(0).tolist() if losses else (0.0, 0.0)
        return {
            "version": version,
            "what": self.published_models[version],
            "scored": len(losses),
            "error_over_incumbent": own / incumbent if incumbent else None,
            "wealth": self._wealth.get(version, 1.0),
            "answered": version in self._answered,
        }

    def _came(self, number: int) -> float | None:
        """The mean load of the second after a reading, None if it is not over."""
        loads = self._loads[number + 1 : number + 1 + SECOND]
        return float(np.mean(loads)) if len(loads) == SECOND else None

    def _latency(self) -> dict[str, Any]:
        """Times from reading to answer: percentiles of those that a worker was there for, and the worst of all.

        A killed worker leaves a gap until the first answer to a reading that was published after its death; what waited in it
        is left to `worst`.
        """
        sent_s, at_s = np.array(self._times_s).T
        took_ms, gap_ms, waited = (at_s - sent_s) * 1e3, 0.0, np.zeros(len(at_s), np.bool_)
        if self._killed_s is not None and (after := sent_s > self._killed_s).any():
            again_s = float(at_s[after].min())
            gap_ms = (again_s - self._killed_s) * 1e3
            waited = (at_s > self._killed_s) & (sent_s < again_s)
        p50, p99 = np.percentile(took_ms[~waited], [50, 99]).tolist() if not waited.all() else (None, None)
        latency_ms = {"p50": p50, "p99": p99, "worst": float(took_ms.max())}
        return {"latency_ms": latency_ms, "gap_ms": gap_ms, "waited_in_gap": int(waited.sum())}
