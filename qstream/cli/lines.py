"""Lines: one frame as one line for people, or as one object for machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import Message

from agents.registry import all_agents, faults_named, load
from qstream.cli.output import joined, printable, solver_text, utc
from schemas.control import Control
from schemas.deadletter import DeadLetter
from schemas.frame import Frame
from schemas.plan import Plan, VersionedPlan
from schemas.topics import Topic

Line = Callable[[Frame], str | None]
SHOWN_FIELDS = 8  # of a frame that no module describes


def line_of(topic: Topic) -> Line:
    """What describes the frames of a topic: `Agent.lines` of the first of its agents that knows the frame.

    A topic that no agent reads or writes, such as that of manifests, is described by any agent that knows its frame.
    """
    agents = [agent for agent in all_agents() if agent.lines]
    own = [(agent.name, load(agent.lines)) for agent in [a for a in agents if topic in a.topics] or agents]

    def describe(frame: Frame) -> str | None:
        for name, line in own:
            with faults_named(f"lines of agent {name!r}"):
                text: str | None = line(frame)
            if text is not None:
                return text
        return None

    return describe


def one_line(message: Message, frame: Frame, topic: Topic, line: Line, now_ns: int) -> str:
    """Time, key and what matters of the frame; `line` is that of `line_of`."""
    text = line(frame) or _generic(frame, topic)
    if isinstance(frame, Plan):
        fallback = None if frame.fallback_reason is None else f"fallback: {frame.fallback_reason}"
        text = joined(text, fallback, "(expired)" if frame.expired(now_ns) else None)
    return printable(f"{utc(message.timestamp()[1])}  {text}").replace("\n", "\\n")


def as_object(message: Message, frame: Frame, full: bool) -> dict[str, Any]:
    """The frame's JSON with a field `record` that says where it lies; its arrays only if `full`.

    `qstream publish` reads it back, since readers ignore unknown fields.
    """
    exclude = set() if full else set(frame.arrays)
    record = {"partition": message.partition(), "offset": message.offset(), "timestamp_ms": message.timestamp()[1]}
    return frame.model_dump(mode="json", exclude=exclude, exclude_none=True) | {"record": record}


def _generic(frame: Frame, topic: Topic) -> str:
    if isinstance(frame, Control):
        return _control(frame)
    if isinstance(frame, DeadLetter):
        return joined(frame.id, frame.stage, f"attempt {frame.attempts}", f"{frame.error_class}: {frame.error_message}")
    key = str(getattr(frame, topic.key))
    return joined(key, *(_plan(frame, topic.key) if isinstance(frame, Plan) else _fields(frame, {topic.key})))


def _plan(plan: Plan, key: str) -> list[str | None]:
    """What every plan says, and the short fields of this one."""
    own = _fields(plan, {key, *Plan.model_fields, *VersionedPlan.model_fields})
    if not isinstance(plan, VersionedPlan):
        return [*own, solver_text(plan.solver)]
    if plan.skip_reason is not None:
        return [f"v{plan.base_version} stays", *own, plan.skip_reason]
    return [f"v{plan.base_version} -> v{plan.version}", *own, solver_text(plan.solver), plan.reset_reason]


def _fields(frame: Frame, known: set[str]) -> list[str | None]:
    """The first short fields of a frame, and the shapes of its arrays."""
    shown: list[str | None] = []
    for name in type(frame).model_fields:
        value = getattr(frame, name)
        if name in known or name in ("frame", "ts_ns") or value is None:
            continue
        if name in frame.arrays:
            shown.append(f"{name} {' x '.join(map(str, value.shape))}")
        elif isinstance(value, bool | int | str):
            shown.append(f"{name} {value}")
        elif isinstance(value, float):
            shown.append(f"{name} {value:.4g}")
    return shown[:SHOWN_FIELDS]


def _control(control: Control) -> str:
    options = " ".join(f"{name}={value}" for name, value in control.options.items())
    return joined(control.agent, "paused" if control.paused else "running", options or "no options", control.reason or None)
