"""The rights that the page on trust lists for each role are enough, and none can be left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qstream.cli.cluster import reach
from qstream.config import Settings
from qstream.errors import QstreamError
from qstream.stream.admin import apply_topics
from qstream.stream.client import PlanSubscriber, Publisher
from qstream.stream.read import read_all
from qstream.stream.redrive import dead_records, redrive
from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping, Pong
from schemas.control import Control
from schemas.frame import JSON
from schemas.topics import CONTROL, Topic
from tests.stream.secured.rights import Right, doctor, publish, start

TRUST = Path(__file__).parents[3] / "docs/pages/concepts/trust.md"


def page_rights() -> dict[str, list[Right]]:
    """The lines of the page's table of least rights, by role; names as they stand there."""
    rows = [
        tuple(cell.strip(" `") for cell in line.split("|")[1:-1]) for line in TRUST.read_text().splitlines() if line[:1] == "|"
    ]
    found: dict[str, list[Right]] = {}
    for role, *right in (row for row in rows if len(row) == 4 and row[2] in ("topic", "group", "transactional id")):
        found.setdefault(role, []).append((right[0], right[1], right[2]))
    return found


def rights_of(role: str, rig: Rig, dropped: int | None = None) -> list[Right]:
    """The rights of a role on the rig's topics and groups, without one of its lines."""
    sample = rig.sample
    names = {
        "inputs": [topic.name for topic in sample.inputs],
        "plans": [topic.name for topic in sample.outputs],
        "dead letters": [sample.letters.name],
        "control": [CONTROL.name],
        "all": ["qstream.*"],
        "its own": ["rig.plans"],
        "qstream.<agent>": ["rig.routing" if role == "doctor" else rig.group],
        "qstream.<agent>-*": [f"{rig.group}-*"],
        "qstream.<agent>.redrive": [f"{rig.group}.redrive"],
    }
    lines = [line for at, line in enumerate(page_rights()[role]) if at != dropped]
    return [(operation, kind, name) for operation, kind, which in lines for name in names[which]]


def work(rig: Rig, settings: Settings, **more: Any) -> None:
    """What an agent does: it reads its options, answers what is right, and keeps what is not."""
    list(read_all(settings, CONTROL.name))
    rig.publish([Ping.of("a", 1), Ping.of("b", 1, act="poison")])
    with start(rig, settings, **more):
        wait_until(lambda: rig.pongs() and rig.letters())
        wait_until(lambda: rig.committed_records() >= 2)


def operate(rig: Rig, settings: Settings) -> None:
    """What an operator does: pause an agent, see that it is asked for, and send back what failed."""
    control = Control(agent=rig.sample.name, ts_ns=1, paused=True)
    with Publisher(settings.bootstrap_servers, settings=settings) as publisher:
        publisher.publish(CONTROL, control, content_type=JSON)
    assert control in [Control.decode(message.value(), JSON) for message in read_all(settings, CONTROL.name)]
    dead, _ = dead_records(settings, rig.sample.name, {topic.name for topic in rig.sample.inputs})
    assert redrive(settings, rig.sample.name, dead, [dead[0].letter.id])


def fill(rig: Rig) -> None:
    """One answer and one dead letter."""
    rig.publish([Ping.of("a", 1), Ping.of("b", 1, act="poison")])
    with rig.loop():
        wait_until(lambda: rig.pongs() and rig.letters())


def follow(rig: Rig, settings: Settings, group: str | None = None) -> None:
    """What a reader of plans does."""
    pongs = rig.sample.pongs
    with PlanSubscriber(pongs, Pong, settings.bootstrap_servers, from_start=True, group=group, settings=settings) as plans:
        wait_until(lambda: plans.poll(0.2))


def examine(settings: Settings) -> None:
    """What the doctor does."""
    found = doctor(settings)
    assert (found["topics"].verdict, "topic settings" in found) == ("ok", False)
    assert found["group rig.routing"].detail == "no worker of routing has joined yet"


def create(rig: Rig, settings: Settings) -> None:
    """What `qstream topics apply` does."""
    (state,) = apply_topics(reach(settings).client, [Topic(f"qstream.{rig.sample.name}.v1", Ping, "name", "input", "nothing", 1)])
    assert state.finding == "created", state.detail


ROLES: dict[str, Callable[[Rig, Settings], object]] = {
    "agent": work,
    "agent, exactly once": lambda rig, settings: work(rig, settings, delivery="exactly_once"),
    "producer": lambda rig, settings: publish(settings, rig),
    "reader": follow,
    "reader in a group": lambda rig, settings: follow(rig, settings, "rig.plans"),
    "operator": operate,
    "doctor": lambda _rig, settings: examine(settings),
    "topics apply": create,
}


def test_every_role_of_the_page_is_tried():
    assert page_rights().keys() == ROLES.keys()


@pytest.mark.usefixtures("registry_topics")
@pytest.mark.parametrize("role", ROLES)
def test_the_least_rights_of_the_page_are_enough_for_each_role(role, entry, rig):
    rights = rights_of(role, rig) + (rights_of("agent", rig) if role == "agent, exactly once" else [])
    if not role.startswith("agent"):
        fill(rig)
    ROLES[role](rig, entry(*rights))


@pytest.mark.usefixtures("registry_topics")
@pytest.mark.parametrize(
    ("role", "dropped"),
    [
        (role, at)
        for role in ("producer", "reader", "operator", "doctor", "topics apply")
        for at in range(len(page_rights()[role]))
    ],
)
def test_no_line_of_the_page_can_be_left_out(role, dropped, entry, rig):
    """Those of an agent and of a group are tried above, one by one."""
    fill(rig)
    with pytest.raises((QstreamError, AssertionError)):
        ROLES[role](rig, entry(*rights_of(role, rig, dropped)))
