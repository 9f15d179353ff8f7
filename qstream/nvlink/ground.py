"""Ground: below which leaf each GPU is, and what jobs that run there send one another, as a layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.nvlink.blocks import Blocks
from qstream.nvlink.layouts import Layout
from qstream.nvlink.leaves import LeafSpine, leaf_spine
from qstream.nvlink.profile import job_traffic
from schemas.fabric import CPU, GPU, LEAF, NIC, PCIE, FabricTopology, JobProfile

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Traffic = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]  # sending and receiving rank, bytes


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """GPUs of a fabric below its leaves.

    `leaf_of_node` int64 [nodes] is the leaf of a GPU by its place among leaves, 0 for other nodes; `block_of_node` int64 [nodes]
    its block, within which bytes take NVLink, and -1 for other nodes. `port_gb_s` is what a GPU sends into the network.
    `kind_of_leaf` int64 [leaves] is equal for leaves that the same leaves reach over spines, as those of a rail are; `senders`
    are, by block and kind, the GPUs of the block that reach leaves of that kind.
    """

    leaves: LeafSpine
    leaf_of_node: Ints
    block_of_node: Ints
    port_gb_s: float
    kind_of_leaf: Ints
    senders: Mapping[tuple[int, int], Ints]

    def layout(self, jobs: Iterable[tuple[Traffic, ArrayLike]]) -> Layout:
        """What jobs send between blocks, of each its traffic by ranks and the GPU of each rank; a pair of GPUs is a flow.

        Where no spine joins the leaf of a GPU to that of the receiver, its bytes go over NVLink to one of its block first that a
        spine joins, as they do where each rail has spines of its own.
        """
        nodes = len(self.leaf_of_node)
        pairs, sizes = [np.zeros(0, np.int64)], [np.zeros(0)]
        for (src, dst, nbytes), gpu_of_rank in jobs:
            gpus = np.asarray(gpu_of_rank, np.int64)
            a, b = gpus[src], gpus[dst]
            out = self.block_of_node[a] != self.block_of_node[b]
            pairs.append(self._sender(a[out], b[out]) * nodes + b[out])
            sizes.append(nbytes[out])
        pair, at = np.unique(np.concatenate(pairs), return_inverse=True)
        size = np.bincount(at, np.concatenate(sizes), len(pair))
        return Layout(
            pair // nodes, pair % nodes, size, self.leaf_of_node, self.port_gb_s, self.leaves.up_gb_s, self.leaves.down_gb_s
        )

    def _sender(self, a: Ints, b: Ints) -> Ints:
        """The GPU that sends into the network what GPU a has for GPU b."""
        kind = self.kind_of_leaf[self.leaf_of_node[b]]
        found = a.copy()
        for (block, to), gpus in self.senders.items():
            mine = np.flatnonzero((self.block_of_node[a] == block) & (kind == to))
            if len(mine):
                other = mine[~np.isin(a[mine], gpus)]
                found[other] = gpus[a[other] % len(gpus)]
        return found


def _senders(leaves: LeafSpine, leaf_of_node: Ints, block_of_node: Ints) -> tuple[Ints, dict[tuple[int, int], Ints]]:
    """`Ground.kind_of_leaf` and `Ground.senders`; the latter is empty where spines join all leaves."""
    joined = ((leaves.up_gb_s[:, None, :] > 0) & (leaves.down_gb_s.T[None] > 0)).any(axis=2) | np.eye(
        len(leaves.up_gb_s), dtype=bool
    )
    if joined.all():
        return np.zeros(len(joined), np.int64), {}
    columns, kind = np.unique(joined.T, axis=0, return_inverse=True)
    found = {}
    for block in np.unique(block_of_node[block_of_node >= 0]).tolist():
        gpus = np.flatnonzero(block_of_node == block)
        for to, reached in enumerate(columns):
            able = gpus[reached[leaf_of_node[gpus]]]
            if 0 < len(able) < len(gpus):
                found[block, to] = able
    return kind.reshape(-1).astype(np.int64), found


def ground_of(topology: FabricTopology, blocks: Blocks) -> Ground | None:
    """The GPUs below leaves; None where traffic between leaves has no choice of a spine, or a GPU has no way to a leaf."""
    leaves = leaf_spine(topology)
    if leaves is None:
        return None
    kind, src, dst = topology.node_type, topology.link_src, topology.link_dst
    into = np.isin(kind[src], (GPU, NIC)) & (kind[dst] == LEAF)
    if not into.any():
        return None
    leaf_of = np.full(len(kind), -1, np.int64)
    leaf_of[src[into][::-1]] = np.searchsorted(leaves.leaf, dst[into][::-1])  # the first link of a node counts
    inside = np.isin(kind[src], (GPU, PCIE, CPU)) & np.isin(kind[dst], (NIC, PCIE, CPU))
    gpus = kind == GPU
    for _ in range(4):  # from GPUs over switches of PCIe and processors to a NIC
        todo = inside & (leaf_of[src] < 0) & (leaf_of[dst] >= 0)
        leaf_of[src[todo][::-1]] = leaf_of[dst[todo][::-1]]
    if (leaf_of[gpus] < 0).any():
        return None
    block_of = np.full(len(kind), -1, np.int64)
    block_of[blocks.gpu] = blocks.block_of_gpu
    leaf_of = np.maximum(leaf_of, 0)
    return Ground(leaves, leaf_of, block_of, float(np.median(topology.speed_gb_s[into])), *_senders(leaves, leaf_of, block_of))


def traffic_of(profile: JobProfile) -> Traffic:
    """A job's bytes by pairs of ranks."""
    src, dst, nbytes = job_traffic(profile)
    return src, dst, nbytes.astype(np.float64)
