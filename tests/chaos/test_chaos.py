"""Workers, broker and store are killed while records flow; what is left must equal a run without faults.

Broker and store are this test's own. A failure prints the verdict, the schedule, what happened, and the logs.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, NewTopic

from qstream.compression.processor import CompressionProcessor
from qstream.config import Settings, load_settings
from qstream.contract import Processor, Record, TopicPartition
from qstream.embedded.redis import EmbeddedRedis
from qstream.energy.processor import EnergyProcessor
from qstream.errors import StoreUnavailable
from qstream.hpo.processor import HpoProcessor
from qstream.state.store import StateStore
from qstream.stream.producers import producer_config
from qstream.stream.read import read_all
from qstream.testing.chaos import Action, Fault, Fleet, schedule, storm
from qstream.testing.java_kafka import JavaKafka
from qstream.testing.meter import Meter
from qstream.testing.verify import Produced, Run, verify
from schemas.deadletter import DeadLetter
from schemas.topics import CONTROL, MODELS, TENSOR_CODEBOOK, dead_letter_name
from tests.chaos.cases import Case, Step, ledgers
from tests.chaos.compression import OPTIONS as DELTAS
from tests.chaos.compression import tensors
from tests.chaos.energy import OPTIONS, domains
from tests.chaos.hpo import OPTIONS as SMALL_SEARCH
from tests.chaos.hpo import studies
from tests.chaos.learning import meter

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1500)]

WORKERS = 3
JOIN_S = 400.0
SETTLE_S = 240.0
LOOK = 200  # steps between two looks at how far the workers are behind
DEATHS = 0.01  # of the writes to the store; a worker makes some 50 a second
BROKER_STAYS: Mapping[Action, int] = {"kill": 5, "terminate": 3, "pause": 2, "add": 2, "remove": 1, "store": 2}


@dataclass
class Published:
    """What the broker has confirmed: records by id, and which of them are poison."""

    records: dict[str, Record] = field(default_factory=dict)
    poison: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Scene:
    """Servers and workers of one run, and the settings that all share."""

    kafka: JavaKafka
    redis: EmbeddedRedis
    fleet: Fleet
    settings: Settings
    case: Case


@pytest.fixture
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    asked = dict(request.param)
    with JavaKafka(asked.pop("nodes", 1)) as kafka, EmbeddedRedis(append_only=True) as redis:
        yield from staged(kafka, redis, asked, tmp_path)


def staged(kafka: JavaKafka, redis: EmbeddedRedis, asked: dict[str, Any], folder: Path) -> Iterator[Scene]:
    """The scene on given servers; its workers end with it."""
    topics, agent = asked.pop("topics", 1), asked.pop("agent", "")
    case = {"": partial(ledgers, topics), "meter": meter, "energy": domains, "compression": tensors, "hpo": studies}[agent]()
    warmed: dict[str, Callable[[], Processor[Any]]] = {
        "meter": Meter,
        "energy": EnergyProcessor,
        "compression": CompressionProcessor,
        "hpo": HpoProcessor,
    }
    if agent:
        warmed[agent]().warm()  # its kernels are compiled by now when the workers, which start together, need them
    first_deaths = asked.pop("first_deaths", DEATHS)
    born: set[str] = set()
    given = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "redis_url": redis.url,
        "session_timeout_ms": 1500,
        "port": 0,
        "max_batch_records": 50,
        "transaction_timeout_ms": 8000,
        **asked,
    }
    create_topics(kafka.bootstrap_servers, case)

    def command(slot: str) -> Sequence[str]:
        deaths = DEATHS if slot in born else first_deaths
        born.add(slot)
        text = json.dumps({**given, "worker_id": slot, "topics": topics, "agent": agent, "deaths": deaths})
        return [sys.executable, "-m", "qstream.testing.chaos_worker", text]

    fleet = Fleet(command, folder)
    try:
        yield Scene(kafka, redis, fleet, load_settings(**given), case)
    finally:
        fleet.close()


def create_topics(bootstrap_servers: str, case: Case) -> None:
    names = dict.fromkeys((topic.name for topic in (*case.inputs, *case.outputs)), 8)
    names |= {dead_letter_name(case.name): 1, CONTROL.name: 1, MODELS.name: 1, TENSOR_CODEBOOK.name: 1}
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in admin.create_topics([NewTopic(name, partitions) for name, partitions in names.items()]).values():
        future.result(120.0)


def await_members(scene: Scene) -> None:
    """Wait until each of the first workers has had partitions."""
    began = time.monotonic()
    logs = [scene.fleet.folder / f"{slot}.log" for slot in scene.fleet.running()]
    while not all(re.search(r"\] assigned (?!nothing)", log.read_text()) for log in logs):
        assert time.monotonic() - began < JOIN_S, "the workers do not join"
        scene.fleet.supervise()
        time.sleep(0.2)


def publish(scene: Scene, steps: Iterable[Step], published: Published, pause_s: float, supervise: Callable[[], object]) -> None:
    """Publish the steps with a pause after each; a broker that is away is waited for, and so are workers that are far behind."""
    rng = random.Random(0)
    producer = Producer(producer_config(scene.settings) | {"delivery.report.only.error": False, "message.timeout.ms": 120_000})
    began = time.monotonic()
    for number, step in enumerate(steps):

        def confirm(error: KafkaError | None, message: Message, step: Step = step) -> None:
            assert error is None, error
            if step.topic not in scene.case.inputs:
                return  # a row of a table
            when_ms = message.timestamp()[1]
            record = Record(message.topic(), message.partition(), message.offset(), step.key, step.frame, when_ms)
            published.records[record.id] = record
            if step.fault:
                published.poison.add(record.id)

        if scene.case.most_behind < math.inf and number % LOOK == LOOK - 1:
            late = time.monotonic()
            while behind(scene) > scene.case.most_behind:
                assert time.monotonic() - late < SETTLE_S, "the workers do not go on"
                producer.poll(0.1)
                supervise()
        value = rng.randbytes(rng.randrange(1, 60)) if step.fault == "bytes" else step.frame.encode()
        producer.produce(step.topic.name, value, step.key.encode(), on_delivery=confirm)
        producer.poll(max(0.0, began + number * pause_s - time.monotonic()))
    assert producer.flush(120.0) == 0


def offsets(scene: Scene) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """Ends of the input partitions, and what the group has committed of them; `KafkaException` while the broker is away."""
    config = {"bootstrap.servers": scene.settings.bootstrap_servers, "group.id": f"qstream.{scene.case.name}", "log_level": 2}
    reader = Consumer(config | {"isolation.level": "read_committed"})
    partitions = [KafkaPartition(topic.name, n) for topic in scene.case.inputs for n in range(8)]
    try:
        ends = {TopicPartition(p.topic, p.partition): reader.get_watermark_offsets(p, 5.0)[1] for p in partitions}
        return ends, {TopicPartition(p.topic, p.partition): p.offset for p in reader.committed(partitions, 5.0)}
    finally:
        reader.close()


def behind(scene: Scene) -> float:
    """How many records the group has not committed; infinite while the broker is away."""
    try:
        ends, done = offsets(scene)
    except KafkaException:
        return math.inf
    return sum(end - max(0, done[at]) for at, end in ends.items())


def uncommitted(scene: Scene) -> list[str]:
    """Input partitions that the group has not committed to their ends, or whose states are not written as far."""
    store = StateStore(scene.settings.redis_url.get_secret_value(), scene.case.name, scene.case.state, timeout_ms=2000)
    try:
        ends, done = offsets(scene)
        written = store.watermarks() if scene.settings.delivery == "exactly_once" else done
    except (KafkaException, StoreUnavailable) as exc:
        return [str(exc)]
    finally:
        store.close()
    return [
        f"{at} ends at {end}, committed {done[at]}, states {written.get(at)}"
        for at, end in ends.items()
        if end > 0 and not end == done[at] == written.get(at)
    ]


def hidden(scene: Scene) -> list[str]:
    """Output partitions that hold an open transaction, which hides all behind it from readers of committed records."""
    outputs = [KafkaPartition(topic.name, n) for topic in scene.case.outputs for n in range(8)]
    outputs.append(KafkaPartition(dead_letter_name(scene.case.name), 0))
    ends = {}
    for level in ("read_committed", "read_uncommitted"):
        config = {"bootstrap.servers": scene.settings.bootstrap_servers, "group.id": "chaos.reader", "log_level": 2}
        reader = Consumer(config | {"isolation.level": level})
        try:
            ends[level] = {(at.topic, at.partition): reader.get_watermark_offsets(at, 5.0)[1] for at in outputs}
        except KafkaException as exc:
            return [str(exc)]
        finally:
            reader.close()
    stable, written = ends.values()
    return [f"{at} ends at {end}, is stable to {stable[at]}" for at, end in written.items() if end != stable[at]]


def settle(scene: Scene) -> float:
    """Seconds until everything is committed; AssertionError after two minutes."""
    began = time.monotonic()
    while left := uncommitted(scene) + hidden(scene):
        assert time.monotonic() - began < SETTLE_S, left
        scene.fleet.supervise()
        time.sleep(0.25)
    return time.monotonic() - began


def left_behind(scene: Scene) -> Run:
    """What consumers that read committed records find, and the states in the store."""
    events = []
    for topic in scene.case.outputs:
        for message in read_all(scene.settings, topic.name):
            headers = dict(message.headers() or ())
            events.append(Produced(headers["ce_id"].decode(), message.key().decode(), message.value(), topic.name))
    letters = [
        DeadLetter.from_headers(message.headers()).id for message in read_all(scene.settings, dead_letter_name(scene.case.name))
    ]
    states = {}
    with StateStore(scene.settings.redis_url.get_secret_value(), scene.case.name, scene.case.state, timeout_ms=60_000) as store:
        for key in scene.case.keys:
            state = store.load(key).state
            if state is not None:
                states[key] = state.encode()
    return Run(events, letters, states)


def run_chaos(scene: Scene, seed: int, faults: list[Fault], count: int, duration_s: float, once: bool = False) -> None:
    """Publish while the storm goes on, wait until all is committed, end the workers, and judge."""
    for _ in range(WORKERS):
        scene.fleet.add()
    servers: dict[Action, Any] = {"broker": scene.kafka, "store": scene.redis}
    try:
        await_members(scene)
        steps, published = scene.case.script(random.Random(f"publish {seed}"), count), Published()
        publish(scene, itertools.islice(steps, scene.case.first), published, 0.0, scene.fleet.supervise)
        if scene.case.first:
            settle(scene)
        with ThreadPoolExecutor(1) as pool:
            raging = pool.submit(storm, faults, scene.fleet, servers)
            publish(scene, steps, published, duration_s / count, lambda: raging.done() and scene.fleet.supervise())
            raging.result()
        settle_s = settle(scene)
        found = left_behind(scene)
        for slot in scene.fleet.running():
            scene.fleet.terminate(slot)
            scene.fleet.await_end(slot)
        records = sorted(published.records.values(), key=lambda record: (record.topic, record.partition, record.offset))
        expected = scene.case.expected(records, published.poison, found.states)
        verdict = verify(expected, found, open_order=scene.case.open_order)
        done = dict(Counter(fault.action for fault in faults))
        print(f"seed {seed}: {verdict}; settled in {settle_s:.1f} s, {len(published.poison)} poison, {done}")
        ended = [line for line in scene.fleet.diary if "ended by itself" in line]
        print(f"{len(ended)} deaths at saves or other ends:", *(line for line in ended if not line.endswith("-9")), sep="\n")
        assert len(records) >= count
        assert verdict.ok, str(verdict)
        assert not once or verdict.repeated + verdict.repeated_dead_letters == 0, str(verdict)
        assert all(child.poll() is not None for child in scene.fleet.processes())
    except BaseException:
        print(f"seed {seed}", *faults, "--- what happened", *scene.fleet.diary, sep="\n")
        print(scene.fleet.log_tail(), scene.kafka.log_tail(), sep="\n")
        raise


@pytest.mark.parametrize(
    "scene",
    [{"group_protocol": "classic", "topics": 2}, {"group_protocol": "consumer", "topics": 2}],
    ids=["classic", "next-generation"],
    indirect=True,
)
def test_nothing_is_lost_and_every_repetition_has_a_known_id(scene: Scene, chaos_seed: int) -> None:
    run_chaos(scene, chaos_seed, schedule(chaos_seed, 12.0, gap_s=(0.7, 2.0)), count=4000, duration_s=12.0)


@pytest.mark.parametrize("scene", [{"agent": "meter"}], ids=["meter"], indirect=True)
def test_what_is_learnt_is_byte_for_byte_what_a_run_without_faults_learns(scene: Scene, chaos_seed: int) -> None:
    zombie = Fault(2.0, "pause", 0, 5.0)  # longer than its session: others go on with its hosts, and it must change nothing
    faults = sorted([zombie, *schedule(chaos_seed, 10.0, gap_s=(0.7, 2.0))], key=lambda fault: fault.at_s)
    run_chaos(scene, chaos_seed, faults, count=2400, duration_s=10.0)


@pytest.mark.parametrize("scene", [{"agent": "energy", "options": OPTIONS}], ids=["energy"], indirect=True)
def test_domains_get_the_plans_of_a_run_without_faults(scene: Scene, chaos_seed: int) -> None:
    kills = [Fault(1.5, "kill", 0, 0.3), Fault(4.0, "kill", 1, 0.3)]
    faults = sorted([*kills, *schedule(chaos_seed, 8.0, gap_s=(0.7, 2.0))], key=lambda fault: fault.at_s)
    run_chaos(scene, chaos_seed, faults, count=1600, duration_s=8.0)


@pytest.mark.parametrize("scene", [{"agent": "compression", "options": DELTAS}], ids=["compression"], indirect=True)
def test_deltas_step_on_the_blocks_of_a_run_without_faults(scene: Scene, chaos_seed: int) -> None:
    run_chaos(scene, chaos_seed, schedule(chaos_seed, 8.0, gap_s=(0.7, 2.0)), count=1600, duration_s=8.0)


@pytest.mark.parametrize("scene", [{"agent": "hpo", "options": SMALL_SEARCH}], ids=["hpo"], indirect=True)
def test_studies_get_the_suggestions_of_a_run_without_faults(scene: Scene, chaos_seed: int) -> None:
    kills = [Fault(1.5, "kill", 0, 0.3), Fault(3.0, "kill", 1, 0.3), Fault(5.5, "kill", 2, 0.3)]
    faults = sorted([*kills, *schedule(chaos_seed, 8.0, gap_s=(0.7, 2.0))], key=lambda fault: fault.at_s)
    run_chaos(scene, chaos_seed, faults, count=800, duration_s=8.0)


# A single broker that is killed while it rolls a transaction back may forget to mark it: then records that were never
# committed become visible, or committed ones stay hidden. A cluster keeps the promise.
@pytest.mark.parametrize(
    ("scene", "bounces"),
    [({"delivery": "exactly_once"}, 0), ({"delivery": "exactly_once", "nodes": 3}, 1)],
    ids=["brokers-stay", "one-of-three-brokers-bounces"],
    indirect=["scene"],
)
def test_a_reader_of_committed_records_sees_every_event_once(scene: Scene, chaos_seed: int, bounces: int) -> None:
    faults = schedule(chaos_seed, 12.0, BROKER_STAYS, gap_s=(0.7, 2.0))
    faults += [Fault(6.0, "broker", 0, 0.5)] * bounces
    run_chaos(scene, chaos_seed, faults, count=2000, duration_s=12.0, once=True)


@pytest.mark.parametrize("scene", [{"delivery": "exactly_once", "first_deaths": 2.0}], ids=["exactly-once"], indirect=True)
def test_a_worker_that_dies_right_after_its_first_transaction_leaves_no_state_behind(scene: Scene) -> None:
    run_chaos(scene, seed=0, faults=[], count=300, duration_s=3.0, once=True)
    assert sum("by itself with -9" in line for line in scene.fleet.diary) >= WORKERS
