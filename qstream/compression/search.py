"""Steps: the largest that keeps a relative error, and the one that gives a number of bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")
TRIES: Final = 8
_CLOSE: Final = 0.997  # of a bound: near enough
_NEAR_BITS: Final = 0.01


def largest_within(
    attempt: Callable[[float], tuple[float, T]], bound: float, start: float, most: float = math.inf
) -> tuple[float, T] | None:
    """The attempt of the largest step found whose error is at most `bound`; None if no try kept it.

    `attempt(step)` gives (error, result). The error grows about in proportion to the step, up to `most`: larger steps give the
    same.
    """
    best: tuple[float, T] | None = None
    low, high, step = 0.0, math.inf, start
    for _ in range(TRIES):
        error, result = attempt(step)
        if error <= bound:
            low = step
            best = (step, result)
            if error >= _CLOSE * bound or low >= most:
                break
        else:
            high = step
        guess = step * (bound / error) * 0.999 if error > 0 else 2 * step
        step = min(guess if low < guess < high else (low + high) / 2 if high < math.inf else 2 * step, most)
    return best


def step_for(bits: Callable[[float], tuple[float, T]], target: float, start: float) -> T:
    """The attempt whose bits come nearest to the target.

    `bits(step)` gives (bits, result). Bits fall by about one when the step doubles, by less where they are few.
    """
    found: list[tuple[float, float, T]] = []
    log = math.log2(start)
    for _ in range(TRIES):
        got, result = bits(2.0**log)
        found.append((log, got, result))
        if abs(got - target) <= _NEAR_BITS:
            break
        slope = -1.0
        if len(found) > 1 and found[-1][0] != found[-2][0]:
            slope = min(max((found[-1][1] - found[-2][1]) / (found[-1][0] - found[-2][0]), -1.2), -0.1)
        log += min(max((target - got) / slope, -3.0), 3.0)
    return min(found, key=lambda each: abs(each[1] - target))[2]
