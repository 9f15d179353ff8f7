"""Held: the plans that are in force in the modelled fabric, and what they say of ranks, rails and spines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qstream.demo.nvlink.exchange import Placed
from qstream.demo.nvlink.fabric import GPUS, SERVERS, SPINES, Fabric
from qstream.nvlink.links import wcmp
from schemas.fabric import FabricPlan, RouteShares

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]


class Held:
    """What the job and its switches do now: at first the linear order, each byte on its receiver's rail, shares by capacity.

    `gpus` are the nodes of the ranks, None while the job has lost some; `rail` [n, n, GPUS] and `share` [SERVERS, SERVERS,
    SPINES] are parts of bytes. `version` is that of the newest placement, None before any; `answered` says whether
    the agent has said where ranks go, or that they stay.
    """

    def __init__(self, fabric: Fabric, ranks: int) -> None:
        self.fabric = fabric
        self.gpus: Ints | None = fabric.linear(ranks)
        self.rail: Floats | None = None
        self.share = wcmp(fabric.up_gb_s, fabric.down_gb_s)
        self.version: int | None = None
        self.answered = False

    def placed(self, nbytes: Floats, gpus: Ints) -> Placed:
        """Bytes between ranks on these GPUs."""
        return Placed(nbytes, self.fabric.server[gpus], self.fabric.index[gpus])

    def rails(self, placed: Placed) -> Floats:
        """Parts by rail [n, n, GPUS] of the plan in force; of pairs of which it says nothing, as NCCL sends them."""
        if self.rail is None:
            return placed.pxn
        told = self.rail.sum(2, keepdims=True) > 0
        return np.where(told, self.rail, placed.pxn)

    def take(self, plan: FabricPlan) -> None:
        """A plan of the job; one that leaves the placement as it is may have other rails."""
        if plan.topology_digest != self.fabric.topology.digest() or plan.gpu_of_rank is None:
            return
        if plan.skip_reason is None:
            self.version = plan.version
        elif self.gpus is None:
            return
        self.answered = True
        self.gpus = plan.gpu_of_rank
        self.rail = parts_by_rail(plan)

    def share_out(self, shares: RouteShares) -> None:
        """Shares for the next window."""
        if shares.topology_digest != self.fabric.topology.digest():
            return
        leaf, spine = self.fabric.leaves.leaf, self.fabric.leaves.spine
        a, b = np.searchsorted(leaf, shares.pair_src), np.searchsorted(leaf, shares.pair_dst)
        found = np.zeros((SERVERS, SERVERS, SPINES))
        for path in range(shares.via.shape[1]):
            known = shares.via[:, path] >= 0
            via = np.searchsorted(spine, shares.via[known, path])
            np.add.at(found, (a[known], b[known], via), shares.share[known, path].astype(np.float64))
        self.share = found

    def server_gone(self, server: int) -> None:
        """A server leaves the fabric; the job stands still if it had ranks there."""
        before = self.fabric.topology
        self.fabric.leave(server)
        self.gpus = None if self.gpus is None else self.fabric.renumbered(self.gpus, before)
        self.rail = None if self.gpus is None else self.rail


def parts_by_rail(plan: FabricPlan) -> Floats | None:
    """Parts of each pair's bytes by rail [n, n, GPUS], 0 for pairs without any; None if the plan has no pieces."""
    if plan.piece_src is None or plan.piece_dst is None or plan.piece_rail is None or plan.piece_bytes is None:
        return None
    assert plan.gpu_of_rank is not None  # a plan with pieces has a placement
    order = np.argsort(plan.gpu_of_rank)
    src, dst = (order[np.searchsorted(plan.gpu_of_rank[order], nodes)] for nodes in (plan.piece_src, plan.piece_dst))
    found = np.zeros((len(order), len(order), GPUS))
    np.add.at(found, (src, dst, plan.piece_rail), plan.piece_bytes.astype(np.float64))
    total = found.sum(2, keepdims=True)
    return np.asarray(np.divide(found, total, out=np.zeros_like(found), where=total > 0))
