"""Regime: the chance that the next window ends further from its bound than usual, from the errors of the windows before.

The gap of a window is how far its classical peak is above the bound; it is forecast by a running mean, and a window whose gap is
far from that is loud. Two say whether the next one is: how often windows were, and, where a model is given, an LSTM over the
errors. Both are scored by what came (Brier 1950).
"""

from __future__ import annotations

import math
from typing import Annotated, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.errors import LearnError
from qstream.learn import policy
from qstream.learn.evolve import evolve
from qstream.learn.model import Model
from qstream.learn.registry import Want
from schemas.frame import Axes, Count, Frame
from schemas.wording import Shown, must_be

FEATURES: Final = ("log_error", "bias", "loud", "rate", "gap", "log_since")
UNITS: Final = 16
LOUD: Final = 1.5  # of the usual error, above which one is loud
WANT: Final = Want(("lstm",), FEATURES, 1)
_FAST, _SLOW = 0.2, 0.05
_LEAST: Final = 1e-9


class RegimeState(Frame):
    """The mean gap, the usual error of it and its bias, how often windows are loud, and since when; the `carry` of the version
    `carried`."""

    windows: Count = 0
    mean: float = 0.0
    size: float = 0.0
    bias: float = 0.0
    rate: float = Field(default=0.5, ge=0, le=1)
    since: Count = 0
    carried: int = Field(default=-1, ge=-1, le=2**63 - 1)
    carry: Annotated[NDArray[np.float64], Axes("two", "units")]

    @classmethod
    def example(cls) -> Self:
        return cls(**dict(start()))


class Seen(NamedTuple):
    """Whether the window was loud, and the features [F] after it."""

    loud: bool
    features: NDArray[np.float64]


def start() -> RegimeState:
    """Return a state that has seen no window."""
    return RegimeState(carry=np.zeros((2, UNITS)))


def observe(state: RegimeState, gap: float) -> tuple[RegimeState, Seen]:
    """The state after a window with this gap, 0 to 1."""
    gap = min(max(gap, 0.0), 1.0)
    error = gap - state.mean if state.windows else 0.0
    off = abs(error)
    size = state.size if state.windows > 1 else off
    loud = off > LOUD * size + _LEAST
    after = evolve(
        state,
        windows=state.windows + 1,
        mean=state.mean + _FAST * error if state.windows else gap,
        size=size + _SLOW * (min(off, 10 * size + _LEAST) - size),
        bias=state.bias + _FAST * (error - state.bias),
        rate=state.rate + _SLOW * (float(loud) - state.rate),
        since=0 if loud else state.since + 1,
    )
    scale = max(after.size, _LEAST)
    numbers = (
        math.log(min(max(off / scale, 0.01), 100.0)),
        min(max(after.bias / scale, -5.0), 5.0),
        float(loud),
        after.rate,
        10 * gap,
        math.log1p(after.since),
    )
    return after, Seen(loud, np.array(numbers))


def answer(state: RegimeState, seen: Seen, model: Model | None) -> tuple[RegimeState, float | None]:
    """What the model says of the next window, None without one. Another version begins with an empty memory.

    Raises
    ------
    LearnError
        The model does not fit, or its answer is not finite.
    """
    if model is None:
        return state, None
    carry = state.carry if state.carried == model.version else np.zeros_like(state.carry)
    out, after = policy.lstm(model, seen.features[None], carry[:, None])
    said, kept = float(out[0, 0]), np.ascontiguousarray(after[:, 0])
    if not math.isfinite(said) or not np.isfinite(kept).all() or kept.shape != state.carry.shape:
        raise LearnError(must_be("answer of the model", f"finite, of {UNITS} units", Shown(f"{said:g}")))
    return evolve(state, carry=kept, carried=model.version), 0.5 + 0.5 * math.tanh(0.5 * said)
