"""Problem: what is known of a study as sorted arrays, and where its random numbers come from.

d parameters, n results, f failed trials, p pending ones, m results of an older study, L limits. Objectives are minimised here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.hpo.axis import Array
from qstream.hpo.sobol import sobol as sobol
from qstream.hpo.space import Params, SearchSpace
from schemas.hpo import MetricLimit, TrialState
from schemas.wording import Shown, must_be

Numbers = NDArray[np.int64]
FAILED: tuple[TrialState, ...] = ("failed", "infeasible")
LEAST_PART = 1e-6  # of a lower limit: what is below counts as this, so that its ratio stays finite
LARGEST_RATIO = 1e100  # in size: what uses more of a limit counts as this, so that squares of ratios stay finite
LEAST_BROKEN = math.nextafter(1.0, 2.0)  # ratio of a limit that is broken by less than a float can say


class Limit(NamedTuple):
    """A metric that must stay on one side of a value."""

    metric: str
    op: Literal["<=", ">="]
    value: float


Limits = Mapping[str, float] | Iterable[Limit | MetricLimit]


@dataclass(frozen=True, slots=True)
class Observation:
    """The outcome of a trial; `value` is the objective, to be minimised, and None unless the state is complete."""

    trial: int
    params: Params
    value: float | None
    state: TrialState = "complete"
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """The arrays that a solver sees, each sorted by trial number.

    `trial` is the number of the trial to suggest. `limit_value` is at most 1 where a limit is kept (`ratio`), and NaN where a
    trial did not report the metric. Pruned and lost trials say nothing of losses and failures: they are `tried`, so that they are
    not suggested once more.
    """

    space: SearchSpace
    trial: int
    seed: int
    number: Numbers  # [n]
    unit: Array  # [n, d]
    value: Array  # [n]
    limit_value: Array  # [n, L]
    failed_number: Numbers  # [f]
    failed_unit: Array  # [f, d]
    pending_number: Numbers  # [p]
    pending_unit: Array  # [p, d]
    tried_number: Numbers  # [t]
    tried_unit: Array  # [t, d]
    prior_unit: Array  # [m, d]
    prior_value: Array  # [m]
    limits: tuple[Limit, ...] = ()

    @cached_property
    def taken(self) -> frozenset[bytes]:
        """Keys of all configurations that have been tried or run."""
        return frozenset(self.space.keys(np.concatenate([self.unit, self.failed_unit, self.pending_unit, self.tried_unit])))


def gather(
    space: SearchSpace,
    observations: Iterable[Observation],
    pending: Mapping[int, Params] | None = None,
    trial: int = 0,
    seed: int = 0,
    prior: Iterable[tuple[Params, float]] | None = None,
    limits: Limits | None = None,
) -> Problem:
    """Bring outcomes in any order into the arrays of a problem.

    Raises
    ------
    ProblemError
        A configuration is not of the space, a value is not finite, or a trial occurs twice.
    """
    seen = sorted(observations, key=lambda found: found.trial)
    numbers = [found.trial for found in seen] + sorted(pending or ())
    if twice := {number for number in numbers if numbers.count(number) > 1} if len(set(numbers)) < len(numbers) else set():
        raise ProblemError(must_be("observations and pending", "of distinct trials", Shown(f"trial {min(twice)} twice")))
    complete, kept = [found for found in seen if found.state == "complete"], limits_of(limits)
    failed = [found for found in seen if found.state in FAILED]
    tried = [found for found in seen if found.state == "pruned"]
    running, rows = sorted((pending or {}).items()), list(prior or ())
    return Problem(
        space=space,
        trial=trial,
        seed=seed,
        number=np.array([found.trial for found in complete], np.int64),
        unit=_encode(space, [found.params for found in complete]),
        value=_finite([found.value for found in complete], [f"value of trial {found.trial}" for found in complete]),
        limit_value=_ratios(complete, kept),
        failed_number=np.array([found.trial for found in failed], np.int64),
        failed_unit=_encode(space, [found.params for found in failed]),
        pending_number=np.array([number for number, _ in running], np.int64),
        pending_unit=_encode(space, [params for _, params in running]),
        tried_number=np.array([found.trial for found in tried], np.int64),
        tried_unit=_encode(space, [found.params for found in tried]),
        prior_unit=_encode(space, [params for params, _ in rows]),
        prior_value=_finite([value for _, value in rows], [f"value of prior row {at}" for at in range(len(rows))]),
        limits=kept,
    )


def ratio(limit: Limit, value: float) -> float:
    """How much of a limit one value of its metric uses: `used`."""
    return float(used(limit, np.array([value]))[0])


def used(limit: Limit, value: Array) -> Array:
    """How much of a limit values of its metric use, float64 [n]: at most 1 if it is kept.

    value / limit for an upper limit and limit / value for a lower one, where these are positive; else 1 + their difference.
    """
    upper = limit.op == "<="
    with np.errstate(over="ignore"):
        if limit.value <= 0:
            found = 1.0 + (value - limit.value if upper else limit.value - value)
        else:
            least = max(LEAST_PART * limit.value, math.ulp(0.0))  # a part of the smallest numbers is 0
            found = value / limit.value if upper else limit.value / np.maximum(value, least)
    kept = value <= limit.value if upper else value >= limit.value
    parts: Array = np.where(kept, np.clip(found, -LARGEST_RATIO, 1.0), np.clip(found, LEAST_BROKEN, LARGEST_RATIO))
    return parts


def limits_of(limits: Limits | None) -> tuple[Limit, ...]:
    """Limits from {metric: largest value} or limits of any form; `ProblemError` if a value is not a finite number."""
    if isinstance(limits, Mapping):
        limits = [Limit(metric, "<=", value) for metric, value in limits.items()]
    return tuple(Limit(limit.metric, limit.op, finite(limit.value, f"limit of {limit.metric!r}")) for limit in limits or ())


def finite(value: Any, name: str) -> float:
    """A number of Python, NumPy or PyTorch as a float; `ProblemError`, with the name, if it is none, or not finite."""
    if not isinstance(value, bool | np.bool_ | str | bytes):
        try:
            found = float(value)
        except (TypeError, ValueError, OverflowError):  # OverflowError: a whole number of more than 308 digits
            found = math.nan
        if math.isfinite(found):
            return found
    raise ProblemError(must_be(name, "a finite number", value))


def warp(values: Array) -> Array:
    """Losses as a model sees them, float64 [n]: bad ones pulled in by a logarithm, then mean 0 and deviation 1; equal ones are 0.

    t = (y - median) / s, where s is the RMS of the lower half's distances to the median; t for t <= 0, log(1 + t) above.
    """
    t, _, _ = _bent(values)
    z = t - t.mean() if len(t) else t
    standard: Array = z / z.std() if z.any() else z
    return standard


def unwarp(values: Array, z: Array) -> Array:
    """The losses, float64 [m], that `warp` would take to z if they were among these values."""
    t, median, scale = _bent(values)
    wanted = t.mean() + z * (t.std() or 1.0)
    found = median + scale * np.where(wanted > 0, np.expm1(np.clip(wanted, 0, 700)), wanted)
    size = _size(values)
    most = math.ldexp(np.finfo(np.float64).max, min(-size, 0))
    return np.asarray(np.ldexp(np.clip(found, -most, most), size), np.float64)


def _bent(values: Array) -> tuple[Array, float, float]:
    """t of `warp`, the median and s, both in units of 2^`_size`; s is 0 where all values are equal."""
    if not len(values):
        return np.zeros(0), 0.0, 0.0
    values = np.ldexp(values, -_size(values))
    median = float(np.median(values))
    distance = values - median
    scale = _rms(distance[distance < 0]) or _rms(distance)
    if not scale:
        return np.zeros(len(values)), median, 0.0
    t = distance / scale
    return np.where(t > 0, np.log1p(np.maximum(t, 0)), t), median, scale


def _size(values: Array) -> int:
    """The power of two above all values: divided by it, which rounds nothing, no difference overflows, and no square vanishes."""
    return math.frexp(float(np.abs(values).max(initial=0.0)))[1]


def rng(seed: int, stream: int, trial: int) -> np.random.Generator:
    """The random numbers of one purpose (`stream`) of one trial: Philox, whose counter has a range of its own for each trial."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64), counter=[0, 0, 0, trial]))


def _encode(space: SearchSpace, rows: Sequence[Params]) -> Array:
    return np.stack([space.encode(params) for params in rows]) if rows else np.zeros((0, space.size))


def _finite(values: Sequence[float | None], names: Sequence[str]) -> Array:
    return np.array([finite(value, name) for value, name in zip(values, names, strict=True)], np.float64)


def _ratios(complete: Sequence[Observation], limits: Sequence[Limit]) -> Array:
    found = np.full((len(complete), len(limits)), np.nan)
    for row, seen in enumerate(complete):
        for column, limit in enumerate(limits):
            value = (seen.metrics or {}).get(limit.metric)
            if value is not None:
                found[row, column] = ratio(limit, finite(value, f"{limit.metric} of trial {seen.trial}"))
    return found


def _rms(distance: Array) -> float:
    return math.sqrt(float((distance**2).mean())) if len(distance) else 0.0
