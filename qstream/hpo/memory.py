"""What is remembered of a study: its spec, its trials by number, who runs which, and the problem that they pose."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.hpo.axis import Array
from qstream.hpo.problem import Limit, Problem, used
from qstream.hpo.space import SearchSpace
from qstream.module.draft import Draft
from qstream.module.inforce import InForce
from schemas.control import Scalar
from schemas.frame import Axes, Count, Frame, Inner, Int64
from schemas.hpo import Source, StudySpec
from schemas.power import MaybeNames

# Codes of the arrays `outcome` and `source`: their places here, which must stay.
OUTCOMES: Final = ("running", "complete", "failed", "infeasible", "pruned", "lost")
SOURCES: Final[tuple[Source | None, ...]] = (None, "sobol", "vqc", "gp", "warm")  # None: a user brought the result
RUNNING, COMPLETE, FAILED, INFEASIBLE, PRUNED, LOST = range(len(OUTCOMES))
USER: Final = 0
NOBODY: Final = ""  # the worker of a trial that was given back
Trials = Annotated[NDArray[np.float64], Axes("trials")]
TrialNs = Annotated[NDArray[np.int64], Axes("trials")]
TrialCode = Annotated[NDArray[np.uint8], Axes("trials")]


class HpoState(Frame):
    """One study. Row i of the arrays by trial is trial i; of those by running trial, that of ``worker[i]``, ``active[i]``.

    `spec` is without its prior, whose rows inside of all bounds are `prior_unit` and `prior_value`. `unit` are the trials'
    points, `value` the objective as it was reported (0 where a trial is not complete), `limit_value` the metrics that have a
    limit, where `limit_seen` is 1. `attempt` is the newest one of a trial that runs or is lost, else the one whose result counts.
    `lease_ns` is when a worker must have reported again. `best` is the incumbent, -1 for none, and `in_force` the version in
    which it was published. `exhausted`: no configuration is left. `theta` are kernel parameters, fitted on what `theta_of`
    names: they save time, and nothing depends on them. An array of two axes is None where it would be empty.
    """

    CHUNK_BYTES = 8 << 10

    spec: Annotated[StudySpec, Inner()]
    worker: MaybeNames = ()
    in_force: InForce = Field(default=InForce(), strict=False)
    best: Int64 = -1
    exhausted: bool = False
    ended: bool = False
    prior_dropped: Count = 0
    theta_of: str = Field(default="", max_length=200)
    unit: Annotated[NDArray[np.float64], Axes("trials", "parameters")] | None = None
    value: Trials
    limit_value: Annotated[NDArray[np.float64], Axes("trials", "limits")] | None = None
    limit_seen: Annotated[NDArray[np.uint8], Axes("trials", "limits")] | None = None
    outcome: TrialCode
    attempt: TrialCode
    source: TrialCode
    asked_ns: TrialNs
    done_ns: TrialNs
    active: Annotated[NDArray[np.int32], Axes("running")]
    lease_ns: Annotated[NDArray[np.int64], Axes("running")]
    prior_unit: Annotated[NDArray[np.float64], Axes("prior", "parameters")] | None = None
    prior_value: Annotated[NDArray[np.float64], Axes("prior")]
    theta: Annotated[NDArray[np.float64], Axes("theta")]

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(fresh(StudySpec.example()).now))

    @property
    def trials(self) -> int:
        """How many trials have a number."""
        return len(self.outcome)

    @property
    def asked(self) -> int:
        """How many of them were handed out, and not brought by a user."""
        return int(np.count_nonzero(self.source != USER))


Memory = Draft[HpoState]


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """A spec, equal to itself alone: specs are not compared, since a lookup comes with each record."""

    spec: StudySpec

    def __hash__(self) -> int:
        return id(self.spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.spec is self.spec


def space(state: HpoState) -> SearchSpace:
    """The study's space; the same object for as long as its spec stays."""
    return _space(_Same(state.spec))


@lru_cache(maxsize=1024)
def _space(same: _Same) -> SearchSpace:
    return SearchSpace(same.spec.parameters)


def limits(state: HpoState) -> tuple[Limit, ...]:
    """The limits of metrics, in the spec's order."""
    return tuple(Limit(limit.metric, limit.op, limit.value) for limit in state.spec.limits)


def sign(state: HpoState) -> float:
    """What makes the objective one to be minimised."""
    return 1.0 if state.spec.direction == "minimize" else -1.0


def fresh(spec: StudySpec) -> Memory:
    """A study without trials.

    Raises
    ------
    ProblemError
        Its parameters contradict themselves or each other.
    """
    ints, codes = np.zeros(0, np.int64), np.zeros(0, np.uint8)
    numbers = np.zeros(0)
    draft = Draft(
        HpoState(
            spec=_bare(spec),
            value=numbers,
            outcome=codes,
            attempt=codes,
            source=codes,
            asked_ns=ints,
            done_ns=ints,
            active=ints.astype(np.int32),
            lease_ns=ints,
            prior_value=numbers,
            theta=numbers,
        )
    )
    take_prior(draft, spec)
    return draft


