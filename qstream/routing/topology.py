"""Topology: which ones can be planned for, and whether a new one leaves slots and history as they are."""

from __future__ import annotations

from typing import Final

from qstream.errors import ProblemError
from qstream.routing.problem import live_slots
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan
from schemas.wording import Shown, must_be

SLOT_BYTES: Final = 32  # of a plan, a slot in the worst case: its expert, its share, and the five columns of a move
_USABLE: Final = 0.95  # of the bytes of a message


def check_topology(topology: ExpertTopology) -> None:
    """Raise `ProblemError` unless every expert finds a slot and the largest plan fits its message."""
    experts = topology.num_logical_experts
    size = topology.num_layers * (SLOT_BYTES * topology.num_slots + 4 * experts)
    if size > PlacementPlan.MAX_BYTES * _USABLE:
        allowed = f"small enough for plans of {PlacementPlan.MAX_BYTES} bytes"
        raise ProblemError(must_be("the topology", allowed, Shown(f"plans of up to {size} bytes")))
    live = len(live_slots(topology))
    if live < experts:
        shown = Shown(f"capacity in {live} slots")
        raise ProblemError(must_be("gpu_capacity", f"above 0 for at least {experts} slots, one for each expert", shown))


def kept_topology(topology: ExpertTopology) -> ExpertTopology:
    """What planning needs; the cost matrix of a large cluster would outgrow a field of the state."""
    return topology.model_copy(update={"rank_cost": None})


def same_slots(one: ExpertTopology, other: ExpertTopology) -> bool:
    """Whether both differ in the capacity of GPUs at most, so that slots and history keep their meaning."""
    return _without_capacity(one) == _without_capacity(other)


def _without_capacity(topology: ExpertTopology) -> ExpertTopology:
    return topology.model_copy(update={"gpu_capacity": None})
