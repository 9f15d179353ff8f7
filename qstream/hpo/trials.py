"""The rules by which trials are handed out, come back and count: used by the stream's processor and by a study in process.

A worker holds at most one trial, a trial has at most one holder, and every ask gets exactly one answer. All of it is decided
record by record, on a draft of the state, by the time of the record alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from qstream.errors import OptionError, ProblemError
from qstream.hpo import memory
from qstream.hpo.holding import give_back, hand_over, hold, lease, release, row_of
from qstream.hpo.memory import LOST, OUTCOMES, RUNNING, SOURCES, USER, HpoState, Memory
from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import Exhausted, Suggestion
from schemas.control import Scalar
from schemas.hpo import MAX_TRIALS, FailReason, IdleReason, Source, StudySpec, SuggestionStatus, TrialRecord, TrialReport
from schemas.hpo import Outcome as Ending
from schemas.wording import Shown, must_be

RETRY_S: Final = 1.0  # after which a worker that was told to wait asks again
FIXED: Final = ("parameters", "objective", "direction", "seed")  # of a study that has trials
OBSERVED: Final = (memory.COMPLETE, memory.FAILED, memory.INFEASIBLE)  # what suggestions learn from

# The suggestion of a new trial's number, a pure function of the state; `Exhausted` where no configuration is left.
Suggest = Callable[[Memory, int], Suggestion]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The one answer to an ask. With status run it names a trial; if that is new, there is its `suggestion`, with the number of
    `observations` and the `pending` trials that it was computed from."""

    worker: str
    status: SuggestionStatus
    reason: IdleReason | None = None
    trial: int | None = None
    attempt: int = 0
    params: Mapping[str, Scalar] = field(default_factory=dict)
    source: Source | None = None
    repeated: bool = False
    suggestion: Suggestion | None = None
    observations: int = 0
    pending: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a report: what was recorded, the answer if it asked, and whether the best set is to be published. `fault` says
    why its result cannot be, where its ask was answered all the same."""

    records: tuple[TrialRecord, ...] = ()
    answer: Answer | None = None
    best_changed: bool = False
    fault: str = ""


def create(spec: StudySpec) -> Memory:
    """A study without trials. `ProblemError` if its space or its options contradict themselves."""
    _check_options(spec)
    return memory.fresh(spec)


def change(draft: Memory, spec: StudySpec) -> bool:
    """Another spec of a study; whether the best set is to be published.

    Without trials everything may change. With trials, budget, limits, lease, status, prior and options may.

    Raises
    ------
    ProblemError
        It would change what the trials mean; or its options contradict themselves.
    """
    now = draft.now
    _check_options(spec)
    changed = [name for name in FIXED if getattr(spec, name) != getattr(now.spec, name)]
    if changed and now.trials:
        rule = "the same as before, since the study has trials: publish it under another name, with this one as prior"
        raise ProblemError(must_be(f"{changed[0]} of study {spec.study!r}", rule, getattr(spec, changed[0])))
    with draft.atomic():
        if changed:
            fresh = memory.fresh(spec).now
            kept = {"in_force": now.in_force, "best": now.best}
            draft.set(**{name: getattr(fresh, name) for name in HpoState.model_fields if name not in ("frame", *kept)})
        else:
            memory.adopt(draft, spec)
        return _settle(draft)


def report(draft: Memory, report: TrialReport, now_ns: int, suggest: Suggest) -> Outcome:
    """What a report changes: first its result or heartbeat, all of it or nothing, then its ask.

    Parameters
    ----------
    now_ns
        The time of the record, by which leases are judged.

    Raises
    ------
    ProblemError
        The report is of a trial that was never suggested, or its metrics or params are not those of the study; and it does not
        ask. A worker that asks is free whatever it said, and must not wait for an answer in vain: then `fault` has the reason.
    """
    with draft.atomic():
        records: list[TrialRecord] = []
        fault = ""
        try:
            with draft.atomic():
                if report.state == "running":
                    _extend(draft, report, now_ns)
                elif report.state is not None:
                    records += _result(draft, report, now_ns)
        except ProblemError as exc:
            if not report.ask:
                raise
            fault = str(exc)
        answer = _asked(draft, report.worker, now_ns, suggest, records) if report.ask else None
        best_changed = _settle(draft)
        records = [_with_best(draft.now, record) for record in records]
        return Outcome(records=tuple(records), answer=answer, best_changed=best_changed, fault=fault)


def unknown(worker: str) -> Answer:
    """The answer to an ask of a study that was not published yet."""
    return Answer(worker=worker, status="wait", reason=IdleReason.UNKNOWN_STUDY)


def _check_options(spec: StudySpec) -> None:
    try:
        HpoOptions().changed(spec.options)
    except OptionError as exc:
        raise ProblemError(f"options of study {spec.study!r}: {exc}") from exc


def _extend(draft: Memory, report: TrialReport, now_ns: int) -> None:
    """A heartbeat: the holder of the trial keeps it for another lease."""
    trial = _known(draft.now, report)
    row = row_of(draft.now, report.worker)
    if row is not None and draft.now.active[row] == trial:
        lease(draft, row, now_ns)


def _result(draft: Memory, report: TrialReport, now_ns: int) -> list[TrialRecord]:
    """A result: counted once, whoever brings it; what comes later changes nothing."""
    if report.trial is None:
        return [_added(draft, report, now_ns)]
    trial = _known(draft.now, report)
    code = int(draft.now.outcome[trial])
    if code not in (RUNNING, LOST):
        same = int(draft.now.attempt[trial]) == report.attempt
        return [_record(draft.now, report, trial, now_ns, "duplicate" if same else "superseded")]
    if report.attempt > draft.now.attempt[trial]:
        rule = f"one that was handed out, at most {draft.now.attempt[trial]}"
        raise ProblemError(must_be(f"attempt of trial {trial}", rule, report.attempt))
    row = row_of(draft.now, report.worker)
    held = row is not None and int(draft.now.active[row]) == trial
    if report.reason is FailReason.PREEMPTED:
        if held and row is not None:
            give_back(draft, row, now_ns)
        return []  # it says nothing of the configuration: the trial goes out again
    _count(draft, report, trial, now_ns)
    return [_record(draft.now, report, trial, now_ns, _ending(report), late=not held)]


def _added(draft: Memory, report: TrialReport, now_ns: int) -> TrialRecord:
    """A result that was never suggested becomes a trial of its own. With time and params of a trial it is that one's, sent
    twice, or given back from the history of a study that still has it."""
    now = draft.now
    unit = memory.space(now).encode(report.params or {})
    if now.unit is not None:
        same = (now.asked_ns == report.ts_ns) & (now.unit == unit).all(1)
        if same.any():
            return _record(now, report, int(np.flatnonzero(same)[0]), now_ns, "duplicate")
    if now.trials >= MAX_TRIALS:
        raise ProblemError(must_be(f"trials of study {report.study!r}", f"at most {MAX_TRIALS}", now.trials + 1))
    trial = memory.append(draft, unit, source=USER, asked_ns=report.ts_ns)
    _count(draft, report, trial, now_ns)
    return _record(draft.now, report, trial, now_ns, _ending(report))


def _count(draft: Memory, report: TrialReport, trial: int, now_ns: int) -> None:
    """Enter the result, and free the trial's holder.

    `ProblemError` if the trial is complete and the objective was not reported.
    """
    now, metrics = draft.now, report.metrics or {}
    if report.state == "complete" and now.spec.objective not in metrics:
        got = Shown(", ".join(sorted(metrics)))
        raise ProblemError(must_be(f"metrics of trial {trial}", f"with the objective, {now.spec.objective!r}", got))
    draft.edit("outcome")[trial] = OUTCOMES.index(_ending(report))
    draft.edit("attempt")[trial] = report.attempt
    draft.edit("done_ns")[trial] = now_ns
    if report.state == "complete":
        draft.edit("value")[trial] = metrics[now.spec.objective]
        for column, limit in enumerate(now.spec.limits):
            if limit.metric in metrics:
                draft.edit("limit_value")[trial, column] = metrics[limit.metric]
                draft.edit("limit_seen")[trial, column] = 1
    release(draft, trial)


def _asked(draft: Memory, worker: str, now_ns: int, suggest: Suggest, records: list[TrialRecord]) -> Answer:
    """The answer to an ask: the trial that the worker holds, else the lowest expired one, else a new one, else none."""
    now = draft.now
    row = row_of(now, worker)
    if row is not None:
        lease(draft, row, now_ns)
        return _run(now, worker, int(now.active[row]), repeated=True)
    if now.spec.status != "paused":
        row = _reissued(draft, worker, now_ns, records)
        if row is not None:
            return _run(now, worker, int(now.active[row]))
    left = now.asked < now.spec.max_trials and now.trials < MAX_TRIALS and not now.exhausted
    if left and now.spec.status == "open" and len(now.active) < now.spec.max_running:
        try:
            suggestion = suggest(draft, now.trials)
        except Exhausted:
            draft.set(exhausted=True)
        else:
            return _started(draft, worker, now_ns, suggestion)
    return _idle(now, worker)


def _reissued(draft: Memory, worker: str, now_ns: int, records: list[TrialRecord]) -> int | None:
    """The row of the lowest expired trial, handed to the worker; those that went out too often before it are lost."""
    expired = np.sort(draft.now.active[draft.now.lease_ns <= now_ns]).tolist()
    for trial in expired:
        row = int(np.flatnonzero(draft.now.active == trial)[0])
        attempt = int(draft.now.attempt[trial])
        if draft.now.spec.status == "closed" or attempt >= draft.now.spec.retries:
            records.append(_lost(draft, row, trial, now_ns))
            continue
        draft.edit("attempt")[trial] = attempt + 1
        hand_over(draft, row, worker, now_ns)
        return row
    return None


def _lost(draft: Memory, row: int, trial: int, now_ns: int) -> TrialRecord:
    """A trial that no worker ended; a result that still comes counts."""
    now = draft.now
    worker = now.worker[row] or "nobody"
    draft.edit("outcome")[trial] = LOST
    draft.edit("done_ns")[trial] = now_ns
    release(draft, trial)
    return TrialRecord(
        study=now.spec.study,
        trial=trial,
        attempt=int(now.attempt[trial]),
        worker=worker,
        outcome="lost",
        params=memory.params(now, trial),
        source=_source(now, trial),
        asked_ns=int(now.asked_ns[trial]),
        done_ns=now_ns,
    )


def _started(draft: Memory, worker: str, now_ns: int, suggestion: Suggestion) -> Answer:
    """A new trial, handed to the worker."""
    pending = tuple(np.sort(draft.now.active).tolist())
    observations = int(np.isin(draft.now.outcome, OBSERVED).sum())
    trial = memory.append(draft, suggestion.unit, source=SOURCES.index(suggestion.source), asked_ns=now_ns)
    hold(draft, trial, worker, now_ns)
    return Answer(
        worker=worker,
        status="run",
        trial=trial,
        params=suggestion.params,
        source=suggestion.source,
        suggestion=suggestion,
        observations=observations,
        pending=pending,
    )


def _run(now: HpoState, worker: str, trial: int, *, repeated: bool = False) -> Answer:
    """The answer that hands out a trial which had been suggested before."""
    attempt = int(now.attempt[trial])
    source: Source | None = "retry" if attempt else _source(now, trial)
    return Answer(
        worker=worker,
        status="run",
        trial=trial,
        attempt=attempt,
        params=memory.params(now, trial),
        source=source,
        repeated=repeated,
    )


def _idle(now: HpoState, worker: str) -> Answer:
    """The answer where there is nothing to run: wait while a trial may still be lost and go out again, else done."""
    spec, spent = now.spec, now.asked >= now.spec.max_trials or now.trials >= MAX_TRIALS
    if spec.status == "closed":
        return Answer(worker=worker, status="done", reason=IdleReason.CLOSED)
    if spec.status == "paused":
        return Answer(worker=worker, status="wait", reason=IdleReason.PAUSED)
    if not (spent or now.exhausted):
        return Answer(worker=worker, status="wait", reason=IdleReason.MAX_RUNNING)
    if len(now.active):
        return Answer(worker=worker, status="wait", reason=IdleReason.LAST_TRIALS)
    return Answer(worker=worker, status="done", reason=IdleReason.BUDGET_SPENT if spent else IdleReason.SPACE_EXHAUSTED)


def _settle(draft: Memory) -> bool:
    """Find the incumbent, and whether the study has ended; whether either changed."""
    now = draft.now
    best = next(iter(memory.best_trials(now, 1)), -1)
    spent = now.asked >= now.spec.max_trials or now.trials >= MAX_TRIALS or now.exhausted
    ended = now.spec.status == "closed" or (spent and not len(now.active))
    changed = (best, ended) != (now.best, now.ended)
    if changed:
        draft.set(best=best, ended=ended)
    return changed


def _with_best(now: HpoState, record: TrialRecord) -> TrialRecord:
    return record if now.best < 0 else record.model_copy(update={"best_so_far": float(now.value[now.best])})


def _known(now: HpoState, report: TrialReport) -> int:
    """The number of the reported trial, which must have been suggested."""
    if report.trial is None or report.trial >= now.trials:
        rule = f"one that was suggested, below {now.trials}" if now.trials else "one that was suggested; none was yet"
        raise ProblemError(must_be(f"trial of study {report.study!r}", rule, report.trial))
    return report.trial


def _record(now: HpoState, report: TrialReport, trial: int, now_ns: int, outcome: Ending, *, late: bool = False) -> TrialRecord:
    return TrialRecord(
        study=report.study,
        trial=trial,
        attempt=report.attempt,
        worker=report.worker,
        outcome=outcome,
        late=late,
        params=memory.params(now, trial),
        metrics=dict(report.metrics or {}),
        reason=report.reason,
        source=_source(now, trial),
        asked_ns=int(now.asked_ns[trial]),
        done_ns=now_ns,
    )


def _ending(report: TrialReport) -> Ending:
    assert report.state is not None
    assert report.state != "running"
    return report.state


def _source(now: HpoState, trial: int) -> Source | None:
    """What proposed a trial; None for a user."""
    return SOURCES[int(now.source[trial])]
