"""A site whose rows ask it for budgets: nodes and actuators of each row, and topics on which records may come late."""

from __future__ import annotations

import numpy as np

from qstream.energy.options import EnergyOptions
from qstream.energy.processor import EnergyProcessor
from qstream.node import Actuator, FakeNvml
from qstream.testing import Feed
from schemas.energy import EnergyPlan
from schemas.power import PowerBudget, PowerDemand, PowerTopology
from tests.unit.energy.racks import topology_of

START_S, STEP_S = 1_000_000, 5
LEAST_W, MOST_W = 200.0, 700.0


class Estate:
    """Rows of two nodes under a site. `late_s` of each row: by how much budgets and demands come late; `mute` rows send and get
    neither of them."""

    def __init__(self, rows=3, *, parent="", late_s=None, seed=0):
        rng = np.random.default_rng(seed)
        self.now_s, self.mute = START_S, set()
        self.rows = {f"row-{at}": [FakeNvml(2, node=f"row-{at}-{n}", seed=at) for n in range(2)] for at in range(rows)}
        self.actuators = {}
        for row, nodes in self.rows.items():
            for node in nodes:
                self.actuators[node] = Actuator(node, domain=row, node=node.node, mode="apply", allow=node.uuids)
                for uuid in node.uuids:
                    node.load(uuid, rng.uniform(0.2, 0.8), rng.uniform(0.3, 1.0))
        self.late_s = dict.fromkeys(self.rows, 0) if late_s is None else dict(zip(self.rows, late_s, strict=True))
        self.queue: list[tuple[int, object]] = []
        self.feed = Feed(EnergyProcessor(EnergyOptions(mode="apply", probe=False)))
        self.most_w = 4 * MOST_W * rows
        child_w = np.full(rows, 4 * MOST_W, np.float32)
        self.site = PowerTopology(domain="site", budget_w=self.most_w, parent=parent, child=tuple(self.rows), child_w=child_w)
        self.send(self.site)
        for row, nodes in self.rows.items():
            self.send(topology_of(nodes, 4 * MOST_W, domain=row, parent="site"))

    def send(self, frame):
        """One record now, and what follows from it at once; budgets and demands come when their row's have."""
        seen = len(self.feed.events)
        self.feed.send(frame, at_ms=self.now_s * 1000)
        for event in self.feed.events[seen:]:
            sent = event.frame
            if isinstance(sent, PowerBudget | PowerDemand):
                row = sent.domain if isinstance(sent, PowerBudget) else sent.child
                if row not in self.mute:
                    self.queue.append((self.now_s + self.late_s.get(row, 0), sent))
            if isinstance(sent, EnergyPlan):
                for node in self.rows.get(sent.domain, ()):
                    self.send(self.actuators[node].take(sent, self.now_s * 10**9))
        self.deliver()

    def deliver(self):
        while due := [entry for entry in self.queue if entry[0] <= self.now_s]:
            self.queue.remove(due[0])
            self.send(due[0][1])

    def step(self):
        self.now_s += STEP_S
        self.deliver()
        for row, nodes in self.rows.items():
            for node in nodes:
                node.advance(STEP_S)
                self.actuators[node].tick(self.now_s * 10**9)
                self.send(node.telemetry(row))

    def run(self, steps, check=lambda before, now: None):
        before = self.enforced_w()
        for _ in range(steps):
            self.step()
            now = self.enforced_w()
            check(before, now)
            before = now

    def enforced_w(self):
        """What each row may draw by its hardware."""
        return np.array([sum(node.power_limit_w(uuid) for node in nodes for uuid in node.uuids) for nodes in self.rows.values()])

    def budgets_w(self):
        """The newest budget of each row."""
        found = {budget.domain: budget.budget_w for budget in self.feed.frames(PowerBudget)}
        return np.array([found[row] for row in self.rows])
