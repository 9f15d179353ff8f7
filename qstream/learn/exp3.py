"""Exp3: chooses among arms of which only the chosen one's reward is seen, and of which nothing is known but the range of rewards.

EXP3: Auer, Cesa-Bianchi, Freund, Schapire, "The nonstochastic multiarmed bandit problem", SIAM Journal on Computing 32, 2002.
"""

from __future__ import annotations

from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qstream.learn import given
from qstream.learn.bandit_row import draw
from qstream.learn.evolve import evolve
from schemas.frame import Axes, Count, Frame

MOST_ARMS: Final = 10_000
LOWEST: Final = -10.0  # of the logarithms of weights, below the best: an arm that was bad for long stays within reach
_LEAST: Final = 1e-9


class Exp3State(Frame):
    """The logarithms of the arms' weights, the highest 0; `explore` is the part of choices that is spread evenly."""

    explore: float = Field(gt=0, le=1)
    steps: Count = 0
    log_weight: Annotated[NDArray[np.float64], Axes("arms")]

    @classmethod
    def example(cls) -> Self:
        return cls(explore=0.1, log_weight=np.zeros(2))


def start(arms: int, *, explore: float = 0.1) -> Exp3State:
    """Return a state that has seen no reward: every arm is as likely.

    Parameters
    ----------
    arms
        How many, 1 to 10,000.
    explore
        Gamma of the paper, 1e-6 to 1: the part of choices that is spread evenly, and by which weights grow.
    """
    count = given.whole("arms", arms, 1, MOST_ARMS)
    return Exp3State(explore=given.real("explore", explore, 1e-6, 1.0), log_weight=np.zeros(count))


def chances(state: Exp3State) -> NDArray[np.float64]:
    """Return the probability of each arm: float64 [A], at least explore / A; they sum to 1."""
    weight = np.exp(state.log_weight - state.log_weight.max())
    return np.asarray((1 - state.explore) * weight / weight.sum() + state.explore / len(weight))


def bandit_choose(state: Exp3State, *, seed: int, number: int) -> tuple[int, float]:
    """Return an arm, and the probability that it had: a function of the state, `seed` (any int of 64 bits) and `number`.

    `number`, at least 0, must be another one for each decision.
    """
    stream = np.uint64(given.whole("seed", seed, -(2**63), 2**64 - 1) % 2**64)
    chance = chances(state)
    arm = int(draw(chance, stream, given.whole("number", number, 0, 2**63 - 1)))
    return arm, float(chance[arm])


def bandit_step(state: Exp3State, arm: int, reward: float, propensity: float) -> Exp3State:
    """Return the state after the reward of a chosen arm was seen: its log weight grows by explore / A x reward / propensity.

    Parameters
    ----------
    arm, propensity
        What `bandit_choose` gave, also if other rewards came in between.
    reward
        0 to 1.
    """
    count = len(state.log_weight)
    at, earned = given.whole("arm", arm, 0, count - 1), given.real("reward", reward, 0.0, 1.0)
    chance = given.real("propensity", propensity, _LEAST, 1.0)
    grown = state.log_weight.copy()
    grown[at] += state.explore / count * earned / chance
    return evolve(state, steps=state.steps + 1, log_weight=np.maximum(grown - grown.max(), LOWEST))
