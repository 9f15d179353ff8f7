"""Surrogate: the next point by a Gaussian process on all results and the expected improvement under it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.hpo import acquisition, feasible, gp, prior
from qstream.hpo.fitting import Thetas, split
from qstream.hpo.options import HpoOptions
from qstream.hpo.problem import Problem, rng, warp
from qstream.threads import one_thread
from schemas.solver import CLASSICAL, Reason, SolverRecord

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]
Index = NDArray[np.int64]

MOST: Final = 400  # results that the posterior is computed from
TRIED: Final = 200  # newest pruned and lost trials that count
FAILED: Final = 150  # failed trials that feasibility is computed from
NOISY: Final = 1e-3  # variance of the noise from which on the best mean counts, and not the best value
CENTRES: Final = 5  # good points around which candidates are drawn
LIKELY: Final = 0.5  # probability that a running trial keeps the limits from which on what it is expected to reach counts
FEWEST: Final = 64  # candidates below which a deadline leaves too little to choose from
_THIN, _SEARCH, _THIN_FAILED = 4, 5, 7  # streams of random numbers
_FIXED_MS, _RESULT_MS = 25.0, 0.04  # what an ask takes without candidates, fit included: once, and for each result
_CANDIDATE_MS = (1.5e-5, 2.5e-8)  # what a candidate takes, for each result and each pair of results


@dataclass(frozen=True, slots=True)
class Proposal:
    """A point, what a model predicts there, and how it was found."""

    unit: Vec  # [d]
    mean: float  # of the warped loss
    std: float
    solver: SolverRecord
    p_feasible: float | None  # that limits are kept and the trial does not fail; None where nothing is known of either
    reason: Reason | None  # why the old study was left out


@one_thread()
def propose(problem: Problem, options: HpoOptions, theta: Vec) -> Proposal | None:
    """The point with the largest score; None if every candidate of a discrete space is taken.

    Parameters
    ----------
    theta : float64 [T]
        Kernel parameters (`fitting.due`).

    Raises
    ------
    NotPositive
        The covariance matrix has no Cholesky factor, whatever jitter is added.
    """
    thetas, at = split(problem, options, theta), _window(problem)
    space, kept = problem.space, feasible.kept(problem)[at]
    x, z = space.features(problem.unit[at]), warp(problem.value)[at]
    known, shift, reason = _losses(problem, thetas, x, z)
    mean = gp.fitted(known, z)  # also of values beyond a prior mean: it is added and taken away
    limits = [] if thetas.feasible is None else feasible.terms(_thinned(problem, at), thetas.feasible)
    if thetas.feasible is None:
        kept = np.ones(len(z), bool)
    terms: list[acquisition.Term] = [*limits]
    if kept.any() or not limits:
        counted = kept if kept.any() else np.ones(len(z), bool)
        best = float((mean if known.noise > NOISY else z)[counted].min())
        # What a running trial is expected to reach is no improvement: else all workers get it.
        running = space.features(problem.pending_unit)
        likely = np.exp(sum((term.value(running) for term in limits), np.zeros(len(running)))) > LIKELY
        best = min(best, float(_mean(known, shift, running)[likely].min(initial=np.inf)))
        terms.insert(0, acquisition.Improvement(_with_others(known, shift, problem), best, shift))
    found = acquisition.maximise(
        terms,
        space,
        centres=problem.unit[at][np.lexsort((mean, ~kept))[:CENTRES]],
        taken=problem.taken if space.discrete else frozenset(),
        rng=rng(problem.seed, _SEARCH, problem.trial),
        candidates=options.candidates,
        starts=options.starts,
    )
    if found is None:
        return None
    unit, score = found
    there = space.features(unit[None])
    _, variance = gp.predict(known, there)
    p_feasible = float(np.exp(sum(float(term.value(there)[0]) for term in limits))) if limits else None
    mean_there, record = float(_mean(known, shift, there)[0]), _record(problem, thetas, known.covariance, score)
    return Proposal(unit, mean_there, float(np.sqrt(variance[0])), record, p_feasible, reason)


def within(options: HpoOptions, results: int) -> HpoOptions | None:
    """The options with as many candidates as `deadline_ms` has room for; None if that is too few.

    By what asks take on one core of a server, and not by a clock: equal problems give equal suggestions.
    """
    if options.deadline_ms is None:
        return options
    n = min(results, MOST)
    left = options.deadline_ms - _FIXED_MS - _RESULT_MS * n
    candidates = int(left / (_CANDIDATE_MS[0] * n + _CANDIDATE_MS[1] * n * n)) if n else options.candidates
    least = min(FEWEST, options.candidates)
    return None if candidates < least else options.model_copy(update={"candidates": min(candidates, options.candidates)})


def _record(problem: Problem, thetas: Thetas, covariance: gp.Covariance, score: float) -> SolverRecord:
    """How a point was found: of a classical kernel the score is the objective, of a quantum one how well it predicts.

    Scores of two processes cannot be compared, each believes its own; densities of the same results can.
    """
    record = SolverRecord(solver="gp", variant=thetas.kernel, n=problem.space.size, seed=problem.seed, objective=score)
    if thetas.compared is None:
        return record
    kernel, twin, control = thetas.compared
    execution = "simulated-statevector" if covariance.layers else CLASSICAL  # choices alone need no qubit
    return record.model_copy(
        update={"execution": execution, "depth": covariance.layers, "objective": kernel, "twin": twin, "control": control}
    )


def _losses(problem: Problem, thetas: Thetas, x: Mat, z: Vec) -> tuple[gp.Posterior, prior.Mean | None, Reason | None]:
    """The process of the losses, the prior mean that it lies on top of, and why there is none although an old study is known."""
    covariance = gp.COVARIANCES[thetas.kernel](problem.space.groups)
    plain = gp.posterior(covariance, thetas.plain, x, z)
    if thetas.old is None or thetas.rest is None:
        return plain, None, None
    shift = prior.mean(prior.learnt(problem, covariance, thetas.old), x, z)
    rest = z - shift.value(x)
    warm = gp.posterior(covariance, thetas.rest, x, rest)
    if prior.misleads(plain, z, warm, rest):
        return plain, None, Reason.PRIOR_MISLEADS
    return warm, shift, None


def _mean(known: gp.Posterior, shift: prior.Mean | None, x: Mat) -> Vec:
    """What is expected at features [B, F]: [B]."""
    mean = gp.predict(known, x)[0]
    return mean if shift is None else mean + shift.value(x)


def _with_others(known: gp.Posterior, shift: prior.Mean | None, problem: Problem) -> gp.Posterior:
    """The process that believes of each running trial what it expects of it.

    Of a pruned or lost one it believes no better than the mean of all losses, which is 0: with less, the place where such trials
    end would be suggested for ever.
    """
    running, tried = (problem.space.features(unit) for unit in (problem.pending_unit, problem.tried_unit[-TRIED:]))
    if not len(tried):
        return gp.extend(known, running) if len(running) else known
    lift = np.maximum(-_mean(known, shift, tried), 0.0)
    return gp.extend(known, np.concatenate([running, tried]), np.r_[np.zeros(len(running)), lift])


def _window(problem: Problem) -> Index:
    """Indices of the results that the posteriors are computed from: a third each the best that keep all limits, the newest and
    drawn."""
    n = len(problem.value)
    if n <= MOST:
        return np.arange(n)
    third = MOST // 3
    kept = np.zeros(n, bool)
    kept[np.lexsort((problem.value, ~feasible.kept(problem)))[:third]] = True
    kept[-third:] = True
    rest = np.flatnonzero(~kept)
    kept[rng(problem.seed, _THIN, problem.trial).permutation(rest)[: MOST - int(kept.sum())]] = True
    return np.flatnonzero(kept)


def _thinned(problem: Problem, at: Index) -> Problem:
    """The problem with these results and, of many failed trials, the newest and drawn ones, half of each: what limits and
    failures are computed from, so that it does not grow with the study."""
    old = max(len(problem.failed_number) - FAILED // 2, 0)
    drawn = rng(problem.seed, _THIN_FAILED, problem.trial).permutation(old)[: FAILED // 2]
    failed = np.sort(np.r_[drawn, np.arange(old, len(problem.failed_number))])
    return replace(
        problem,
        number=problem.number[at],
        unit=problem.unit[at],
        value=problem.value[at],
        limit_value=problem.limit_value[at],
        failed_number=problem.failed_number[failed],
        failed_unit=problem.failed_unit[failed],
    )
