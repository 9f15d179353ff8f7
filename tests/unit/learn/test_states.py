"""What every learner owes: whatever comes, a state that a store keeps, from which it goes on with the same bytes at any step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.learn import (
    LearnError,
    bandit,
    calibration,
    conformal,
    decision,
    drift,
    exp3,
    forecast,
    gate,
    guard,
    hedge,
    rate,
    recurrent,
    weights,
)
from qstream.learn import version as versions
from qstream.learn.model import Model
from qstream.learn.registry import Models
from qstream.state.fields import pack, unpack
from schemas.frame import Frame

HARD = (0.0, -0.0, 1.0, -1.0, 0.3, 5e-324, 1e-310, 1e-160, 1e-30, 1e30, 1e160, -1e160, 1e300, -1e300, 1.7e308, -1.7e308)
NUMBER = st.sampled_from((*HARD, np.nan, np.inf)) | st.floats()
ROW = st.tuples(NUMBER, NUMBER, NUMBER)
Row = tuple[float, float, float]
Step = Callable[[Any, int, Row], Frame]


def hedged(state: hedge.HedgeState, number: int, row: Row) -> Frame:
    at, awake = (None, restored(hedge.used(state)))[number % 2], (None, [[True, False, True]])[number % 3 == 2]
    after = hedge.learn(state, [row], at, awake)
    assert hedge.mix(after, awake).sum() == pytest.approx(1)
    return after


def forecasted(state: forecast.ForecastState, number: int, row: Row) -> Frame:
    after, answer = forecast.step(state, [row[0]], [[row[1]]] if number % 3 else None)
    assert np.isfinite(answer.mean).all()
    return after


def bounded(state: conformal.ConformalState, number: int, row: Row) -> Frame:
    after = conformal.learn(state, [row[0]], [row[1]])
    assert np.isfinite(conformal.bound(after)).all()
    return after


def calibrated(state: calibration.CalibrationState, number: int, row: Row) -> Frame:
    return calibration.learn(state, row[0], calibration.expect(state, row[0]), row[1])


def shared(state: weights.WeightsState, number: int, row: Row) -> Frame:
    after = weights.learn(state, [np.abs(row)])
    assert weights.shares(after).sum() == pytest.approx(1)
    return after


def chosen(state: bandit.BanditState, number: int, row: Row) -> Frame:
    after, choice = bandit.choose(state, row[:2], str(number), number, allowed=[True, bool(number % 3)])
    assert choice.propensity.sum() == pytest.approx(1)
    return after if number % 4 == 3 else bandit.reward(after, str(number), row[2], number)[0]


def drawn(state: exp3.Exp3State, number: int, row: Row) -> Frame:
    arm, propensity = exp3.bandit_choose(state, seed=7, number=number)
    after = exp3.bandit_step(state, arm, row[0], propensity)
    assert exp3.chances(after).sum() == pytest.approx(1)
    return after


def decided(state: decision.DecisionState, number: int, row: Row) -> Frame:
    if number % 2:  # a reward that overtakes the next decision
        state, _ = decision.reward(state, str(number + 1), row[2], number, learn="on")
    state, _, _ = decision.choose(state, row[:2], str(number), number, learn="on", explore=0.1)
    return decision.reward(state, str(number), row[2], number, learn="on")[0]


def guarded(state: guard.GuardState, number: int, row: Row) -> Frame:
    after, _ = guard.compare(state, row[0], row[1])
    return guard.offer(after, f"model@{number}") if after.retired else after


def gated(state: gate.GateState, number: int, row: Row) -> Frame:
    after, on = gate.learn(state, row, (gate.due(state), None)[number % 4 == 0])
    assert (after.lost < after.losses).all()
    assert gate.due(after)[on].all()
    return after


def rated(state: rate.RateState, number: int, row: Row) -> Frame:
    after = rate.learn(state, row[0], row[1])
    assert abs(after.offset) <= after.limit
    return after


def versioned(state: versions.VersionState, number: int, row: Row) -> Frame:
    state, used = versions.choose(state, Models({"next": {number // 5: MODEL}}))
    return versions.compare(state, used.candidate, row[0], row[1])[0]


UNITS = 2
MODEL = Model(
    module="m",
    name="next",
    version=1,
    kind="lstm",
    arrays={
        "weight_ih": np.ones((4 * UNITS, len(recurrent.FEATURES))),
        "weight_hh": np.ones((4 * UNITS, UNITS)),
        "bias": np.zeros(4 * UNITS),
        "head.weight": np.ones((len(recurrent.BANK) + 1, UNITS)),
        "head.bias": np.zeros(len(recurrent.BANK) + 1),
    },
    feature_names=recurrent.FEATURES,
    config={"horizon": 2},
)
LEARNERS: dict[str, tuple[Callable[[], Frame], Step]] = {
    "hedge": (lambda: hedge.start(3), hedged),
    "forecast": (lambda: forecast.start(horizon=2, lags=2, analogs=[2], past=8, season=3, extra=1), forecasted),
    "conformal": (lambda: conformal.start(window=5), bounded),
    "calibration": (lambda: calibration.start(window=5), calibrated),
    "weights": (lambda: weights.start(np.ones(3)), shared),
    "drift": (lambda: drift.start(1, bound=1e-100), lambda state, _, row: drift.learn(state, row[:1])[0]),
    "exp3": (lambda: exp3.start(3, explore=1e-6), drawn),
    "gate": (lambda: gate.start(3, window=2), gated),
    "rate": (rate.start, rated),
    "linucb": (lambda: bandit.start(2, 2, ridge=1e-6, pending=3), chosen),
    "thompson": (lambda: bandit.start(2, 2, rule="thompson", pending=3), chosen),
    "decision": (lambda: decision.start(2, 2, pending=3), decided),
    "guard": (lambda: guard.start("model@0", bound=1.0, block=1, window=2), guarded),
    "version": (lambda: versions.start("next", bound=1.0, block=1), versioned),
    "recurrent": (
        lambda: recurrent.start(horizon=2, units=UNITS),
        lambda state, _, row: recurrent.step(state, row[0], MODEL)[0],
    ),
}


def restored(state: Any) -> Any:
    return unpack(type(state), pack(state))


@pytest.mark.parametrize("name", LEARNERS)
@settings(max_examples=20)
@given(
    rows=st.lists(ROW, min_size=1, max_size=8), repeats=st.sampled_from([1, 5]), constant=st.booleans(), every=st.integers(1, 4)
)
def test_whatever_comes_a_learner_goes_on_from_its_store_with_the_same_bytes(
    name: str, rows: list[Row], repeats: int, constant: bool, every: int
):
    start, step = LEARNERS[name]
    plain, kept = start(), restored(start())
    for number, row in enumerate([rows[0]] * 40 if constant else rows * repeats):
        if number % every == 0:  # the end of a batch
            kept = restored(kept)
        before = pack(plain)
        try:
            after = step(plain, number, row)
        except LearnError:
            assert pack(plain) == before
            with pytest.raises(LearnError):
                step(kept, number, row)
        else:
            plain, kept = after, step(kept, number, row)
            assert pack(kept) == pack(plain)
    assert pack(restored(plain)) == pack(plain)
