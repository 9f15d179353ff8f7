"""Leaves: the leaf-spine part of a fabric as matrices of capacity, and which entry each link of the topology is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.fabric import LEAF, SPINE, FabricTopology

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class LeafSpine:
    """Leaves and spines of a topology, L and S of them, by node.

    `up_gb_s` [L, S] and `down_gb_s` [S, L] are capacities per direction, parallel links together. `up_of` and `down_of` int64
    [links] say which entry of the flattened matrices a link belongs to, -1 for none.
    """

    leaf: Ints
    spine: Ints
    up_gb_s: Floats
    down_gb_s: Floats
    up_of: Ints
    down_of: Ints


def leaf_spine(topology: FabricTopology, link_down: NDArray[Any] | None = None) -> LeafSpine | None:
    """The leaves and spines of a topology; None where traffic between leaves has no choice of a spine.

    Parameters
    ----------
    link_down
        bool [links], those that telemetry says do not work, besides those that the topology says.
    """
    leaf, spine = (np.flatnonzero(topology.node_type == kind) for kind in (LEAF, SPINE))
    if len(leaf) < 2 or len(spine) < 2:
        return None
    place = np.full(len(topology.node_type), -1)
    place[leaf], place[spine] = np.arange(len(leaf)), np.arange(len(spine))
    source, target = topology.node_type[topology.link_src], topology.node_type[topology.link_dst]
    a, b = place[topology.link_src], place[topology.link_dst]
    up_of = np.where((source == LEAF) & (target == SPINE), a * len(spine) + b, -1)
    down_of = np.where((source == SPINE) & (target == LEAF), a * len(leaf) + b, -1)
    works = topology.up if link_down is None else topology.up & ~link_down.astype(bool)
    speed = np.where(works, topology.speed_gb_s, 0.0)
    return LeafSpine(
        leaf,
        spine,
        summed(speed, up_of, (len(leaf), len(spine))),
        summed(speed, down_of, (len(spine), len(leaf))),
        up_of,
        down_of,
    )


def summed(values: NDArray[Any], entry: Ints, shape: tuple[int, int]) -> Floats:
    """Values of links [links] added up by their entry in a matrix of this shape."""
    on = entry >= 0
    return np.bincount(entry[on], values[on], shape[0] * shape[1]).reshape(shape).astype(np.float64)
