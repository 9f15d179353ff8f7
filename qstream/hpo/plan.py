"""Suggest: the next configuration as a pure function of (observations, pending trials, trial number, seed).

The portfolio: Sobol points first, then the circuit, the Gaussian process, or one after the other; what could not answer is
named by `fallback_reason`, never silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.hpo import feasible, fitting, prior, surrogate, vqc
from qstream.hpo.fitting import Fit
from qstream.hpo.gp import NotPositive
from qstream.hpo.options import HpoOptions
from qstream.hpo.problem import Limits, Observation, Problem, gather, rng, sobol, unwarp
from qstream.hpo.space import Params, SearchSpace
from schemas.control import Scalar
from schemas.hpo import Source
from schemas.solver import Reason, SolverRecord
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    from qstream.quantum.runtime import QuantumRuntime

Vec = NDArray[np.float64]
Model = Literal["gp", "vqc", "sobol"]

AUTO_HYBRID: Final = 16  # parameters up to which auto is hybrid
WITH_PRIOR: Final = 3  # Sobol points before the model where an older study is known
LEAST: Final = 5  # results before any model
_FREE = 6  # stream of random numbers
_DRAWN, _DRAWS = 256, 64  # points a draw, and draws, in search of one that is not taken


class Exhausted(ProblemError):
    """Every configuration of a discrete space was tried or is running: there is nothing to suggest."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the model expects of a configuration, in the objective's own units."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True, eq=False)
class Suggestion:
    """The next configuration, where it came from and what is expected of it."""

    params: dict[str, Scalar]
    unit: Vec  # [d]
    source: Source
    predicted: Predicted | None
    p_feasible: float | None
    solver: SolverRecord
    fallback_reason: Reason | None
    digest: str  # 16 hexadecimal digits of all that it was computed from


def suggest(
    space: SearchSpace,
    observations: Iterable[Observation],
    *,
    pending: Mapping[int, Params] | None = None,
    trial: int = 0,
    seed: int = 0,
    options: HpoOptions | None = None,
    prior: Iterable[tuple[Params, float]] | None = None,
    limits: Limits | None = None,
) -> Suggestion:
    """The configuration that trial number `trial` should evaluate. Pure: any order of observations gives the same bytes.

    Parameters
    ----------
    observations
        Outcomes of trials, in any order; values are minimised.
    pending
        Configurations that run now, by trial number.
    trial
        Number of the trial to suggest.
    seed
        Of everything that is drawn.
    prior
        Results of an older study of the same space.
    limits
        The largest value of other metrics by name, or `Limit`s.

    Raises
    ------
    ProblemError
        An observation is not of the space, or occurs twice.
    Exhausted
        Every configuration of a discrete space is taken.
    """
    return suggest_from(gather(space, observations, pending, trial, seed, prior, limits), options or HpoOptions())


def suggest_from(
    problem: Problem,
    options: HpoOptions,
    *,
    theta: Vec | None = None,
    runtime: Callable[[], QuantumRuntime] | None = None,
) -> Suggestion:
    """`suggest` on arrays. `theta` is what ``fit_due(problem, options).compute()`` gives, where it is known already.

    `runtime` gives the one where the options' device is found. What a device chose can be repeated only if it is simulated.
    """
    cardinality = problem.space.cardinality
    if cardinality is not None and len(problem.taken) >= cardinality:
        raise Exhausted(must_be("a discrete space", "larger than what was tried", Shown(f"{cardinality} configurations")))
    if (old := _replayed(problem, options)) is not None:
        return _suggestion(problem, options, old, "warm", None, None)
    model, reason = choose(problem, options)
    if model == "gp":
        try:
            theta = fitting.due(problem, options).compute() if theta is None else theta
            effort = surrogate.within(options, len(problem.value)) or options
            found = surrogate.propose(problem, effort, theta)
        except NotPositive:
            found, reason = None, Reason.ERROR
        if found is not None:
            return _suggestion(problem, options, found.unit, "gp", reason or found.reason, found)
    if model == "vqc" and (end := vqc.propose(_kept(problem), options, device=_device(problem, options, runtime))) is not None:
        found = surrogate.Proposal(end.unit, end.mean, end.deviation, end.solver, None, end.fallback_reason)
        return _suggestion(problem, options, end.unit, "vqc", end.fallback_reason, found)
    return _suggestion(problem, options, first_points(problem), "sobol", reason, None)


