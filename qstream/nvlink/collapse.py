"""Parallel switches as one: what a drawing shows and a linear program takes, in place of 18 equal chips a rack."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.fabric import NVSWITCH, FabricTopology


def collapse(topology: FabricTopology) -> tuple[FabricTopology, NDArray[np.int32]]:
    """The fabric with healthy NVSwitches of the same neighbours as one, whose links are theirs together.

    Returns
    -------
    topology
        Of the links of a switch that stays, numbers and speeds are those of all that it stands for. NVL72: 72 links a
        direction for 1,296.
    place : int32 [nodes]
        The node that each node of the original is now.
    """
    names = len(topology.node_name)
    down = np.zeros(names, np.bool_)
    down[topology.link_src[~topology.up]] = down[topology.link_dst[~topology.up]] = True
    near: dict[int, list[tuple[int, int]]] = {}
    for src, dst, kind in zip(topology.link_src.tolist(), topology.link_dst.tolist(), topology.link_kind.tolist(), strict=True):
        near.setdefault(src, []).append((dst, kind))
    first: dict[tuple[object, ...], int] = {}
    stands_for = np.arange(names)
    for node in np.flatnonzero((topology.node_type == NVSWITCH) & (topology.node_health == 0) & ~down).tolist():
        key = (int(topology.node_domain[node]), *sorted(near.get(node, [])))
        stands_for[node] = first.setdefault(key, node)
    keep = np.flatnonzero(stands_for == np.arange(names))
    number = np.full(names, -1, np.int32)
    number[keep] = np.arange(len(keep))
    place = number[stands_for]
    fields = {name: getattr(topology, name) for name in FabricTopology.model_fields}
    for name in ("node_type", "node_domain", "node_health", "node_free"):
        fields[name] = fields[name][keep]
    host = topology.node_host[keep]
    fields["node_host"] = np.where(host >= 0, place[host], -1).astype(np.int32)
    fields["node_name"] = tuple(topology.node_name[node] for node in keep.tolist())
    return FabricTopology.build(**(fields | _merged(topology, place, len(keep)))), place


def _merged(topology: FabricTopology, place: NDArray[np.int32], names: int) -> dict[str, NDArray[np.generic]]:
    """Columns of the links between the nodes that stay, sorted by their ends; of one kind, since neighbours are alike in it."""
    ends = (place[topology.link_src].astype(np.int64) * names + place[topology.link_dst]) * 256 + topology.link_kind
    pairs, at, column = np.unique(ends, return_index=True, return_inverse=True)
    columns: dict[str, NDArray[np.generic]] = {
        "link_src": (pairs // 256 // names).astype(np.int32),
        "link_dst": (pairs // 256 % names).astype(np.int32),
        "link_kind": topology.link_kind[at],
        "link_count": np.bincount(column, topology.link_count).astype(np.int32),
        "link_gb_s": np.bincount(column, topology.link_gb_s).astype(np.float32),
    }
    if topology.link_effective_gb_s is not None:
        columns["link_effective_gb_s"] = np.bincount(column, topology.link_effective_gb_s).astype(np.float32)
    if topology.link_latency_us is not None:
        columns["link_latency_us"] = topology.link_latency_us[at]
    if topology.link_up is not None:
        columns["link_up"] = topology.link_up[at]
    return columns
