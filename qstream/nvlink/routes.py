"""Routes of traffic between GPUs that links join directly: one linear program, and its flows as paths with bytes.

Axes: G GPUs in the order of the topology's nodes, E links, P paths, S GPUs that send. A flow is all that one source sends, so
that the program has S x E unknowns, and one for the time.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from schemas.fabric import GPU, FabricTopology
from schemas.wording import Shown, must_be

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Path = tuple[list[int], float]  # nodes, and bytes
Ways = dict[int, tuple[int, float, int]]  # of each node: hops, width, and the node before
MAX_FLOWS: Final = 20_000  # sources x links of a linear program
_DETOUR: Final = 1e-4  # what all hops together may add to the time that is minimised: bytes take no way round for nothing
_NOTHING: Final = 1e-7  # of the largest demand: flow that the solver may leave out


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """Paths with bytes, and how long the fullest link takes. Modelled, not measured.

    first : int32 [P + 1], path i is ``node[first[i]:first[i + 1]]``
    node : int32 [hops], nodes of the topology, from the GPU that sends to the one that receives
    nbytes : float64 [P], bytes of each path, above 0; those of a pair add up to what it sends
    link_bytes : float64 [E], what each link of the topology carries; of links between the same nodes each in part of its speed
    drain_us : time of the fullest link
    bound_us : no routes drain sooner
    port_us : time of the fullest GPU if only its own links counted: a bound too, and a lower one
    method : ``lp`` or ``shortest-path``
    """

    first: Ints
    node: Ints
    nbytes: Floats
    link_bytes: Floats
    drain_us: float
    bound_us: float
    port_us: float
    method: str


def route_demand(topology: FabricTopology, demand: ArrayLike, *, relay: bool = True) -> Routes:
    """Split traffic over paths so that the fullest link is done as soon as possible.

    Minimises max over links of bytes / speed, by a linear program (HiGHS) over flows by source, whose flows are then taken apart
    into paths, the widest first: at most as many as there are flows on links. The time is within 1e-4 of the optimum, which
    leaves room to prefer few hops. Equal arguments give equal routes.

    Parameters
    ----------
    topology
        The fabric. Links that work, of every kind, carry traffic, in each direction at the speed that plans use.
    demand : float [G, G]
        Bytes from each GPU to each other, in the order of the topology's nodes, finite and >= 0; the diagonal counts nothing.
    relay
        Whether GPUs may pass on what is not for them; all else, such as switches, always does.

    Raises
    ------
    ProblemError
        The demand has another shape or range, no way joins a pair that has any, or sources times links are more than 20,000.
    """
    net, bytes_ = _asked(topology, demand)
    return solved(topology, net, bytes_, relay=relay)


def shortest_routes(topology: FabricTopology, demand: ArrayLike, *, relay: bool = True) -> Routes:
    """The peer: each pair on one path of fewest links, of these the widest. Arguments and errors as in `route_demand`."""
    net, bytes_ = _asked(topology, demand)
    sources = _Sources.of(net, bytes_, relay=relay)
    paths = []
    for s, ways in zip(sources.node, sources.shortest(), strict=True):
        paths += [(_way(ways, s, d), float(bytes_[s, d])) for d in np.flatnonzero(bytes_[s]).tolist()]
    return _routes(topology, net, bytes_, paths, method="shortest-path")


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """What carries traffic: nodes of the topology, and links that work, one a pair of nodes, sorted by their ends.

    link : int64 [E], the merged link of each link of the topology, -1 where it carries nothing
    """

    nodes: int
    gpu: NDArray[np.bool_]
    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    gb_s: Floats
    link: NDArray[np.int64]


def net_of(topology: FabricTopology, nodes: NDArray[np.bool_] | None = None) -> Net:
    """The links that work between nodes that do, or between those of them that are in `nodes`, bool [nodes]."""
    count = len(topology.node_type)
    src, dst = topology.link_src.astype(np.int64), topology.link_dst.astype(np.int64)
    keep = topology.usable if nodes is None else topology.usable & nodes[src] & nodes[dst]
    ends, column = np.unique(src[keep] * count + dst[keep], return_inverse=True)
    link = np.full(len(src), -1)
    link[keep] = column
    gb_s = np.bincount(column, topology.speed_gb_s[keep], len(ends)).astype(np.float64)
    return Net(count, topology.node_type == GPU, ends // count, ends % count, gb_s, link)


def solved(topology: FabricTopology, net: Net, nbytes: Floats, *, relay: bool) -> Routes:
    """The routes of `nbytes` [nodes, nodes] between nodes of a net; `ProblemError` as in `route_demand`."""
    sources = _Sources.of(net, nbytes, relay=relay)
    if not sources.node:
        return _routes(topology, net, nbytes, [], method="lp", bound_us=0.0)
    shortest = sources.shortest()  # every pair has a way, or it is named
    flow, bound_us = _program(sources)
    paths: list[Path] = []
    for at, source in enumerate(sources.node):
        paths += _taken_apart(net, flow[at], source, nbytes[source], shortest[at], _NOTHING * float(nbytes.max()))
    return _routes(topology, net, nbytes, paths, method="lp", bound_us=bound_us)


def reached(net: Net, source: int, *, relay: bool) -> Ways:
    """Of every node that can be reached from the source: hops, the width of the widest way of so many, and the node before."""
    near: dict[int, list[tuple[int, float]]] = {}
    for a, b, speed in zip(net.src.tolist(), net.dst.tolist(), net.gb_s.tolist(), strict=True):
        near.setdefault(a, []).append((b, speed))
    found: Ways = {source: (0, np.inf, source)}
    wave = [source]
    while wave:
        following: Ways = {}
        for node in wave:
            if net.gpu[node] and node != source and not relay:
                continue
            hops, width, _ = found[node]
            for other, speed in near.get(node, ()):
                if other not in found and (other not in following or min(width, speed) > following[other][1]):
                    following[other] = hops + 1, min(width, speed), node
        found |= following
        wave = sorted(following)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Sources:
    """The nodes that send, and which links [S, E] the flow of each may take."""

    net: Net
    nbytes: Floats
    relay: bool
    node: list[int]
    may: NDArray[np.bool_]

    @classmethod
    def of(cls, net: Net, nbytes: Floats, *, relay: bool) -> _Sources:
        node = np.flatnonzero(nbytes.any(axis=1))
        if len(node) * len(net.src) > MAX_FLOWS:
            rule = f"of at most {MAX_FLOWS} sources times links, so that a linear program is soon solved"
            raise ProblemError(must_be("demand", rule, Shown(f"{len(node)} sources, {len(net.src)} links")))
        may = net.dst != node[:, None]
        if not relay:
            may &= ~net.gpu[net.src] | (net.src == node[:, None])
        return cls(net, nbytes, relay, node.tolist(), may)

    def shortest(self) -> list[Ways]:
        """`reached` from each source; `ProblemError` that names a pair without a way."""
        ways = [reached(self.net, source, relay=self.relay) for source in self.node]
        for source, found in zip(self.node, ways, strict=True):
            for target in np.flatnonzero(self.nbytes[source]).tolist():
                if target not in found:
                    shown = Shown(f"{self.nbytes[source, target]:g} bytes from node {source} to node {target}")
                    raise ProblemError(must_be("demand", "0 between GPUs that no way joins", shown))
        return ways


def _asked(topology: FabricTopology, demand: ArrayLike) -> tuple[Net, Floats]:
    """The net of all nodes, and the demand between them [nodes, nodes]."""
    gpus = np.flatnonzero(topology.node_type == GPU)
    given = array("demand", demand, np.float64, "GPUs GPUs")
    if given.shape != (len(gpus), len(gpus)):
        raise ProblemError(must_be("demand", f"bytes of {len(gpus)} x {len(gpus)} GPUs", Shown(f"shape {given.shape}")))
    if not np.isfinite(given).all() or given.min() < 0:
        raise ProblemError(must_be("demand", "finite and at least 0", Shown("what is not")))
    nbytes = np.zeros((len(topology.node_type),) * 2)
    nbytes[np.ix_(gpus, gpus)] = given
    np.fill_diagonal(nbytes, 0.0)
    return net_of(topology), nbytes


def _program(sources: _Sources) -> tuple[Floats, float]:
    """Flows [S, E] in bytes, and a proven bound of the time, us."""
    from scipy.optimize import linprog  # noqa: PLC0415 slow
    from scipy.sparse import coo_array  # noqa: PLC0415 slow

    net, (s, e) = sources.net, sources.may.shape
    unit, fastest = float(sources.nbytes.max()), float(net.gb_s.max())
    speed = net.gb_s / fastest
    flows, each = np.arange(s * e), np.arange(s * e) % e
    row = np.repeat(np.arange(s), e) * net.nodes  # what comes in less what goes out, at every node of every source
    into, out = row + np.tile(net.dst, s), row + np.tile(net.src, s)
    signs = np.concatenate([np.ones(s * e), -np.ones(s * e)])
    keeps = coo_array((signs, (np.concatenate([into, out]), np.tile(flows, 2))), (s * net.nodes, s * e + 1))
    wanted = sources.nbytes[sources.node] / unit
    wanted[np.arange(s), sources.node] = -wanted.sum(axis=1)
    fits = coo_array(
        (np.append(np.ones(s * e), -speed), (np.append(each, np.arange(e)), np.append(flows, np.full(e, s * e)))), (e, s * e + 1)
    )
    cost = np.full(s * e + 1, _DETOUR / speed.sum())  # each link's load is at most the time x its speed: in all, a part of it
    cost[-1] = 1.0
    upper = np.append(np.where(sources.may, np.inf, 0.0).ravel(), np.inf)
    found = linprog(
        cost,
        fits.tocsr(),
        np.zeros(e),
        keeps.tocsr(),
        wanted.ravel(),
        np.column_stack([np.zeros(s * e + 1), upper]),
        method="highs-ds",
    )
    if found.x is None:
        raise ProblemError(must_be("demand", "of numbers that a linear program can weigh", Shown(found.message)))
    bound_us = found.fun / (1 + _DETOUR) * unit / fastest / 1e3
    return found.x[:-1].reshape(s, e) * unit, bound_us


def _taken_apart(net: Net, flow: Floats, source: int, wanted: Floats, shortest: Ways, noise: float) -> list[Path]:
    """Paths with bytes of one source's flow [E], the widest of each pair first; those of a pair add up to what it wants.

    What is too little for the solver to have kept a flow of goes the shortest way.
    """
    left, paths = flow.copy(), []
    out: dict[int, list[int]] = {}
    for e in np.flatnonzero(flow > noise).tolist():
        out.setdefault(int(net.src[e]), []).append(e)
    for target in np.argsort(-wanted, kind="stable")[: np.count_nonzero(wanted)].tolist():
        missing, mine = float(wanted[target]), []
        while missing > noise and (way := _widest(net, out, left, source, target)):
            carried = min(missing, float(left[way].min()))
            left[way] -= carried
            left[way] = np.where(left[way] > noise, left[way], 0.0)
            missing -= carried
            mine.append(([source, *net.dst[way].tolist()], carried))
        mine = mine or [(_way(shortest, source, target), missing)]
        share = float(wanted[target]) / sum(carried for _, carried in mine)
        paths += [(way, carried * share) for way, carried in mine]
    return paths


def _widest(net: Net, out: dict[int, list[int]], left: Floats, source: int, target: int) -> list[int]:
    """The links of the way to the target whose least flow is most, of equal ones that of fewest hops; empty if none is left."""
    before: dict[int, int] = {}
    heap = [(-np.inf, 0, source, -1)]
    while heap and target not in before:
        width, hops, node, link = heapq.heappop(heap)
        if node in before:
            continue
        before[node] = link
        for e in out.get(node, ()):
            if left[e] > 0 and (other := int(net.dst[e])) not in before:
                heapq.heappush(heap, (max(width, -float(left[e])), hops + 1, other, e))
    way, node = [], target
    while node != source and node in before:
        way.append(before[node])
        node = int(net.src[before[node]])
    return way[::-1]


def _way(found: Ways, source: int, target: int) -> list[int]:
    """The nodes of the shortest way."""
    way = [target]
    while way[-1] != source:
        way.append(found[way[-1]][2])
    return way[::-1]


def _routes(
    topology: FabricTopology,
    net: Net,
    nbytes: Floats,
    ways: list[Path],
    *,
    method: str,
    bound_us: float | None = None,
) -> Routes:
    """What the paths put on links, and the times; without a bound of its own, that of the fullest GPU."""
    hops = [(a, b, size) for way, size in ways for a, b in itertools.pairwise(way)]
    load = np.zeros(len(net.src))
    if hops:
        a, b, size = (np.array(column) for column in zip(*hops, strict=True))
        np.add.at(load, np.searchsorted(net.src * net.nodes + net.dst, a * net.nodes + b), size)
    speed = np.append(net.gb_s, 1.0)[net.link]
    part = np.where(net.link >= 0, topology.speed_gb_s / speed, 0.0)
    port_us = _port_us(net, nbytes)
    return Routes(
        np.cumsum([0, *(len(way) for way, _ in ways)]).astype(np.int32),
        np.array([node for way, _ in ways for node in way], np.int32),
        np.array([size for _, size in ways], np.float64),
        np.append(load, 0.0)[net.link] * part,
        float((load / net.gb_s).max(initial=0.0)) / 1e3,
        max(port_us, bound_us or 0.0),
        port_us,
        method,
    )


def _port_us(net: Net, nbytes: Floats) -> float:
    """The fullest node: what it sends, or receives, over the speed of all its links."""
    most = 0.0
    for end, total in ((net.src, nbytes.sum(axis=1)), (net.dst, nbytes.sum(axis=0))):
        speed = np.bincount(end, net.gb_s, net.nodes)
        busy = total > 0
        most = max(most, float((total[busy] / speed[busy]).max(initial=0.0)))
    return most / 1e3
