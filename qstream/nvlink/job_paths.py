"""Paths of a job on boxes whose GPUs links join directly: which way the bytes of each pair of ranks go inside a box."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.nvlink.routes import MAX_FLOWS, Net, net_of, reached, solved
from qstream.nvlink.sketch import SCALE_UP, components
from qstream.nvlink.traffic import whole_bytes
from schemas.fabric import CPU, NVSWITCH, PCIE, FabricTopology

Ints = NDArray[np.int32]
MAX_RANKS: Final = 144  # of a plan that says more than placement
_INSIDE: Final = (NVSWITCH, PCIE, CPU)


def job_paths(
    topology: FabricTopology, gpus: Ints, src: Ints, dst: Ints, nbytes: NDArray[np.float64], *, relay: bool
) -> dict[str, NDArray[np.generic]]:
    """The columns `path_*` of a plan: paths of pairs of ranks inside a box, and whole bytes; empty where there is no choice.

    A box is what NVLink or xGMI joins, without a switch that all go through, and the PCIe of its hosts. Only GPUs of the job pass
    traffic on, and with `relay` alone. Above 144 ranks, or where a box is too large for a linear program, there are none.

    Parameters
    ----------
    gpus : int32 [ranks]
        The GPU of each rank.
    src, dst, nbytes : [entries]
        Ranks and bytes of the traffic.
    """
    if len(gpus) > MAX_RANKS:
        return {}
    nodes = len(topology.node_type)
    demand = np.zeros((nodes, nodes))
    np.add.at(demand, (gpus[src], gpus[dst]), nbytes)
    np.fill_diagonal(demand, 0.0)
    lengths, node, size = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for box in _boxes(topology, gpus):
        net = net_of(topology, box)
        inside = _joined(net, np.where(box[:, None] & box, demand, 0.0), relay=relay)
        if not inside.any() or np.count_nonzero(inside.any(axis=1)) * len(net.src) > MAX_FLOWS:
            continue
        routes = solved(topology, net, inside, relay=relay)
        lengths.append(np.diff(routes.first).astype(np.int64))
        node.append(routes.node)
        ends = routes.node[routes.first[:-1]].astype(np.int64) * nodes + routes.node[routes.first[1:] - 1]
        size.append(whole_bytes(routes.nbytes, ends))
    if len(size) == 1:
        return {}
    first = np.concatenate([[0], *lengths]).cumsum().astype(np.int32)
    return {"path_first": first, "path_node": np.concatenate(node), "path_bytes": np.concatenate(size)}


def _boxes(topology: FabricTopology, gpus: Ints) -> list[NDArray[np.bool_]]:
    """The nodes, bool [nodes], of each box with direct links between GPUs of the job: these GPUs, and what passes traffic on."""
    nodes = len(topology.node_type)
    mine = np.zeros(nodes, np.bool_)
    mine[gpus] = True
    fast = np.isin(topology.link_kind, SCALE_UP)
    joined = components(nodes, topology.link_src[fast], topology.link_dst[fast])
    direct = fast & mine[topology.link_src] & mine[topology.link_dst]
    found = []
    for part in np.unique(joined[topology.link_src[direct]]).tolist():
        inside = joined == part
        hosts = np.unique(topology.node_host[inside & mine])
        near = np.isin(topology.node_type, _INSIDE) & (inside | np.isin(topology.node_host, hosts[hosts >= 0]))
        found.append((inside & mine) | near)
    return found


def _joined(net: Net, demand: NDArray[np.float64], *, relay: bool) -> NDArray[np.float64]:
    """The demand less that of pairs that no way joins."""
    kept = demand.copy()
    for source in np.flatnonzero(demand.any(axis=1)).tolist():
        away = np.ones(net.nodes, np.bool_)
        away[list(reached(net, source, relay=relay))] = False
        kept[source, away] = 0.0
    return kept
