"""Telemetry: what links carried and leaves offered, added up by window, and the congestion that a closed window shows."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.nvlink.leaves import LeafSpine, summed
from qstream.nvlink.links import utilisation
from qstream.nvlink.memory import Memory
from schemas.fabric import LEAF, LinkTelemetry
from schemas.wording import Shown, must_be

Floats = NDArray[np.float64]
QUEUE_US: Final = 10.0  # mean wait from which a link counts as full
ECN: Final = 0.01  # part of packets that are marked, from which it does
UNCARRIED: Final = 0.95  # of what was offered; a link that carried less, and of whose queue nobody tells, was full
FULL, FREE = 1, 2  # of a link: what its queue, or its marks, say
RECOVERY: Final = 1.01  # a window: a link that shows no congestion is trusted again so much more
MAX_SOURCES: Final = 1024


def window_of(told: LinkTelemetry, window_ms: float) -> int:
    """The number of the window in which a record's own window ends."""
    return (told.t1_ns - 1) // int(window_ms * 1e6)


def take(memory: Memory, told: LinkTelemetry, window: int) -> bool:
    """Add a record to the open window, and say whether it was added: one that was counted, of another topology or of a closed
    window changes counts alone.

    Raises
    ------
    ProblemError
        It names a link, or a leaf, that the topology in force does not have, or too many sources report.
    """
    now = memory.now
    if told.topology_digest != now.digest:
        memory.set(foreign=now.foreign + 1)
        return False
    links = len(now.link_bytes)
    if len(told.link) and told.link.max() >= links:
        raise ProblemError(must_be("link", f"a link of the topology, 0 to {links - 1}", int(told.link.max())))
    pairs = _pairs(memory, told)
    if _counted(memory, told):
        memory.set(repeated=memory.now.repeated + 1)
        return False
    if window < now.window:
        memory.set(late=now.late + 1)
        return False
    memory.set(window=window, heard_ns=max(now.heard_ns, told.t1_ns))
    memory.edit("link_bytes")[told.link] += told.link_bytes
    memory.edit("link_seen")[told.link] = 1
    _tell_queues(memory, told)
    if told.link_up is not None:
        memory.edit("link_down")[told.link] = ~told.link_up
    if pairs is not None and told.pair_bytes is not None:
        np.add.at(memory.edit("pair_bytes"), pairs, told.pair_bytes.astype(np.float64))
    return True


def close(memory: Memory, leaves: LeafSpine, window_ms: float) -> tuple[Floats | None, tuple[Floats, Floats] | None]:
    """End the open window: GB/s [L, L] that leaves offered, and measured congestion of uplinks and downlinks.

    Either is None where nobody told. Congestion is offered over achieved rate on a link that was full; on others it is the
    modelled one, a little less where a link counts as slow, so that one that was repaired is trusted again.
    """
    now, ns = memory.now, window_ms * 1e6
    assert now.pair_bytes is not None  # the fabric has leaves and spines
    demand = now.pair_bytes / ns if now.pair_bytes.any() else None
    measured = None
    if demand is not None and now.splits is not None and now.link_seen.any():
        measured = _measured(memory, leaves, demand, ns)
    for name in ("link_bytes", "link_seen", "link_slow", "pair_bytes"):
        memory.edit(name)[...] = 0
    return demand, measured


def _measured(memory: Memory, leaves: LeafSpine, demand: Floats, ns: float) -> tuple[Floats, Floats]:
    now = memory.now
    state = now.splits
    assert state is not None
    flow = state.share * demand[:, :, None]
    modelled = utilisation(state.share, demand, leaves.up_gb_s * state.up_factor, leaves.down_gb_s * state.down_factor)
    found = []
    for offered, model, entry in zip(
        (flow.sum(axis=1), flow.sum(axis=0).T), modelled, (leaves.up_of, leaves.down_of), strict=True
    ):
        shape = (offered.shape[0], offered.shape[1])
        said = now.link_slow
        carried, seen, slow, free = (
            summed(each, entry, shape) for each in (now.link_bytes / ns, now.link_seen, said == FULL, said == FREE)
        )
        # Bytes that wait in front of another link do not come to this one: it carries less, and is not full.
        full = (slow > 0) | ((free == 0) & (carried < UNCARRIED * offered))
        with np.errstate(divide="ignore", invalid="ignore"):
            congestion = np.where(carried > 0, offered / carried, 0.0)
        measured = np.where(full, congestion, np.where(np.isfinite(model), model, 0.0) / RECOVERY)
        found.append(np.where(seen > 0, measured, 0.0))
    return found[0], found[1]


def _tell_queues(memory: Memory, told: LinkTelemetry) -> None:
    """Note which links were full, by their queues or marks, and which were said not to be: full once is full in the window."""
    if told.link_queue_us is None and told.link_ecn is None:
        return
    slow = np.zeros(len(told.link), bool)
    if told.link_queue_us is not None:
        slow |= told.link_queue_us > QUEUE_US
    if told.link_ecn is not None:
        slow |= told.link_ecn > ECN
    known = memory.edit("link_slow")
    known[told.link] = np.where(slow | (known[told.link] == FULL), FULL, FREE)


def _counted(memory: Memory, told: LinkTelemetry) -> bool:
    """Whether this window of the source has come before; if not it has now."""
    now = memory.now
    if told.source not in now.source:
        if len(now.source) >= MAX_SOURCES:
            raise ProblemError(must_be("source", f"one of at most {MAX_SOURCES}", told.source))
        memory.set(source=(*now.source, told.source), source_window=np.append(now.source_window, told.window_id))
        return False
    at = now.source.index(told.source)
    if told.window_id <= now.source_window[at]:
        return True
    memory.edit("source_window")[at] = told.window_id
    return False


def _pairs(memory: Memory, told: LinkTelemetry) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Places of the pairs in `pair_bytes`; None where the fabric has none, or the record tells of none."""
    now = memory.now
    if told.pair_src is None or told.pair_dst is None or now.pair_bytes is None:
        return None
    topology = now.topology
    leaf = np.flatnonzero(topology.node_type == LEAF)
    place = np.full(len(topology.node_type), -1)
    place[leaf] = np.arange(len(leaf))
    found = []
    for name, nodes in (("pair_src", told.pair_src), ("pair_dst", told.pair_dst)):
        inside = nodes < len(place)
        at = place[np.where(inside, nodes, 0)]
        wrong = ~inside | (at < 0)
        if wrong.any():
            raise ProblemError(must_be(name, "leaves of the topology", Shown(f"node {int(nodes[wrong][0])}")))
        found.append(at.astype(np.int64))
    return found[0], found[1]
