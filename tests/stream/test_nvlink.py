"""Fabrics through the real agent, broker and store: plans, shares, acknowledgements, a kill, silence, the kill switch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import SecretStr

from agents import nvlink
from agents.app import build_loop
from qstream.config import Settings
from qstream.embedded.redis import EmbeddedRedis
from qstream.nvlink.examples import FABRIC, NS, SPINES, demands, job, report, telemetry, topology
from qstream.nvlink.memory import FabricState
from qstream.state.store import StateStore
from qstream.stream.client import Publisher
from qstream.stream.headers import headers_of
from qstream.testing.rig import LoopThread, Program, Tail, reading, wait_until
from qstream.testing.verify import Run, fault_free, verify
from schemas.control import Control
from schemas.deadletter import DeadLetter
from schemas.fabric import FabricPlan, LinkTelemetry, RouteShares
from schemas.frame import JSON, Frame
from schemas.plan import SkipReason
from schemas.topics import (
    CONTROL,
    FABRIC_JOB,
    FABRIC_PLAN,
    FABRIC_REPORT,
    FABRIC_ROUTES,
    FABRIC_TELEMETRY,
    FABRIC_TOPOLOGY,
    NVLINK_DLQ,
    Topic,
)
from tests.stream.seen import environment, produced, records

QUICK: dict[str, Any] = {
    "port": 0,
    "session_timeout_ms": 6000,
    "retry_max_s": 0.5,
    "worker_id": "worker-0",
    "static_membership": True,
}
AT_ONCE = {"plan_ms": 0, "stale_s": 86_400}
WINDOWS = 12


def given(broker: str, group: str, **options: Any) -> dict[str, Any]:
    return QUICK | {"bootstrap_servers": broker, "group_prefix": group, "options": options}


def plans(tail: Tail) -> list[FabricPlan]:
    return [FabricPlan.decode(message.value()) for message in tail.read()]


def shares(tail: Tail) -> list[RouteShares]:
    return [RouteShares.decode(message.value()) for message in tail.read()]


def now(window: int, offered: Any = None) -> LinkTelemetry:
    """A window of these minutes: silence is measured against the clock."""
    return telemetry(time.time_ns() // NS + window, offered)


def state(store: StateStore[FabricState]) -> FabricState:
    found = store.load(FABRIC).state
    assert found is not None
    return found


def test_plans_and_shares_of_a_worker_that_is_killed_are_those_of_one_that_is_not(
    registry_kafka: str, redis_server: EmbeddedRedis, topic_prefix: str, tmp_path: Path
) -> None:
    words = given(registry_kafka, topic_prefix, **AT_ONCE)
    settings = Settings(redis_url=SecretStr(redis_server.url), **words)
    inputs = (FABRIC_TOPOLOGY, FABRIC_JOB, FABRIC_TELEMETRY, FABRIC_REPORT)
    outputs = (FABRIC_PLAN, FABRIC_ROUTES)
    with (
        reading(registry_kafka, *inputs, *outputs) as tails,
        Publisher(registry_kafka) as publisher,
        StateStore(redis_server.url, "nvlink", FabricState) as store,
    ):
        made, routed = tails[-2:]

        def send(topic: Topic, frame: Frame, came: Callable[[], object]) -> None:
            publisher.publish(topic, frame)
            publisher.flush()
            wait_until(came)

        offered = demands(WINDOWS)
        with Program(["-m", "qstream.cli", "run", "nvlink"], environment(redis_server.url, words), tmp_path / "log") as agent:
            send(FABRIC_TOPOLOGY, topology(), lambda: store.load(FABRIC).state is not None)
            send(FABRIC_JOB, job("first", 2), lambda: len(state(store).jobs) == 1 and plans(made))
            begun = now(0)  # windows of long ago would be a silence, which a tick tells
            for ahead in range(WINDOWS):
                publisher.publish(FABRIC_TELEMETRY, telemetry(begun.window_id + ahead, offered[ahead]))
            publisher.flush()
            wait_until(lambda: len(shares(routed)) >= 4, saying=agent.log_tail)
            agent.kill()
        with LoopThread(build_loop(nvlink.AGENT, settings)):
            wait_until(lambda: len({each.plan_id for each in shares(routed)}) == WINDOWS)
            send(FABRIC_JOB, job("second", 2), lambda: any(plan.job == "second" for plan in plans(made)))
            first = next(plan for plan in plans(made) if plan.job == "first")
            send(FABRIC_REPORT, report("first", 1, first.version), lambda: state(store).jobs[0].in_force.version == first.version)
        found = produced(dict(zip(outputs, tails[-2:], strict=True)))
        left = state(store)
        folder = {topic: records(topic, tail.read()) for topic, tail in zip(inputs, tails, strict=False)}
    jobs = folder[FABRIC_JOB]
    in_order = [*folder[FABRIC_TOPOLOGY], jobs[0], *folder[FABRIC_TELEMETRY], jobs[1], *folder[FABRIC_REPORT]]
    expected = fault_free(nvlink.AGENT.processor(settings), in_order, ())
    verdict = verify(expected, Run(found, (), {FABRIC: left.encode()}))
    assert verdict.ok, str(verdict)
    assert verdict.expected == WINDOWS + 2
    assert left.splits is not None
    assert left.splits.steps == WINDOWS - 1
    assert not left.jobs[0].in_force.waiting


def bad_records() -> list[tuple[Topic, bytes, str]]:
    """What must become a dead letter of nvlink, and a word of its reason."""

    def said(frame: Frame, **change: object) -> bytes:
        return json.dumps(json.loads(frame.encode(JSON)) | change).encode()

    fabric, profile, told = topology(), job("bad", 2), telemetry(99)
    src, speed = fabric.link_src.tolist(), fabric.link_gb_s.tolist()
    links = {"link_src": [], "link_dst": [], "link_kind": [], "link_count": [], "link_gb_s": []}
    pair = {"pair_src": [0], "pair_dst": [5], "pair_bytes": [1]}
    return [
        (FABRIC_TOPOLOGY, said(fabric, node_type=[7] * len(fabric.node_type)), "GPU"),
        (FABRIC_TOPOLOGY, said(fabric, **links), "link_src"),
        (FABRIC_TOPOLOGY, said(fabric, link_gb_s=["NaN", *speed[1:]]), "link_gb_s"),
        (FABRIC_TOPOLOGY, said(fabric, link_gb_s=[-400, *speed[1:]]), "link_gb_s"),
        (FABRIC_TOPOLOGY, said(fabric, link_gb_s=[0, *speed[1:]]), "link_gb_s"),
        (FABRIC_TOPOLOGY, said(fabric, link_gb_s=[400_000, *speed[1:]]), "bits"),
        (FABRIC_TOPOLOGY, said(fabric, link_src=[99, *src[1:]]), "link_src"),
        (FABRIC_TOPOLOGY, b"\x80\x02}q\x00.", ""),
        (FABRIC_JOB, said(profile, traffic_dst=[1, 7]), "traffic_dst"),
        (FABRIC_JOB, said(profile, traffic_bytes=[-1, 1]), "traffic_bytes"),
        (FABRIC_TELEMETRY, said(told, link=[999], link_bytes=[1]), "link"),
        (FABRIC_TELEMETRY, said(told, **pair), "pair_src"),
        (FABRIC_TELEMETRY, said(told, t1_ns=told.t0_ns), "t1_ns"),
        (FABRIC_REPORT, said(report("first", 1, 7)), "applied_version"),
        (FABRIC_REPORT, said(report("nobody", 1, 1)), "job"),
    ]


def test_bad_records_and_wrong_versions_are_dead_letters_and_the_next_job_is_planned(
    registry_kafka: str, redis_server: EmbeddedRedis, topic_prefix: str
) -> None:
    settings = Settings(redis_url=SecretStr(redis_server.url), **given(registry_kafka, topic_prefix, **AT_ONCE))
    hostile = bad_records()
    with (
        reading(registry_kafka, FABRIC_PLAN, NVLINK_DLQ) as (made, letters),
        Publisher(registry_kafka) as publisher,
        LoopThread(build_loop(nvlink.AGENT, settings)),
    ):
        publisher.publish(FABRIC_TOPOLOGY, topology())
        publisher.publish(FABRIC_JOB, job("first", 2))
        publisher.flush()
        wait_until(lambda: plans(made))
        for topic, body, _ in hostile:
            publisher.publish_raw(topic.name, FABRIC.encode(), body, [("content-type", JSON.encode())])
        publisher.publish(FABRIC_JOB, job("second", 2))
        publisher.flush()
        wait_until(lambda: len(letters.read()) >= len(hostile), saying=lambda: len(letters.read()))
        wait_until(lambda: any(plan.job == "second" for plan in plans(made)))
        said = [DeadLetter.from_headers(headers_of(message)) for message in letters.read()]
    assert len(said) == len(hostile)
    missing = [(topic.name, word) for topic, _, word in hostile if not any(_tells(letter, topic, word) for letter in said)]
    assert not missing, [letter.error_message for letter in said]


def _tells(letter: DeadLetter, topic: Topic, word: str) -> bool:
    return letter.topic == topic.name and word in letter.error_message


def test_silence_freezes_and_room_that_returns(registry_kafka: str, redis_server: EmbeddedRedis, topic_prefix: str) -> None:
    settings = Settings(redis_url=SecretStr(redis_server.url), **given(registry_kafka, topic_prefix, plan_ms=0, stale_s=1))
    busy = np.array([False, *topology().node_free[1:]])
    with (
        reading(registry_kafka, FABRIC_PLAN, FABRIC_ROUTES) as (made, routed),
        Publisher(registry_kafka) as publisher,
        LoopThread(build_loop(nvlink.AGENT, settings)),
    ):

        def send(topic: Topic, frame: Frame, came: Callable[[], object]) -> None:
            publisher.publish(topic, frame)
            publisher.flush()
            wait_until(came, saying=lambda: [(each.guard, each.planner) for each in shares(routed)])

        def stale() -> list[RouteShares]:
            """Shares that went back because of the silence alone, by a tick; a topology that comes during it answers so too."""
            return [each for each in shares(routed) if each.fallback_reason == "stale" and each.plan_id.startswith("tick/")]

        send(FABRIC_TOPOLOGY, topology(node_free=busy), lambda: shares(routed))
        send(FABRIC_JOB, job("large", 4), lambda: plans(made))
        begun = now(0)
        for ahead, offered in enumerate(demands(3)):
            publisher.publish(FABRIC_TELEMETRY, _in_force(telemetry(begun.window_id + ahead, offered), busy))
        publisher.flush()
        wait_until(lambda: any(each.guard == "ours" for each in shares(routed)))
        wait_until(stale)
        send(FABRIC_TOPOLOGY, topology(), lambda: len(plans(made)) == 2)  # ticks went on meanwhile
        send(CONTROL, Control(agent="nvlink", ts_ns=1, options={"freeze": True}), lambda: True)
        windows = iter(range(1, 1000))

        def frozen() -> bool:
            """Tell windows, until options have come by their own topic."""
            publisher.publish(FABRIC_TELEMETRY, telemetry(time.time_ns() // NS + 10 * next(windows), demands(1)[0]))
            publisher.flush()
            return shares(routed)[-1].guard == "frozen"

        wait_until(frozen)
        last, told = shares(routed)[-1], plans(made)
        assert len(stale()) == 1
    assert [(plan.job, plan.skip_reason) for plan in told] == [("large", SkipReason.TOO_FEW_GPUS), ("large", None)]
    assert np.allclose(last.share, 1 / SPINES)


def _in_force(told: LinkTelemetry, free: Any) -> LinkTelemetry:
    """The same of the topology with these free nodes."""
    return told.model_copy(update={"topology_digest": topology(node_free=free).digest()})
