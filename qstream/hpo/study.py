"""Study: a search in this process, by the rules and with the state that the agent has."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from qstream.errors import ProblemError
from qstream.hpo import memory, trials
from qstream.hpo.answers import best_points, predicted
from qstream.hpo.formats.history import row, write_csv
from qstream.hpo.memory import NOBODY, SOURCES, USER, HpoState, Memory
from qstream.hpo.older import Older, older_rows, prior_fields, read_state
from qstream.hpo.options import HpoOptions
from qstream.hpo.problem import Limits, finite, limits_of
from qstream.hpo.space import Params, SearchSpace
from qstream.hpo.suggesting import suggest
from qstream.module.draft import Draft
from schemas.control import Scalar
from schemas.frame import SAFETENSORS, FrameError
from schemas.hpo import (
    MAX_TRIALS,
    BestPoint,
    Direction,
    FailReason,
    IdleReason,
    Outcome,
    Prediction,
    Source,
    StudySpec,
    SuggestionStatus,
    TrialRecord,
    TrialReport,
    TrialState,
)
from schemas.solver import SolverRecord
from schemas.wording import must_be

NAME: Final = "study"  # of one that has no other
_ENDINGS: Final[Mapping[int, Outcome]] = {
    memory.COMPLETE: "complete",
    memory.FAILED: "failed",
    memory.INFEASIBLE: "infeasible",
    memory.PRUNED: "pruned",
    memory.LOST: "lost",
}
ENDLESS_S: Final = 2_592_000.0  # the longest lease that there is
Space = SearchSpace | str | Path | Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """The answer to an ask. With status wait or done there is no trial: `number` is None, and `reason` says why."""

    status: SuggestionStatus
    number: int | None = None
    attempt: int = 0
    params: Mapping[str, Scalar] = field(default_factory=dict)
    source: Source | None = None
    predicted: Prediction | None = None
    solver: SolverRecord | None = None
    reason: IdleReason | None = None


class Study:
    """A search over a space: `ask` for a trial, run it, `tell` what came of it.

    Parameters
    ----------
    space
        A `SearchSpace`, or what `SearchSpace.load` takes.
    objective, direction
        The metric that decides, and whether to ``minimize`` or ``maximize`` it.
    limits
        The largest value of other metrics by name, or `Limit`s.
    seed, options
        Of all suggestions: the same seed, options and results give the same.
    prior
        Results of an older search: rows of (params, value), the path of a CSV file or of a saved study, or a `Study`. Rows of a
        study that lie outside of the space are dropped; others must fit.
    max_trials
        Trials that are handed out, at most.
    lease_s
        Seconds after which a trial that nothing is heard of is handed out again, up to `retries` times; None: a month.

    Raises
    ------
    ProblemError
        The space, the limits or the prior break a rule; `OptionError`: an option does.

    >>> study = Study([{"name": "lr", "type": "float", "low": 1e-5, "high": 0.1, "scale": "log"}])
    >>> trial = study.ask()
    >>> study.tell(trial.number, 0.25)
    'complete'
    """

    def __init__(
        self,
        space: Space,
        *,
        objective: str = "loss",
        direction: Direction = "minimize",
        limits: Limits | None = None,
        seed: int = 0,
        options: HpoOptions | None = None,
        prior: Older | Study | None = None,
        max_trials: int = MAX_TRIALS,
        lease_s: float | None = None,
        retries: int = 2,
        name: str = NAME,
    ) -> None:
        found = space if isinstance(space, SearchSpace) else SearchSpace.load(space)
        fields = {
            "study": name,
            "ts_ns": time.time_ns(),
            "parameters": found.parameters,
            "objective": objective,
            "direction": direction,
            "limits": tuple(limit._asdict() for limit in limits_of(limits)),
            "seed": seed,
            "options": _changed(options or HpoOptions()),
            "max_trials": max_trials,
            "max_running": 256,
            "lease_s": float(ENDLESS_S if lease_s is None else lease_s),
            "retries": retries,
        }
        older = prior._memory.now if isinstance(prior, Study) else prior
        rows = () if older is None else older_rows(found, older, objective, direction).rows
        self._adopt(trials.create(_built({**fields, **prior_fields(found, rows)})))

    @classmethod
    def from_spec(cls, spec: StudySpec) -> Self:
        """A study without trials, as its frame describes it. Errors as above."""
        study = cls.__new__(cls)
        study._adopt(trials.create(spec))
        return study

    def _adopt(self, draft: Memory) -> None:
        self._memory = draft
        self._records: dict[int, TrialRecord] = {}
        self._options = HpoOptions().changed(draft.now.spec.options)

    @property
    def spec(self) -> StudySpec:
        """What the study is, without its prior."""
        return self._memory.now.spec

    @property
    def space(self) -> SearchSpace:
        """What is searched."""
        return memory.space(self._memory.now)

    def ask(self, worker: str | None = None, now_s: float | None = None) -> Trial:
        """A trial to run, or word to wait, or that there are no more.

        A named worker that holds a trial gets it again. Without a name each ask is of a slot of its own. Trials whose lease is
        over by `now_s` (seconds since 1970; None: now) go out again first.
        """
        now = self._memory.now
        # Grows with each trial that goes out, so that no two slots have one name.
        slot = worker if worker is not None else f"#{now.trials + int(now.attempt.sum())}"
        answer = self._report({"worker": slot, "ask": True}, _ns(now_s)).answer
        assert answer is not None
        found = answer.suggestion
        return Trial(
            status=answer.status,
            number=answer.trial,
            attempt=answer.attempt,
            params=answer.params,
            source=answer.source,
            predicted=None if found is None else predicted(found, self._memory.now),
            solver=None if found is None else found.solver,
            reason=answer.reason,
        )

    def tell(
        self,
        number: int,
        metrics: float | Mapping[str, float] | None = None,
        *,
        state: TrialState = "complete",
        worker: str | None = None,
        attempt: int | None = None,
        reason: str | None = None,
        duration_s: float | None = None,
        now_s: float | None = None,
    ) -> str:
        """Report what came of a trial: a number, the objective, or metrics by name.

        Returns what it counted as: ``complete``, ``failed``, ``infeasible`` or ``pruned``; ``late`` if another worker held the
        trial by then, which counts all the same; ``duplicate`` or ``superseded`` if it had a result, which changes nothing;
        ``running`` for a heartbeat; ``released`` for a trial that was handed back (reason PREEMPTED).

        Raises
        ------
        ProblemError
            The trial was never suggested, the objective is missing, or a metric is not a finite number.
        """
        if metrics is not None and not isinstance(metrics, Mapping):
            metrics = {self.spec.objective: metrics}
        trial, attempt = _whole(number), _whole(attempt)
        holder, newest = self._holder(trial, attempt)
        fields = {
            "worker": worker if worker is not None else holder,
            "ask": False,
            "trial": trial,
            "attempt": newest if attempt is None else attempt,
            "state": state,
            "metrics": None if metrics is None else _floats(metrics),
            "reason": None if reason is None else _reason(reason),
            "duration_s": duration_s,
        }
        records = self._report(fields, _ns(now_s)).records
        if not records:
            return "running" if state == "running" else "released"
        (record,) = records
        return "late" if record.late and record.outcome not in ("duplicate", "superseded") else record.outcome

    def add(self, params: Params, metrics: float | Mapping[str, float], now_s: float | None = None) -> int:
        """Enter a result that nobody asked for; the number of its trial. `ProblemError` as in `tell`, and for other params."""
        found = metrics if isinstance(metrics, Mapping) else {self.spec.objective: metrics}
        now_ns = _ns(now_s)
        fields = {"worker": "user", "ask": False, "state": "complete", "metrics": _floats(found), "params": dict(params)}
        # The same result of the same time would count once: each has a time of its own.
        (record,) = self._report(fields, now_ns, sent_ns=now_ns + self._memory.now.trials).records
        return record.trial

    def change(self, spec: StudySpec) -> None:
        """Take another budget, limits, lease, status, prior or options from a frame of the same space.

        `ProblemError` if it would change what the trials mean.
        """
        trials.change(self._memory, spec.model_copy(update={"study": self.spec.study}))
        self._options = HpoOptions().changed(spec.options)

    @property
    def running(self) -> dict[int, str]:
        """The trials that a worker holds, with its name."""
        now = self._memory.now
        return {trial: worker for trial, worker in zip(now.active.tolist(), now.worker, strict=True) if worker != NOBODY}

    @property
    def ended(self) -> bool:
        """Whether there will be no more trials."""
        return self._memory.now.ended

    @property
    def best(self) -> BestPoint | None:
        """The best trial that keeps all limits; None before there is one."""
        return next(iter(self.recommend(1)), None)

    def recommend(self, k: int = 5) -> list[BestPoint]:
        """The `k` best trials that keep all limits, best first."""
        return list(best_points(self._memory.now, k))

    def records(self) -> list[TrialRecord]:
        """What became of each trial that has ended, by number. Of trials before a `load` only the objective and the metrics that
        have a limit are known."""
        now = self._memory.now
        ended = np.flatnonzero(now.outcome != memory.RUNNING).tolist()
        best = {} if self._records.keys() >= set(ended) else _best_until(now, ended)
        return [self._records.get(trial) or _record(now, trial, best[trial]) for trial in ended]

    def history(self) -> list[dict[str, Any]]:
        """What became of each trial that has ended, one row a trial, by number."""
        return [row(record, self.spec.objective) for record in self.records()]

    def to_csv(self, path: str | Path) -> None:
        """Write `history` as CSV, which is a prior for other studies."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            write_csv(self.history(), file)

    def save(self, path: str | Path) -> None:
        """Write the state, whole or not at all, as safetensors: `load` goes on with it, and other studies begin with it."""
        path = Path(path)
        new = path.with_name(path.name + ".new")
        new.write_bytes(self._memory.state().encode(SAFETENSORS))
        new.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A study that was saved. `ProblemError` if the file is none."""
        study = cls.__new__(cls)
        study._adopt(Draft(read_state(Path(path))))
        return study

    def _report(self, fields: Mapping[str, Any], now_ns: int, sent_ns: int | None = None) -> trials.Outcome:
        try:
            report = TrialReport.build(study=self.spec.study, ts_ns=now_ns if sent_ns is None else sent_ns, **fields)
        except FrameError as exc:
            raise ProblemError(str(exc)) from exc
        outcome = trials.report(self._memory, report, now_ns, partial(suggest, options=self._options))
        for record in outcome.records:
            if record.outcome not in ("duplicate", "superseded"):
                self._records[record.trial] = record
        return outcome

    def _holder(self, number: int | None, attempt: int | None) -> tuple[str, int]:
        """Who holds that attempt of a trial (None: the newest), or a name that no worker has; and the newest attempt."""
        now = self._memory.now
        if number is None or not 0 <= number < now.trials:
            return "#", 0
        newest = int(now.attempt[number])
        rows = np.flatnonzero(now.active == number).tolist() if attempt in (None, newest) else []
        return (now.worker[rows[0]] if rows else NOBODY) or "#", newest


def _built(fields: Mapping[str, Any]) -> StudySpec:
    try:
        return StudySpec.build(**fields)
    except FrameError as exc:
        raise ProblemError(str(exc)) from exc


def _changed(options: HpoOptions) -> dict[str, Scalar]:
    """The options that are not as by default."""
    usual = HpoOptions().model_dump()
    return {name: value for name, value in options.model_dump().items() if value != usual[name] and value is not None}


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as frames have them; NumPy's numbers are numbers too."""
    return {name: finite(value, f"metric {name!r}") for name, value in metrics.items()}


