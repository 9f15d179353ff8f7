"""Studies and trials of a hyperparameter search: what is searched, what workers report, what they are handed, and the best."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from schemas.control import Scalar
from schemas.digest import Digest
from schemas.frame import Axes, Count, Frame, Name, TimeNs, at_most
from schemas.part import Part
from schemas.plan import Plan, VersionedPlan
from schemas.solver import SolverRecord
from schemas.space import MAX_PARAMETERS, Parameter, When, check_parameters
from schemas.wording import Shown, must_be

MAX_TRIALS: Final = 10_000
MAX_RUNNING: Final = 256
MAX_LIMITS: Final = 8
MAX_METRICS: Final = 100
MAX_PRIOR: Final = 2_000
MAX_HEADER_BYTES: Final = 32_768  # of a study without the arrays of its prior: its state carries it from record to record

Direction = Literal["minimize", "maximize"]
StudyStatus = Literal["open", "paused", "closed"]
TrialState = Literal["running", "complete", "failed", "infeasible", "pruned"]
Outcome = Literal["complete", "failed", "infeasible", "pruned", "lost", "duplicate", "superseded"]
SuggestionStatus = Literal["run", "wait", "done"]
Source = Literal["sobol", "vqc", "gp", "warm", "retry"]

Params = Annotated[dict[Name, Scalar], at_most(MAX_PARAMETERS)]
Metrics = Annotated[dict[Name, float], at_most(MAX_METRICS)]
Attempt = Annotated[int, Field(ge=0, le=255)]


class FailReason(StrEnum):
    """Why a trial gave no result; a closed list, fit for a metric's label."""

    OOM = "OOM"  # out of memory
    NAN = "NAN"  # the loss diverged
    TIMEOUT = "TIMEOUT"
    PREEMPTED = "PREEMPTED"  # the worker was told to stop
    USER = "USER"  # anything else that the program says


class IdleReason(StrEnum):
    """Why an ask was answered without a trial; a closed list, fit for a metric's label."""

    UNKNOWN_STUDY = "unknown_study"  # wait: nothing was published under that name yet
    PAUSED = "paused"  # wait
    MAX_RUNNING = "max_running"  # wait: as many trials run as may
    LAST_TRIALS = "last_trials"  # wait: all are handed out; one that is lost goes out again
    CLOSED = "closed"  # done
    BUDGET_SPENT = "budget_spent"  # done: `max_trials` have ended
    SPACE_EXHAUSTED = "space_exhausted"  # done: every configuration of a discrete space was tried


class MetricLimit(Part):
    """A metric that must stay on one side of a value."""

    metric: Name = Field(description="the metric, a name of `metrics` in reports")
    op: Literal["<=", ">="] = Field(default="<=", description="on which side of the value the metric must be")
    value: float = Field(description="the limit, in the metric's unit")
    unit: str = Field(default="", max_length=40, description="unit of the metric, for people")


class Fidelity(Part):
    """What a cheaper trial has less of, such as epochs. Carried, not used by any optimizer yet."""

    name: Name = Field(description="what is spent, such as epochs")
    low: float = Field(gt=0, description="least of it that says anything")
    high: float = Field(gt=0, description="all of it")
    unit: str = Field(default="", max_length=40, description="unit of it, for people")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(must_be(f"low of fidelity {self.name!r}", f"at most high, {self.high:g}", self.low))
        return self


