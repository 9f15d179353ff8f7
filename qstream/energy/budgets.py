"""Budgets: the tree of a domain's budgets, what is left of each for the GPUs that can be limited, and what a plan charges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qstream.energy.memory import HeldBudget
from schemas.power import PowerTopology

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """Budgets by name, the domain first, then inner budgets, then nodes, or the children of a domain that has no GPUs.

    `budget_w` float64 [B], infinite where there is none; `overhead_w` [B], what nodes draw besides their GPUs; `above` int
    [gpus, D], the budgets over each GPU, -1 padded; `ramp_w_s`, the least of the budgets in force.
    """

    names: tuple[str, ...]
    budget_w: Floats
    overhead_w: Floats
    above: NDArray[np.int64]
    ramp_w_s: float | None

    def charged_w(self, upper_w: Floats) -> Floats:
        """What GPUs at these watts, and overheads, charge to each budget: float64 [B]."""
        charged = self.overhead_w.copy()
        for column in self.above.T:
            there = column >= 0
            charged += np.bincount(column[there], upper_w[there], minlength=len(charged))
        return charged


def tree_of(topology: PowerTopology, held: Sequence[HeldBudget], now_ns: int, until_ns: int) -> Tree:
    """The budgets that hold from now on until then; the lowest of those on the domain, also if it begins in between."""
    leaves = topology.child or topology.node
    inner, nodes = len(topology.inner), len(leaves)
    valid = [budget for budget in held if budget.holds(now_ns, until_ns)]
    domain_w = min([topology.budget_w, *(budget.budget_w for budget in valid)])
    parents = np.full(inner, -1) if topology.inner_parent is None else topology.inner_parent.astype(int)
    inner_w = np.full(inner, -1.0) if topology.inner_budget_w is None else topology.inner_budget_w.astype(np.float64)
    node_w = np.full(nodes, -1.0) if topology.node_budget_w is None else topology.node_budget_w.astype(np.float64)
    budget = np.concatenate(([domain_w], inner_w, node_w))
    budget[1:][budget[1:] < 0] = np.inf
    over = topology.inner_of_child if topology.child else topology.inner_of_node
    over_node = np.full(nodes, -1) if over is None else over.astype(int)
    chains = []
    for node in range(nodes):
        chain, at = [1 + inner + node], int(over_node[node])
        while at >= 0:
            chain.append(1 + at)
            at = int(parents[at])
        chains.append([*chain, 0])
    depth = max(map(len, chains), default=1)
    above = np.array([chain + [-1] * (depth - len(chain)) for chain in chains], np.int64).reshape(nodes, depth)
    drawn = np.zeros(nodes) if topology.overhead_w is None else np.maximum(topology.overhead_w, 0).astype(np.float64)
    overhead = np.zeros(len(budget))
    for column in above.T:
        there = column >= 0
        overhead += np.bincount(column[there], drawn[there], minlength=len(budget))
    overhead[0] += quantum_w(topology)
    ramps = [budget.ramp_w_s for budget in valid if budget.ramp_w_s is not None]
    names = (topology.domain, *topology.inner, *leaves)
    rows = np.arange(nodes) if topology.child else topology.node_of_gpu
    return Tree(names, budget, overhead, above[rows], min(ramps, default=None))


def quantum_w(topology: PowerTopology) -> float:
    """What quantum processors, or pools of simulators, may draw: at work as the topology says, else idle; each may be asked."""
    none = np.full(len(topology.qpu), -1.0)
    idle = none if topology.qpu_idle_w is None else topology.qpu_idle_w
    active = none if topology.qpu_active_w is None else topology.qpu_active_w
    return float(np.maximum(np.maximum(active, idle), 0.0).sum())
