"""Forecasters of the mean of the next h samples, each a kernel over series side by side; `forecast` mixes them.

Axes: series S, past P (value number i stands at ``i % P``), lags L, candidates K. `steps` is the count of values in the ring.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qstream.kernels import compiled

MEAN_OF: Final = 30
VALUE_MAX: Final = 1e30  # a larger value counts as this one: the past is kept as float32
RIDGE: Final = 100.0  # covariance of the weights before anything was seen, of values scaled to 1
_TRACE_MAX: Final = 1e6  # a constant input lets the covariance grow without end
_WEIGHT_MAX: Final = 1e6
_OVER: Final = 1.2  # of the largest value seen, beyond which no regression is believed
_FADE: Final = 4.0  # steps over which a difference between windows loses e-fold weight
_FEW, _MANY, _LONG = 6, 8, 20  # the nearest windows that count: six of long ones, eight of others


@compiled
def ewma(value: Any, rates: Any, first: Any, level: Any) -> None:
    """Move the levels [S, rates] towards the values [S]; onto them if they are the first. A rate of 1 is the last value."""
    for s in range(len(value)):
        for r in range(len(rates)):
            level[s, r] += (1.0 if first else rates[r]) * (value[s] - level[s, r])


@compiled
def mean_of_last(past: Any, steps: Any, count: Any, mean: Any) -> None:
    """Fill `mean` [S] with the mean of the last `count` values, of fewer where there are no more."""
    rows, size = past.shape
    n = min(count, steps)
    for s in range(rows):
        total = 0.0
        for i in range(steps - n, steps):
            total += past[s, i % size]
        mean[s] = total / n


@compiled
def cycle(horizon: Any, season: Any) -> Any:
    """The least multiple of the season that is not shorter than the horizon; 0 without a season."""
    return season * ((horizon + season - 1) // season) if season > 0 else 0


@compiled
def seasonal(past: Any, steps: Any, horizon: Any, season: Any, mean: Any) -> None:
    """Fill `mean` [S] with the mean of the same samples one season before, or of as many as lie before the horizon."""
    rows, size = past.shape
    back = cycle(horizon, season)
    for s in range(rows):
        total = 0.0
        for i in range(steps - back, steps - back + horizon):
            total += past[s, i % size]
        mean[s] = total / horizon


@compiled
def rls(
    past: Any, steps: Any, horizon: Any, target: Any, forgetting: Any, largest: Any, weight: Any, cov: Any, mean: Any
) -> None:
    """Recursive least squares (Plackett 1950) on the last L values: learn that `target` [S] came after the values of `horizon`
    steps ago, then fill `mean` [S] with the forecast from the newest. `weight` [S, L] and `cov` [S, L, L] change in place.

    Values are scaled by the `largest` [S] seen; forecasts stay within 1.2 times of it.
    """
    rows, size = past.shape
    lags = weight.shape[1]
    x, gain = np.empty(lags), np.empty(lags)
    for s in range(rows):
        scale = largest[s] if largest[s] > 0 else 1.0
        if steps >= lags + horizon:
            for i in range(lags):
                x[i] = past[s, (steps - 1 - horizon - i) % size] / scale
            spread, said = forgetting, 0.0
            for i in range(lags):
                gain[i] = 0.0
                for j in range(lags):
                    gain[i] += cov[s, i, j] * x[j]
                spread += gain[i] * x[i]
                said += weight[s, i] * x[i]
            error, trace, most = target[s] / scale - said, 0.0, 0.0
            for i in range(lags):
                weight[s, i] += error * gain[i] / spread
                most = max(most, abs(weight[s, i]))
                for j in range(i + 1):
                    cov[s, i, j] = (cov[s, i, j] - gain[i] * gain[j] / spread) / forgetting
                    cov[s, j, i] = cov[s, i, j]
                trace += cov[s, i, i]
            if not (0 <= trace <= _TRACE_MAX):
                for i in range(lags):
                    for j in range(lags):
                        cov[s, i, j] = RIDGE if i == j else 0.0
            if not most <= _WEIGHT_MAX:
                for i in range(lags):
                    weight[s, i] = 0.0
        said = 0.0
        for i in range(min(lags, steps)):
            said += weight[s, i] * past[s, (steps - 1 - i) % size]
        mean[s] = min(max(said, -_OVER * largest[s]), _OVER * largest[s])


@compiled
def analog(past: Any, steps: Any, horizon: Any, length: Any, mean: Any) -> Any:
    """Fill `mean` [S] with the median of what followed the windows of the past that are most like the last `length` values.

    The distance is the sum of absolute differences, which fade with their age. Only windows count that ended at least `horizon`
    ago. False, and nothing is filled, if there are too few.
    """
    rows, size = past.shape
    n = min(steps, size)
    nearest = _FEW if length >= _LONG else _MANY
    candidates = n - horizon - length + 1
    if candidates < nearest:
        return False
    line, distance = np.empty(n, np.float32), np.empty(candidates, np.float32)
    best, end, after = np.empty(nearest, np.float32), np.empty(nearest, np.int64), np.empty(nearest)
    for s in range(rows):
        at = (steps - n) % size
        for i in range(n):  # a remainder for each would take as long as all distances
            line[i] = past[s, at]
            at = at + 1 if at + 1 < size else 0
        for c in range(candidates):
            distance[c] = np.float32(0)
        for age in range(length):
            now, weight = line[n - 1 - age], np.float32(np.exp(-age / _FADE))
            shifted = line[length - 1 - age :]
            for c in range(candidates):
                distance[c] += weight * abs(shifted[c] - now)
        found = 0
        for back in range(candidates):  # newest first: of equals, the newest count
            c = candidates - 1 - back
            if found == nearest and distance[c] >= best[found - 1]:
                continue
            at = found if found < nearest else nearest - 1
            while at > 0 and best[at - 1] > distance[c]:
                best[at], end[at] = best[at - 1], end[at - 1]
                at -= 1
            best[at], end[at] = distance[c], c + length - 1
            found = min(found + 1, nearest)
        for k in range(nearest):
            total = 0.0
            for i in range(end[k] + 1, end[k] + 1 + horizon):
                total += line[i]
            at = k
            while at > 0 and after[at - 1] > total / horizon:
                after[at] = after[at - 1]
                at -= 1
            after[at] = total / horizon
        mean[s] = 0.5 * (after[(nearest - 1) // 2] + after[nearest // 2])
    return True


@compiled
def weighted_median(each: Any, weight: Any, mean: Any) -> None:
    """Fill `mean` [S] with the weighted median of `each` [S, K]; between two values that halve the weight, their middle."""
    rows, arms = each.shape
    order = np.empty(arms, np.int64)
    for s in range(rows):
        for k in range(arms):
            at = k
            while at > 0 and each[s, order[at - 1]] > each[s, k]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = k
        half, total = 0.5 * weight[s].sum(), 0.0
        for i in range(arms):
            total += weight[s, order[i]]
            if total >= half:
                after = i
                while total == half and after + 1 < arms:
                    after += 1
                    if weight[s, order[after]] > 0:
                        break
                mean[s] = 0.5 * (each[s, order[i]] + each[s, order[after]])
                break


@compiled
def forecasts(
    value: Any,
    outside: Any,
    rates: Any,
    analogs: Any,
    steps: Any,
    horizon: Any,
    season: Any,
    forgetting: Any,
    past: Any,
    largest: Any,
    level: Any,
    weight: Any,
    cov: Any,
    target: Any,
    each: Any,
    up: Any,
) -> Any:
    """Take in the values [S] and fill `each` [S, K] with all forecasts: smoothed at each rate, regression, mean, analogs, season
    and those from `outside` [S, extra], of which there may be none. What has seen too little gives the last value and is false
    in `up` [S, K] from now on. `target` [S] is what the forecasts of `horizon` steps ago were of, if there were any. Returns
    whether all is finite."""
    rows, size = past.shape
    came = np.empty(rows)
    for s in range(rows):
        came[s] = min(max(value[s], -VALUE_MAX), VALUE_MAX)
        past[s, steps % size] = came[s]
        largest[s] = max(largest[s], abs(came[s]))
        for k in range(each.shape[1]):
            each[s, k] = came[s]
    now, arm, mean = steps + 1, len(rates), np.empty(rows)
    ewma(came, rates, steps == 0, level)
    for s in range(rows):
        for r in range(arm):
            each[s, r] = level[s, r]
    if steps >= horizon:
        mean_of_last(past, now, horizon, target)
    rls(past, now, horizon, target, forgetting, largest, weight, cov, mean)
    put(now >= weight.shape[1] + horizon, arm, mean, each, up)
    mean_of_last(past, now, MEAN_OF, mean)
    put(True, arm + 1, mean, each, up)
    arm += 2
    for length in analogs:
        put(analog(past, now, horizon, length, mean), arm, mean, each, up)
        arm += 1
    if season > 0:
        ready = now >= cycle(horizon, season)
        if ready:
            seasonal(past, now, horizon, season, mean)
        put(ready, arm, mean, each, up)
        arm += 1
    for k in range(arm, each.shape[1]):
        for s in range(min(rows, len(outside))):
            mean[s] = min(max(outside[s, k - arm], -VALUE_MAX), VALUE_MAX)
        put(len(outside) > 0, k, mean, each, up)
    check = 0.0  # NaN once 0 times a number that is not finite is added
    for s in range(rows):
        check += 0.0 * largest[s]
        for r in range(len(rates)):
            check += 0.0 * level[s, r]
        for i in range(weight.shape[1]):
            check += 0.0 * weight[s, i]
            for j in range(weight.shape[1]):
                check += 0.0 * cov[s, i, j]
        for k in range(each.shape[1]):
            check += 0.0 * each[s, k]
    return check == 0.0


@compiled
def put(ready: Any, arm: Any, mean: Any, each: Any, up: Any) -> None:
    """Make `mean` [S] the forecast of an arm, or let the arm sleep if it is not ready."""
    for s in range(len(mean)):
        if ready:
            each[s, arm] = mean[s]
        else:
            up[s, arm] = False


@compiled
def recall(
    slot: Any, target: Any, made: Any, made_weight: Any, made_top: Any, made_awake: Any, loss: Any, weight: Any, top: Any, up: Any
) -> None:
    """Fill `loss` [S, K], the absolute errors of the forecasts made in `slot`, the weights in force then, and who was awake."""
    rows, _, levels, arms = made_weight.shape
    for s in range(rows):
        total = 0.0
        for d in range(levels):
            total += made_top[s, slot, d]
        for d in range(levels):
            top[s, d] = made_top[s, slot, d] / total
            for k in range(arms):
                weight[s, d, k] = made_weight[s, slot, d, k]
        for k in range(arms):
            loss[s, k] = abs(made[s, slot, k] - target[s])
            up[s, k] = made_awake[s, slot, k]


@compiled
def keep(
    slot: Any, each: Any, weight: Any, top: Any, up: Any, made: Any, made_weight: Any, made_top: Any, made_awake: Any
) -> None:
    """Write forecasts, weights and who is awake into `slot`, for `recall`."""
    rows, _, levels, arms = made_weight.shape
    for s in range(rows):
        for d in range(levels):
            made_top[s, slot, d] = top[s, d]
            for k in range(arms):
                made_weight[s, slot, d, k] = weight[s, d, k]
        for k in range(arms):
            made[s, slot, k] = each[s, k]
            made_awake[s, slot, k] = up[s, k]
