"""A cluster with TLS, passwords and access rights: what works with the least rights, and the words for each fault."""

from __future__ import annotations

import logging
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from agents.registry import all_topics
from qstream.cli.checks import Check, check_broker
from qstream.cli.checks_redis import check_redis
from qstream.cli.cluster import reach, require_topics
from qstream.config import Settings
from qstream.errors import ConfigError, Fatal, NotAllowed, QstreamError
from qstream.stream.admin import TopicState, apply_topics, inspect_topics
from qstream.stream.client import PlanSubscriber, Publisher
from qstream.stream.groups import GroupState, group_state
from qstream.stream.read import read_all
from qstream.stream.redrive import dead_records, redrive
from qstream.stream.tables import Tables
from qstream.testing.rig import LoopThread, Rig, wait_until
from qstream.testing.sample import Ping, Pong
from qstream.testing.secured import CERTIFIED, CLIENTS, ELSEWHERE, PASSWORD, SecuredKafka, tls_redis
from schemas.control import Control
from schemas.frame import JSON
from schemas.topics import CONTROL, Topic
from tests.stream.careless import report_carelessly

Right = tuple[str, str, str]
TRUST = Path(__file__).parents[2] / "docs/pages/concepts/trust.md"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SecuredKafka, str]]:
    """One broker and one Redis for all tests of this file; each test has users of its own."""
    with ExitStack() as running:
        try:
            kafka = running.enter_context(SecuredKafka(tmp_path_factory.mktemp("certificates")))
            redis_url = running.enter_context(tls_redis(kafka.certificates))
        except ConfigError as exc:
            if os.environ.get("CI") == "true":
                pytest.fail(str(exc))
            pytest.skip(str(exc))
        yield kafka, redis_url


@pytest.fixture
def secured(servers: tuple[SecuredKafka, str]) -> SecuredKafka:
    return servers[0]


@pytest.fixture(scope="module")
def shared_rig(servers: tuple[SecuredKafka, str]) -> Iterator[Rig]:
    """Topics with a record and a dead letter, for tests that change nothing."""
    secured, redis_url = servers
    with Rig(secured.bootstrap_servers, redis_url, "test.secured", partitions=1, redis_timeout_ms=20_000) as rig:
        rig.publish([Ping.of("a", 1), Ping.of("b", 1, act="poison")])
        with rig.loop():
            wait_until(lambda: rig.pongs() and rig.letters())
        yield rig


@pytest.fixture
def rig(servers: tuple[SecuredKafka, str], topic_prefix: str) -> Iterator[Rig]:
    """A sample agent whose topics the test reads and writes by the door without rules."""
    secured, redis_url = servers
    with Rig(secured.bootstrap_servers, redis_url, topic_prefix, partitions=1, redis_timeout_ms=20_000) as rig:
        yield rig


Entry = Callable[..., Settings]
BY_CERTIFICATE = {"security_protocol": "SSL"} | dict.fromkeys(("sasl_mechanism", "sasl_username", "sasl_password"))


@pytest.fixture
def entry(secured: SecuredKafka) -> Entry:
    """Settings of a new user with these rights and no other; locations are names in the folder of the certificates."""

    def make(*rights: Right, at: str = CLIENTS, **changes: Any) -> Settings:
        changes = (BY_CERTIFICATE if at == CERTIFIED else {}) | changes
        changes |= {name: str(secured.certificates / given) for name, given in changes.items() if given and "location" in name}
        properties = secured.properties(secured.user(*rights), **changes) | {"log_level": "0"}
        return Settings(bootstrap_servers=secured.addresses[at], kafka=properties, group_prefix="rig", delivery_timeout_ms=5000)

    return make


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