def _reason(reason: str) -> FailReason:
    try:
        return FailReason(reason)
    except ValueError as exc:
        raise ProblemError(must_be("reason", f"one of {', '.join(FailReason)}", reason)) from exc


def _whole(number: int | None) -> int | None:
    """Whole numbers of NumPy as those of Python; what is none is refused with the report."""
    return int(number) if isinstance(number, np.integer) else number


def _ns(now_s: float | None) -> int:
    return time.time_ns() if now_s is None else int(finite(now_s, "now_s") * 1e9)


def _record(now: HpoState, trial: int, best: float | None) -> TrialRecord:
    """What the state says of a trial that has ended."""
    complete = now.outcome[trial] == memory.COMPLETE
    metrics = {now.spec.objective: float(now.value[trial])} if complete else {}
    if now.limit_value is not None and now.limit_seen is not None:
        for column, limit in enumerate(now.spec.limits):
            if now.limit_seen[trial, column]:
                metrics[limit.metric] = float(now.limit_value[trial, column])
    return TrialRecord(
        study=now.spec.study,
        trial=trial,
        attempt=int(now.attempt[trial]),
        worker="unknown",
        outcome=_ENDINGS[now.outcome[trial]],
        params=memory.params(now, trial),
        metrics=metrics,
        source=None if now.source[trial] == USER else SOURCES[now.source[trial]],
        asked_ns=int(now.asked_ns[trial]),
        done_ns=int(now.done_ns[trial]),
        best_so_far=best,
    )


def _best_until(now: HpoState, trials: Sequence[int]) -> dict[int, float | None]:
    """The best objective within limits of the trials that had ended when each of these did, by trial."""
    kept = memory.kept_trials(now)
    kept = kept[np.argsort(now.done_ns[kept], kind="stable")]
    sign = memory.sign(now)
    lowest = np.minimum.accumulate(sign * now.value[kept])
    ended = np.searchsorted(now.done_ns[kept], now.done_ns[list(trials)], side="right").tolist()
    return {trial: sign * float(lowest[count - 1]) if count else None for trial, count in zip(trials, ended, strict=True)}
