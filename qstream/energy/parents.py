"""Parents: a domain that divides its budget among others, by what these say that watts are worth to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from qstream.contract import Event, Record
from qstream.energy.budgets import Tree, tree_of
from qstream.energy.children import Children, charged_w, curves_of, given
from qstream.energy.curves import allot
from qstream.energy.demand import demand_of
from qstream.energy.enforced import held_until_ns
from qstream.energy.levels import Bools, Floats
from qstream.energy.memory import MAX_PUBLISHED, EnergyState, Memory, Published
from qstream.energy.options import EnergyOptions
from schemas.energy import EnergyPlan
from schemas.power import PowerBudget, PowerTopology
from schemas.solver import SolverRecord
from schemas.topics import ENERGY_PLAN, POWER_BUDGET, POWER_DEMAND

LEAST_STEP_W: Final = 1.0  # smaller changes of a budget are never published
LEAST_STEP: Final = 0.05  # of the budget, unless it must fall: curves change a little with every reading
ROUNDING_W: Final = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """Budgets of the children: `charge_w` before, `budget_w` from now on, both float64 [children]; `sent` are given theirs;
    `missing_w`, what the least budgets of all lack."""

    charge_w: Floats
    budget_w: Floats
    sent: Bools
    missing_w: float


def divide(
    children: Children, topology: PowerTopology, tree: Tree, *, silent: Bools, resent: Bools, deadband_w: float
) -> Division:
    """Divide the budgets of `tree` among the children.

    By the greatest sum of values; what is left goes to all in proportion. A `silent` child keeps what it has and is charged it.
    Falls are given at once; raises only as far as budgets have room for what each child may still draw. `resent` children are
    given their budget whether it changes or not.
    """
    charge = charged_w(children, topology)
    wanted = _wanted(children, tree, charge, silent)
    raised = np.maximum(wanted - charge, 0.0)
    room = tree.budget_w - tree.charged_w(charge)
    budget = np.minimum(wanted, charge) + raised * np.minimum(_share(tree, room, raised), 1.0)
    budget = np.where(silent, children.allotted_w, np.floor(10 * budget + ROUNDING_W) / 10)
    change = np.abs(budget - children.allotted_w)
    over = bool((room < -ROUNDING_W).any())
    least_step = np.maximum(LEAST_STEP * children.allotted_w, max(deadband_w, LEAST_STEP_W))
    sent = (children.allotted_ns == 0) | resent | (change >= least_step)
    sent |= over & (budget < children.allotted_w - LEAST_STEP_W)
    least = np.where(silent, charge, children.watts[:, 0])
    missing = float(np.maximum(tree.charged_w(least) - tree.budget_w, 0.0).max())
    return Division(charge, budget, sent & ~silent, missing)


def _wanted(children: Children, tree: Tree, charge: Floats, silent: Bools) -> Floats:
    """Watts of each child if all could change at once: float64 [children]."""
    wanted, rows = charge.copy(), np.flatnonzero(~silent)
    if not len(rows):
        return wanted
    room = np.maximum(tree.budget_w - tree.charged_w(np.where(silent, charge, 0.0)), 0.0)
    watts, value = curves_of(children, rows)
    found = np.zeros(len(charge))
    found[rows] = watts[:, 0]
    if (tree.charged_w(found) <= room + tree.overhead_w).all():
        found[rows] = allot(watts, value, tree.above[rows], room)
    share = _share(tree, room, found)
    wanted[rows] = (found * np.where(np.isfinite(share), share, 1.0))[rows]
    return wanted


def _share(tree: Tree, room: Floats, asked: Floats) -> Floats:
    """The part of what is asked for which the budgets above each child have room; it may be above 1: float64 [children]."""
    total = tree.charged_w(asked) - tree.overhead_w
    part = np.where(total > 0, np.maximum(room, 0.0) / np.maximum(total, 1e-9), np.inf)
    own = np.full(len(asked), np.inf)
    for column in tree.above.T:
        own = np.minimum(own, np.where(column >= 0, part[column], np.inf))
    return np.where(asked > 0, own, 1.0)


def parent_events(memory: Memory, record: Record, options: EnergyOptions) -> list[Event]:
    """The plan of a domain without GPUs, what it asks of its own parent, and the budgets of its children, lower ones first."""
    now, at_ns = memory.now, memory.now.watermark_ns
    children, topology = now.children, now.topology
    assert children is not None
    tree = tree_of(topology, now.budgets, at_ns, held_until_ns(options, at_ns))
    silent = (children.seen_ns == 0) | (at_ns - children.seen_ns > options.lost_s * 1e9)
    since_s = (at_ns - children.allotted_ns) / 1e9
    resent = (children.held_ns != children.allotted_ns) & (since_s > 2 * options.plan_s)
    division = divide(children, topology, tree, silent=silent, resent=resent, deadband_w=options.deadband_w)
    times = np.where(division.sent, np.maximum(at_ns, children.allotted_ns + 1), children.allotted_ns)
    memory.set(children=given(children, division.sent, division.budget_w, times))
    events = [_plan(memory, record, options, tree, division)]
    if topology.parent:
        events.append(_demand(now, record, tree, division, silent))
    rows = sorted(np.flatnonzero(division.sent).tolist(), key=lambda row: division.budget_w[row] - children.allotted_w[row])
    part = division.budget_w / max(float(division.budget_w.sum()), 1e-9)
    for n, row in enumerate(rows):
        budget = PowerBudget(
            domain=topology.child[row],
            ts_ns=int(times[row]),
            budget_w=float(division.budget_w[row]),
            source=topology.domain,
            ramp_w_s=None if tree.ramp_w_s is None else tree.ramp_w_s * max(float(part[row]), 1e-9),
        )
        events.append(Event(POWER_BUDGET, topology.child[row], record.event_id(2 + n), budget, record))
    return events


def _plan(memory: Memory, record: Record, options: EnergyOptions, tree: Tree, division: Division) -> Event:
    """A plan without targets: the budgets above the children, theirs, and what is charged to each."""
    now, at_ns, plan_id = memory.now, memory.now.watermark_ns, record.event_id(0)
    version = now.in_force.next_version(at_ns)
    inside = len(tree.names) - len(division.budget_w)
    charged = tree.charged_w(np.maximum(division.charge_w, division.budget_w))
    budget = np.concatenate((tree.budget_w[:inside], division.budget_w))
    bounded = np.isfinite(budget)
    none = np.empty(0, np.float32)
    missing = max(division.missing_w, 0.0)
    plan = EnergyPlan(
        domain=now.topology.domain,
        plan_id=plan_id,
        ts_ns=at_ns,
        ttl_s=options.ttl_s,
        version=version,
        base_version=now.in_force.version,
        fence=now.fence,
        mode=options.mode,
        status="infeasible" if missing > ROUNDING_W else "feasible",
        solver=SolverRecord(solver="curves", n=len(division.budget_w)),
        missing_w=round(missing, 6),
        uuid=(),
        budget_of=tuple(np.array(tree.names)[bounded].tolist()),
        budget_w=budget[bounded],
        planned_w=charged[bounded],
        power_limit_w=none,
        sm_clock_mhz=none,
    )
    memory.set(in_force=now.in_force.proposed(version, at_ns).acknowledged(), published_ns=at_ns)
    memory.set(published=(*now.published, Published(plan_id=plan_id, ts_ns=at_ns))[-MAX_PUBLISHED:])
    return Event(ENERGY_PLAN, record.key, plan_id, plan, record)


def _demand(now: EnergyState, record: Record, tree: Tree, division: Division, silent: Bools) -> Event:
    """What watts are worth to all children together."""
    assert now.children is not None
    rows = np.flatnonzero(~silent)
    watts, value = curves_of(now.children, rows)
    upper = np.maximum(division.charge_w, division.budget_w)
    fixed = np.where(silent, division.charge_w, 0.0)
    frame = demand_of(now, tree, now.watermark_ns, watts=watts, value=value, rows=rows, fixed_w=fixed, upper_w=upper)
    return Event(POWER_DEMAND, frame.domain, record.event_id(1), frame, record)
