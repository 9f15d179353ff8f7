"""Calibration: a steady error is found out, the bound holds as often as asked, and every state can be stored."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.errors import LearnError
from qstream.learn import calibration
from qstream.learn.describe import describe
from qstream.state.fields import pack, unpack


def test_a_steady_error_is_corrected_and_the_bound_holds_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    state, errors, held = calibration.start(), [], []
    for _ in range(600):
        said = calibration.expect(state, 0.97)
        came = 0.97 - 0.04 - 0.01 * rng.random()
        errors.append(abs(said.mean - came))
        held.append(came >= said.low)
        state = calibration.learn(state, 0.97, said, came)
    assert errors[0] >= 0.04
    assert np.mean(errors[50:]) < 0.005
    assert 0.88 <= np.mean(held[100:]) <= 0.95
    assert state.bias == pytest.approx(0.045, abs=0.005)
    facts = describe(state)
    assert (facts["kind"], facts["steps"], facts["target"]) == ("calibration", 600, 0.9)
    assert facts["coverage"] == pytest.approx(np.mean(held))
    assert facts["error"] == pytest.approx(np.mean(errors))
    assert facts["error_planned"] == pytest.approx(0.045, abs=0.005)


def test_what_is_not_finite_is_refused_and_any_state_is_stored_as_it_is() -> None:
    state = calibration.start(coverage=0.8, window=3)
    for planned, came in ((1e300, -1e300), (5e-324, 0.0), (-1e150, 1e150)):
        planned = float(np.clip(planned, -1e150, 1e150))
        state = calibration.learn(state, planned, calibration.expect(state, planned), float(np.clip(came, -1e150, 1e150)))
        assert unpack(calibration.CalibrationState, pack(state)) == state
    with pytest.raises(LearnError, match="planned must be"):
        calibration.expect(state, float("nan"))
    with pytest.raises(LearnError, match="came must be"):
        calibration.learn(state, 1.0, calibration.expect(state, 1.0), float("inf"))
