"""A survey of a fabric: what it is made of, how fast GPUs reach one another, and which decisions have something to win there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qstream.nvlink.blocks import Blocks, blocks_of
from qstream.nvlink.leaves import leaf_spine
from qstream.nvlink.sketch import LOSSY, SCALE_OUT, SCALE_UP
from schemas.fabric import GPU, LEAF, LINK_KINDS, NIC, NODE_TYPES, FabricTopology

WITHIN, DOMAIN, HOST_PATH, ACROSS, NOWHERE = (
    "within a block",
    "within a domain",
    "within a host",
    "between domains",
    "no connection",
)


@dataclass(frozen=True, slots=True)
class Tier:
    """Pairs of GPUs that are equally far from one another: modelled GB/s of the narrowest link, and us/KB with what is shared."""

    where: str
    gb_s: float
    us_kb: float
    pairs: int


@dataclass(frozen=True, slots=True)
class LinkClass:
    """Links of one kind between nodes of two types: how many join a pair, what they reach together, and how many such pairs."""

    between: str
    kind: str
    links: int
    gb_s: float
    effective_gb_s: float
    pairs: int
    down: int


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision of the module, whether it can win anything here, and why."""

    name: str
    helps: bool
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What `survey` finds; `blocks` are those of `blocks_of`."""

    blocks: Blocks
    tiers: tuple[Tier, ...]
    links: tuple[LinkClass, ...]
    decisions: tuple[Decision, ...]

    @property
    def nothing_to_win(self) -> bool:
        """Whether no decision can win anything."""
        return not any(each.helps for each in self.decisions)


def survey(topology: FabricTopology) -> Survey:
    """Return what a fabric is made of and which decisions help there. Speeds are modelled: what the description says."""
    blocks = blocks_of(topology)
    tiers = _tiers(topology, blocks)
    return Survey(blocks, tiers, _links(topology), _decisions(topology, blocks, tiers))


def _tiers(topology: FabricTopology, blocks: Blocks) -> tuple[Tier, ...]:
    """Pairs of working GPUs by distance, nearest first."""
    works = blocks.block_of_gpu >= 0
    size = np.bincount(blocks.block_of_gpu[works], minlength=len(blocks.name))
    first = np.full(len(size), -1)
    first[blocks.block_of_gpu[works][::-1]] = blocks.gpu[works][::-1]
    domain, host = topology.node_domain[first], topology.node_host[first]
    where = np.full(blocks.distance.shape, 3)
    where[(host[:, None] == host) & (host >= 0)] = 2
    where[(domain[:, None] == domain) & (domain >= 0)] = 1
    where[blocks.part[:, None] != blocks.part] = 4
    np.fill_diagonal(where, 0)
    pairs = size[:, None] * size
    pairs[np.diag_indices(len(size))] = size * (size - 1)
    names = (WITHIN, DOMAIN, HOST_PATH, ACROSS, NOWHERE)
    found: dict[tuple[float, int], int] = {}
    key = np.round(blocks.distance, 9) + 1e6 * where  # one number a tier, since prices are far below
    for value, count in zip(*_summed(key[pairs > 0], pairs[pairs > 0]), strict=True):
        relation = int(value // 1e6)
        price = round(value - 1e6 * relation, 9)
        found[price, relation] = found.get((price, relation), 0) + count // 2
    return tuple(
        Tier(names[relation], 0.0 if relation == 4 else 1 / price, price, count)
        for (price, relation), count in sorted(found.items(), key=lambda each: (each[0][1] == 4, each[0]))
    )


def _summed(values: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[list[float], list[int]]:
    different, at = np.unique(values, return_inverse=True)
    return different.tolist(), np.bincount(at, counts, len(different)).astype(np.int64).tolist()


def _links(topology: FabricTopology) -> tuple[LinkClass, ...]:
    """Classes of links, in the order of kinds; both directions of a pair count once."""
    types = topology.node_type
    src, dst = topology.link_src.astype(np.int64), topology.link_dst.astype(np.int64)
    low, high = np.minimum(types[src], types[dst]), np.maximum(types[src], types[dst])
    nodes = len(types)
    ends = np.minimum(src, dst) * nodes + np.maximum(src, dst)
    up = topology.up
    columns = (topology.link_kind, low, high, topology.link_count, topology.link_gb_s, topology.speed_gb_s)
    classes, at = np.unique(np.stack([np.asarray(column, np.float64) for column in columns], 1), axis=0, return_inverse=True)
    found = []
    for number, (kind, one, other, links, gb_s, effective) in enumerate(classes.tolist()):
        inside = at.reshape(-1) == number
        found.append(
            LinkClass(
                f"{NODE_TYPES[int(one)]} - {NODE_TYPES[int(other)]}",
                LINK_KINDS[int(kind)],
                int(links),
                round(gb_s, 4),
                round(effective, 4),
                len(np.unique(ends[inside])),
                len(np.unique(ends[inside & ~up])),
            )
        )
    return tuple(found)


def _decisions(topology: FabricTopology, blocks: Blocks, tiers: tuple[Tier, ...]) -> tuple[Decision, ...]:
    prices = {tier.us_kb for tier in tiers}
    if len(prices) > 1:
        worst, best = max(prices), min(prices)
        text = f"{len(blocks.name)} blocks of GPUs; a byte costs {best:.3g} to {worst:.3g} us/KB"
        placement = Decision("placement", True, text)
    else:
        reason = blocks.skip_reason or "every GPU reaches every other alike"
        placement = Decision("placement", False, str(reason))
    return placement, _rails(topology), _shares(topology), _routes(topology), _schedule(topology)


def _rails(topology: FabricTopology) -> Decision:
    """Rails are to be chosen where hosts have several ways out each."""
    types, host = topology.node_type, topology.node_host
    out = np.isin(types[topology.link_src], (GPU, NIC)) & (types[topology.link_dst] == LEAF)
    sides = np.unique(np.stack([host[topology.link_src[out]], topology.link_src[out]], 1), axis=0)
    sides = sides[sides[:, 0] >= 0]
    hosts, ways = np.unique(sides[:, 0], return_counts=True)
    several = int((ways > 1).sum())
    if several > 1:
        return Decision("rails", True, f"{several} hosts with up to {int(ways.max())} NICs each; helps skewed traffic")
    return Decision("rails", False, "one host, or no known network" if len(hosts) < 2 else "one NIC a host")


def _shares(topology: FabricTopology) -> Decision:
    net = leaf_spine(topology)
    if net is None:
        return Decision("shares", False, "no two leaves and two spines")
    ways = (net.up_gb_s > 0).astype(np.float32) @ (net.down_gb_s > 0).astype(np.float32)
    np.fill_diagonal(ways, 0)
    if ways.max() < 2:
        return Decision("shares", False, "one way between any two leaves")
    text = f"{len(net.leaf)} leaves, up to {int(ways.max())} spines between two; helps where uplinks are slow or broken"
    return Decision("shares", True, text)


def _routes(topology: FabricTopology) -> Decision:
    """Routes are to be chosen where GPUs have links of their own, and not one to every other."""
    types = topology.node_type
    direct = np.isin(topology.link_kind, SCALE_UP) & (types[topology.link_src] == GPU) & (types[topology.link_dst] == GPU)
    ends = np.unique(np.concatenate([topology.link_src[direct], topology.link_dst[direct]]))
    if len(ends) < 3:
        return Decision("routes", False, "no GPUs with links of their own to others")
    return Decision("routes", True, f"{len(ends)} GPUs joined by links of their own: a byte may go over several")


def _schedule(topology: FabricTopology) -> Decision:
    if np.isin(topology.link_kind, LOSSY).any():
        return Decision("schedule", True, "RoCE or Ethernet, where many senders to one port lose packets")
    if np.isin(topology.link_kind, SCALE_OUT).any():
        return Decision("schedule", False, "the network shares links fairly by itself")
    return Decision("schedule", False, "no network between hosts")
