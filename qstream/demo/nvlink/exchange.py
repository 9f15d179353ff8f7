"""Exchange: what a step's bytes put on NICs, uplinks and downlinks, and how long they take in the fluid model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from qstream.demo.nvlink.fabric import GPUS, NIC_GB_S, NVLINK_GB_S, SERVERS, SPINES
from qstream.nvlink import drain

MERGE: Final = 0.005  # of the bound: an error below 1.5 %
SEATS: Final = SERVERS * GPUS
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Bytes between ranks float64 [n, n], and where the ranks are: int64 [n] servers, and GPUs of them."""

    nbytes: Floats
    server: Ints
    index: Ints

    @property
    def demand(self) -> Floats:
        """Bytes between leaves [SERVERS, SERVERS], without those that stay."""
        found = np.zeros((SERVERS, SERVERS))
        np.add.at(found, (self.server[:, None], self.server[None]), self.nbytes)
        np.fill_diagonal(found, 0.0)
        return found

    @property
    def pxn(self) -> Floats:
        """Parts of each pair's bytes by rail [n, n, GPUS] as NCCL sends them: on the rail of the receiver."""
        return np.broadcast_to(np.eye(GPUS)[self.index], (len(self.index), len(self.index), GPUS))


def nic_over_bound(placed: Placed, rail: Floats) -> float:
    """Bytes of the fullest NIC, for parts by rail [n, n, GPUS], over those of the fullest server with its NICs evenly full."""
    a, b = np.nonzero(placed.server[:, None] != placed.server[None])
    size = placed.nbytes[a, b][:, None] * rail[a, b]
    fullest, bound = 0.0, 0.0
    for side in (placed.server[a], placed.server[b]):
        load = np.zeros((SERVERS, GPUS))
        np.add.at(load, side, size)
        fullest, bound = max(fullest, float(load.max())), max(bound, float(load.sum(1).max()) / GPUS)
    return fullest / bound if bound else 1.0


def exchange_ms(placed: Placed, rail: Floats, share: Floats, up_gb_s: Floats, down_gb_s: Floats) -> float:
    """When the last byte is there, all of them having been sent at once: max-min fair, modelled.

    Bytes of a pair go by `rail` [n, n, GPUS] over the NICs of both servers, and by `share` [SERVERS, SERVERS, SPINES] over
    spines; where the GPU is not that of the NIC, first over NVLink, and last.
    """
    seat = placed.server * GPUS + placed.index
    a, b = np.nonzero(placed.nbytes)
    near = placed.server[a] == placed.server[b]
    inside = np.stack([seat[a[near]], SEATS + seat[b[near]]], axis=1)
    a, b = a[~near], b[~near]
    x, y = placed.server[a], placed.server[b]
    part = rail[a, b][:, :, None] * share[x, y][:, None, :]
    pair, at, spine = np.nonzero(part)
    size = placed.nbytes[a, b][pair] * part[pair, at, spine]
    x, y, a, b = x[pair], y[pair], seat[a][pair], seat[b][pair]
    out, into = x * GPUS + at, y * GPUS + at  # seats of the NICs
    ups, downs = 4 * SEATS, 4 * SEATS + SERVERS * SPINES
    links = np.stack(
        [
            *(np.where(a == out, -1, a), np.where(a == out, -1, SEATS + out)),
            *(2 * SEATS + out, ups + x * SPINES + spine, downs + spine * SERVERS + y, 3 * SEATS + into),
            *(np.where(b == into, -1, into), np.where(b == into, -1, SEATS + b)),
        ],
        axis=1,
    )
    count = np.append(np.full(len(inside), 2), (links >= 0).sum(1))
    every = np.concatenate([inside.ravel(), links[links >= 0]])
    gb_s = np.concatenate([np.full(2 * SEATS, NVLINK_GB_S), np.full(2 * SEATS, NIC_GB_S), up_gb_s.ravel(), down_gb_s.ravel()])
    near_bytes = placed.nbytes[np.nonzero(placed.nbytes)][near]
    end_us = drain(np.append(0, np.cumsum(count)), every, np.append(near_bytes, size), gb_s, merge=MERGE)
    return float(end_us.max(initial=0.0)) / 1e3


def least_fullest(demand: Floats, up_gb_s: Floats, down_gb_s: Floats) -> float:
    """The utilisation of the fullest link with the best shares for this very demand [L, L], by linear programming."""
    (leaves, spines), (a, b) = up_gb_s.shape, np.nonzero(demand)
    pairs, links = len(a), np.append(up_gb_s.ravel(), down_gb_s.ravel())
    if not pairs:
        return 0.0
    size = demand[a, b] / demand.max()  # the solver wants numbers near 1
    scale = links.max()
    over, whole = np.zeros((len(links), pairs * spines + 1)), np.zeros((pairs, pairs * spines + 1))
    for pair in range(pairs):
        for spine in range(spines):
            column = pair * spines + spine
            over[a[pair] * spines + spine, column] = size[pair]
            over[leaves * spines + spine * leaves + b[pair], column] = size[pair]
            whole[pair, column] = 1.0
    over[:, -1] = -links / scale
    cost = np.append(np.zeros(pairs * spines), 1.0)
    found = linprog(cost, over, np.zeros(len(links)), whole, np.ones(pairs), method="highs")
    return float(found.fun * demand.max() / scale)
