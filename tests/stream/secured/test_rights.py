"""Who lacks a right is told which, on what; an agent with the least rights does all of its work."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence

import pytest

from qstream.cli.cluster import reach, require_topics
from qstream.config import Settings
from qstream.errors import Fatal, NotAllowed, QstreamError
from qstream.stream.admin import TopicState, apply_topics, inspect_topics
from qstream.stream.client import PlanSubscriber, Publisher
from qstream.stream.groups import GroupState, group_state
from qstream.stream.read import read_all
from qstream.stream.redrive import dead_records, redrive
from qstream.stream.tables import Tables
from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping, Pong
from schemas.topics import Topic
from tests.stream.careless import report_carelessly
from tests.stream.secured.rights import Right, agent_rights, doctor, names_of, publish, start


def describe(settings: Settings, rig: Rig) -> GroupState:
    return group_state(reach(settings).client, settings, rig.group, rig.sample.inputs)


def details(states: Sequence[TopicState]) -> str:
    return "; ".join(state.detail for state in states)


# What a user does, with which rights, and the words of what is missing. {ping} and {group} are names of the rig.
Act = Callable[[Settings, Rig], object]
LACKS: dict[str, tuple[Act, list[Right], str]] = {
    "publish": (publish, [("WRITE", "topic", "{pong}")], "must have WRITE on topic {ping}"),
    "publish, seeing the topic": (publish, [("DESCRIBE", "topic", "{ping}")], "must have WRITE on topic {ping}"),
    "publish, writing elsewhere": (
        publish,
        [("DESCRIBE", "topic", "{ping}"), ("WRITE", "topic", "{pong}")],
        "must have WRITE on topic {ping}",
    ),
    "read": (lambda s, rig: list(read_all(s, rig.sample.pings.name)), [], "must have DESCRIBE on topic {ping}"),
    "read, seeing the topic": (
        lambda s, rig: list(read_all(s, rig.sample.pings.name)),
        [("DESCRIBE", "topic", "{ping}")],
        "must have READ on topic {ping}",
    ),
    "see the topics": (
        lambda s, rig: require_topics(reach(s), [rig.sample.pings]),
        [],
        "must have DESCRIBE on topic {ping}, or they do not exist",
    ),
    "see a group": (describe, [("DESCRIBE", "topic", "{ping}")], "must have DESCRIBE on group {group}"),
    "see what was redriven": (
        lambda s, rig: dead_records(s, rig.sample.name, {rig.sample.pings.name}),
        [("READ", "topic", "{letters}")],
        "must have DESCRIBE on group {group}.redrive",
    ),
    "remember what was redriven": (
        lambda s, rig: redrive(
            s, rig.sample.name, dead_records(s, rig.sample.name, {rig.sample.pings.name})[0], [rig.letters()[0][0].id]
        ),
        [("READ", "topic", "{letters}"), ("WRITE", "topic", "{ping}"), ("DESCRIBE", "group", "{group}.redrive")],
        "must have READ on group {group}.redrive",
    ),
}


@pytest.mark.parametrize("act", LACKS)
def test_who_lacks_a_right_is_told_which_on_what(act, entry, shared_rig):
    do, rights, words = LACKS[act]
    names = names_of(shared_rig)
    settings = entry(*((operation, kind, name.format(**names)) for operation, kind, name in rights))
    with pytest.raises(QstreamError) as failure:
        do(settings, shared_rig)
    assert words.format(**names) in str(failure.value)


@pytest.mark.parametrize("report", [Publisher._report, report_carelessly], ids=["heard", "lost"])
def test_a_publisher_that_may_write_nowhere_names_the_right_and_goes_on_once_it_has_it(report, entry, secured, rig, monkeypatch):
    monkeypatch.setattr(Publisher, "_report", report)
    pings = rig.sample.pings
    settings = entry(("DESCRIBE", "topic", pings.name))

    def publish_again() -> bool:
        publisher.publish(pings, Ping.example())
        try:
            publisher.flush()
        except NotAllowed as exc:
            return not may_write and f"must have WRITE on topic {pings.name}" in str(exc)
        return may_write

    with Publisher(settings.bootstrap_servers, settings=settings) as publisher:
        may_write = False
        for _ in range(3):
            assert publish_again()
        secured.allow(settings.kafka_properties()["sasl.username"], ("WRITE", "topic", pings.name))
        may_write = True
        wait_until(publish_again)


def test_topics_say_what_a_user_may_not_see_or_make(entry, shared_rig):
    names, sample = names_of(shared_rig), shared_rig.sample
    absent = Topic(f"{sample.name}.absent.v1", Ping, "name", "input", "nothing", 1)
    unseen = inspect_topics(reach(entry()).client, [sample.pings])
    assert details(unseen) == f"the Kafka user must have DESCRIBE on topic {names['ping']}, or it does not exist"
    seeing = reach(entry(("DESCRIBE", "topic", f"{sample.name}*"))).client
    (found,) = inspect_topics(seeing, [sample.pings])
    assert found.finding == "ok"
    assert f"must have DESCRIBE_CONFIGS on topic {names['ping']}" in found.detail
    assert f"must have CREATE on topic {absent.name} or on the cluster" in details(apply_topics(seeing, [absent]))


def test_a_subscriber_alone_needs_no_right_on_a_group_and_a_member_is_told_of_it(entry, shared_rig, caplog):
    pongs = shared_rig.sample.pongs
    settings = entry(("READ", "topic", pongs.name))
    with PlanSubscriber(pongs, Pong, settings.bootstrap_servers, from_start=True, settings=settings) as alone:
        wait_until(lambda: alone.poll(0.2))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    with PlanSubscriber(pongs, Pong, settings.bootstrap_servers, group="rig.plans", settings=settings) as member:
        wait_until(lambda: member.poll(0.2) or "must have READ on group rig.plans" in caplog.text)


def test_an_agent_with_the_least_rights_does_all_of_its_work(entry, rig):
    rig.publish([Ping.of("a", 1), Ping.of("b", 1, act="poison")])
    with start(rig, entry(*agent_rights(rig))) as worker:
        wait_until(lambda: rig.pongs() and rig.letters())
        wait_until(lambda: rig.committed_records() == 2)
        assert worker.loop.status().lacks == ""
    assert rig.tally("a").count == 1


@pytest.mark.parametrize(
    ("without", "words"),
    [
        (("READ", "group", "{group}"), "READ on group {group}"),
        (("READ", "topic", "{ping}"), "READ on topic {ping}"),
        (("WRITE", "topic", "{pong}"), "WRITE on topic {pong}"),
        (("WRITE", "topic", "{letters}"), "WRITE on topic {letters}"),
    ],
)
def test_an_agent_that_lacks_a_right_is_not_ready_and_says_which(without, words, entry, rig, caplog):
    names = names_of(rig)
    lacking = (without[0], without[1], without[2].format(**names))
    seeing = [("DESCRIBE", "topic", lacking[2])] if lacking[1] == "topic" else []
    rig.publish([Ping.of("a", 1), Ping.of("b", 1, act="poison")])
    right = f"the Kafka user must have {words.format(**names)}"
    with start(rig, entry(*agent_rights(rig, lacking), *seeing)) as worker:
        wait_until(lambda: right in worker.loop.status().lacks)
        assert not worker.loop.status().ready
        said = wait_until(lambda: [r for r in caplog.records if r.levelno >= logging.ERROR and right in r.getMessage()])
        assert len(said) == 1


def test_an_agent_that_may_write_nowhere_is_not_ready_until_it_may(entry, secured, rig):
    rig.publish([Ping.of("a", 1)])
    rights = agent_rights(rig)
    to_write = [right for right in rights if right[0] == "WRITE"]
    settings = entry(*(right for right in rights if right not in to_write), *(("DESCRIBE", *right[1:]) for right in to_write))
    with start(rig, settings) as worker:
        wait_until(lambda: "WRITE on the topics that it sends to" in worker.loop.status().lacks)
        assert not worker.loop.status().ready
        secured.allow(settings.kafka_properties()["sasl.username"], *to_write)
        wait_until(lambda: worker.loop.status().ready and rig.pongs())


def test_a_worker_that_may_not_use_its_transactional_id_ends_and_says_so(entry, rig):
    with pytest.raises(Fatal, match=rf"must have WRITE on transactional id {re.escape(rig.group)}-worker-0"):
        start(rig, entry(*agent_rights(rig)), delivery="exactly_once").stop()


@pytest.mark.parametrize(("right", "words"), [("DESCRIBE", "READ on topic {}"), (None, "DESCRIBE on topic {}")])
def test_a_table_that_may_not_be_read_is_named_at_once(right, words, entry, shared_rig, caplog):
    topic = shared_rig.sample.gates
    tables, stop = Tables(entry(*([(right, "topic", topic.name)] if right else [])), [topic]), threading.Event()
    reading = threading.Thread(target=tables.read, args=(stop,))
    reading.start()
    try:
        wait_until(lambda: any(words.format(topic.name) in record.getMessage() for record in caplog.records))
    finally:
        stop.set()
        reading.join()
        tables.close()


def test_the_doctor_gives_the_cause_and_what_to_do(entry):
    (check,) = doctor(entry(sasl_password="wrong")).values()
    assert check.verdict == "fail"
    assert "Invalid username or password" in check.detail
    assert "sasl.password" in check.fix
    (check,) = doctor(entry(ssl_ca_location="/nowhere.pem")).values()
    assert (check.verdict, check.fix) == ("fail", "correct QSTREAM_KAFKA")
    assert "/nowhere.pem" in check.detail


@pytest.mark.usefixtures("registry_topics")
def test_the_doctor_says_what_it_may_not_see_and_takes_nothing_unseen_for_good(entry):
    group = "group rig.routing"
    blind = doctor(entry())
    assert blind["topics"].verdict == "warn"
    assert "DESCRIBE" in blind["topics"].fix
    assert (blind[group].verdict, blind[group].detail) == ("warn", "the Kafka user must have DESCRIBE on group rig.routing")
    seeing = doctor(entry(("DESCRIBE", "topic", "qstream.*"), ("DESCRIBE", "group", "rig.routing")))
    assert seeing["topics"].verdict == "ok"
    assert seeing["topic settings"].verdict == "warn"
    assert "DESCRIBE_CONFIGS" in seeing["topic settings"].fix
    assert seeing[group].detail == "no worker of routing has joined yet"
    topics = [(right, "topic", "qstream.*") for right in ("DESCRIBE", "DESCRIBE_CONFIGS")]
    whole = doctor(entry(*topics, ("DESCRIBE", "cluster", "kafka-cluster")))
    assert "topic settings" not in whole
    assert whole[group].detail == "no worker of routing has joined yet"
