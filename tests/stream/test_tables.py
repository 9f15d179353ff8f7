"""Tables against a real broker: read whole before the first batch, followed afterwards, whatever the group does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from qstream.config import Settings
from qstream.stream.admin import apply_topics
from qstream.stream.client import Publisher
from qstream.stream.tables import Tables
from qstream.testing.rig import PATIENCE_S, wait_until
from schemas.frame import Frame, Name
from schemas.topics import Topic

MakeTopic = Callable[..., Topic]
NEVER = threading.Event()


class Row(Frame):
    name: Name
    value: int
    pad: str = ""


@pytest.fixture
def describe(topic_prefix: str) -> Callable[[str], Topic]:
    def make(name: str) -> Topic:
        return Topic(f"{topic_prefix}.{name}.v1", Row, "name", "input", "rows", 3, compacted=True)

    return make


@pytest.fixture
def create(kafka: str) -> Callable[[Topic], Topic]:
    def make(topic: Topic) -> Topic:
        apply_topics(AdminClient({"bootstrap.servers": kafka}), [topic], 1)
        return topic

    return make


@pytest.fixture
def publisher(kafka: str) -> Iterator[Publisher]:
    with Publisher(kafka) as publisher:
        yield publisher


@pytest.fixture
def open_tables(kafka: str) -> Iterator[Callable[..., Tables]]:
    with ExitStack() as running:

        def make(*topics: Topic) -> Tables:
            tables = Tables(Settings(bootstrap_servers=kafka), topics)
            running.callback(tables.close)
            return tables

        yield make


def recreate(client: AdminClient, topic: Topic) -> None:
    client.delete_topics([topic.name])[topic.name].result()
    wait_until(lambda: apply_topics(client, [topic], 1)[0].finding == "created")


def put(publisher: Publisher, topic: Topic, **values: int) -> None:
    for name, value in values.items():
        publisher.publish(topic, Row(name=name, value=value))
    publisher.flush()


def values(tables: Tables, topic: Topic) -> dict[str, int]:
    return {name: row.value for name, row in tables.rows[topic.name].items()}  # type: ignore[attr-defined]


def test_a_table_is_read_whole_and_its_newest_rows_are_followed(describe, create, publisher, open_tables):
    one, two = create(describe("one")), create(describe("two"))
    put(publisher, one, **{f"k{n}": n for n in range(40)})
    put(publisher, one, k7=700)
    tables = open_tables(one, two)
    tables.read(NEVER)
    assert values(tables, one) == {f"k{n}": n for n in range(40)} | {"k7": 700}
    assert values(tables, two) == {}
    assert tables.changes() == set()

    before = tables.snapshot([one.name])
    put(publisher, two, a=1)
    put(publisher, one, k0=1)
    publisher.publish_raw(one.name, b"k1", None)
    publisher.flush()
    changed: set[str] = set()
    wait_until(lambda: changed.update(tables.changes()) or (values(tables, two) and values(tables, one).get("k0") == 1))
    wait_until(lambda: changed.update(tables.changes()) or "k1" not in tables.rows[one.name])
    assert changed == {one.name, two.name}
    assert before[one.name]["k0"].value == 0


def test_the_first_unreadable_record_is_named_with_their_number_and_the_row_stays(
    describe, create, publisher, open_tables, caplog
):
    topic = create(describe("one"))
    put(publisher, topic, a=1)
    for _ in range(200):
        publisher.publish_raw(topic.name, b"a", b"noise")
    publisher.flush()
    tables = open_tables(topic)
    tables.read(NEVER)
    assert values(tables, topic) == {"a": 1}
    (said,) = (message for message in caplog.messages if "unreadable" in message)
    assert said.startswith(f"table {topic.name}: 200 unreadable records, the first is {topic.name}/")


def test_partitions_that_a_table_gets_later_are_followed_with_the_others(describe, create, publisher, open_tables, kafka):
    topic = create(describe("grows"))
    put(publisher, topic, a=1)
    tables = open_tables(topic)
    tables.read(NEVER)
    client = AdminClient({"bootstrap.servers": kafka})
    client.create_partitions([NewPartitions(topic.name, 5)])[topic.name].result(60)
    producer = Producer({"bootstrap.servers": kafka})
    for partition in range(5):
        name = f"p{partition}"
        producer.produce(topic.name, Row(name=name, value=partition).encode(), name.encode(), partition=partition)
    assert producer.flush(60) == 0
    new = {f"p{partition}": partition for partition in range(5)}
    wait_until(lambda: tables.changes() is not None and values(tables, topic) == {"a": 1} | new)
    put(publisher, topic, a=2)
    producer.produce(topic.name, Row(name="p4", value=40).encode(), b"p4", partition=4)
    assert producer.flush(60) == 0
    wait_until(lambda: tables.changes() is not None and values(tables, topic) == {"a": 2} | new | {"p4": 40})


def test_a_table_that_is_absent_is_waited_for_and_the_wait_ends_on_demand(describe, create, publisher, open_tables, caplog):
    topic = describe("late")
    tables = open_tables(topic)
    stop = threading.Event()
    waiting = threading.Thread(target=tables.read, args=(stop,))
    waiting.start()
    wait_until(lambda: any("waiting for a table" in message and topic.name in message for message in caplog.messages))
    assert waiting.is_alive()
    put(publisher, create(topic), a=1)
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    wait_until(lambda: tables.changes() is not None and values(tables, topic) == {"a": 1})

    stopped = threading.Event()
    other = open_tables(describe("never"))
    waiting = threading.Thread(target=other.read, args=(stopped,))
    waiting.start()
    stopped.set()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    assert other.changes() == set()


def test_a_table_that_is_created_again_loses_the_rows_that_it_no_longer_has(describe, create, publisher, open_tables, kafka):
    topic = create(describe("again"))
    put(publisher, topic, **{f"k{n}": n for n in range(40)})
    tables = open_tables(topic)
    tables.read(NEVER)
    recreate(AdminClient({"bootstrap.servers": kafka}), topic)
    put(publisher, topic, k7=700, new=1)
    wait_until(lambda: tables.changes() is not None and values(tables, topic) == {"k7": 700, "new": 1})


def test_no_table_asks_no_broker():
    tables = Tables(Settings(bootstrap_servers="127.0.0.1:1"), [])
    tables.read(NEVER)
    assert tables.changes() == set()
    tables.close()
