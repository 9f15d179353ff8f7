"""Score: each study's trials as the topics tell them, and how long an ask takes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from qstream.demo.latency import percentiles
from schemas.deadletter import DeadLetter
from schemas.frame import Frame
from schemas.hpo import StudyBest, TrialRecord, TrialSuggestion

STUDIES: Final = ("default", "sobol")
AGAIN: Final = ("duplicate", "superseded")


@dataclass(slots=True)
class Tally:
    """One study: `losses` of complete trials in the order in which they ended, `None` for a failed one; `held` trials by
    worker; sources of its trials; the best settings."""

    losses: list[float | None] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)
    sources: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    reissued: int = 0
    best: dict[str, Any] = field(default_factory=dict)

    def best_by_trial(self, count: int | None = None) -> list[float]:
        """The best loss after each of the first `count` trials; infinite before the first that is complete."""
        losses = [np.inf if loss is None else loss for loss in self.losses[:count]]
        found: list[float] = np.minimum.accumulate(losses).tolist() if losses else []
        return found


class Score:
    """What arrived, by study."""

    def __init__(self) -> None:
        self.studies: dict[str, Tally] = {name: Tally() for name in STUDIES}
        self.letters = 0
        self.took_ms: list[float] = []

    @property
    def waiting(self) -> int:
        """Studies of which nothing came back."""
        return sum(not tally.sources and not tally.outcomes for tally in self.studies.values())

    def received(self, frame: Frame) -> None:
        """A suggestion, an outcome, a best set, or a dead letter."""
        if isinstance(frame, DeadLetter):
            self.letters += 1
        elif isinstance(frame, TrialSuggestion):
            self._suggested(frame)
        elif isinstance(frame, TrialRecord):
            self._ended(frame)
        elif isinstance(frame, StudyBest) and frame.points:
            self.studies[frame.study].best = dict(frame.points[0].params)

    def figures(self) -> dict[str, Any]:
        """What was measured, for JSON; empty where no trial has ended.

        Losses are compared after as many trials of either study; `None` where none of them is complete.
        """
        tallies = self.studies.values()
        trials = sum(len(tally.losses) for tally in tallies)
        if not trials or not self.took_ms:
            return {}
        shared = self.shared
        ends = {name: (tally.best_by_trial(shared) or [np.inf])[-1] for name, tally in self.studies.items()}
        return {
            "trials": trials,
            "best_loss": {name: loss if np.isfinite(loss) else None for name, loss in ends.items()},
            "failed": sum(tally.outcomes["failed"] for tally in tallies),
            "reissued": sum(tally.reissued for tally in tallies),
            "duplicates": sum(tally.outcomes[outcome] for tally in tallies for outcome in AGAIN),
            "latency_ms": percentiles(self.took_ms),
            "dead_letters": self.letters,
            "lost": sum(tally.outcomes["lost"] for tally in tallies),
        }

    @property
    def shared(self) -> int:
        """Trials that have ended in either study."""
        return min(len(tally.losses) for tally in self.studies.values())

    def _suggested(self, frame: TrialSuggestion) -> None:
        tally = self.studies[frame.study]
        if frame.status != "run" or frame.trial is None:
            return
        tally.held[frame.worker] = frame.trial
        if frame.repeated:
            return
        # Its time is that of the worker's report.
        self.took_ms.append((time.time_ns() - frame.ts_ns) / 1e6)
        if frame.attempt:
            tally.reissued += 1
        else:
            tally.sources[frame.source or ""] += 1

    def _ended(self, frame: TrialRecord) -> None:
        tally = self.studies[frame.study]
        tally.outcomes[frame.outcome] += 1
        if frame.outcome in ("complete", "failed"):
            tally.held = {worker: trial for worker, trial in tally.held.items() if trial != frame.trial}
            tally.losses.append((frame.metrics or {}).get("loss") if frame.outcome == "complete" else None)
