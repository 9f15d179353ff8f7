"""Control: what an operator wants of an agent, now."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field

from schemas.frame import Frame, Int64, Name, TimeNs, at_most


def _no_int(value: Any) -> Any:
    if isinstance(value, int):
        raise ValueError("must be an integer of at most 64 bits")
    return value


Scalar = bool | Int64 | Annotated[float, BeforeValidator(_no_int)] | str


class Control(Frame):
    """All that the operator asks of one agent: the newest record on the compacted topic holds.

    `options` are toggles of the agent's module by name; absent ones keep the value that the agent started with.
    """

    agent: Name = Field(description="name of the agent")
    ts_ns: TimeNs = Field(description="when the operator asked, ns since 1970")
    paused: bool = Field(default=False, description="whether the agent stops reading its inputs")
    options: Annotated[dict[Name, Scalar], at_most(100)] = Field(
        default_factory=dict,
        max_length=100,
        description="options of the agent's module by name; others keep the value that the agent started with",
    )
    reason: str = Field(default="", max_length=500, description="why, for people who read the topic")

    @classmethod
    def example(cls) -> Self:
        return cls(agent="routing", ts_ns=1_700_000_000_000_000_000, options={"min_gain": 0.02}, reason="fewer moves")
