"""Ways: which links bytes take between two GPUs of a fabric where nothing is planned: its own links, switches, rails, leaves."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.nvlink.collapse import collapse
from qstream.nvlink.sketch import SCALE_UP
from schemas.fabric import CPU, DOWN, GPU, LEAF, NIC, NVSWITCH, PCIE, SPINE, FabricTopology
from schemas.wording import must_be

MAX_PAIRS: Final = 400_000
MAX_WAYS: Final = 16  # of equal length between two leaves
Path = tuple[int, ...]  # links
Ways = tuple[tuple[float, Path], ...]  # part of the bytes, and its links


@dataclass(frozen=True, slots=True, eq=False)
class Flows:
    """Flows of pairs of GPUs over links: a pair has one for each of its ways.

    pair : int64 [flows], index of the pair; part : float64 [flows], of its bytes
    first_link : int64 [flows + 1] and link : int64 [hops], as `drain` takes them
    gb_s : float64 [links], of the fabric with parallel switches as one
    lost : int64 [..], pairs that no way joins
    """

    pair: NDArray[np.int64]
    part: NDArray[np.float64]
    first_link: NDArray[np.int64]
    link: NDArray[np.int64]
    gb_s: NDArray[np.float64]
    lost: NDArray[np.int64]


def flows_of(topology: FabricTopology, src: NDArray[Any], dst: NDArray[Any]) -> Flows:
    """The flows between GPUs src and dst, int [pairs], nodes of the topology; modelled.

    Bytes take the links that two GPUs have to one another and the switches that both share, in proportion to their speeds;
    without these, within a host, the widest way over PCIe and processors. To another host they take the NIC that is nearest,
    and all shortest ways between leaves evenly. Where those of two GPUs are on different rails that no spine joins, bytes first
    go over NVLink to the GPU of the host that is on the receiver's rail, as NCCL's PXN does it; where none is, over GPUs
    beside both. GPUs pass on nothing else.

    Raises
    ------
    ProblemError
        More than 400,000 pairs.
    """
    if len(src) > MAX_PAIRS:
        raise ProblemError(must_be("pairs of a simulation", f"at most {MAX_PAIRS}", len(src)))
    merged, place = collapse(topology)
    net = _Net.of(merged)
    pair: list[int] = []
    part: list[float] = []
    length: list[int] = []
    links: list[int] = []
    lost: list[int] = []
    for at, (a, b) in enumerate(zip(place[src].tolist(), place[dst].tolist(), strict=True)):
        ways = net.ways(a, b)
        if not ways:
            lost.append(at)
        for share, path in ways:
            pair.append(at)
            part.append(share)
            length.append(len(path))
            links.extend(path)
    return Flows(
        np.array(pair, np.int64),
        np.array(part, np.float64),
        np.concatenate([[0], np.cumsum(length)]).astype(np.int64),
        np.array(links, np.int64),
        merged.speed_gb_s.astype(np.float64),
        np.array(lost, np.int64),
    )


def _joined(first: Ways, rest: Ways) -> Ways:
    """One after the other."""
    return tuple((p * q, head + tail) for p, head in first for q, tail in rest)


@dataclass(slots=True, eq=False)
class _Net:
    """Working links from and to each node, as (other node, link), and what has been looked for before."""

    kind: list[int]
    host: list[int]
    domain: list[int]
    fast: list[bool]
    gb_s: list[float]
    out: list[list[tuple[int, int]]]
    into: list[list[tuple[int, int]]]
    inner: dict[tuple[int, int], Ways] = field(default_factory=dict)
    exits: dict[tuple[int, bool], tuple[int, Path] | None] = field(default_factory=dict)
    between: dict[tuple[int, int], tuple[Path, ...]] = field(default_factory=dict)
    relays: dict[tuple[int, int, int], int | None] = field(default_factory=dict)
    near: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, topology: FabricTopology) -> _Net:
        keep = topology.usable
        nodes = len(topology.node_type)
        out: list[list[tuple[int, int]]] = [[] for _ in range(nodes)]
        into: list[list[tuple[int, int]]] = [[] for _ in range(nodes)]
        ends = zip(topology.link_src.tolist(), topology.link_dst.tolist(), keep.tolist(), strict=True)
        for link, (a, b, good) in enumerate(ends):
            if good:
                out[a].append((b, link))
                into[b].append((a, link))
        host, domain = topology.node_host.tolist(), topology.node_domain.tolist()
        net = cls(
            topology.node_type.tolist(),
            host,
            domain,
            np.isin(topology.link_kind, SCALE_UP).tolist(),
            topology.speed_gb_s.tolist(),
            out,
            into,
        )
        for gpu in np.flatnonzero((topology.node_type == GPU) & (topology.node_health != DOWN)).tolist():
            for key in ((0, host[gpu]), (1, domain[gpu])):
                if key[1] >= 0:
                    net.near.setdefault(key, []).append(gpu)
        return net

    def ways(self, a: int, b: int) -> Ways:
        """The ways from one GPU to another, none where nothing joins them."""
        inside = self._inside(a, b)
        if inside:
            return inside
        over = self._over(a, b)
        if over:
            return over
        relay = self._relay(a, b)
        if relay is not None:
            return _joined(self._inside(a, relay), self._over(relay, b))
        for first in self._beside(a):
            for last in self._beside(b):
                if (found := self._over(first, last)) and (first, last) != (a, b):
                    head = self._inside(a, first) if first != a else ((1.0, ()),)
                    return _joined(_joined(head, found), self._inside(last, b) if last != b else ((1.0, ()),))
        return ()

    def _beside(self, gpu: int) -> list[int]:
        """The GPU, then those that it reaches within its host or domain."""
        near = [*self.near.get((0, self.host[gpu]), ()), *self.near.get((1, self.domain[gpu]), ())]
        return [gpu, *(other for other in dict.fromkeys(near) if other != gpu and self._inside(gpu, other))]

    def _inside(self, a: int, b: int) -> Ways:
        """Over NVLink and xGMI, or within a host over what there is."""
        if (found := self.inner.get((a, b))) is None:
            found = self.inner[a, b] = self._scale_up(a, b) or self._within_host(a, b)
        return found

    def _scale_up(self, a: int, b: int) -> Ways:
        there = {node: link for node, link in self.into[b] if self.fast[link] and self.kind[node] == NVSWITCH}
        paths: list[tuple[float, Path]] = []
        for node, link in self.out[a]:
            if not self.fast[link]:
                continue
            if node == b:
                paths.append((self.gb_s[link], (link,)))
            elif node in there:
                paths.append((min(self.gb_s[link], self.gb_s[there[node]]), (link, there[node])))
        total = sum(speed for speed, _ in paths)
        return tuple((speed / total, path) for speed, path in paths)

    def _within_host(self, a: int, b: int) -> Ways:
        if self.host[a] < 0 or self.host[a] != self.host[b]:
            return ()
        path = self._widest(a, b)
        return () if path is None else ((1.0, path),)

    def _widest(self, a: int, b: int) -> Path | None:
        """The widest way over switches, PCIe and processors, the shortest of those."""
        heap: list[tuple[float, int, int, Path]] = [(-np.inf, 0, a, ())]
        done = set()
        while heap:
            width, hops, node, path = heapq.heappop(heap)
            if node == b:
                return path
            if node in done or (node != a and self.kind[node] not in (NVSWITCH, PCIE, CPU)):
                continue
            done.add(node)
            for other, link in self.out[node]:
                if other not in done:
                    heapq.heappush(heap, (max(width, -self.gb_s[link]), hops + 1, other, (*path, link)))
        return None

    def _exit(self, gpu: int, leaving: bool) -> tuple[int, Path] | None:
        """The switch of the network that is nearest to a GPU, and the links to it, or from it; of equal ones by the GPU."""
        key = gpu, leaving
        if key not in self.exits:
            self.exits[key] = self._nearest(gpu, self.out if leaving else self.into, leaving)
        return self.exits[key]

    def _nearest(self, gpu: int, steps: list[list[tuple[int, int]]], leaving: bool) -> tuple[int, Path] | None:
        wave: dict[int, tuple[float, Path]] = {gpu: (np.inf, ())}
        done = {gpu}
        while wave:
            ends = {node: found for node, found in wave.items() if self.kind[node] in (LEAF, SPINE)}
            if ends:
                most = max(width for width, _ in ends.values())
                best = sorted(node for node, (width, _) in ends.items() if width == most)
                chosen = best[gpu % len(best)]
                return chosen, ends[chosen][1]
            following: dict[int, tuple[float, Path]] = {}
            for node, (width, path) in wave.items():
                for other, link in steps[node]:
                    if other in done or self.kind[other] in (GPU, NVSWITCH):
                        continue
                    if node != gpu and self.kind[node] not in (PCIE, CPU, NIC):
                        continue
                    reach = min(width, self.gb_s[link])
                    if other not in following or reach > following[other][0]:
                        following[other] = reach, ((*path, link) if leaving else (link, *path))
            done |= following.keys()
            wave = following
        return None

    def _over(self, a: int, b: int) -> Ways:
        """Over the network, without other GPUs."""
        begin, end = self._exit(a, True), self._exit(b, False)
        if begin is None or end is None:
            return ()
        middle = self._middle(begin[0], end[0])
        return tuple((1 / len(middle), (*begin[1], *path, *end[1])) for path in middle)

    def _middle(self, leaf: int, other: int) -> tuple[Path, ...]:
        """All shortest ways between two switches of the network, at most 16."""
        if (leaf, other) not in self.between:
            self.between[leaf, other] = tuple(self._shortest(leaf, other))
        return self.between[leaf, other]

    def _shortest(self, leaf: int, other: int) -> Sequence[Path]:
        wave: dict[int, list[Path]] = {leaf: [()]}
        done = {leaf}
        while wave and other not in wave:
            following: dict[int, list[Path]] = {}
            for node, paths in wave.items():
                for step, link in self.out[node]:
                    if step not in done and self.kind[step] in (LEAF, SPINE):
                        known = following.setdefault(step, [])
                        known += [(*path, link) for path in paths[: MAX_WAYS - len(known)]]
            done |= following.keys()
            wave = following
        return wave.get(other, [])

    def _relay(self, a: int, b: int) -> int | None:
        """A GPU next to `a` whose NIC reaches `b`: of the same host if there is one, on the leaf of `b` if there is one."""
        end = self._exit(b, False)
        if end is None:
            return None
        for key in ((0, self.host[a]), (1, self.domain[a])):
            if key[1] < 0:
                continue
            if (*key, end[0]) not in self.relays:
                able = [gpu for gpu in self.near[key] if (at := self._exit(gpu, True)) and self._middle(at[0], end[0])]
                able.sort(key=lambda gpu: (len(self._middle(self._exit(gpu, True)[0], end[0])[0]), gpu))  # type: ignore[index]
                self.relays[*key, end[0]] = able[0] if able else None
            found = self.relays[*key, end[0]]
            if found is not None and found != a and self._inside(a, found):
                return found
        return None
