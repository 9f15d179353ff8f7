"""Promise: what a placement plan says of the next window, and what is learnt when that window has come."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from qstream.learn import calibration
from qstream.learn.calibration import CalibrationState, Expected
from schemas.frame import Count


class Promise(BaseModel):
    """What was said of the balancedness of placement `version` in window number `window`: as planned, corrected, and at least."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    version: Count
    window: Count
    planned: float
    corrected: float
    low: float


def promise(state: CalibrationState, planned: float, *, version: int, window: int) -> Promise:
    """What to expect of a window for which a plan expects the balancedness `planned`."""
    expected = calibration.expect(state, planned)
    mean = float(np.clip(expected.mean, 0.0, 1.0))
    low = mean - (expected.mean - expected.low)
    return Promise(version=version, window=window, planned=planned, corrected=mean, low=max(low, 0.0))


def judge(state: CalibrationState, said: Promise, came: float) -> CalibrationState:
    """The state after the window came that was promised, with the balancedness `came`."""
    return calibration.learn(state, said.planned, Expected(said.corrected, said.low), came)
