"""Crossing: what a placed job sends between servers, by the NICs of its GPUs.

Axes: N servers, g GPUs of each, on the same rails in all of them. A server is a block of GPUs: a box, or a rack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.nvlink.blocks import Blocks
from qstream.nvlink.sketch import SCALE_OUT
from schemas.fabric import GPU, LEAF, NIC, SPINE, FabricTopology

Ints = NDArray[np.int32]
MAX_RANKS: Final = 1024  # of a matrix of what each sends to each


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """Bytes between servers, and the speeds of what carries them.

    gpu : int32 [N, g], nodes
    rail : int32 [g], the place of a GPU in its server, whose NIC is on the rail of that number
    sent : float64 [N, g, N, g], bytes
    """

    gpu: Ints
    rail: Ints
    sent: NDArray[np.float64]
    nic_gb_s: float
    nvlink_gb_s: float


def crossing(
    topology: FabricTopology, blocks: Blocks, gpus: Ints, src: Ints, dst: Ints, nbytes: NDArray[np.float64]
) -> Crossing | None:
    """What ranks on these GPUs send between servers; None where rails cannot be told.

    That is: nothing crosses, servers differ in which of their GPUs the job has, a GPU has no NIC of its own, or there are more
    than 1,024 ranks.

    Parameters
    ----------
    gpus : int32 [ranks]
        The GPU of each rank.
    src, dst, nbytes : [entries]
        Ranks and bytes.
    """
    if len(gpus) > MAX_RANKS:
        return None
    block = blocks.block_of_gpu[np.searchsorted(blocks.gpu, gpus)]
    place = _places(topology)[gpus]
    order = np.lexsort((place, block))
    servers, g = np.unique(block, return_counts=True)
    if len(servers) < 2 or (g != g[0]).any():
        return None
    gpu, rail = gpus[order].reshape(len(servers), -1), place[order].reshape(len(servers), -1)
    nic_gb_s = nic_speeds(topology)[gpus].min()
    if (rail != rail[0]).any() or nic_gb_s <= 0:
        return None
    number = np.empty(len(gpus), np.int64)
    number[order] = np.arange(len(gpus))
    crosses = block[src] != block[dst]
    if not nbytes[crosses].any():
        return None
    sent = np.zeros((len(gpus), len(gpus)))
    np.add.at(sent, (number[src[crosses]], number[dst[crosses]]), nbytes[crosses])
    return Crossing(
        gpu, rail[0], sent.reshape(*gpu.shape, *gpu.shape), float(nic_gb_s), float(1 / blocks.distance[servers, servers].max())
    )


def nic_traffic(job: Crossing, src: Ints, dst: Ints, rail: Ints, nbytes: NDArray[np.float64]) -> NDArray[np.float64]:
    """What NICs carry of pieces, in whole bytes, [N * g, N * g]: from the NIC of that rail to that of the other server."""
    g = job.gpu.shape[1]
    sent = np.zeros((job.gpu.size, job.gpu.size))
    np.add.at(sent, (src // g * g + rail, dst // g * g + rail), nbytes)
    return np.rint(sent)


def nic_speeds(topology: FabricTopology) -> NDArray[np.float64]:
    """GB/s of the NIC of each node that is a GPU, 0 where it has none of its own, float64 [nodes].

    A NIC is what links a GPU to a leaf or spine, or the NIC of that place in its host, where a host has as many as GPUs.
    """
    types, works = topology.node_type, topology.node_health != 2
    keep = np.isin(topology.link_kind, SCALE_OUT) & np.isin(types[topology.link_dst], (LEAF, SPINE)) & works[topology.link_src]
    keep &= topology.up
    out = np.bincount(topology.link_src[keep], topology.speed_gb_s[keep], len(types)).astype(np.float64)
    nics = np.flatnonzero((types == NIC) & (topology.node_host >= 0) & (out > 0))
    for host in np.unique(topology.node_host[nics]).tolist():
        gpus = np.flatnonzero((types == GPU) & (topology.node_host == host))
        mine = nics[topology.node_host[nics] == host]
        if len(gpus) == len(mine) and not out[gpus].any():
            out[gpus] = out[mine]
    found: NDArray[np.float64] = np.where(types == GPU, out, 0.0)
    return found


def _places(topology: FabricTopology) -> Ints:
    """The place of each GPU among those of its domain, else of its host, in the order of nodes, int32 [nodes]."""
    nodes = len(topology.node_type)
    home = np.where(topology.node_domain >= 0, topology.node_domain + nodes, topology.node_host)
    gpus = np.flatnonzero(topology.node_type == GPU)
    order = np.argsort(home[gpus], kind="stable")
    begins = np.append(True, np.diff(home[gpus][order]) != 0)
    at = np.arange(len(gpus))
    found = np.zeros(nodes, np.int32)
    found[gpus[order]] = at - np.maximum.accumulate(np.where(begins, at, 0))
    return found
