"""Local: the desk of a study in this process, kept in a file after each report."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from qstream.cli.hpo.slots import Answer, Report
from qstream.hpo.study import Study


class Local:
    """A desk over a `Study`, which is saved in a file, if there is one, whenever it changes."""

    def __init__(self, study: Study, file: Path | None, pause: Callable[[float], None] = time.sleep) -> None:
        self.study, self._file, self._pause = study, file, pause
        self._answers: deque[Answer] = deque()

    def send(self, report: Report) -> None:
        """Take a report and, if it asks, answer it at once."""
        verdict = report.verdict
        if verdict is not None and report.trial is not None:
            self.study.tell(
                report.trial,
                verdict.metrics or None,
                state=verdict.state,
                worker=report.worker,
                attempt=report.attempt,
                reason=verdict.reason,
                duration_s=report.duration_s,
            )
        if report.ask:
            self._answers.append(self._answer(report.worker))
        self.close()

    def receive(self, timeout_s: float) -> Answer | None:
        """The next answer; without one the time passes."""
        if not self._answers:
            self._pause(timeout_s)
            return None
        return self._answers.popleft()

    def close(self) -> None:
        """Save the study."""
        if self._file is not None:
            self.study.save(self._file)

    def _answer(self, worker: str) -> Answer:
        trial = self.study.ask(worker)
        return Answer(
            worker=worker,
            status=trial.status,
            trial=trial.number or 0,
            attempt=trial.attempt,
            params=trial.params,
            source=trial.source or "",
            reason="" if trial.reason is None else trial.reason.value.replace("_", " "),
        )
