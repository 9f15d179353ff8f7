"""Caps by probe and verify: which cap to measure next, and the best of those that were measured.

A cap counts only when time and power were measured under it. What is not measured yet is drawn from the prior's curves, and the
next cap is that of the largest expected improvement (Jones, Schonlau, Welch 1998) among those that are unlikely to be slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import array, read_only, real_number, whole_number
from qstream.energy.bundled import default_prior
from qstream.energy.fleet import Floats, Ints
from qstream.energy.prior import CapPrior, Curves, posterior
from qstream.energy.sweeps import MAX_LEVELS, ascending_levels, positive
from qstream.errors import ProblemError
from schemas.wording import must_be

MAX_PROBES: Final = 4
_DRAWS: Final = 512
_NUMBERS: Final = 2**18  # drawn at once: more do not stay in a core's cache
_RISK: Final = 0.9  # of the draws that must not be too slow
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
    max_probes: int = MAX_PROBES,
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
        Accepted, such as .05. A probe is proposed only where nine draws of ten are slowed by at most twice this, or 2.6 times
        for one step below the best.
    max_probes
        Levels to measure after the default.

    Raises
    ------
    ProblemError
        An argument breaks a rule.
    """
    at, time, power = _measured(levels, visited, time_s, power_w)
    found = next_caps(
        at,
        time,
        power,
        [gpu],
        prior=prior or default_prior("power_limit_w"),
        max_slowdown=_limit(max_slowdown),
        max_probes=whole_number("max_probes", max_probes, 0, MAX_LEVELS),
        seed=whole_number("seed", seed, 0, 2**63 - 1),
    )
    return int(found[0]) if found[0] >= 0 else None


def next_caps(
    levels: Floats,
    time_s: Floats,
    power_w: Floats,
    gpu: Sequence[str],
    *,
    prior: CapPrior,
    max_slowdown: float,
    max_probes: int = MAX_PROBES,
    seed: int = 0,
) -> Ints:
    """`next_cap` of many jobs at once, each as if alone: int64 [N], -1 to stop.

    Arrays are float64 [N, K], the default last and measured, -1 what was not; `gpu` has the model of each.
    """
    jobs, size = levels.shape
    found, count = np.full(jobs, -1), (time_s > 0).sum(1)
    at_once = max(1, _NUMBERS // (_DRAWS * 2 * size))
    for measured in range(1, min(max_probes, size - 1) + 1):
        alike = np.flatnonzero(count == measured)
        for begin in range(0, len(alike), at_once):
            rows = alike[begin : begin + at_once]
            curves = posterior(prior, [gpu[row] for row in rows], levels[rows], time_s[rows], power_w[rows])
            found[rows] = _chosen(curves, time_s[rows], power_w[rows], max_slowdown, seed)
    return found


def _chosen(curves: Curves, time_s: Floats, power_w: Floats, limit: float, seed: int) -> Ints:
    """The level of each job whose draws promise the most; else one step below the best, if it is likely to be borne; else -1."""
    rows, size = np.arange(len(time_s)), time_s.shape[1]
    width, axes = np.linalg.eigh(curves.covariance)
    drawn = (axes * np.sqrt(np.maximum(width, 0.0))[:, None]) @ _normals(seed, 2 * size) + curves.mean[:, :, None]
    time, power = drawn[:, :size], drawn[:, size:]
    best = best_caps(time_s, power_w, max_slowdown=limit)
    lowest = time_s[rows, best] * power_w[rows, best] / (time_s[:, -1] * power_w[:, -1])
    kept, unseen = time <= np.log1p(limit), time_s <= 0
    safe = unseen & (_chance(time > np.log1p(_PROBE_LIMIT * limit)) <= 1 - _RISK)
    better = np.maximum(lowest[np.nonzero(safe)[0], None] - np.exp(time[safe] + power[safe]), 0.0)
    gain = np.zeros_like(time_s)
    gain[safe] = (better * kept[safe]).mean(1)
    chosen, below = gain.argmax(1), best - 1
    likely = (_chance(kept) >= _STEP_CHANCE) & (_chance(time > np.log1p(_STEP_LIMIT * limit)) <= 1 - _RISK)
    borne = unseen & likely & (np.exp(curves.mean[:, :size]) <= (1 + limit) * _STEP_MEAN)
    step = np.where((below >= 0) & borne[rows, below], below, -1)
    return np.where(gain[rows, chosen] > _LEAST_GAIN, chosen, step)


def _chance(happens: NDArray[np.bool_]) -> Floats:
    """The part of the draws, on the last axis, in which something happens."""
    found: Floats = np.count_nonzero(happens, -1) / happens.shape[-1]
    return found


def best_cap(levels: ArrayLike, visited: ArrayLike, time_s: ArrayLike, power_w: ArrayLike, *, max_slowdown: float = 0.05) -> int:
    """Return the index of the measured level of least energy a unit of work that is not too slow; arguments as `next_cap`."""
    _, time, power = _measured(levels, visited, time_s, power_w)
    return int(best_caps(time, power, max_slowdown=_limit(max_slowdown))[0])


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
    at, took, drew = _measured(levels, visited, time_s, power_w)
    curves = posterior(prior or default_prior("power_limit_w"), [gpu], at, took, drew)
    (mean, spread), size = (curves.mean[0], np.diag(curves.covariance[0])), at.shape[1]
    seen, power = took[0] > 0, drew[0, -1] * np.exp(mean[size:])
    return (
        np.where(seen, took[0], took[0, -1] * np.exp(mean[:size])),
        np.where(seen, drew[0], power),
        np.where(seen, 0.0, power * np.sqrt(np.maximum(spread[size:], 0.0))),
    )


@lru_cache(maxsize=16)
def _normals(seed: int, size: int) -> Floats:
    """The draws of a seed: float64 [size, _DRAWS]."""
    return read_only(np.random.default_rng(seed).standard_normal((_DRAWS, size)).T)


def best_caps(time_s: Floats, power_w: Floats, *, max_slowdown: float) -> Ints:
    """`best_cap` of many jobs at once: int64 [N], from float64 [N, K], the default last and measured, -1 what was not."""
    allowed = (time_s > 0) & (time_s <= time_s[:, -1:] * (1 + max_slowdown + _ROUNDING))
    found: Ints = np.where(allowed, time_s * power_w, np.inf).argmin(1)
    return found


def _limit(max_slowdown: float) -> float:
    return real_number("max_slowdown", max_slowdown, 0, 10)


def _measured(levels: ArrayLike, visited: ArrayLike, time_s: ArrayLike, power_w: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Levels, and time and power at each, -1 where nothing was measured: float64 [1, K] each, checked."""
    at, seen = ascending_levels(levels), array("visited", visited, np.int64, "V")
    last = len(at) - 1
    if not len(seen) or seen[0] != last:
        raise ProblemError(must_be("visited", f"the default's index, {last}, first", seen.tolist()))
    if seen.min() < 0 or seen.max() > last or len(set(seen.tolist())) < len(seen):
        raise ProblemError(must_be("visited", f"different indices from 0 to {last}", seen.tolist()))
    time, power = np.full((1, len(at)), -1.0), np.full((1, len(at)), -1.0)
    time[0, seen], power[0, seen] = positive("time_s", time_s, len(seen)), positive("power_w", power_w, len(seen))
    return at[None], time, power
