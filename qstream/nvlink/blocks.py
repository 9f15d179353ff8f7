"""Blocks of a fabric: the largest sets of GPUs without inner difference, what fits in each, and how far apart they are."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.nvlink.sketch import SCALE_UP, components
from schemas.fabric import CPU, DOWN, GPU, LEAF, NIC, NVSWITCH, PCIE, SPINE, FabricTopology
from schemas.plan import SkipReason

HOST_MEMORY_GB_S: Final = 8.0  # between GPUs of a host that no link of the description joins
CLIMB: Final = 1.5  # what each level of switches above the leaf adds to the price of a byte: it takes links that others share
UNREACHABLE_US_KB: Final = 10.0  # between parts without connection: finite, so that sums stay finite


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Blocks of GPUs. Prices are modelled, from speeds that plans use: us/KB, which is 1 over GB/s of the narrowest link.

    gpu : int32 [G], nodes that are GPUs, in their order
    block_of_gpu : int32 [G], the block of each, -1 for one that is down
    capacity : int64 [k], GPUs of the block that work and are free
    distance : float64 [k, k] us/KB between ranks in two blocks; on the diagonal, within one
    part : int32 [k], blocks of different parts have no connection
    name : of each block: its domain, its host, or its GPU
    switched : whether all pairs within blocks go through switches, so that no pair has a link of its own
    """

    gpu: NDArray[np.int32]
    block_of_gpu: NDArray[np.int32]
    capacity: NDArray[np.int64]
    distance: NDArray[np.float64]
    part: NDArray[np.int32]
    name: tuple[str, ...]
    switched: bool

    @property
    def skip_reason(self) -> SkipReason | None:
        """``single tier, nothing blocks`` where every GPU reaches every other alike through switches, else None."""
        return SkipReason.SINGLE_TIER if len(self.name) == 1 and self.switched else None


def domains_of(topology: FabricTopology, blocks: Blocks) -> NDArray[np.int64]:
    """The domain of each block, int64 [k]: the NVLink domain, else a negative number of its host's or, without one, its own."""
    works = blocks.block_of_gpu >= 0
    gpus = blocks.gpu[works]
    domain, host = topology.node_domain[gpus].astype(np.int64), topology.node_host[gpus].astype(np.int64)
    found = -1 - np.arange(len(blocks.name))
    found[blocks.block_of_gpu[works]] = np.where(
        domain >= 0, domain, np.where(host >= 0, -1 - len(blocks.name) - host, found[blocks.block_of_gpu[works]])
    )
    return found


def blocks_of(topology: FabricTopology) -> Blocks:
    """The blocks of a fabric.

    Candidates are NVLink domains, else hosts, else what NVLink joins. Within one, the speed of a pair is that of its own
    links and of the switches that both share, all together; without these that of the widest way over other switches,
    PCIe and processors, but not through GPUs; without any, 8 GB/s through the memory of the host. GPUs that have equal
    speeds to all others are a block.

    Between candidates, a byte is as fast as the slower of both ends' ways to a leaf; its price is times 1.5 for each
    level of switches above leaves, or times what the leaves have in downlinks over uplinks, if that is more. Bytes may
    change rails within a block. Within a host it may go over PCIe and processors instead.
    """
    net = _Net.of(topology)
    groups = _groups(topology, net)
    members: list[NDArray[np.int32]] = []
    names: list[str] = []
    group_of: list[int] = []
    speeds: list[NDArray[np.float64]] = []
    switched = True
    for at, (group, label) in enumerate(groups):
        speed, through = _speeds(net, group)
        classes = _twins(speed)
        for number, inside in enumerate(classes):
            members.append(group[inside])
            group_of.append(at)
            single = topology.node_name[group[inside[0]]]
            names.append(label if len(classes) == 1 else single if len(inside) == 1 else f"{label}/{number}")
        switched &= through
        first = [inside[0] for inside in classes]
        inner = [speed[inside[0], inside[-1]] if len(inside) > 1 else 0.0 for inside in classes]
        between = speed[np.ix_(first, first)].copy()
        np.fill_diagonal(between, inner)
        speeds.append(between)
    distance = _outer(net, topology, members)
    done = 0
    for between in speeds:
        here = slice(done, done + len(between))
        done += len(between)
        known = between > 0
        distance[here, here][known] = 1 / between[known]
    part = components(len(members), *np.nonzero(np.isfinite(distance)))
    _fill(distance, [len(nodes) for nodes in members])
    gpu = np.flatnonzero(topology.node_type == GPU).astype(np.int32)
    block = np.full(len(topology.node_type), -1, np.int32)
    for number, nodes in enumerate(members):
        block[nodes] = number
    usable = topology.node_free[gpu] & (block[gpu] >= 0)
    capacity = np.bincount(block[gpu][usable], minlength=len(members)).astype(np.int64)
    return Blocks(gpu, block[gpu], capacity, distance, part, tuple(names), switched)


