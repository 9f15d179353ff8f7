"""From plan to plan: whatever budgets do, what hardware enforces never rises above one, and what is not heard frees nothing."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy.options import EnergyOptions
from qstream.energy.processor import EnergyProcessor
from qstream.node import Actuator, FakeNvml
from qstream.testing import Feed
from schemas.energy import EnergyPlan
from schemas.power import PowerBudget
from tests.unit.energy.racks import topology_of

START_S, STEP_S = 1_000_000, 2
LATE = 2  # steps by which a plan arrives late at most
LEAST_W, MOST_W = 200.0, 700.0


class Site:
    """Nodes that get plans late, and of which one may be cut off: no readings, no plans, no acknowledgements."""

    def __init__(self, rng, inner):
        self.rng, self.now_s = rng, START_S
        self.nodes = [FakeNvml(int(rng.integers(1, 4)), node=f"node-{at}", seed=at) for at in range(4)]
        for node in self.nodes:
            for uuid in node.uuids:
                node.load(uuid, rng.uniform(0.2, 0.8), rng.uniform(0.2, 1.0))
        self.sizes = np.array([len(node.uuids) for node in self.nodes])
        self.over = np.array([0, 0, 1, 1])
        self.inner_w = np.array(inner(self), np.float32)
        self.budget_w = float(self.sizes.sum() * MOST_W)
        self.topology = topology_of(
            self.nodes,
            self.budget_w,
            inner=("rack-0", "rack-1"),
            inner_of_node=self.over.astype(np.int32),
            inner_budget_w=self.inner_w,
        )
        options = EnergyOptions(mode="apply", probe=False)
        self.feed = Feed(EnergyProcessor(options))
        self.actuators = [Actuator(node, domain="d", node=node.node, mode="apply", allow=node.uuids) for node in self.nodes]
        self.late_s = rng.integers(0, LATE + 1, len(self.nodes)) * STEP_S
        self.queue: list[list] = [[] for _ in self.nodes]
        self.cut: int | None = None
        self.feed.send(self.topology, at_ms=self.now_s * 1000)

    def send(self, frame):
        seen = len(self.feed.frames(EnergyPlan))
        self.feed.send(frame, at_ms=self.now_s * 1000)
        for plan in self.feed.frames(EnergyPlan)[seen:]:
            for at, late_s in enumerate(self.late_s):
                if at != self.cut:
                    self.queue[at].append((self.now_s + late_s, plan))

    def step(self):
        """Two seconds: what is due is set and acknowledged, then readings come."""
        self.now_s += STEP_S
        for at, (node, actuator) in enumerate(zip(self.nodes, self.actuators, strict=True)):
            node.advance(STEP_S)
            while self.queue[at] and self.queue[at][0][0] <= self.now_s:
                ack = actuator.take(self.queue[at].pop(0)[1], self.now_s * 10**9)
                if at != self.cut:
                    self.send(ack)
            ended = actuator.tick(self.now_s * 10**9)
            if at != self.cut:
                if ended is not None:
                    self.send(ended)
                self.send(node.telemetry("d"))

    def enforced_w(self):
        """What the racks and the domain may draw by their hardware."""
        each = np.array([sum(node.power_limit_w(uuid) for uuid in node.uuids) for node in self.nodes])
        racks = np.bincount(self.over, each)
        return np.append(racks, each.sum())

    def reserve_w(self, at):
        """The least budget that is kept even while a node has its default limits."""
        return (self.sizes.sum() - self.sizes[at]) * LEAST_W + self.sizes[at] * MOST_W

    def run(self, steps, check):
        before = self.enforced_w()
        for _ in range(steps):
            self.step()
            now = self.enforced_w()
            check(before, now)
            before = now


@pytest.mark.parametrize("seed", range(4))
def test_what_is_enforced_never_rises_above_a_budget_and_keeps_it_once_plans_have_arrived(seed):
    rng = np.random.default_rng(seed)
    site = Site(rng, lambda site: [site.sizes[:2].sum() * 400, -1])
    budget = np.array([site.inner_w[0], np.inf, site.budget_w])
    given = [budget.copy()] * (LATE + 1)  # plans made under these may still be on their way

    def check(before, now):
        given.append(budget.copy())
        allowed = np.max(given[-LATE - 1 :], axis=0)
        assert (now <= np.maximum(allowed, before) + 0.01).all()

    site.run(8, check)
    for steps in (1, 1, 2, 10, 1, 2, 1, 10):
        budget[2] = rng.uniform(LEAST_W, MOST_W) * site.sizes.sum()
        site.send(PowerBudget(domain="d", budget_w=budget[2], source="grid"))
        site.run(steps, check)
        assert steps < 10 or (site.enforced_w() <= budget + 0.01).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_is_cut_off_goes_back_to_its_default_only_after_the_others_have_made_room(seed):
    rng = np.random.default_rng(seed)
    site = Site(rng, lambda site: [-1, -1])
    at = int(rng.integers(0, 4))
    budget_w = rng.uniform(site.reserve_w(at), site.reserve_w(at) + 500)
    site.send(PowerBudget(domain="d", budget_w=budget_w, source="grid"))
    site.run(20, lambda before, now: None)
    site.cut = at

    def check(before, now):
        assert now[2] <= budget_w + 0.01

    site.run(30, check)
    assert all(site.nodes[at].power_limit_w(uuid) == MOST_W for uuid in site.nodes[at].uuids)
    site.cut = None
    site.run(20, check)
