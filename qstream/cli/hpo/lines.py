"""The frames of the hpo module as lines for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from qstream.cli.output import counted, joined, solver_text
from schemas.control import Scalar
from schemas.frame import Frame
from schemas.hpo import StudyBest, StudySpec, TrialRecord, TrialReport, TrialSuggestion


def line(frame: Frame) -> str | None:
    """What matters of the frame, None for one of another module."""
    text = LINES.get(type(frame))
    return None if text is None else text(frame)


def params_text(params: Mapping[str, Scalar]) -> str:
    """``lr=0.0012 batch=64``."""
    return " ".join(f"{name}={_value(value)}" for name, value in params.items())


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _suggestion(found: TrialSuggestion) -> str:
    if found.status != "run":
        again = None if found.retry_after_s is None else f"asks again in {found.retry_after_s:g} s"
        return joined(found.study, found.worker, found.status, found.reason, again)
    expected = None if found.predicted is None else f"expected {found.predicted.mean:.4g} +- {found.predicted.std:.2g}"
    return joined(
        found.study,
        found.worker,
        _trial(found.trial, found.attempt),
        params_text(found.params),
        expected,
        "again, as the worker holds it" if found.repeated else None,
        found.source if found.model is None else solver_text(found.solver),
        found.fallback_reason,
    )


def _best(found: StudyBest) -> str:
    first = found.points[0] if found.points else None
    return joined(
        found.study,
        f"v{found.version}",
        "no trial keeps the limits yet" if first is None else f"best {first.value:.6g} of trial {first.trial}",
        None if first is None else params_text(first.params),
        f"{found.finished} ended, {found.running} running, {found.failed} failed",
        "the study has ended" if found.ended else None,
    )


def _record(found: TrialRecord) -> str:
    return joined(
        found.study,
        found.worker,
        _trial(found.trial, found.attempt),
        found.outcome,
        "late" if found.late else None,
        found.reason,
        params_text(found.metrics) or None,
        None if found.best_so_far is None else f"best so far {found.best_so_far:.6g}",
    )


def _report(found: TrialReport) -> str:
    return joined(
        found.study,
        found.worker,
        None if found.trial is None else _trial(found.trial, found.attempt),
        found.state,
        found.reason,
        None if found.params is None else params_text(found.params),
        None if found.metrics is None else params_text(found.metrics),
        "asks" if found.ask else None,
    )


def _spec(found: StudySpec) -> str:
    prior = 0 if found.prior_value is None else len(found.prior_value)
    return joined(
        found.study,
        found.status,
        f"{found.direction} {found.objective}",
        counted(len(found.parameters), "parameter"),
        *(f"{limit.metric} {limit.op} {limit.value:g}" for limit in found.limits),
        f"at most {counted(found.max_trials, 'trial')}, {found.max_running} at one time",
        f"{counted(prior, 'row')} of an older study" if prior else None,
    )


def _trial(number: int | None, attempt: int) -> str:
    return f"trial {number}" if not attempt else f"trial {number}, attempt {attempt}"


LINES: Final[Mapping[type[Frame], Callable[[Any], str]]] = {
    TrialSuggestion: _suggestion,
    StudyBest: _best,
    TrialRecord: _record,
    TrialReport: _report,
    StudySpec: _spec,
}
