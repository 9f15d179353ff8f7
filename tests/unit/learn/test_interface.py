"""Arguments of any kind to every public function: it takes them, or says in a LearnError which one is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qstream.learn import (
    LearnError,
    bandit,
    conformal,
    drift,
    evaluate,
    exp3,
    forecast,
    gate,
    guard,
    hedge,
    model,
    policy,
    rate,
    weights,
)

ODD: list[Any] = [None, "x", "", b"x", object(), [], {}, (1,), [None], ["a", "a"], ["a", 1], [""], "a" * 300, {"a": 1}, range(3)]
ODD += [True, [True, False], [[False, False]], -1, 0, 2**64, 10**400, -(10**400), [10**400], 1.5, np.nan, np.inf, [np.nan], 1e308]
ODD += [np.float32(2), np.int64(3), np.datetime64("2026-01-01"), np.array(["a"]), np.array([1j]), np.array([object()])]
ODD += [[[1], [1, 2]], np.full((1, 2), np.nan), np.zeros(0), np.zeros((1, 2, 3)), max]
NAMED: dict[str, Any] = {"module": "m", "name": "n", "version": 1, "feature_names": ("a", "b")}


def made(kind: str, **shapes: tuple[int, ...]) -> model.Model:
    return model.Model(kind=kind, arrays={name.replace("_of_", "."): np.ones(shape) for name, shape in shapes.items()}, **NAMED)


def rewarded(**given: Any) -> Any:
    return bandit.reward(bandit.choose(BANDIT, [1.0, 2.0], "d", 1)[0], **given)


HEDGE, BANDIT, GUARD = hedge.start(2), bandit.start(2, 2), guard.start("m", bound=1.0)
LSTM = {"weight_ih": (4, 2), "weight_hh": (4, 1), "bias": (4,), "head_of_weight": (1, 1), "head_of_bias": (1,)}
SAGE = {"0_of_own_of_weight": (1, 2), "0_of_neighbour_of_weight": (1, 2), "0_of_bias": (1,)}
HALF = [[0.5, 0.5]] * 2
CALLS: list[tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = [
    (hedge.start, {}, {"arms": 2, "series": 1, "discounts": (1.0,)}),
    (hedge.mix, {"state": HEDGE}, {"awake": None, "floor": 0.1}),
    (hedge.learn, {"state": HEDGE}, {"loss": [[1.0, 2.0]], "at": None, "awake": None}),
    (hedge.linear_loss, {}, {"prediction": HALF, "outcome": [1.0, 2.0], "weights": HALF, "quantile": 0.5}),
    (forecast.start, {}, {"series": 1, "horizon": 1, "rates": (1.0,), "lags": 2, "analogs": (3,), "past": 9, "season": 0}),
    (forecast.start, {}, {"forgetting": 0.99, "discounts": (1.0,), "extra": 0}),
    (forecast.step, {"state": forecast.start(extra=1)}, {"value": [1.0], "extra": [[1.0]], "awake": None}),
    (conformal.start, {}, {"series": 1, "coverage": 0.9, "window": 10, "rate": 0.01}),
    (conformal.bound, {"state": conformal.start()}, {"first": 0.0}),
    (conformal.learn, {"state": conformal.start()}, {"score": [1.0], "used": [1.0]}),
    (bandit.start, {}, {"arms": 2, "features": 2, "rule": "linucb", "width": 1.0, "floor": 0.1, "ridge": 1.0, "pending": 4}),
    (bandit.start, {"arms": 2, "features": 2}, {"memories": (1.0,)}),
    (bandit.choose, {"state": BANDIT}, {"context": [1.0, 2.0], "decision_id": "d", "now_ns": 1, "seed": 0, "allowed": None}),
    (rewarded, {}, {"decision_id": "d", "value": 1.0, "now_ns": 2}),
    (guard.start, {}, {"candidate": "m", "bound": 1.0, "alpha": 0.1, "alarm": 9.0, "block": 4, "window": 0, "hold": 5}),
    (guard.compare, {"state": GUARD}, {"incumbent_loss": 1.0, "candidate_loss": 1.0}),
    (guard.offer, {"state": GUARD}, {"candidate": "n"}),
    (drift.start, {}, {"series": 1, "bound": 1.0, "alarm": 200.0}),
    (drift.learn, {"state": drift.start(1, bound=1.0)}, {"value": [1.0]}),
    (exp3.start, {}, {"arms": 2, "explore": 0.1}),
    (exp3.bandit_choose, {"state": exp3.start(2)}, {"seed": 0, "number": 1}),
    (exp3.bandit_step, {"state": exp3.start(2)}, {"arm": 0, "reward": 0.5, "propensity": 0.5}),
    (gate.start, {}, {"options": 2, "threshold": 0.0, "window": 8, "losses": 3, "every": 32}),
    (gate.learn, {"state": gate.start(2)}, {"gain": [1.0, 2.0], "tried": None}),
    (rate.start, {}, {"gain": 0.5, "limit": 2.0}),
    (rate.learn, {"state": rate.start()}, {"bits": 4.0, "target": 4.4}),
    (weights.start, {}, {"warm": [1.0, 2.0]}),
    (weights.learn, {"state": weights.start([1.0, 2.0])}, {"congestion": [[1.0, 2.0]], "rate": 0.4, "clip": 8.0}),
    (policy.mlp, {"model": made("mlp", **{"0_of_weight": (1, 2), "0_of_bias": (1,)})}, {"x": HALF}),
    (policy.lstm, {"model": made("lstm", **LSTM)}, {"x": HALF, "carry": None}),
    (policy.sage, {"model": made("sage", **SAGE)}, {"x": HALF, "edges": [[0], [1]]}),
    (evaluate.evaluate, {}, {"arm": [0, 1], "reward": [1.0, 2.0], "propensity": HALF, "expected": HALF, "policy": HALF}),
    (model.Model, {}, {"kind": "mlp", "arrays": {"a": np.ones(1)}, "trained_ns": 0, **NAMED}),
]


@pytest.mark.parametrize(("call", "fixed", "tried"), CALLS)
def test_an_argument_of_any_kind_is_taken_or_named(call: Callable[..., Any], fixed: dict[str, Any], tried: dict[str, Any]):
    call(**fixed, **tried)
    for name in tried:
        for odd in ODD:
            with contextlib.suppress(LearnError):
                call(**fixed, **tried | {name: odd})
        if (call, name) != (rewarded, "decision_id"):  # of a reward, an unknown one is data
            with pytest.raises(LearnError, match=rf"^{name}"):
                call(**fixed, **tried | {name: object()})