def adopt(draft: Memory, spec: StudySpec) -> None:
    """Another spec of the same space: what is known of metrics that still have a limit stays."""
    old, new = draft.now.spec.limits, spec.limits
    draft.set(spec=_bare(spec))
    if [limit.metric for limit in old] != [limit.metric for limit in new] and draft.now.trials:
        known = {limit.metric: column for column, limit in enumerate(old)}
        columns = [known.get(limit.metric) for limit in new]
        for name in ("limit_value", "limit_seen"):
            draft.set(**{name: _columns(getattr(draft.now, name), columns, draft.now.trials, HpoState.dtypes[name])})
    take_prior(draft, spec)


def take_prior(draft: Memory, spec: StudySpec) -> None:
    """Keep the rows of a spec's prior that are inside of all bounds, and count the others."""
    if spec.prior_points is None or spec.prior_value is None:
        draft.set(prior_unit=None, prior_value=np.zeros(0), prior_dropped=0)
        return
    unit, inside = space(draft.now).from_points(spec.prior_points)
    kept = unit[inside]
    dropped = len(inside) - len(kept)
    draft.set(prior_unit=kept if len(kept) else None, prior_value=spec.prior_value[inside], prior_dropped=dropped)


def append(draft: Memory, unit: Array, *, source: int, asked_ns: int) -> int:
    """A further trial, which runs; its number."""
    now = draft.now
    row = {"value": 0.0, "outcome": RUNNING, "attempt": 0, "source": source, "asked_ns": asked_ns, "done_ns": 0}
    for name, value in row.items():
        draft.set(**{name: _longer(getattr(now, name), np.array([value], HpoState.dtypes[name]))})
    draft.set(unit=_longer(now.unit, unit[None]))
    if now.spec.limits:
        for name in ("limit_value", "limit_seen"):
            draft.set(**{name: _longer(getattr(now, name), np.zeros((1, len(now.spec.limits)), HpoState.dtypes[name]))})
    return now.trials - 1


def problem(state: HpoState, trial: int, seed: int | None = None) -> Problem:
    """What the suggestion of trial number `trial` is computed from; losses are minimised.

    It is what `problem.gather` makes of the same trials, without a look at each: the points are stored as they were decided.
    """
    where = space(state)
    unit = np.zeros((0, where.size)) if state.unit is None else state.unit
    complete = np.flatnonzero(state.outcome == COMPLETE)
    failed = np.flatnonzero((state.outcome == FAILED) | (state.outcome == INFEASIBLE))
    tried = np.flatnonzero((state.outcome == PRUNED) | (state.outcome == LOST))
    pending = np.sort(state.active.astype(np.int64))
    return Problem(
        space=where,
        trial=trial,
        seed=state.spec.seed if seed is None else seed,
        number=complete,
        unit=unit[complete],
        value=sign(state) * state.value[complete],
        limit_value=ratios(state, complete),
        failed_number=failed,
        failed_unit=unit[failed],
        pending_number=pending,
        pending_unit=unit[pending],
        tried_number=tried,
        tried_unit=unit[tried],
        prior_unit=np.zeros((0, where.size)) if state.prior_unit is None else state.prior_unit,
        prior_value=sign(state) * state.prior_value,
        limits=limits(state),
    )


def ratios(state: HpoState, trials: NDArray[np.int64]) -> Array:
    """How much of each limit the trials use, float64 [n, L]; NaN where a metric was not reported."""
    found = np.full((len(trials), len(state.spec.limits)), np.nan)
    if state.limit_value is not None and state.limit_seen is not None:
        for column, limit in enumerate(limits(state)):
            rows = np.flatnonzero(state.limit_seen[trials, column])
            found[rows, column] = used(limit, state.limit_value[trials[rows], column])
    return found


def kept_trials(state: HpoState) -> NDArray[np.int64]:
    """The complete trials that keep all limits, in their order."""
    complete = np.flatnonzero(state.outcome == COMPLETE)
    return complete[(ratios(state, complete) <= 1).all(1)] if state.spec.limits else complete


def best_trials(state: HpoState, count: int) -> list[int]:
    """The complete trials that keep all limits, best first, of equal ones the earliest first; at most `count`."""
    complete = kept_trials(state)
    order = np.argsort(sign(state) * state.value[complete], kind="stable")[:count]
    found: list[int] = complete[order].tolist()
    return found


def params(state: HpoState, trial: int) -> dict[str, Scalar]:
    """The configuration of a trial."""
    assert state.unit is not None
    return space(state).decode(state.unit[trial])


def _bare(spec: StudySpec) -> StudySpec:
    """The spec without its prior, which the state keeps as points of the cube."""
    return spec if spec.prior_value is None else spec.model_copy(update={"prior_points": None, "prior_value": None})


def _columns(array: NDArray[Any] | None, columns: list[int | None], rows: int, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """The columns of an array in another order, zeros where there was none."""
    if not columns:
        return None
    found = np.zeros((rows, len(columns)), dtype)
    for at, column in enumerate(columns):
        if column is not None and array is not None:
            found[:, at] = array[:, column]
    return found


def _longer(array: NDArray[Any] | None, row: NDArray[Any]) -> NDArray[Any]:
    """The array with one more row, read-only, so that the next state shares it."""
    longer = row.copy() if array is None else np.concatenate([array, row])
    longer.flags.writeable = False
    return longer
