"""The loops of a node against a broker that goes away and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from qstream.config import Settings
from qstream.embedded.kafka import EmbeddedKafka
from qstream.node import Actuator, FakeNvml
from qstream.node.actuate import run_actuator
from qstream.node.fake_source import fake_source
from qstream.node.telemetry import run_telemetry
from qstream.node.trouble import Troubles
from qstream.stream.client import PlanSubscriber, Publisher
from qstream.testing.rig import wait_until
from schemas.energy import EnergyAck, EnergyPlan
from schemas.topics import ENERGY_ACK, ENERGY_PLAN, GPU_TELEMETRY

LATER_NS = 700_000_000_000
QUICK = {"delivery_timeout_ms": 1000, "kafka": {"log_level": "0"}}


def plan(gpus: FakeNvml, version: int, later_ns: int = 0) -> EnergyPlan:
    return EnergyPlan(
        domain="d",
        plan_id=f"p{version}",
        ts_ns=time.time_ns() + later_ns,
        ttl_s=600.0,
        version=version,
        fence=1,
        mode="apply",
        uuid=gpus.uuids,
        power_limit_w=np.full(len(gpus.uuids), 300, np.float32),
        sm_clock_mhz=np.full(len(gpus.uuids), -1, np.float32),
    )


def limits(gpus: FakeNvml) -> set[float]:
    return {gpus.power_limit_w(uuid) for uuid in gpus.uuids}


@contextmanager
def acting(
    broker: str, gpus: FakeNvml, state: Path, acks: list[EnergyAck], said: list[str], ahead_ns: list[int]
) -> Iterator[Actuator]:
    """An actuator that takes plans in a thread, by a clock that is ahead by the last of `ahead_ns`."""
    settings = Settings(bootstrap_servers=broker, **QUICK)
    actuator = Actuator(gpus, domain="d", node="n", mode="apply", allow=gpus.uuids, state_path=state)
    publisher, stop = Publisher(broker, settings=settings), threading.Event()

    def open_plans() -> PlanSubscriber[EnergyPlan]:
        return PlanSubscriber(ENERGY_PLAN, EnergyPlan, broker, key="d", from_start=True, settings=settings)

    given = {"stop": stop, "show": lambda _, ack: acks.append(ack), "clock_ns": lambda: time.time_ns() + ahead_ns[-1]}
    thread = threading.Thread(target=run_actuator, args=(actuator, open_plans, publisher, Troubles(said.append)), kwargs=given)
    thread.start()
    try:
        yield actuator
    finally:
        stop.set()
        thread.join()


def test_without_kafka_defaults_come_back_when_the_plan_is_over_and_later_plans_are_taken(tmp_path: Path):
    gpus, acks, said, ahead_ns = FakeNvml(2), [], [], [0]
    with EmbeddedKafka({ENERGY_PLAN.name: 1, ENERGY_ACK.name: 1}) as broker:
        with acting(broker.bootstrap_servers, gpus, tmp_path / "state.json", acks, said, ahead_ns) as actuator:
            with Publisher(broker.bootstrap_servers) as planner:
                planner.publish(ENERGY_PLAN, plan(gpus, 1))
            wait_until(lambda: limits(gpus) == {300})
            broker.set_broker_down()
            ahead_ns.append(LATER_NS)
            wait_until(lambda: limits(gpus) == {700})
            wait_until(lambda: any("not confirmed" in text for text in said))
            wait_until(lambda: [ack.result for ack in acks] == [("ok", "ok"), ("expired", "expired")])
            broker.set_broker_up()
            with Publisher(broker.bootstrap_servers) as planner:
                planner.publish(ENERGY_PLAN, plan(gpus, 2, LATER_NS))
            wait_until(lambda: limits(gpus) == {300})
            assert actuator.touched == gpus.uuids
        assert limits(gpus) == {700}
    assert acks[-1].plan_id == "p2"


def test_an_actuator_that_starts_without_kafka_first_puts_back_what_a_killed_one_has_set(tmp_path: Path):
    gpus, acks, said, state = FakeNvml(2), [], [], tmp_path / "state.json"
    killed = Actuator(gpus, domain="d", node="n", mode="apply", allow=gpus.uuids, state_path=state)
    killed.take(plan(gpus, 1), time.time_ns())
    assert limits(gpus) == {300}
    with acting("127.0.0.1:1", gpus, state, acks, said, [0]):
        assert limits(gpus) == {700}
        wait_until(lambda: any(text.startswith("no plans: ") for text in said))
    assert [ack.result for ack in acks] == [("expired", "expired")]


def test_readings_go_on_while_kafka_is_away():
    said: list[str] = []
    with EmbeddedKafka({GPU_TELEMETRY.name: 1}) as broker:
        settings = Settings(bootstrap_servers=broker.bootstrap_servers, **QUICK)
        stop, troubles = threading.Event(), Troubles(said.append)
        with PlanSubscriber(GPU_TELEMETRY, GPU_TELEMETRY.frame, broker.bootstrap_servers) as readings:
            publisher = Publisher(broker.bootstrap_servers, settings=settings)
            source = fake_source(FakeNvml(2), "d")
            given = {"interval_s": 0.05, "stop": stop}
            loop = threading.Thread(target=run_telemetry, args=(source, publisher, troubles), kwargs=given)
            loop.start()
            try:
                wait_until(lambda: readings.poll(0.1))
                broker.set_broker_down()
                wait_until(lambda: troubles.counts["kafka"] > 1)
                broker.set_broker_up()
                wait_until(lambda: any("the broker confirms records" in text for text in said))
                assert wait_until(lambda: readings.poll(0.1))
            finally:
                stop.set()
                loop.join()
    assert "not confirmed" in said[0]