def fit_due(problem: Problem, options: HpoOptions) -> Fit | None:
    """The kernel parameters that `suggest_from` needs for this problem; None if it needs none."""
    return fitting.due(problem, options) if choose(problem, options)[0] == "gp" else None


def fit_next(problem: Problem, options: HpoOptions) -> Fit | None:
    """The kernel parameters that will be due next and can be computed already; None if there are none."""
    return fitting.upcoming(problem, options) if choose(problem, options)[0] == "gp" else None


def choose(problem: Problem, options: HpoOptions) -> tuple[Model, Reason | None]:
    """Which model answers, and why it is not the one that was asked for."""
    warm = fitting.warm(problem, options)
    initial = min(options.initial, WITH_PRIOR) if warm else options.initial
    if options.optimizer == "sobol" or problem.trial < initial or len(problem.value) < min(LEAST, initial):
        return "sobol", None
    if problem.value.min(initial=np.inf) >= problem.value.max(initial=-np.inf):
        return "sobol", None  # all values are equal: there is nothing to learn from
    optimizer = options.optimizer
    if optimizer == "auto":
        optimizer = "hybrid" if problem.space.size <= AUTO_HYBRID else "gp"
    # An older study has explored already, and the circuit knows neither limits nor where trials fail.
    bounded = options.feasibility and (len(problem.limits) > 0 or len(problem.failed_number) > 0)
    explores = optimizer == "hybrid" and problem.trial < options.explore and not warm and not bounded
    if optimizer == "vqc" or explores:
        return "vqc", None
    if surrogate.within(options, len(problem.value)) is None:
        return "sobol", Reason.DEADLINE_INSUFFICIENT
    return "gp", None


def _device(problem: Problem, options: HpoOptions, runtime: Callable[[], QuantumRuntime] | None) -> vqc.Device | None:
    """What makes the circuit's last choice, if the options name a device."""
    if options.device is None:
        return None
    from qstream.hpo.last_choice import on_device  # noqa: PLC0415 loads the devices' part of the engine

    return on_device(options, runtime, problem.seed + problem.trial)


def _kept(problem: Problem) -> Problem:
    """The problem for a model that knows no limits: results that break one count as the worst."""
    kept = feasible.kept(problem)
    return problem if kept.all() else replace(problem, value=np.where(kept, problem.value, problem.value.max()))


def _replayed(problem: Problem, options: HpoOptions) -> Vec | None:
    """The old study's best point whose turn it is, unless it was tried already."""
    if options.warm_start not in ("topk", "both") or problem.trial >= prior.REPLAYED:
        return None
    best = prior.best(problem, prior.REPLAYED)[problem.trial : problem.trial + 1]
    return best[0] if len(best) and problem.space.keys(best)[0] not in problem.taken else None


def first_points(problem: Problem) -> Vec:
    """The Sobol point of the trial's number or, where that is taken in a discrete space, one that is drawn and not taken."""
    space = problem.space
    point = space.snap(sobol(space.size, problem.seed, problem.trial)[None])
    if not space.discrete:
        return np.asarray(point[0], np.float64)
    random = rng(problem.seed, _FREE, problem.trial)
    for drawn in (point, *(space.snap(random.random((_DRAWN, space.size))) for _ in range(_DRAWS))):
        for row, key in zip(drawn, space.keys(drawn), strict=True):
            if key not in problem.taken:
                return np.asarray(row, np.float64)
    raise Exhausted(
        must_be("a discrete space", "larger than what was tried", Shown(f"{len(problem.taken)} of {space.cardinality} tried"))
    )


def _suggestion(
    problem: Problem,
    options: HpoOptions,
    unit: Vec,
    source: Source,
    reason: Reason | None,
    found: surrogate.Proposal | None,
) -> Suggestion:
    predicted = None
    if found is not None:
        low, mean, high = unwarp(problem.value, np.array([found.mean - found.std, found.mean, found.mean + found.std]))
        predicted = Predicted(float(mean), float(high / 2 - low / 2))
    asked = (options.optimizer,) if options.optimizer in ("gp", "vqc", "sobol") else ("vqc", "gp")
    record = SolverRecord(solver=source, n=problem.space.size, seed=problem.seed) if found is None else found.solver
    return Suggestion(
        params=problem.space.decode(unit),
        unit=unit,
        source=source,
        predicted=predicted,
        p_feasible=None if found is None else found.p_feasible,
        solver=record.model_copy(update={"asked": asked}),
        fallback_reason=reason,
        digest=fitting.digest(problem, options),
    )
