"""Recommended configurations of what learns, as data: which learner and which options suit a situation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:  # options are read by commands that must not load the kernels
    from qstream.learn.bandit import Rule

Learn = Literal["off", "shadow", "on"]
Learner = Literal["forecast", "hedge", "bandit"]


class Recommended(NamedTuple):
    """One line of the table: a situation, the learner that suits it, the rule if that is a bandit, and the options to set.

    ``model_<name>`` of every model of the module is meant where `options` says ``model_forecast``.
    """

    situation: str
    learner: Learner | None
    rule: Rule | None
    options: Mapping[str, str | float]


RECOMMENDED: Final = (
    Recommended("training job on a known node", "forecast", None, {"learn": "on", "model_forecast": "auto"}),
    Recommended("inference", "hedge", None, {"learn": "on", "model_forecast": "none"}),
    Recommended("mixed or drifting load", "bandit", "linucb", {"learn": "on", "explore": 0.02}),
    Recommended("stationary and audited", "bandit", "thompson", {"learn": "on", "explore": 0.05}),
    Recommended("power constrained, or not watched", None, None, {"learn": "shadow"}),
)
