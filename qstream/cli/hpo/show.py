"""`qstream hpo show`: the best configurations of a study, what runs, and what was lost."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from qstream.cli.hpo.records import find_study, newest_of, records_of
from qstream.cli.hpo.texts import keeps, params_text
from qstream.cli.options import AsJson, BootstrapServers, client_settings
from qstream.cli.output import counted, print_json, print_table, printable
from qstream.config import Settings
from schemas.hpo import BestPoint, FailReason, StudyBest, StudySpec, TrialRecord, TrialReport, TrialSuggestion
from schemas.topics import HPO_BEST, HPO_HISTORY, HPO_SUGGESTION, HPO_TRIAL

REPEATED = ("duplicate", "superseded")  # outcomes of reports that changed nothing


@dataclass(slots=True)
class Seen:
    """What the topics say of the trials of a study."""

    spec: StudySpec
    published: StudyBest | None
    ended: dict[int, TrialRecord] = field(default_factory=dict)
    repeated: Counter[str] = field(default_factory=Counter)
    running: dict[int, TrialSuggestion] = field(default_factory=dict)
    heard_ns: dict[tuple[int, int], int] = field(default_factory=dict)
    handed_back: set[tuple[int, int]] = field(default_factory=set)

    def silent_s(self, trial: int, now_ns: int) -> float:
        """For how long nothing was heard of a trial that runs."""
        held = self.running[trial]
        return (now_ns - max(held.ts_ns, self.heard_ns.get((trial, held.attempt), 0))) / 1e9

    def is_handed_back(self, trial: int) -> bool:
        """Whether the worker that had the trial was stopped, and said so."""
        return (trial, self.running[trial].attempt) in self.handed_back

    def is_expired(self, trial: int, now_ns: int) -> bool:
        """Whether the trial goes out again at the next ask."""
        return self.is_handed_back(trial) or self.silent_s(trial, now_ns) > (self.running[trial].lease_s or self.spec.lease_s)

    def best(self, count: int = 5) -> list[BestPoint]:
        """The best trials that keep all limits, best first. The published ones are as old as the last change of the best."""
        sign = 1.0 if self.spec.direction == "minimize" else -1.0
        expected = {point.trial: point.predicted for point in self.published.points} if self.published is not None else {}
        kept = [record for record in self.ended.values() if record.outcome == "complete" and keeps(record.metrics, self.spec)]
        return [
            BestPoint(
                trial=record.trial,
                params=record.params,
                value=record.metrics[self.spec.objective],
                predicted=expected.get(record.trial),
            )
            for record in sorted(kept, key=lambda record: (sign * record.metrics[self.spec.objective], record.trial))[:count]
        ]

    def as_data(self, now_ns: int) -> dict[str, Any]:
        """All of it, for machines."""
        counts = Counter(record.outcome for record in self.ended.values())
        spec = self.spec
        return {
            "study": spec.study,
            "status": spec.status,
            "ended": self.published is not None and self.published.ended,
            "objective": spec.objective,
            "direction": spec.direction,
            "max_trials": spec.max_trials,
            "trials": {name: counts[name] for name in ("complete", "failed", "infeasible", "pruned", "lost")},
            "repeated": {name: self.repeated[name] for name in REPEATED},
            "best": [point.model_dump() for point in self.best()],
            "running": [
                {
                    "trial": trial,
                    "attempt": held.attempt,
                    "worker": held.worker,
                    "params": held.params,
                    "source": held.source,
                    "silent_s": round(self.silent_s(trial, now_ns), 1),
                    "expired": self.is_expired(trial, now_ns),
                    "handed_back": self.is_handed_back(trial),
                }
                for trial, held in sorted(self.running.items())
            ],
        }


def show(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.")],
    *,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Show a study's best configurations and its trials.

    With the trials that run, when each was last heard of, and how many failed or were lost.

    \b
    Example:
      qstream hpo show lm-small
      qstream hpo show lm-small --json
    """
    seen = look(client_settings(bootstrap_servers), study)
    now_ns = time.time_ns()
    data = seen.as_data(now_ns)
    if as_json:
        print_json(data)
        return
    trials = ", ".join(f"{number} {name}" for name, number in data["trials"].items() if number) or "no trial has ended"
    state = "done" if data["ended"] else seen.spec.status
    head = f"{study}: {seen.spec.direction} {seen.spec.objective}; {trials} of {seen.spec.max_trials}; {state}"
    typer.echo(printable(head))
    if best := seen.best():
        rows = [(str(point.trial), f"{point.value:.6g}", params_text(point.params)) for point in best]
        print_table(("best trial", seen.spec.objective, "parameters"), rows, styles=["green"])
    if data["running"]:
        print_table(("running", "attempt", "worker", "last heard", "parameters"), [_row(held) for held in data["running"]])
    if repeated := ", ".join(f"{number} {name}" for name, number in data["repeated"].items() if number):
        typer.echo(f"reports that changed nothing: {repeated}")


def look(settings: Settings, study: str) -> Seen:
    """Read the topics of a study; `ConfigError` if there is none of the name."""
    seen = Seen(find_study(settings, study), newest_of(settings, HPO_BEST, StudyBest, study))
    for _, record in records_of(settings, HPO_HISTORY, TrialRecord, study):
        if record.outcome in REPEATED:
            seen.repeated[record.outcome] += 1
        else:
            seen.ended[record.trial] = record
    for _, plan in records_of(settings, HPO_SUGGESTION, TrialSuggestion, study):
        if plan.trial is not None and plan.trial not in seen.ended:
            seen.running[plan.trial] = plan
    for message, report in records_of(settings, HPO_TRIAL, TrialReport, study):
        if report.trial is not None:
            seen.heard_ns[report.trial, report.attempt] = message.timestamp()[1] * 1_000_000
            if report.reason is FailReason.PREEMPTED:
                seen.handed_back.add((report.trial, report.attempt))
    return seen


def _row(held: dict[str, Any]) -> tuple[str, ...]:
    handed_back = ", handed back" if held["handed_back"] else ""
    silent = f"{held['silent_s']:.0f} s ago{handed_back}{', goes out again' if held['expired'] else ''}"
    return (
        str(held["trial"]),
        counted(held["attempt"] + 1, "try").replace("trys", "tries"),
        held["worker"],
        silent,
        params_text(held["params"]),
    )
