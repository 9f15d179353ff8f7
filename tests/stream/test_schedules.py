"""Graphs of tasks through the real agent, broker and store: simple and solved schedules, once, also across a restart."""

from __future__ import annotations

import time

from agents import energy
from agents.app import build_loop
from qstream.config import Settings
from qstream.embedded.redis import EmbeddedRedis
from qstream.stream.client import Publisher
from qstream.testing.rig import LoopThread, Tail, header, wait_until
from schemas.tasks import EnergySchedule
from schemas.topics import POWER_TOPOLOGY, TASK_GRAPH, TASK_SCHEDULE
from tests.unit.energy.graphs import graph
from tests.unit.energy.racks import rack, topology_of


def test_graphs_are_scheduled_at_once_and_solved_later_also_by_another_worker(
    registry_kafka: str, redis_server: EmbeddedRedis, topic_prefix: str
) -> None:
    settings = Settings(
        bootstrap_servers=registry_kafka,
        redis_url=redis_server.url,
        group_prefix=topic_prefix,
        options={"plan_ms": 300, "qaoa": True, "shots": 64},
        port=0,
    )
    now_s = int(time.time())
    given = [graph(seed, 8, begin_s=now_s + 60, domain=topic_prefix) for seed in range(2)]
    tail = Tail(registry_kafka, TASK_SCHEDULE.name, TASK_SCHEDULE.partitions)

    def schedules() -> list[EnergySchedule]:
        frames = [EnergySchedule.decode(message.value()) for message in tail.read()]
        return [frame for frame in frames if frame.domain == topic_prefix]

    with Publisher(registry_kafka) as publisher:
        publisher.publish(POWER_TOPOLOGY, topology_of(rack(), 5600, domain=topic_prefix))
        publisher.publish(TASK_GRAPH, given[0])
        publisher.flush()
        with LoopThread(build_loop(energy.AGENT, settings)):
            wait_until(lambda: len(schedules()) == 2)
            publisher.publish(TASK_GRAPH, given[0])
            publisher.publish(TASK_GRAPH, given[1])
            publisher.flush()
            wait_until(lambda: len(schedules()) >= 3)  # the solved one may come as well, or from the next worker
        with LoopThread(build_loop(energy.AGENT, settings)):
            wait_until(lambda: len(schedules()) == 4)
    found = schedules()
    assert [plan.graph_id for plan in found] == ["graph-0", "graph-0", "graph-1", "graph-1"]
    assert [plan.version for plan in found] == sorted({plan.version for plan in found})
    for simple, solved in (found[:2], found[2:]):
        assert solved.base_version == simple.version
        assert solved.peak_w <= simple.peak_w
        assert (simple.solver.solver, solved.fallback_reason) == ("soonest", None)
    assert len({header(message, "ce_id") for message in tail.messages}) == len(tail.messages)
    tail.close()