class StudySpec(Frame):
    """A study: the space, the objective, the budget. The newest record of a name holds; what it changes must fit its trials.

    `prior_points` and `prior_value` are results of an older study of the same parameters, to begin from: numbers as they are,
    choices by their index, and for a parameter that is not active any value that it may have.
    """

    study: Name = Field(description="name of the study")
    ts_ns: TimeNs = Field(description="when it was published, ns since 1970")
    parameters: Annotated[tuple[Parameter, ...], Field(strict=False, min_length=1, max_length=MAX_PARAMETERS)] = Field(
        description="what is searched, in the order of all arrays"
    )
    objective: Name = Field(default="loss", description="the metric that decides")
    direction: Direction = Field(default="minimize", description="whether less or more of it is better")
    limits: Annotated[tuple[MetricLimit, ...], Field(strict=False, max_length=MAX_LIMITS)] = Field(
        default=(), description="limits of other metrics"
    )
    fidelity: Fidelity | None = Field(default=None, description="what a cheaper trial has less of; not used yet")
    max_trials: int = Field(default=200, ge=1, le=MAX_TRIALS, description="trials until the study is done")
    max_running: int = Field(default=64, ge=1, le=MAX_RUNNING, description="trials that may run at one time")
    lease_s: float = Field(
        default=600.0, gt=0, le=2_592_000, description="seconds without a report after which a trial is handed to another worker"
    )
    retries: int = Field(default=2, ge=0, le=10, description="times that a trial is handed out again before it is lost")
    status: StudyStatus = Field(default="open", description="paused: no new trials; closed: none ever")
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of all suggestions")
    options: Annotated[dict[Name, Scalar], at_most(100)] = Field(
        default_factory=dict, description="options of the module that are fixed for this study, by name"
    )
    prior_points: Annotated[NDArray[np.float64], Axes("prior", "parameters")] | None = Field(
        default=None, description="configurations of an older study"
    )
    prior_value: Annotated[NDArray[np.float64], Axes("prior")] | None = Field(
        default=None, description="the objective of each, as it was measured"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_parameters(self.parameters)
        metrics = [limit.metric for limit in self.limits]
        if twice := [metric for at, metric in enumerate(metrics) if metric in (*metrics[:at], self.objective)]:
            raise ValueError(must_be("limits", "one a metric, none of the objective", Shown(f"{twice[0]!r} again")))
        rows = 0 if self.prior_value is None else len(self.prior_value)
        if (self.prior_points is None) != (self.prior_value is None):
            raise ValueError(must_be("prior_value", "given where prior_points are, and only there", Shown(f"{rows} values")))
        if self.prior_points is not None and self.prior_points.shape[1] != len(self.parameters):
            rule = f"a number for each of {len(self.parameters)} parameters"
            raise ValueError(must_be("prior_points", rule, Shown(f"{self.prior_points.shape[1]} a row")))
        if rows > MAX_PRIOR:
            raise ValueError(must_be("length of prior_value", f"at most {MAX_PRIOR} rows", rows))
        size = len(self.__pydantic_serializer__.to_json(self, exclude=self.array_names, exclude_none=True))
        if size > MAX_HEADER_BYTES:
            raise ValueError(must_be("a study without its prior", f"at most {MAX_HEADER_BYTES} bytes", size))
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            study="lm-small",
            ts_ns=1_700_000_000_000_000_000,
            parameters=(
                Parameter(name="lr", type="float", low=1e-5, high=0.1, scale="log", default=1e-3),
                Parameter(name="batch_size", type="ordinal", choices=(16, 32, 64)),
                Parameter(name="optimizer", type="categorical", choices=("adam", "sgd")),
                Parameter(name="momentum", type="float", low=0.0, high=0.99, when=When(parameter="optimizer", values=("sgd",))),
            ),
            limits=(MetricLimit(metric="step_ms", value=40.0, unit="ms"),),
            options={"optimizer": "gp"},
            prior_points=np.array([[3e-4, 1, 0, 0.5], [1e-2, 2, 1, 0.9]]),
            prior_value=np.array([2.31, 2.9]),
        )


