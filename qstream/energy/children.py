"""Children: what a domain knows of those that get their budgets from it."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from schemas.frame import Axes, Frame
from schemas.power import MAX_POINTS, PowerDemand, PowerTopology
from schemas.wording import must_be

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Watts = Annotated[NDArray[np.float64], Axes("children")]
Times = Annotated[NDArray[np.int64], Axes("children")]
Points = Annotated[NDArray[np.float64], Axes("children", "points")]


class Children(Frame):
    """What a parent knows of its children, in the order of its topology.

    `seen_ns` is when each demanded last (0: never); `upper_w`, `held_w`, `held_ns`, `watts` and `value` are from that demand, -1
    beyond the last point. `allotted_w` is the budget that it was given last, at `allotted_ns` (0: none), and `ceiling_w` the
    highest one since the one that the child is known to hold.
    """

    seen_ns: Times
    upper_w: Watts
    held_w: Watts
    held_ns: Times
    watts: Points
    value: Points
    allotted_w: Watts
    allotted_ns: Times
    ceiling_w: Watts


def fresh_children(count: int) -> Children:
    """Children that have not been heard."""
    none, never, points = np.zeros(count), np.zeros(count, np.int64), np.full((count, MAX_POINTS), -1.0)
    return Children(
        seen_ns=never, upper_w=none, held_w=none, held_ns=never, watts=points, value=points,
        allotted_w=none, allotted_ns=never, ceiling_w=none,
    )  # fmt: skip


def carried_children(old: Children, before: tuple[str, ...], now: tuple[str, ...]) -> Children:
    """What is known of the children that are still there."""
    rows = [(before.index(name), row) for row, name in enumerate(now) if name in before]
    new = fresh_children(len(now))
    return _changed(
        new, [row for _, row in rows], {name: getattr(old, name)[[row for row, _ in rows]] for name in Children.arrays}
    )


def heard(children: Children, topology: PowerTopology, demand: PowerDemand, at_ns: int) -> Children:
    """What is known after a demand; an older one than the newest of its child changes nothing.

    Raises
    ------
    ProblemError
        The domain that asks is not a child.
    """
    if demand.child not in topology.child:
        raise ProblemError(must_be("child", f"a child of {topology.domain} by its topology", demand.child))
    row = topology.child.index(demand.child)
    if at_ns < children.seen_ns[row]:
        return children
    spare = MAX_POINTS - len(demand.watts)
    known = {
        "seen_ns": at_ns,
        "upper_w": demand.upper_w,
        "held_w": demand.held_w,
        "held_ns": demand.held_ns,
        "watts": np.pad(demand.watts, (0, spare), constant_values=-1),
        "value": np.pad(demand.value, (0, spare), constant_values=-1),
    }
    if 0 < demand.held_ns == children.allotted_ns[row]:
        known["ceiling_w"] = children.allotted_w[row]
    return _changed(children, row, known)


def watermark_ns(children: Children) -> int:
    """The median over the children of the newest time of each, as over nodes: one silent child does not hold it."""
    known = np.sort(children.seen_ns[children.seen_ns > 0])
    return int(known[len(known) // 2])


def charged_w(children: Children, topology: PowerTopology) -> Floats:
    """The most that each child may draw, heard or silent: float64 [children].

    The highest budget that may still be in its hands, and what it has said itself; before it is heard, what the topology says.
    """
    unheard = np.zeros(len(children.seen_ns)) if topology.child_w is None else topology.child_w
    said = np.where(children.seen_ns > 0, np.maximum(children.upper_w, children.held_w), unheard)
    return np.maximum(said, children.ceiling_w)


def given(children: Children, sent: Bools, budget_w: Floats, at_ns: NDArray[np.int64]) -> Children:
    """What is known after budgets were given."""
    rows = np.flatnonzero(sent).tolist()
    ceiling = np.maximum(children.ceiling_w, budget_w)
    return _changed(children, rows, {"allotted_w": budget_w[rows], "allotted_ns": at_ns[rows], "ceiling_w": ceiling[rows]})


def curves_of(children: Children, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Watts and values of these children's curves, float64 [rows, points], NaN beyond the last."""
    there = children.watts[rows] >= 0
    return np.where(there, children.watts[rows], np.nan), np.where(there, children.value[rows], np.nan)


def _changed(children: Children, rows: int | list[int], values: dict[str, Any]) -> Children:
    """The same with other values of these children."""
    arrays = {name: getattr(children, name).copy() for name in Children.arrays}
    for name, value in values.items():
        arrays[name][rows] = value
    return Children(**arrays)