FAULTS = {
    "wrong password": ({"sasl_password": "wrong"}, ("refuses this client", "Invalid username or password", "sasl.password")),
    "unknown user": ({"sasl_username": "mallory"}, ("refuses this client", "Invalid username or password", "sasl.username")),
    "wrong mechanism": ({"sasl_mechanism": "SCRAM-SHA-512"}, ("Unsupported SASL mechanism", "PLAIN", "sasl.mechanism")),
    "unknown mechanism": ({"sasl_mechanism": "PLAYN"}, ("Unsupported SASL mechanism: PLAYN",)),
    "wrong CA": ({"ssl_ca_location": "other-ca.pem"}, ("certificate verify failed", "ssl.ca.location")),
    "no CA": ({"ssl_ca_location": None}, ("certificate verify failed", "ssl.ca.location")),
    "missing CA": (
        {"ssl_ca_location": "nowhere.pem"},
        ("kafka.ssl.ca.location must be the path of a file that exists", "nowhere.pem"),
    ),
    "wrong host name": ({"at": ELSEWHERE}, ("names this host", "ssl.endpoint.identification.algorithm")),
    "no TLS": ({"security_protocol": "SASL_PLAINTEXT"}, ("security.protocol",)),
    "nothing at all": ({"security_protocol": None, "sasl_mechanism": None}, ("security.protocol",)),
    "TLS to a door without": ({"at": "PLAINTEXT"}, ("SSL connection closed by peer", "security.protocol")),
    "no certificate": ({"at": CERTIFIED}, ("refuses this client", "alert", "check ssl.certificate.location")),
    "a stranger's certificate": (
        {"at": CERTIFIED, "ssl_certificate_location": "other-ca.pem", "ssl_key_location": "other-ca.key"},
        ("refuses this client", "alert", "check ssl.certificate.location"),
    ),
    "misspelt property": ({"sasl_pasword": PASSWORD}, ('No such configuration property: "sasl.pasword"',)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_client_that_is_not_let_in_says_why_and_what_to_check(fault, secured, entry):
    changes, words = FAULTS[fault]
    settings, said = entry(**changes), ""

    def says_it() -> bool:
        """Asked once more where a busy broker has not refused the client in time."""
        nonlocal said
        with pytest.raises(QstreamError) as failure:
            reach(settings, timeout_s=2.0)
        said = str(failure.value)
        assert PASSWORD not in "".join(traceback.format_exception(failure.value))
        return all(word in said for word in words)

    wait_until(says_it, saying=lambda: said)


@pytest.mark.parametrize("group", [None, "rig.plans"])
def test_a_subscriber_with_a_property_that_is_none_says_so_without_its_value(group, entry, shared_rig):
    settings = entry(sasl_pasword=PASSWORD)
    with pytest.raises(ConfigError, match=r'kafka: No such configuration property: "sasl\.pasword"') as failure:
        PlanSubscriber(shared_rig.sample.pongs, Pong, settings.bootstrap_servers, group=group, settings=settings)
    assert PASSWORD not in "".join(traceback.format_exception(failure.value))


def test_a_client_with_a_certificate_has_the_rights_of_its_name(secured, entry, shared_rig):
    pings = shared_rig.sample.pings
    secured.allow("CN=client", ("DESCRIBE", "topic", pings.name))
    settings = entry(at=CERTIFIED, ssl_certificate_location="client.pem", ssl_key_location="client.key")
    assert pings.name in reach(settings, timeout_s=60.0).topics


REDIS_FAULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "wrong password": (lambda url: url.replace("S3cret-redis", "S3cret-other"), "user and password in the URL must be right"),
    "wrong CA": (lambda url: url.replace("/ca.pem", "/other-ca.pem"), "the server's certificate must be one that this machine"),
    "no CA": (lambda url: url.partition("?")[0], "the server's certificate must be one that this machine"),
    "no TLS": (lambda url: url.partition("?")[0].replace("rediss", "redis"), "no answer"),
}


@pytest.mark.parametrize("fault", REDIS_FAULTS)
def test_a_redis_with_tls_that_cannot_be_entered_says_why(fault, servers):
    spoil, words = REDIS_FAULTS[fault]
    assert check_redis(servers[1], 1 << 20)[0].verdict == "ok"
    (check,) = check_redis(spoil(servers[1]), 1 << 20)
    assert (check.verdict, words in check.detail, "S3cret" in check.detail + check.fix) == ("fail", True, False)


@pytest.mark.parametrize("given", ["file", "text"])
def test_a_host_that_the_certificate_does_not_name_is_fine_where_that_is_not_checked(given, secured, entry):
    ca = secured.certificates / "ca.pem"
    named = {"ssl_ca_location": "ca.pem"} if given == "file" else {"ssl_ca_location": None, "ssl_ca_pem": ca.read_text()}
    settings = entry(at=ELSEWHERE, ssl_endpoint_identification_algorithm="none", **named)
    assert not reach(settings, timeout_s=60.0).embedded


def publish(settings: Settings, rig: Rig) -> None:
    with Publisher(settings.bootstrap_servers, settings=settings) as publisher:
        publisher.publish(rig.sample.pings, Ping.example())


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


def names_of(rig: Rig) -> dict[str, str]:
    sample = rig.sample
    return {"ping": sample.pings.name, "pong": sample.pongs.name, "letters": sample.letters.name, "group": rig.group}


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


def doctor(settings: Settings) -> dict[str, Check]:
    """What the doctor says of the broker, by what it is about."""
    return {check.what: check for check in check_broker(settings)}


@pytest.fixture(scope="module")
def registry_topics(servers: tuple[SecuredKafka, str]) -> None:
    apply_topics(AdminClient({"bootstrap.servers": servers[0].bootstrap_servers}), all_topics())


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