class TrialReport(Frame):
    """What a worker says: it is free, its trial still runs, or its trial has ended; a result and an ask in one record.

    Without `state` it is a bare ask, with ``running`` a heartbeat. A result without `trial` is of `params` that were never
    suggested. The order of reports is that of the topic, in the broker's time.
    """

    study: Name = Field(description="the study")
    worker: Name = Field(description="the slot that reports, which runs one trial at a time")
    ts_ns: TimeNs = Field(description="when it was sent, ns since 1970")
    ask: bool = Field(default=True, description="whether the worker is free after this report, and wants a trial")
    trial: Count | None = Field(default=None, lt=MAX_TRIALS, description="number of the trial that is reported on")
    attempt: Attempt = Field(default=0, description="attempt of the trial, as suggested")
    state: TrialState | None = Field(default=None, description="what became of the trial; absent: a bare ask")
    metrics: Metrics | None = Field(default=None, description="values by name; a complete trial has the objective")
    reason: FailReason | None = Field(default=None, strict=False, description="why it failed")
    step: Count | None = Field(default=None, description="training step of the metrics")
    fidelity: float | None = Field(default=None, gt=0, description="how much of the study's fidelity was spent")
    duration_s: float | None = Field(default=None, ge=0, description="how long the trial took, s")
    gpu_s: float | None = Field(default=None, ge=0, description="GPU seconds that it took")
    params: Params | None = Field(default=None, description="the configuration of a result that was never suggested")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.state is None and (self.trial is not None or self.params is not None or self.metrics is not None):
            raise ValueError(must_be("state", "given where a trial, params or metrics are", self.state))
        if self.state is not None and (self.trial is None) == (self.params is None):
            got = "both" if self.params is not None else "neither"
            raise ValueError(must_be("a report with a state", "of a trial or of params", Shown(got)))
        if self.state == "running" and (self.trial is None or self.ask):
            got = "of params" if self.trial is None else "with ask"
            raise ValueError(must_be("a heartbeat", "of a trial, without an ask", Shown(got)))
        if self.state == "complete" and not self.metrics:
            raise ValueError(must_be("metrics", "given where state is complete", self.metrics))
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            study="lm-small",
            worker="node-3/gpu-0",
            ts_ns=1_700_000_060_000_000_000,
            trial=7,
            state="complete",
            metrics={"loss": 2.41, "step_ms": 31.5},
            duration_s=58.2,
        )


class Prediction(Part):
    """What a model expects of a configuration, in the objective's unit."""

    mean: float = Field(description="expected value")
    std: float = Field(ge=0, description="standard deviation")


class Basis(Part):
    """What a suggestion was computed from: the same basis gives the same suggestion."""

    observations: Count = Field(description="results that were known")
    pending: Annotated[tuple[Count, ...], Field(strict=False, max_length=MAX_RUNNING)] = Field(
        default=(), description="trials that were running"
    )
    digest: Digest = Field(description="of the observations, the pending trials, the space, the options and the seed")


class TrialSuggestion(Plan):
    """The one answer to an ask: a trial to run, or to wait, or that the study is done."""

    study: Name = Field(description="the study")
    worker: Name = Field(description="the slot that asked")
    status: SuggestionStatus = Field(description="run the trial; wait and ask again; done: there will be none")
    trial: Count | None = Field(default=None, lt=MAX_TRIALS, description="number of the trial to run")
    attempt: Attempt = Field(default=0, description="how often the trial was handed out before; the report repeats it")
    params: Params = Field(default_factory=dict, description="the configuration; parameters that are not active are absent")
    lease_s: float | None = Field(default=None, gt=0, description="seconds within which the next report must come")
    retry_after_s: float | None = Field(default=None, gt=0, description="seconds after which to ask again")
    reason: IdleReason | None = Field(default=None, strict=False, description="why there is nothing to run")
    source: Source | None = Field(default=None, description="what proposed the configuration")
    repeated: bool = Field(default=False, description="whether the worker held this trial already")
    predicted: Prediction | None = Field(default=None, description="what the model expects of it")
    p_feasible: float | None = Field(default=None, ge=0, le=1, description="probability that it ends and keeps all limits")
    model: Basis | None = Field(default=None, description="what the suggestion was computed from")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = {"trial": self.trial, "lease_s": self.lease_s, "source": self.source, "params": self.params or None}
        for name, value in given.items():
            if (value is None) == (self.status == "run"):
                raise ValueError(must_be(name, "given where status is run, and only there", value))
        if (self.reason is None) != (self.status == "run"):
            raise ValueError(must_be("reason", "given where status is wait or done, and only there", self.reason))
        if (self.retry_after_s is None) == (self.status == "wait"):
            raise ValueError(must_be("retry_after_s", "given where status is wait, and only there", self.retry_after_s))
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            plan_id="qstream.hpo.trial.v1/2/41/0",
            ts_ns=1_700_000_060_010_000_000,
            ttl_s=600.0,
            solver=SolverRecord(solver="gp", n=4),
            study="lm-small",
            worker="node-3/gpu-0",
            status="run",
            trial=12,
            params={"lr": 0.000812, "batch_size": 32, "optimizer": "adam"},
            lease_s=600.0,
            source="gp",
            predicted=Prediction(mean=2.29, std=0.06),
            p_feasible=0.97,
            model=Basis(observations=9, pending=(9, 10, 11), digest="0f1e2d3c4b5a6978"),
        )


