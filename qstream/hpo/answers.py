"""Answers and best sets as the frames that are published."""

from __future__ import annotations

from typing import Any, Final

from qstream.hpo import memory
from qstream.hpo.memory import HpoState, Memory
from qstream.hpo.plan import Suggestion
from qstream.hpo.trials import RETRY_S, Answer
from schemas.hpo import Basis, BestPoint, Prediction, StudyBest, TrialSuggestion
from schemas.solver import SolverRecord

BEST: Final = 5  # configurations of a best set


def suggestion_frame(answer: Answer, now: HpoState | None, *, study: str, plan_id: str, ts_ns: int) -> TrialSuggestion:
    """The frame of an answer; `now` is the study, None for an unknown one."""
    lease_s, new = (None if now is None or answer.status != "run" else now.spec.lease_s), answer.suggestion
    found: dict[str, Any] = {}
    if new is not None and now is not None:
        found = {
            "predicted": predicted(new, now),
            "p_feasible": new.p_feasible,
            "fallback_reason": new.fallback_reason,
            "model": Basis(observations=answer.observations, pending=answer.pending, digest=new.digest),
        }
    return TrialSuggestion(
        plan_id=plan_id,
        ts_ns=ts_ns,
        ttl_s=lease_s,
        solver=SolverRecord(solver="kept") if new is None else new.solver,
        study=study,
        worker=answer.worker,
        status=answer.status,
        reason=answer.reason,
        trial=answer.trial,
        attempt=answer.attempt,
        params=dict(answer.params),
        lease_s=lease_s,
        retry_after_s=RETRY_S if answer.status == "wait" else None,
        source=answer.source,
        repeated=answer.repeated,
        **found,
    )


def predicted(suggestion: Suggestion, now: HpoState) -> Prediction | None:
    """What the model expects of a suggestion, in the direction of the study's objective."""
    expected = suggestion.predicted
    return None if expected is None else Prediction(mean=memory.sign(now) * expected.mean, std=expected.std)


def best_frame(draft: Memory, *, plan_id: str, ts_ns: int) -> StudyBest:
    """The best set as it is now, in a version that is then in force."""
    now = draft.now
    base = now.in_force
    draft.set(in_force=base.proposed(base.next_version(ts_ns), ts_ns).acknowledged())
    ended = now.outcome != memory.RUNNING
    source = memory.SOURCES[int(now.source[now.best])] if now.best >= 0 else None
    return StudyBest(
        plan_id=plan_id,
        ts_ns=ts_ns,
        solver=SolverRecord(solver=source or "incumbent", n=len(now.spec.parameters)),
        version=now.in_force.version,
        base_version=base.version,
        study=now.spec.study,
        finished=int(ended.sum()),
        running=now.trials - int(ended.sum()),
        failed=int(((now.outcome == memory.FAILED) | (now.outcome == memory.INFEASIBLE) | (now.outcome == memory.LOST)).sum()),
        ended=now.ended,
        points=best_points(now, BEST),
    )


def best_points(now: HpoState, count: int) -> tuple[BestPoint, ...]:
    """The best configurations that keep all limits, best first."""
    return tuple(
        BestPoint(trial=trial, params=memory.params(now, trial), value=float(now.value[trial]))
        for trial in memory.best_trials(now, count)
    )