@dataclass(frozen=True, slots=True, eq=False)
class _Net:
    """Working links of a fabric: columns, and the neighbours of each node over links of every kind."""

    kind_of: list[int]
    host: list[int]
    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    gb_s: NDArray[np.float64]
    fast: NDArray[np.bool_]
    near: list[list[tuple[int, float]]]

    @classmethod
    def of(cls, topology: FabricTopology) -> _Net:
        keep = topology.usable
        src, dst = topology.link_src[keep], topology.link_dst[keep]
        gb_s = topology.speed_gb_s[keep].astype(np.float64)
        near: list[list[tuple[int, float]]] = [[] for _ in range(len(topology.node_type))]
        for a, b, speed in zip(src.tolist(), dst.tolist(), gb_s.tolist(), strict=True):
            near[a].append((b, speed))
        fast = np.isin(topology.link_kind[keep], SCALE_UP)
        return cls(topology.node_type.tolist(), topology.node_host.tolist(), src, dst, gb_s, fast, near)

    def widest(self, start: Iterable[int], through: tuple[int, ...]) -> dict[int, float]:
        """The widest way from any of the nodes to each that can be reached, over nodes of these types only, GB/s."""
        best: dict[int, float] = {}
        heap = [(-np.inf, node) for node in start]
        sources = {node for _, node in heap}
        while heap:
            width, node = heapq.heappop(heap)
            if node in best:
                continue
            best[node] = -width
            if node in sources or self.kind_of[node] in through:
                for other, speed in self.near[node]:
                    if other not in best:
                        heapq.heappush(heap, (max(width, -speed), other))
        return best


def _groups(topology: FabricTopology, net: _Net) -> list[tuple[NDArray[np.int32], str]]:
    """Working GPUs by domain, else host, else by what NVLink joins; with the name of each group."""
    gpus = np.flatnonzero((topology.node_type == GPU) & (topology.node_health != DOWN)).astype(np.int32)
    joined = components(len(topology.node_type), net.src[net.fast], net.dst[net.fast])
    found: dict[tuple[int, int], list[int]] = {}
    for gpu in gpus.tolist():
        domain, host = int(topology.node_domain[gpu]), int(topology.node_host[gpu])
        key = (0, domain) if domain >= 0 else (1, host) if host >= 0 else (2, int(joined[gpu]))
        found.setdefault(key, []).append(gpu)
    labels = (topology.domain_name, topology.node_name, topology.node_name)
    names = [labels[kind][at] if kind < 2 else topology.node_name[inside[0]] for (kind, at), inside in found.items()]
    return [(np.array(inside, np.int32), name) for inside, name in zip(found.values(), names, strict=True)]


def _speeds(net: _Net, group: NDArray[np.int32]) -> tuple[NDArray[np.float64], bool]:
    """GB/s between the GPUs of a group, float64 [n, n], 0 where nothing joins them; and whether all goes through switches."""
    size = len(net.kind_of)
    place = np.full(size, -1, np.int64)
    place[group] = np.arange(len(group))
    mine = net.fast & (place[net.src] >= 0)
    direct = np.zeros((len(group), len(group)))
    inner = mine & (place[net.dst] >= 0)
    np.add.at(direct, (place[net.src[inner]], place[net.dst[inner]]), net.gb_s[inner])
    out = mine & (np.array(net.kind_of)[net.dst] == NVSWITCH)
    switches, column = np.unique(net.dst[out], return_inverse=True)
    to_switch = np.zeros((len(group), len(switches)))
    np.add.at(to_switch, (place[net.src[out]], column), net.gb_s[out])
    shared = np.zeros_like(direct)
    for links in to_switch.T:
        shared += np.minimum(links[:, None], links)
    speed = direct + shared
    through = bool(len(group) == 1 or (not direct.any() and (shared + np.eye(len(group)) > 0).all()))
    for at in np.flatnonzero(((speed == 0) & ~np.eye(len(group), dtype=bool)).any(1)).tolist():
        ways = net.widest([int(group[at])], (NVSWITCH, PCIE, CPU))
        for other, gpu in enumerate(group.tolist()):
            if other != at and speed[at, other] == 0:
                same = net.host[gpu] >= 0 and net.host[gpu] == net.host[group[at]]
                speed[at, other] = ways.get(gpu, HOST_MEMORY_GB_S if same else 0.0)
    speed = np.minimum(speed, speed.T)
    np.fill_diagonal(speed, 0.0)
    return speed, through


