"""Calibration: how even the next window will be, from what a plan expects and from how far earlier ones were off."""

from __future__ import annotations

from typing import Final, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from qstream.learn import conformal
from qstream.learn.evolve import evolve
from schemas.frame import Count, Frame

COVERAGE: Final = 0.9
_RATE: Final = 0.2  # of the newest error in the correction, which starts at 0
_FIRST: Final = 0.05  # margin of the bound before an error was seen


class Promise(BaseModel):
    """What was said of the balancedness of placement `version` in window number `window`: as planned, corrected, and at least."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    version: Count
    window: Count
    planned: float
    corrected: float
    low: float


class Calibration(Frame):
    """By how much plans expect too much (an exponential mean), the scores of the bound, and the promise that waits for its
    window."""

    bias: float = 0.0
    miss: conformal.ConformalState
    promise: Promise | None = None

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(start()))


def start() -> Calibration:
    """Nothing is known: plans are believed."""
    return Calibration(miss=conformal.start(coverage=COVERAGE))


def promise(state: Calibration, planned: float, *, version: int, window: int) -> tuple[Calibration, Promise]:
    """Note what a plan expects of the next window, and say what to expect of it; replaces a promise that still waits.

    A plan is fitted to the windows that it is judged by, so it expects too much, by about as much as the ones before.
    """
    corrected = float(np.clip(planned - state.bias, 0.0, 1.0))
    margin = max(float(conformal.bound(state.miss, _FIRST)[0]), 0.0)
    said = Promise(version=version, window=window, planned=planned, corrected=corrected, low=max(corrected - margin, 0.0))
    return evolve(state, promise=said), said


def judge(state: Calibration, came: float) -> Calibration:
    """The state after the promise that waits was judged by the balancedness that came."""
    said = state.promise
    if said is None:
        return state
    miss = conformal.learn(state.miss, [said.corrected - came], [said.corrected - said.low])
    return evolve(state, bias=state.bias + _RATE * (said.planned - came - state.bias), miss=miss, promise=None)