class TrialRecord(Frame):
    """What became of a trial, once for each outcome: the history from which a study can be built again."""

    study: Name = Field(description="the study")
    trial: Count = Field(lt=MAX_TRIALS, description="number of the trial")
    attempt: Attempt = Field(default=0, description="attempt that the outcome is of")
    worker: Name = Field(description="the slot that reported")
    outcome: Outcome = Field(
        description="lost: too many workers went silent; duplicate: it has a result already; superseded: a late result came first"
    )
    late: bool = Field(default=False, description="whether the worker no longer held the trial; the result counts all the same")
    params: Params = Field(description="the configuration")
    metrics: Metrics = Field(default_factory=dict, description="values by name, as reported")
    reason: FailReason | None = Field(default=None, strict=False, description="why it failed")
    source: Source | None = Field(default=None, description="what proposed the configuration; absent: a user did")
    asked_ns: TimeNs = Field(description="when the trial was handed out, ns since 1970")
    done_ns: TimeNs = Field(description="when the outcome came, ns since 1970")
    best_so_far: float | None = Field(default=None, description="best objective of the study with this outcome")

    @classmethod
    def example(cls) -> Self:
        return cls(
            study="lm-small",
            trial=7,
            worker="node-3/gpu-0",
            outcome="complete",
            params={"lr": 0.0021, "batch_size": 64, "optimizer": "sgd", "momentum": 0.87},
            metrics={"loss": 2.41, "step_ms": 31.5},
            source="vqc",
            asked_ns=1_700_000_001_000_000_000,
            done_ns=1_700_000_060_000_000_000,
            best_so_far=2.38,
        )


class BestPoint(Part):
    """A recommended configuration."""

    trial: Count = Field(lt=MAX_TRIALS, description="number of the trial")
    params: Params = Field(description="the configuration")
    value: float = Field(description="the objective, as measured")
    predicted: float | None = Field(default=None, description="the objective, as the model expects it without noise")


class StudyBest(VersionedPlan):
    """The recommended configurations of a study, best first: when the best changes, and when the study ends."""

    study: Name = Field(description="the study")
    finished: Count = Field(description="trials that have a result")
    running: Count = Field(description="trials that run")
    failed: Count = Field(description="trials that failed, or were lost")
    ended: bool = Field(default=False, description="whether the study is done")
    points: Annotated[tuple[BestPoint, ...], Field(strict=False, max_length=64)] = Field(
        default=(), description="the best configurations that keep the limits, best first"
    )

    @classmethod
    def example(cls) -> Self:
        return cls(
            plan_id="qstream.hpo.trial.v1/2/57/1",
            ts_ns=1_700_000_090_000_000_000,
            solver=SolverRecord(solver="gp", n=4),
            version=3,
            base_version=2,
            study="lm-small",
            finished=17,
            running=4,
            failed=1,
            points=(
                BestPoint(trial=12, params={"lr": 0.000812, "batch_size": 32, "optimizer": "adam"}, value=2.27, predicted=2.28),
            ),
        )
