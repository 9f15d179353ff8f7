"""Fitting: which trials kernel parameters are fitted on, so that they are ready before they are needed.

Theta is a function of the settled trials alone: those below a number M that moves in steps behind the running ones. Any order
of arrival gives the same set, and a fit can be computed in another thread from the moment its set is complete.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from qstream.hpo import feasible, gp, prior
from qstream.hpo.options import HpoOptions
from qstream.hpo.problem import Problem, rng, warp
from qstream.threads import one_thread

Vec = NDArray[np.float64]

LEAST: Final = 3  # results from which on theta is fitted
MOST: Final = 150  # results that it is fitted on
EVERY: Final = 10  # settled trials between two choices of a kernel
KERNELS: Final = tuple(gp.COVARIANCES)
_EACH: Final = 40  # trials up to which theta is fitted for each
_STREAM: Final = 3  # of random numbers


@dataclass(frozen=True, slots=True)
class Fit:
    """Kernel parameters that are needed: `key` is a digest of all that they depend on, so that fits of one key are equal."""

    key: str
    trials: int = field(compare=False)  # M: they are fitted on trials with lower numbers
    problem: Problem = field(compare=False)  # of these trials
    options: HpoOptions = field(compare=False)

    def compute(self) -> Vec:
        """Theta float64 [...], as `split` takes it apart; pure, and free of the GIL for most of its time. The last are kept."""
        return _theta(self)


@lru_cache(maxsize=16)
@one_thread()
def _theta(fit: Fit) -> Vec:
    problem, exact = fit.problem, fit.options.exact_objective
    kernel, few = kernel_of(problem, fit.options, fit.trials), len(problem.value) < LEAST
    covariance = gp.COVARIANCES[kernel](problem.space.groups)
    at = thin(problem.value, MOST, rng(problem.seed, _STREAM, fit.trials))
    x, z = problem.space.features(problem.unit[at]), warp(problem.value)[at]
    parts = [np.array([KERNELS.index(kernel), *_compared(fit, kernel)])]
    parts.append(covariance.start() if few else gp.fit(covariance, x, z, exact=exact))
    if warm(problem, fit.options):
        old = prior.fit(problem, covariance)
        rest = z - prior.mean(prior.learnt(problem, covariance, old), x, z).value(x) if len(z) else z
        parts += [old, old if few else gp.fit(covariance, x, rest, exact=exact, near=old)]
    if fit.options.feasibility:
        parts.append(feasible.fit(problem))
    theta = np.concatenate(parts)
    theta.flags.writeable = False
    return theta


class Densities(NamedTuple):
    """Mean leave-one-out log densities of the settled results: under a quantum kernel, its classical twin, its control."""

    kernel: float
    twin: float
    control: float


class Thetas(NamedTuple):
    """The kernel, and how it compares if it is a quantum one; kernel parameters of each process: of the losses; of the old study
    and of what it leaves of the losses, if there is one; of limits and failures, if they count."""

    kernel: str
    compared: Densities | None
    plain: Vec
    old: Vec | None
    rest: Vec | None
    feasible: Vec | None


def split(problem: Problem, options: HpoOptions, theta: Vec) -> Thetas:
    """What `Fit.compute` put together."""
    kernel, compared, theta = KERNELS[int(theta[0])], None, theta[1:]
    if kernel in gp.QUANTUM:
        compared, theta = Densities(*theta[:3].tolist()), theta[3:]
    size = problem.space.size + 2  # of every kernel: length scales, signal, noise
    head = 3 * size if warm(problem, options) else size
    old, rest = (theta[size : 2 * size], theta[2 * size : head]) if head > size else (None, None)
    return Thetas(kernel, compared, theta[:size], old, rest, theta[head:] if options.feasibility else None)


def warm(problem: Problem, options: HpoOptions) -> bool:
    """Whether an older study gives the prior mean."""
    return len(problem.prior_value) >= LEAST and options.warm_start in ("mean", "both")


def due(problem: Problem, options: HpoOptions) -> Fit:
    """The fit that a suggestion for this problem needs."""
    return _fit(problem, options, settled(problem.trial, problem.pending_number))


def upcoming(problem: Problem, options: HpoOptions) -> Fit | None:
    """The fit of the trials that have settled since, if it differs from the one that is due: it can be started."""
    now = settled(problem.trial, problem.pending_number)
    running = int(problem.pending_number.min()) if len(problem.pending_number) else problem.trial
    ready = max((m for m in grid(running) if m <= running), default=0)
    return _fit(problem, options, ready) if ready > now else None


def settled(trial: int, pending: NDArray[np.int64]) -> int:
    """M: the largest of `grid` that lies a lag below the running trials, a quarter of which count as stragglers.

    Parameters
    ----------
    trial
        The number of the trial to suggest.
    pending : int64 [p]
        Numbers of the trials that run, in order.
    """
    low = int(pending[len(pending) // 4]) if len(pending) else trial
    return max((m for m in grid(low) if m <= low - (1 if m < _EACH else m // 25)), default=0)


def grid(most: int) -> list[int]:
    """Values of M up to `most`: 10, 11, ..., 40, then in steps of a twelfth."""
    found = list(range(10, min(most, _EACH) + 1))
    m = _EACH
    while (m := m + max(2, m // 12)) <= most:
        found.append(m)
    return found


def kernel_of(problem: Problem, options: HpoOptions, trials: int) -> str:
    """The kernel that the options name; `auto` takes the one under which the results below trial M, `trials`, are likeliest, each
    left out of a fit to all: Matern of equals."""
    if options.kernel != "auto":
        return options.kernel
    part = _tenth(problem, options, trials)
    if trials < EVERY or len(part.problem.value) < LEAST:
        return "matern"
    return max(KERNELS, key=lambda kernel: _density(part, kernel))


def _compared(fit: Fit, kernel: str) -> tuple[float, ...]:
    """`Densities` of a quantum kernel; of others nothing."""
    part = _tenth(fit.problem, fit.options, fit.trials)
    return (_density(part, kernel), _density(part, "matern"), _density(part, kernel, False)) if kernel in gp.QUANTUM else ()


def _tenth(problem: Problem, options: HpoOptions, trials: int) -> Fit:
    """The trials that kernels are compared on: they change with every `EVERY` settled ones, so that it costs little."""
    return _fit(problem, options, trials // EVERY * EVERY)


@lru_cache(maxsize=1024)
def _density(fit: Fit, kernel: str, entangled: bool = True) -> float:
    """Mean leave-one-out log density of the results under a kernel that is fitted to them, without entangling gates if asked."""
    problem, make = fit.problem, (gp.COVARIANCES if entangled else gp.CONTROLS)[kernel]
    covariance = make(problem.space.groups)
    at = thin(problem.value, MOST, rng(problem.seed, _STREAM, fit.trials))
    x, z = problem.space.features(problem.unit[at]), warp(problem.value)[at]
    theta = covariance.start() if len(z) < LEAST else gp.fit(covariance, x, z, exact=fit.options.exact_objective)
    return float(gp.leave_one_out_density(gp.posterior(covariance, theta, x, z), z).mean())


def thin(value: Vec, most: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Indices of at most `most` values, in order: the best third, and others that are drawn."""
    if len(value) <= most:
        return np.arange(len(value))
    order = np.argsort(value, kind="stable")
    third = most // 3
    return np.sort(np.r_[order[:third], order[third:][random.permutation(len(value) - third)[: most - third]]])


