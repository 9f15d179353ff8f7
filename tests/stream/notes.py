"""Notes: a small frame with a version, and a subscriber of topics that hold it."""

from __future__ import annotations

import time
from collections.abc import Callable

from qstream.stream.client import PlanSubscriber
from qstream.testing.rig import PATIENCE_S
from schemas.frame import Frame, Name
from schemas.topics import Topic

MakeTopic = Callable[..., Topic]


class Note(Frame):
    model: Name
    version: int
    text: str = ""


def note_topic(name: str, **given: object) -> Topic:
    return Topic(name, Note, "model", "input", "notes", **{"partitions": 4} | given)  # type: ignore[arg-type]


def note(model: str = "m", version: int = 1, text: str = "") -> Note:
    return Note(model=model, version=version, text=text)


def subscriber(kafka: str, topic: Topic, **given: object) -> PlanSubscriber[Note]:
    return PlanSubscriber(topic, Note, kafka, **given)  # type: ignore[arg-type]


def versions(plans: PlanSubscriber[Note], count: int) -> list[int]:
    """The versions of the next plans, in the order in which they come."""
    found: list[int] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < deadline:
        if (plan := plans.poll(0.1)) is not None:
            found.append(plan.version)
    return found
