"""Rights of users, and what the tests have them do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qstream.cli.checks import Check, check_broker
from qstream.config import Settings
from qstream.stream.client import Publisher
from qstream.testing.rig import LoopThread, Rig
from qstream.testing.sample import Ping

Right = tuple[str, str, str]
Entry = Callable[..., Settings]


def agent_rights(rig: Rig, without: Right | None = None) -> list[Right]:
    """The least that an agent needs."""
    sample = rig.sample
    rights = [("READ", "topic", topic.name) for topic in sample.inputs]
    rights += [("WRITE", "topic", topic.name) for topic in (*sample.outputs, sample.letters)]
    rights.append(("READ", "group", rig.group))
    assert without is None or without in rights
    return [right for right in rights if right != without]


def start(rig: Rig, settings: Settings, **more: Any) -> LoopThread:
    return rig.loop(bootstrap_servers=settings.bootstrap_servers, kafka=settings.kafka, **more)


def publish(settings: Settings, rig: Rig) -> None:
    with Publisher(settings.bootstrap_servers, settings=settings) as publisher:
        publisher.publish(rig.sample.pings, Ping.example())


def names_of(rig: Rig) -> dict[str, str]:
    sample = rig.sample
    return {"ping": sample.pings.name, "pong": sample.pongs.name, "letters": sample.letters.name, "group": rig.group}


def doctor(settings: Settings) -> dict[str, Check]:
    """What the doctor says of the broker, by what it is about."""
    return {check.what: check for check in check_broker(settings)}
