"""Recurrent: a trained network as one more forecaster of the mean of the next h samples, an `extra` of `forecast`.

It sees a bank of simple forecasters, how well they did, and the time since the value last jumped; it answers with a mixture of
the bank and a correction. All is relative to the range of the values seen, so one network serves series of any unit.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from qstream.errors import LearnError
from qstream.learn import given, policy
from qstream.learn.evolve import evolve
from qstream.learn.model import Model
from qstream.learn.registry import Want
from schemas.frame import Axes, Count, Frame
from schemas.wording import must_be

RATES: Final = (1.0, 0.6, 0.3, 0.1, 0.03)
MEAN_OF: Final = 30
BANK: Final = (*(f"ewma {rate:g}" for rate in RATES), f"mean {MEAN_OF}")
FEATURES: Final = (
    *(f"{name}, relative" for name in BANK),
    *(f"{name}, last known loss" for name in BANK),
    "time since the last jump",
    "time between the last two jumps",
    "value",
    "change",
)
UNITS: Final = 24
JUMP: Final = 0.25  # of the range
MAX_HORIZON: Final = 10_000
_FADE: Final = 0.001  # of the range by which its ends come closer in each step
_OVER: Final = 0.2  # of the range, beyond which no answer is believed
WANT: Final = Want(kinds=("lstm", "gru"), feature_names=FEATURES, outputs=len(BANK) + 1)


class RecurrentState(Frame):
    """What the network's inputs need of one series, and its carry [2, units], which belongs to the version `carried`."""

    horizon: Count
    steps: Count = 0
    low: float = 0.0
    high: float = 0.0
    since_jump: Count = 0
    between_jumps: Count = 0
    carried: int = Field(default=-1, ge=-1, le=2**63 - 1)
    past: Annotated[NDArray[np.float64], Axes("past")]
    level: Annotated[NDArray[np.float64], Axes("rates")]
    made: Annotated[NDArray[np.float64], Axes("horizon", "bank")]
    carry: Annotated[NDArray[np.float64], Axes("two", "units")]


class Inputs(NamedTuple):
    """Features [F] of the network, forecasts of the bank [K], and the range that they are relative to."""

    features: NDArray[np.float64]
    bank: NDArray[np.float64]
    low: float
    high: float


def start(*, horizon: int, units: int = UNITS) -> RecurrentState:
    """Return a state that has seen nothing, for networks of so many units that forecast the mean of `horizon` values."""
    ahead = given.whole("horizon", horizon, 1, MAX_HORIZON)
    return RecurrentState(
        horizon=ahead,
        past=np.zeros(max(MEAN_OF, ahead)),
        level=np.zeros(len(RATES)),
        made=np.zeros((ahead, len(BANK))),
        carry=np.zeros((2, given.whole("units", units, 1, 1024))),
    )


def step(state: RecurrentState, value: float, model: Model | None = None) -> tuple[RecurrentState, float | None]:
    """Return the state after `value` came, and the model's forecast; None without a model that fits.

    Another version starts with an empty memory. A model for another horizon or of other units does not fit.

    Raises
    ------
    LearnError
        `value` or the answer is not finite, or the model is not what `WANT` says. A caller that can do without the model trips
        its guard.
    """
    state, seen = observe(state, value)
    if (
        model is None
        or model.config.get("horizon") != state.horizon
        or model.arrays["weight_hh"].shape[1] != state.carry.shape[1]
    ):
        return state, None
    carry = state.carry if state.carried == model.version else np.zeros_like(state.carry)
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused below
        if model.kind == "gru":
            output, hidden = policy.gru(model, seen.features[None], carry[:1])
            after = np.stack([hidden[0], hidden[0]])
        else:
            output, both = policy.lstm(model, seen.features[None], carry[:, None])
            after = both[:, 0].copy()
        answer = float(answers(output, seen.bank[None], np.array([seen.low]), np.array([seen.high]))[0])
    if not math.isfinite(answer):
        raise LearnError(must_be(f"answer of {model.module}/{model.name}/{model.version}", "finite", answer))
    return evolve(state, carry=after, carried=model.version), answer


def observe(state: RecurrentState, value: float) -> tuple[RecurrentState, Inputs]:
    """Return the state after `value` came, and what a network sees then."""
    came = given.real("value", value, -1e30, 1e30)
    steps, past = state.steps, state.past.copy()
    before = past[(steps - 1) % len(past)] if steps else came
    shrink = _FADE * (state.high - state.low)
    low, high = (min(state.low + shrink, came), max(state.high - shrink, came)) if steps else (came, came)
    span = max(high - low, 1e-9 * max(abs(low), abs(high)), 1e-30)
    jumped = steps > 0 and abs(came - before) > JUMP * span
    since, between = (0, state.since_jump + 1) if jumped else (state.since_jump + 1, state.between_jumps)
    past[steps % len(past)] = came
    level = state.level + np.array(RATES if steps else np.ones(len(RATES))) * (came - state.level)
    shown = min(steps + 1, MEAN_OF)
    mean = float(past[np.arange(steps + 1 - shown, steps + 1) % len(past)].mean())
    bank, made, loss = np.append(level, mean), state.made.copy(), np.zeros(len(BANK))
    slot = steps % state.horizon
    if steps >= state.horizon:
        target = past[np.arange(steps + 1 - state.horizon, steps + 1) % len(past)].mean()
        loss = np.abs(made[slot] - target) / span
    made[slot] = bank
    ends = (math.log1p(since) / 5, math.log1p(between) / 5, (came - low) / span - 0.5, (came - before) / span)
    features = np.clip(np.concatenate([(bank - came) / span, loss, ends]), -3.0, 3.0)
    changes: dict[str, Any] = {"steps": steps + 1, "low": float(low), "high": float(high), "past": past, "level": level}
    changes |= {"made": made, "since_jump": since, "between_jumps": between}
    return evolve(state, **changes), Inputs(features, bank, float(low), float(high))


def answers(output: ArrayLike, bank: ArrayLike, low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """Forecasts [n] of outputs [n, K + 1] (scores of the bank, then the correction) for a bank [n, K] and a range [n]."""
    scored, known = np.asarray(output, np.float64), np.asarray(bank, np.float64)
    least, most = np.asarray(low, np.float64), np.asarray(high, np.float64)
    share = np.exp(scored[:, :-1] - scored[:, :-1].max(1, keepdims=True))
    mixed = (share * known).sum(1) / share.sum(1) + scored[:, -1] * (most - least)
    return np.asarray(np.clip(mixed, least - _OVER * (most - least), most + _OVER * (most - least)))
