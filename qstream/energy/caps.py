"""Caps by probe and verify: which cap to measure next, and the best of those that were measured.

A cap counts only when time and power were measured under it. What is not measured yet is drawn from the prior's curves, and the
next cap is that of the largest expected improvement (Jones, Schonlau, Welch 1998) among those that are unlikely to be slow.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from qstream.arguments import array, read_only, real_number, whole_number
from qstream.energy.bundled import default_prior
from qstream.energy.fleet import Floats, Ints
from qstream.energy.prior import CapPrior, posterior
from qstream.energy.sweeps import MAX_LEVELS, ascending_levels, positive
from qstream.errors import ProblemError
from schemas.wording import must_be

_DRAWS: Final = 512
_RISK: Final = 0.9  # quantile of slowdown that counts
_PROBE_LIMIT: Final = 2.0  # of the accepted slowdown: what a probe may come to
_STEP_LIMIT: Final = 2.6  # the same of a step below the best
_STEP_MEAN: Final = 1.05  # and what its mean time may be, over the accepted one
_STEP_CHANCE: Final = 0.1
_LEAST_GAIN: Final = 0.001  # of the default's energy, expected: a probe for less is not worth it
_ROUNDING: Final = 1e-9


def next_cap(
    levels: ArrayLike,
    visited: ArrayLike,
    time_s: ArrayLike,
    power_w: ArrayLike,
    *,
    prior: CapPrior | None = None,
    gpu: str = "",
    max_slowdown: float = 0.05,
    max_probes: int = 4,
    seed: int = 0,
) -> int | None:
    """Return the index of the level to measure next, or None to stop.

    Parameters
    ----------
    levels : float64 [K]
        Power limits in W or SM clocks in MHz, ascending; the last is the default.
    visited : int [V]
        Indices of the levels measured so far, the default first.
    time_s, power_w : float64 [V]
        What was measured there: seconds for a unit of work, and mean watts.
    prior
        Of the same knob; by default the bundled one of power limits.
    gpu
        The GPU's model: past sweeps of the same one count more.
    max_slowdown
        Accepted, such as .05. A probe is proposed only where the 90 % quantile of its slowdown is at most twice this, or 2.6
        times for one step below the best.
    max_probes
        Levels to measure after the default.

    Raises
    ------
    ProblemError
        An argument breaks a rule.
    """
    at, seen, took, drew = _measured(levels, visited, time_s, power_w)
    limit, probes = _limit(max_slowdown), whole_number("max_probes", max_probes, 0, MAX_LEVELS)
    if len(seen) > probes or len(seen) == len(at):
        return None
    curves = posterior(prior or default_prior("power_limit_w"), gpu, at, seen, took, drew)
    normal = _normals(whole_number("seed", seed, 0, 2**63 - 1), 2 * len(at))
    width, axes = np.linalg.eigh(curves.covariance)
    drawn = curves.mean + normal @ (axes * np.sqrt(np.maximum(width, 0.0))).T
    slow, energy = np.expm1(drawn[:, : len(at)]), np.exp(drawn[:, : len(at)] + drawn[:, len(at) :])
    best = _best(seen, took, drew, limit)
    lowest = float((took * drew)[seen == best][0] / (took[0] * drew[0]))
    improvement = (np.maximum(lowest - energy, 0.0) * (slow <= limit)).mean(0)
    risk = np.quantile(slow, _RISK, axis=0)
    improvement[seen] = 0.0
    improvement[risk > _PROBE_LIMIT * limit] = 0.0
    chosen = int(improvement.argmax())
    if improvement[chosen] > _LEAST_GAIN:
        return chosen
    below = best - 1
    if below < 0 or below in seen:
        return None
    mean_time = float(np.exp(curves.mean[below]))
    likely = float((slow[:, below] <= limit).mean()) >= _STEP_CHANCE
    bearable = mean_time <= (1 + limit) * _STEP_MEAN and risk[below] <= _STEP_LIMIT * limit
    return below if likely and bearable else None


def best_cap(levels: ArrayLike, visited: ArrayLike, time_s: ArrayLike, power_w: ArrayLike, *, max_slowdown: float = 0.05) -> int:
    """Return the index of the measured level of least energy a unit of work that is not too slow; arguments as `next_cap`."""
    _, seen, took, drew = _measured(levels, visited, time_s, power_w)
    return _best(seen, took, drew, _limit(max_slowdown))


def predict_levels(
    levels: ArrayLike,
    visited: ArrayLike,
    time_s: ArrayLike,
    power_w: ArrayLike,
    *,
    prior: CapPrior | None = None,
    gpu: str = "",
) -> tuple[Floats, Floats, Floats]:
    """Return time, power and the standard deviation of power at all levels, float64 [K] each; arguments as `next_cap`.

    What was measured stands as measured, without a deviation.
    """
    at, seen, took, drew = _measured(levels, visited, time_s, power_w)
    curves = posterior(prior or default_prior("power_limit_w"), gpu, at, seen, took, drew)
    time, power = took[0] * np.exp(curves.mean[: len(at)]), drew[0] * np.exp(curves.mean[len(at) :])
    deviation = power * np.sqrt(np.maximum(np.diag(curves.covariance)[len(at) :], 0.0))
    time[seen], power[seen], deviation[seen] = took, drew, 0.0
    return time, power, deviation


@lru_cache(maxsize=16)
def _normals(seed: int, size: int) -> Floats:
    """The draws of a seed: float64 [_DRAWS, size]."""
    return read_only(np.random.default_rng(seed).standard_normal((_DRAWS, size)))


def best_caps(time_s: Floats, power_w: Floats, *, max_slowdown: float) -> Ints:
    """`best_cap` of many jobs at once: int64 [N], from float64 [N, K], the default last and measured, -1 what was not."""
    allowed = (time_s > 0) & (time_s <= time_s[:, -1:] * (1 + max_slowdown + _ROUNDING))
    found: Ints = np.where(allowed, time_s * power_w, np.inf).argmin(1)
    return found


def _best(seen: Ints, took: Floats, drew: Floats, limit: float) -> int:
    found = best_caps(took[None, ::-1], drew[None, ::-1], max_slowdown=limit)
    return int(seen[::-1][found[0]])


def _limit(max_slowdown: float) -> float:
    return real_number("max_slowdown", max_slowdown, 0, 10)


def _measured(
    levels: ArrayLike, visited: ArrayLike, time_s: ArrayLike, power_w: ArrayLike
) -> tuple[Floats, Ints, Floats, Floats]:
    at, seen = ascending_levels(levels), array("visited", visited, np.int64, "V")
    last = len(at) - 1
    if not len(seen) or seen[0] != last:
        raise ProblemError(must_be("visited", f"the default's index, {last}, first", seen.tolist()))
    if seen.min() < 0 or seen.max() > last or len(set(seen.tolist())) < len(seen):
        raise ProblemError(must_be("visited", f"different indices from 0 to {last}", seen.tolist()))
    return at, seen, positive("time_s", time_s, len(seen)), positive("power_w", power_w, len(seen))
