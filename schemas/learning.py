"""Learning: decisions and what they earned, and what an operator asks of a key's learners."""

from __future__ import annotations

from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, model_validator

from schemas.frame import Axes, Frame, Name, Names, require
from schemas.plan import EventId
from schemas.wording import must_be

COMMANDS: Final = ("reset", "restore", "freeze", "thaw")
ModuleName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,99}$")]


class Decisions(Frame):
    """What was chosen and what it earned: one record when rewards have come, or when decisions have waited too long for one.

    Rows are decisions. `propensity` are the chances by which the arm was drawn, `expected` the rewards that were expected of each
    arm then. A row with `rewarded` 0 has expired; its reward says nothing.
    """

    module: ModuleName = Field(description="who decides")
    key: Name = Field(description="key of the module's state")
    learner: Name = Field(description="dotted field of the learner in the key's state")
    policy: Name = Field(description="what chooses: the bandit's rule, or incumbent")
    arm_names: Names = Field(description="what is chosen among")
    feature_names: Names = Field(description="of the context")
    reward_name: Name = Field(description="what is rewarded, with its unit")
    decision_id: Annotated[tuple[EventId, ...], Field(strict=False)] = Field(
        description="id of the event that carried each decision"
    )
    arm: Annotated[NDArray[np.int32], Axes("decisions")] = Field(description="index of the arm that was chosen")
    reward: Annotated[NDArray[np.float32], Axes("decisions")] = Field(description="what it earned; large is good")
    rewarded: Annotated[NDArray[np.uint8], Axes("decisions")] = Field(description="1, or 0 where no reward came")
    ts_ns: Annotated[NDArray[np.int64], Axes("decisions")] = Field(description="when it was decided, ns since 1970")
    waited_ns: Annotated[NDArray[np.int64], Axes("decisions")] = Field(description="from the decision to its reward or end")
    propensity: Annotated[NDArray[np.float32], Axes("decisions", "arms")] = Field(description="chance of each arm")
    expected: Annotated[NDArray[np.float32], Axes("decisions", "arms")] = Field(description="reward expected of each arm")
    context: Annotated[NDArray[np.float32], Axes("decisions", "features")] = Field(description="what was known then")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        rows, arms = self.propensity.shape
        for name, many, count in (
            ("decision_id", self.decision_id, rows),
            ("arm_names", self.arm_names, arms),
            ("feature_names", self.feature_names, self.context.shape[1]),
        ):
            if len(many) != count:
                raise ValueError(must_be(f"length of {name}", str(count), len(many)))
        require(self, "arm", 0, arms - 1)
        require(self, "rewarded", 0, 1)
        require(self, "propensity", 0, 1)
        return self

    @classmethod
    def example(cls) -> Self:
        return cls(
            module="meter",
            key="node-1",
            learner="choice.bandit",
            policy="linucb",
            arm_names=("fast", "exact"),
            feature_names=("one",),
            reward_name="saved (ms)",
            decision_id=("qstream.meter.sample.v1/0/7/0",),
            arm=np.array([1], np.int32),
            reward=np.array([0.5], np.float32),
            rewarded=np.array([1], np.uint8),
            ts_ns=np.array([1_700_000_000_000_000_000], np.int64),
            waited_ns=np.array([1_000_000], np.int64),
            propensity=np.array([[0.25, 0.75]], np.float32),
            expected=np.array([[0.0, 0.5]], np.float32),
            context=np.array([[1.0]], np.float32),
        )


class LearnCommand(Frame):
    """What an operator asks of the learners of one key, as a record of that key's stream: ordered, and obeyed exactly once.

    Agents pass over what is addressed to other modules. An unknown command or learner becomes a dead letter.
    """

    module: ModuleName = Field(description="whose learners are meant")
    key: Name = Field(description="key of the module's state")
    command: str = Field(max_length=100, description="reset, restore, freeze or thaw")
    learner: str = Field(default="", max_length=200, description="dotted field of the learner in the key's state; empty: all")
    reason: str = Field(default="", max_length=500, description="why, for people who read the topic")
    state: Annotated[NDArray[np.uint8], Axes("bytes")] | None = Field(
        default=None, description="for restore: the learner's frame as a safetensors file"
    )

    @classmethod
    def example(cls) -> Self:
        return cls(module="meter", key="node-1", command="freeze", learner="choice.bandit", reason="a sensor is replaced")
