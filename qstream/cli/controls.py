"""Controls: the records of what operators asked of an agent that the control topic still holds."""

from __future__ import annotations

from qstream.config import Settings
from qstream.stream.read import frame_of, read_all
from schemas.control import Control
from schemas.frame import FrameError
from schemas.topics import CONTROL


def controls_of(settings: Settings, agent: str) -> tuple[list[Control], int]:
    """The readable control records of an agent, the oldest first; and how many of the topic are unreadable.

    The newest is there for certain, older ones until the topic is compacted.
    """
    found: list[Control] = []
    unreadable = 0
    for message in read_all(settings, CONTROL.name):
        try:
            control = frame_of(message, Control)
        except FrameError:
            unreadable += 1
            continue
        if control.agent == agent:
            found.append(control)
    return found, unreadable
