"""A site and its rows through the real agent, broker and store: demands go up, budgets come down, and plans keep them."""

from __future__ import annotations

import numpy as np

from agents import energy
from agents.app import build_loop
from qstream.config import Settings
from qstream.embedded.redis import EmbeddedRedis
from qstream.node import FakeNvml
from qstream.stream.client import Publisher
from qstream.testing.rig import LoopThread, Tail, wait_until
from schemas.energy import EnergyPlan
from schemas.power import PowerBudget, PowerTopology
from schemas.topics import ENERGY_PLAN, GPU_TELEMETRY, POWER_BUDGET, POWER_TOPOLOGY
from tests.unit.energy.racks import topology_of


def test_a_budget_of_a_site_reaches_the_plans_of_its_rows(
    registry_kafka: str, redis_server: EmbeddedRedis, topic_prefix: str
) -> None:
    site, rows = topic_prefix, [f"{topic_prefix}-{at}" for at in range(2)]
    settings = Settings(
        bootstrap_servers=registry_kafka,
        redis_url=redis_server.url,
        group_prefix=topic_prefix,
        options={"plan_s": 0.2, "ttl_s": 0.6, "probe": False, "max_lowered": 1.0},
        port=0,
    )
    nodes = {row: FakeNvml(4, node=row, seed=at) for at, row in enumerate(rows)}
    for node in nodes.values():
        for uuid in node.uuids:
            node.load(uuid, 0.5, 0.9)
    tail = Tail(registry_kafka, ENERGY_PLAN.name, ENERGY_PLAN.partitions)
    plans: dict[str, EnergyPlan] = {}

    def budgets_w() -> list[float]:
        """One more reading of each row; the budgets in the newest plan of each."""
        for row, node in nodes.items():
            node.advance(0.05)
            publisher.publish(GPU_TELEMETRY, node.telemetry(row))
        publisher.flush()
        for message in tail.read():
            plan = EnergyPlan.decode(message.value())
            if plan.budget_w is not None and len(plan.budget_w):
                plans[plan.domain] = plan
        return [float(plans[row].budget_w[0]) if row in plans else np.inf for row in rows]

    with Publisher(registry_kafka) as publisher:
        child_w = np.full(2, 2800, np.float32)
        publisher.publish(POWER_TOPOLOGY, PowerTopology(domain=site, budget_w=5000.0, child=tuple(rows), child_w=child_w))
        for row, node in nodes.items():
            publisher.publish(POWER_TOPOLOGY, topology_of([node], 2800, domain=row, parent=site))
        publisher.flush()
        with LoopThread(build_loop(energy.AGENT, settings)):
            wait_until(lambda: sum(budgets_w()) <= 5000)
            publisher.publish(POWER_BUDGET, PowerBudget(domain=site, budget_w=3000.0, source="grid"))
            wait_until(lambda: sum(budgets_w()) <= 3000)
    tail.close()
    assert plans[site].budget_of == (site, *rows)
    assert all((plan.planned_w <= plan.budget_w + 1e-6).all() for name, plan in plans.items() if name != site)
