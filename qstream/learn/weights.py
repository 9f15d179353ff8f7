"""Shares of paths by how congested each is: multiplicative weights, for thousands of pairs side by side. Axes: series S, paths P.

Exponentiated gradient: Kivinen, Warmuth, "Exponentiated gradient versus gradient descent for linear predictors", 1997.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import LearnError
from qstream.kernels import compiled
from qstream.learn import given
from qstream.learn.evolve import evolve
from schemas.frame import Axes, Count, Frame
from schemas.wording import Shown, must_be


class WeightsState(Frame):
    """The logarithms of the shares of each series, up to a constant."""

    steps: Count = 0
    theta: Annotated[NDArray[np.float64], Axes("series", "paths")]


def start(warm: ArrayLike) -> WeightsState:
    """Return a state with the shares `warm` [S, P]: positive, of any sum; [P] is one series."""
    shape = given.shape_of("warm", warm)
    if len(shape) not in (1, 2) or 0 in shape:
        raise LearnError(must_be("warm", "of shape [series, paths]", Shown(f"shape {shape}")))
    begin = given.numbers("warm", warm, shape)
    if begin.min() <= 0:
        raise LearnError(must_be("warm", "positive", Shown(f"values from {begin.min():g}")))
    theta = np.log(np.atleast_2d(begin))
    return WeightsState(theta=theta - theta.mean(axis=1, keepdims=True))


def shares(state: WeightsState) -> NDArray[np.float64]:
    """Return the share of each path: float64 [S, P], each row sums to 1."""
    found = np.exp(state.theta - state.theta.max(axis=1, keepdims=True))
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def learn(state: WeightsState, congestion: ArrayLike, *, rate: float = 0.4, clip: float = 8.0) -> WeightsState:
    """Return the state after the congestion of each path was seen: theta falls by rate (c / mean(c) - 1).

    Parameters
    ----------
    congestion
        [S, P], at least 0: utilisation or queue of each path, in any unit. Never bytes over the nominal rate, by which a
        broken link looks idle. A row of zeros changes nothing.
    rate
        In [0, 1]. At .8 shares follow faster and stay further from the best when congestion is noisy; 1.2 would oscillate.
    clip
        Limit of theta, which keeps a path that was avoided for long within reach.
    """
    seen = given.numbers("congestion", congestion, state.theta.shape, low=0.0)
    theta = state.theta.copy()
    learn_rows(seen, given.real("rate", rate, 0.0, 1.0), given.real("clip", clip, 0.0, 300.0), theta)
    return evolve(state, steps=state.steps + 1, theta=theta)


@compiled
def learn_rows(seen: Any, rate: Any, clip: Any, theta: Any) -> None:
    """One step of every series, in place."""
    rows, paths = theta.shape
    for s in range(rows):
        most = seen[s].max()
        if most == 0:
            continue
        total = 0.0  # of parts of the largest, since the sum of the largest floats overflows
        for p in range(paths):
            total += seen[s, p] / most
        for p in range(paths):
            moved = theta[s, p] - rate * (seen[s, p] / most * paths / total - 1)
            theta[s, p] = min(max(moved, -clip), clip)