def _twins(speed: NDArray[np.float64]) -> list[list[int]]:
    """GPUs that have equal speeds to all others, in classes."""
    classes: list[list[int]] = []
    for at in range(len(speed)):
        for inside in classes:
            first = inside[0]
            differs = ~np.isclose(speed[at], speed[first], rtol=1e-6)
            differs[[at, first]] = False
            alone = len(inside) == 1 and speed[at, first] == 0
            if not differs.any() and not alone:
                inside.append(at)
                break
        else:
            classes.append([at])
    return classes


def _outer(net: _Net, topology: FabricTopology, members: list[NDArray[np.int32]]) -> NDArray[np.float64]:
    """us/KB between blocks over leaves, float64 [k, k], infinite where no leaf joins them."""
    switches = (LEAF, SPINE)
    reach = [net.widest(inside.tolist(), (PCIE, CPU, NIC)) for inside in members]
    leaves = [{node: gb_s for node, gb_s in found.items() if net.kind_of[node] in switches} for found in reach]
    price = np.array([1 / max(found.values()) if found else np.inf for found in leaves])
    types = topology.node_type
    up = np.isin(types[net.dst], switches)
    load = {
        node: (net.gb_s[(net.dst == node) & ~np.isin(types[net.src], switches)].sum(), net.gb_s[(net.src == node) & up].sum())
        for node in {node for found in leaves for node in found}
    }
    sets = [frozenset(found) for found in leaves]
    different = list(dict.fromkeys(sets))
    index = np.array([different.index(found) for found in sets])
    over = np.array([_ratio([load[node] for node in found]) for found in different])
    level = np.full((len(different), len(different)), np.inf)
    for at, found in enumerate(different):
        hops = _hops(net, found)
        for other, targets in enumerate(different):
            near = [hops[node] for node in targets if node in hops]
            if near:
                level[at, other] = 0 if min(near) == 0 else max(1, min(near) // 2)
    climbed = np.where(level > 0, np.maximum(CLIMB**level, np.maximum(over[:, None], over)), 1.0)
    distance: NDArray[np.float64] = np.maximum(price[:, None], price) * climbed[np.ix_(index, index)]
    hosts = [int(topology.node_host[inside[0]]) for inside in members]
    for a, b in ((a, b) for a in range(len(members)) for b in range(len(members)) if hosts[a] == hosts[b] >= 0 and a != b):
        width = max(reach[a].get(gpu, HOST_MEMORY_GB_S) for gpu in members[b].tolist())
        distance[a, b] = min(distance[a, b], 1 / width)
    return distance


def _ratio(loads: list[tuple[float, float]]) -> float:
    """Downlinks over uplinks of a set of leaves, 1 where there are no uplinks."""
    down, up = (sum(column) for column in zip(*loads, strict=True)) if loads else (0.0, 0.0)
    return max(1.0, down / up) if up else 1.0


def _hops(net: _Net, start: frozenset[int]) -> dict[int, int]:
    """Links from the leaves to every leaf and spine, over these alone."""
    hops = dict.fromkeys(start, 0)
    wave = list(start)
    while wave:
        following = []
        for node in wave:
            for other, _ in net.near[node]:
                if net.kind_of[other] in (LEAF, SPINE) and other not in hops:
                    hops[other] = hops[node] + 1
                    following.append(other)
        wave = following
    return hops


def _fill(distance: NDArray[np.float64], sizes: list[int]) -> None:
    """Make all finite and alike in both directions; within a block of one GPU no byte goes far: the nearest there is."""
    distance[:] = np.minimum(distance, distance.T)
    known = distance[np.isfinite(distance)]
    distance[~np.isfinite(distance)] = max(UNREACHABLE_US_KB, known.max() if known.size else 0.0)
    for at, size in enumerate(sizes):
        others = np.delete(distance[at], at)
        if size == 1 and others.size:
            distance[at, at] = others.min()