def _fit(problem: Problem, options: HpoOptions, trials: int) -> Fit:
    kept = problem.number < trials if trials else np.ones(len(problem.number), bool)
    part = replace(
        problem,
        trial=trials,
        number=problem.number[kept],
        unit=problem.unit[kept],
        value=problem.value[kept],
        limit_value=problem.limit_value[kept],
        failed_unit=problem.failed_unit[problem.failed_number < trials],
        failed_number=problem.failed_number[problem.failed_number < trials],
        pending_number=problem.pending_number[:0],
        pending_unit=problem.pending_unit[:0],
        tried_number=problem.tried_number[:0],
        tried_unit=problem.tried_unit[:0],
    )
    return Fit(digest(part, options), trials, part, options)


def digest(problem: Problem, options: HpoOptions) -> str:
    """16 hexadecimal digits of all that a suggestion for the problem is computed from."""
    state = xxhash.xxh3_64(f"{problem.space.digest} {problem.trial} {problem.seed} {problem.limits}".encode())
    state.update(options.model_dump_json(exclude={"seed"}).encode())
    for array in (
        problem.number,
        problem.unit,
        problem.value,
        problem.limit_value,
        problem.failed_number,
        problem.failed_unit,
        problem.pending_number,
        problem.pending_unit,
        problem.tried_number,
        problem.tried_unit,
        problem.prior_unit,
        problem.prior_value,
    ):
        state.update(str(array.shape).encode())
        state.update(np.ascontiguousarray(array).tobytes())
    found: str = state.hexdigest()
    return found
