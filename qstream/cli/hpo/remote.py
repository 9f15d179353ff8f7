"""Remote: the desk of an agent behind a broker. Reports go to its topic, answers come as suggestions."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

from qstream.cli.hpo.slots import Answer, Report
from qstream.config import Settings
from qstream.errors import DeliveryFailed
from qstream.node.trouble import Troubles
from qstream.stream.client import PlanSubscriber, Publisher
from schemas.hpo import TrialReport, TrialSuggestion
from schemas.topics import HPO_SUGGESTION, HPO_TRIAL

LAST_WORDS_S: Final = 30.0  # for which the end of a worker waits for the broker


class Remote:
    """The desk of one study. What the broker does not confirm is a trouble: its slot sends it again until it is answered."""

    def __init__(
        self,
        study: str,
        names: Collection[str],
        settings: Settings,
        troubles: Troubles,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._study, self._names, self._troubles, self._clock_ns = study, frozenset(names), troubles, clock_ns
        servers = settings.bootstrap_servers
        self._answers = PlanSubscriber(HPO_SUGGESTION, TrialSuggestion, servers, key=study, settings=settings)
        self._publisher = Publisher(servers, f"qstream/hpo/{min(names)}"[:200], settings)

    def send(self, report: Report) -> None:
        """Queue the report; it is on its way when this returns."""
        self._publisher.publish(HPO_TRIAL, frame_of(report, self._study, self._clock_ns()), content_type=HPO_TRIAL.content_type)

    def receive(self, timeout_s: float) -> Answer | None:
        """The next answer to one of our slots."""
        try:
            self._publisher.require_confirmed()
        except DeliveryFailed as exc:
            self._troubles.note("kafka", str(exc))
        plan = self._answers.poll(timeout_s)
        if plan is None or plan.worker not in self._names:
            return None
        self._troubles.over("kafka", "the study answers")
        return answer_of(plan)

    def close(self) -> None:
        """Wait until the broker has everything; `DeliveryFailed` if it has not."""
        self._answers.close()
        self._publisher.flush(LAST_WORDS_S)


def frame_of(report: Report, study: str, now_ns: int) -> TrialReport:
    """The report as a frame."""
    verdict = report.verdict
    state = None if report.trial is None else "running" if verdict is None else verdict.state
    return TrialReport(
        study=study,
        worker=report.worker,
        ts_ns=now_ns,
        ask=report.ask,
        trial=report.trial,
        attempt=report.attempt,
        state=state,
        metrics=dict(verdict.metrics) or None if verdict is not None else None,
        reason=None if verdict is None else verdict.reason,
        duration_s=report.duration_s,
    )


def answer_of(plan: TrialSuggestion) -> Answer:
    """The suggestion as an answer."""
    return Answer(
        worker=plan.worker,
        status=plan.status,
        trial=plan.trial or 0,
        attempt=plan.attempt,
        params=plan.params,
        lease_s=plan.lease_s,
        retry_after_s=plan.retry_after_s or 1.0,
        source=plan.source or "",
        reason="" if plan.reason is None else plan.reason.value.replace("_", " "),
    )
