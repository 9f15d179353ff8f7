"""Acks: what actuators made of targets, as what is enforced from then on, and as counts for the next plan."""

from __future__ import annotations

from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray

from qstream.energy.memory import Memory
from qstream.errors import ProblemError
from schemas.energy import AckResult, EnergyAck
from schemas.wording import must_be

RESULTS: Final[tuple[AckResult, ...]] = get_args(AckResult)
LEASED: Final = ("ok", "clamped", "denied")  # the actuator has taken the plan
AS_ASKED: Final = ("ok", "expired")  # after these a GPU may have another target at once


def acknowledge(memory: Memory, ack: EnergyAck) -> None:
    """Count the results. GPUs whose targets could not be set, or came too late, are left alone for a while, and charged at what
    is enforced.

    An acknowledgement of a dry run, in which nothing was set, changes nothing.

    Raises
    ------
    ProblemError
        A GPU is not in the topology, or not on the node that acknowledges.
    """
    now, topology = memory.now, memory.now.topology
    known = {uuid: row for row, uuid in enumerate(topology.uuid)}
    for uuid in ack.uuid:
        if uuid not in known:
            raise ProblemError(must_be("uuid", f"a GPU of the topology of {topology.domain}", uuid))
    rows = np.array([known[uuid] for uuid in ack.uuid], np.int64)
    for node in topology.node_of_gpu[rows].tolist():
        if topology.node[node] != ack.node:
            raise ProblemError(must_be("node", f"{topology.node[node]!r}, where the topology has these GPUs", ack.node))
    if ack.dry_run:
        return
    late = np.array([result == "expired" for result in ack.result], bool) & (now.acked_ns[rows] < _time_of(memory, ack))
    failed = late | np.array([result not in AS_ASKED for result in ack.result], bool)
    read = ack.enforced_limit_w > 0
    memory.edit("limit_w")[rows[read]] = ack.enforced_limit_w[read]
    memory.edit("stuck_ns")[rows[failed]] = max(now.watermark_ns, 1)
    _renew(memory, ack, rows)
    memory.set(acks=tuple(_before(memory, result) + ack.result.count(result) for result in RESULTS))


def counted(memory: Memory) -> dict[AckResult, int]:
    """Targets that were acknowledged since the newest plan, by result; those that did not occur are left out."""
    return {result: count for result in RESULTS if (count := _before(memory, result))}


def _renew(memory: Memory, ack: EnergyAck, rows: NDArray[np.int64]) -> None:
    """Note the time of the plan that the actuator has taken, from which its lease runs; one that is over holds no more.

    A plan that was over before it was taken ends no lease of the one before it.
    """
    taken_ns = _time_of(memory, ack)
    leased = np.array([result in LEASED for result in ack.result], bool)
    acked = memory.edit("acked_ns")
    acked[rows[leased]] = np.maximum(acked[rows[leased]], taken_ns)
    over = rows[np.array([result == "expired" for result in ack.result], bool) & (ack.enforced_limit_w > 0)]
    acked[over[acked[over] >= taken_ns]] = 0


def _time_of(memory: Memory, ack: EnergyAck) -> int:
    """The time of the plan that is acknowledged; 0 if it is none of the newest."""
    return next((plan.ts_ns for plan in memory.now.published if plan.plan_id == ack.plan_id), 0)


def _before(memory: Memory, result: AckResult) -> int:
    acks = memory.now.acks
    return acks[RESULTS.index(result)] if acks else 0
