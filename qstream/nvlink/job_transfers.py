"""Pieces and transfers of a placed job: which NICs carry its bytes between servers, and in which order where that matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.nvlink.crossing import Crossing, nic_traffic
from qstream.nvlink.job_paths import MAX_RANKS
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.rails import Rails, balance_rails, receivers_rails
from qstream.nvlink.schedule import rotation_us, schedule_transfers
from qstream.nvlink.sketch import LOSSY, SCALE_OUT
from qstream.nvlink.traffic import whole_bytes
from schemas.fabric import FabricTopology

MIN_PIECE_BYTES: Final = 1 << 20
MAX_PIECES: Final = MAX_RANKS * MAX_RANKS  # 415 KB of a plan of 1 MB
MAX_PORTS: Final = MAX_RANKS  # of a schedule between hosts
STARTUP_US: Final = 2.0  # of a transfer, where links do not say their latency


@dataclass(frozen=True, slots=True, eq=False)
class JobTransfers:
    """Columns `piece_*` and `transfer_*` of a plan, fields of its score, and what else it says of transfers."""

    columns: dict[str, NDArray[Any]]
    score: dict[str, float]
    directives: dict[str, str]

    @property
    def help(self) -> bool:
        """Whether there is anything to be followed."""
        return bool(self.columns)


NOTHING: Final = JobTransfers({}, {}, {})


def job_transfers(
    topology: FabricTopology, after: Crossing | None, before: Crossing | None, options: NvlinkOptions
) -> JobTransfers:
    """How the bytes of a job go between servers. Modelled, not measured.

    Pieces are given where they take `min_gain` less time than the receivers' rails (PXN), NICs and NVLink taken together.
    Transfers are given on RoCE and Ethernet, where many senders to one port lose packets, and where their order ends `min_gain`
    earlier than rotation; where one port is so full that no order matters, the directive ``transfers`` says ``port-bound``.
    Both name GPUs up to 144 ranks, beyond that the hosts of the NICs.

    Parameters
    ----------
    after, before
        What crosses with the ranks of the plan, and with those of the placement before.
    """
    if after is None:
        return NOTHING
    plain = receivers_rails(after.sent, after.nic_gb_s, after.nvlink_gb_s)
    taken, columns = plain, dict[str, NDArray[Any]]()
    if options.rails and after.gpu.shape[1] > 1:
        found = balance_rails(after.sent, after.nic_gb_s, after.nvlink_gb_s, min_piece_bytes=MIN_PIECE_BYTES)
        pieces = _pieces(topology, after, found)
        if pieces and max(found.nic_us, found.nvlink_us) <= (1 - options.min_gain) * max(plain.nic_us, plain.nvlink_us):
            taken, columns = found, pieces
    score = {"nic_us": taken.nic_us, "nic_us_bound": min(taken.bound_us, taken.nic_us)}
    if before is not None:
        score["nic_us_before"] = receivers_rails(before.sent, before.nic_gb_s, before.nvlink_gb_s).nic_us
    if options.schedule == "off" or not np.isin(topology.link_kind, LOSSY).any():
        return JobTransfers(columns, score, {})
    order = _transfers(topology, after, taken, options)
    return JobTransfers(columns | order.columns, score | order.score, order.directives)


def _pieces(topology: FabricTopology, job: Crossing, rails: Rails) -> dict[str, NDArray[Any]]:
    """The columns `piece_*`; empty where they are too many, or GPUs have no host to name."""
    size = whole_bytes(rails.nbytes, rails.src.astype(np.int64) * job.gpu.size + rails.dst)
    src, dst, rail = job.gpu.ravel()[rails.src], job.gpu.ravel()[rails.dst], job.rail[rails.rail]
    if job.gpu.size > MAX_RANKS:
        g = job.gpu.shape[1]
        src, dst = (topology.node_host[job.gpu[end // g, rails.rail]] for end in (rails.src, rails.dst))
        if (src < 0).any() or (dst < 0).any():
            return {}
        ends, at = np.unique(np.stack([src, dst, rail]), axis=1, return_inverse=True)
        src, dst, rail = ends
        size = np.bincount(at.ravel(), size).astype(np.int64)
    if len(src) > MAX_PIECES:
        return {}
    return {
        "piece_src": src.astype(np.int32),
        "piece_dst": dst.astype(np.int32),
        "piece_rail": rail.astype(np.int32),
        "piece_bytes": size,
    }


def _transfers(topology: FabricTopology, job: Crossing, rails: Rails, options: NvlinkOptions) -> JobTransfers:
    """The order of what NICs send, in columns `transfer_*` where it helps."""
    node = job.gpu.ravel()
    if job.gpu.size > MAX_RANKS:
        node = topology.node_host[node]
    ports, port, nics = np.unique(node, return_inverse=True, return_counts=True)
    if ports[0] < 0 or len(ports) > MAX_PORTS or (nics != nics[0]).any():
        return NOTHING
    sent = np.zeros((len(ports), len(ports)))
    np.add.at(sent, np.ix_(port.ravel(), port.ravel()), nic_traffic(job, rails.src, rails.dst, rails.rail, rails.nbytes))
    np.fill_diagonal(sent, 0.0)
    gb_s, startup_us = job.nic_gb_s * int(nics[0]), _startup_us(topology)
    found = schedule_transfers(sent, gb_s, startup_us, barriers=options.schedule == "phases")
    score = {"span_us": found.span_us, "span_us_bound": found.bound_us}
    says: dict[str, str] = {"transfers": found.method}
    helps = found.span_us <= (1 - options.min_gain) * rotation_us(sent, gb_s, startup_us)
    if not helps or found.method == "port-bound":
        return JobTransfers({}, score, says)
    columns: dict[str, NDArray[Any]] = {
        "transfer_src": ports[found.src].astype(np.int32),
        "transfer_dst": ports[found.dst].astype(np.int32),
        "transfer_phase": found.phase,
        "transfer_bytes": whole_bytes(found.nbytes, found.src.astype(np.int64) * len(ports) + found.dst),
        "transfer_start_us": found.start_us.astype(np.float32),
    }
    return JobTransfers(columns, score, says)


def _startup_us(topology: FabricTopology) -> float:
    """What a transfer costs beside its bytes: the largest latency of a link between hosts."""
    out = np.isin(topology.link_kind, SCALE_OUT)
    if topology.link_latency_us is None or not out.any():
        return STARTUP_US
    return float(topology.link_latency_us[out].max()) or STARTUP_US
