"""A topology in the making: nodes and links by name, with what is strange about them said once, as warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from schemas.fabric import GPU, HEALTH, LINK_KINDS, MAX_GB_S, NODE_TYPES, FabricTopology
from schemas.frame import FrameError
from schemas.wording import Shown, must_be

MAX_NODES: Final = 60_000  # a frame of more would be above its size
MAX_LINKS: Final = 60_000
MAX_WARNINGS: Final = 50
MAX_COUNT: Final = 1_000_000
SCALE_UP: Final = (LINK_KINDS.index("nvlink"), LINK_KINDS.index("xgmi"))
SCALE_OUT: Final = tuple(LINK_KINDS.index(name) for name in ("ib", "roce", "ethernet"))
LOSSY: Final = tuple(LINK_KINDS.index(name) for name in ("roce", "ethernet"))


@dataclass(slots=True)
class Node:
    """A node by its name; `host` and `domain` are names too."""

    type: str
    host: str | None = None
    domain: str | None = None
    health: str = "ok"
    free: bool = True


@dataclass(slots=True)
class Link:
    """One direction of a link; speeds are of all `count` together, in GB/s."""

    kind: str
    count: int
    gb_s: float
    effective_gb_s: float | None = None
    latency_us: float | None = None
    up: bool = True


@dataclass(slots=True)
class Sketch:
    """Nodes and links by name. Adding refuses by `ProblemError` what makes no sense, and takes with a warning what is odd."""

    nodes: dict[str, Node] = field(default_factory=dict)
    links: dict[tuple[str, str], Link] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        """Add a warning once, up to 50 of them."""
        if len(self.warnings) < MAX_WARNINGS and text[:200] not in self.warnings:
            self.warnings.append(text[:200])

    def node(self, name: str, type: str, **known: object) -> None:  # noqa: A002 the graph's own word
        """Add a node; `known` are fields of `Node`."""
        if type not in NODE_TYPES:
            raise ProblemError(must_be(f"type of node {name!r}", f"one of {', '.join(NODE_TYPES)}", type))
        if name in self.nodes:
            raise ProblemError(must_be("names of nodes", "distinct", Shown(f"{name!r} twice")))
        if len(self.nodes) >= MAX_NODES:
            raise ProblemError(must_be("nodes", f"at most {MAX_NODES}", Shown("more")))
        node = Node(type, **known)  # type: ignore[arg-type]
        if node.health not in HEALTH:
            raise ProblemError(must_be(f"health of node {name!r}", f"one of {', '.join(HEALTH)}", node.health))
        self.nodes[name] = node

    def link(self, src: str, dst: str, link: Link, *, both: bool = False) -> None:
        """Add a link, with `both` in both directions: a second one of the same pair is left out with a warning."""
        for end, name in (("source", src), ("target", dst)):
            if name not in self.nodes:
                raise ProblemError(must_be(f"{end} of a link", "the name of a node", name))
        if src == dst:
            return self.warn(f"link from {src} to itself: left out")
        if (src, dst) in self.links or (both and (dst, src) in self.links):
            return self.warn(f"second link between {src} and {dst}: left out")
        if len(self.links) >= MAX_LINKS:
            raise ProblemError(must_be("links", f"at most {MAX_LINKS}", Shown("more")))
        _check(link, f"link from {src} to {dst}")
        self.links[src, dst] = link
        if both:
            self.links[dst, src] = link
        return None

    def topology(self, fabric: str, source: str = "", *, ts_ns: int = 0, tidy: bool = True) -> FabricTopology:
        """The frame: nodes in their order, hosts that are named but no nodes after them, links in order of their ends.

        With `tidy`, what is odd about the whole is added to the warnings: links of one direction, parts without connection, and
        GPUs without NVLink among others with it, which are marked as degraded.
        """
        names = list(self.nodes)
        index = {name: at for at, name in enumerate(names)}
        host_at = {name: at for name, at in index.items() if self.nodes[name].type == "host"}
        nodes = list(self.nodes.values())
        for node in tuple(nodes):
            if node.host is not None and node.host not in host_at:
                host_at[node.host] = len(names)
                names.append(node.host)
                nodes.append(Node("host", host=node.host))
        domain_at = {name: at for at, name in enumerate(dict.fromkeys(self.domains))}
        for node in nodes:
            if node.domain is not None:
                domain_at.setdefault(node.domain, len(domain_at))
        links = sorted((index[src], index[dst], link) for (src, dst), link in self.links.items()) if self.links else []
        arrays = _arrays(nodes, host_at, domain_at) | _link_arrays(links)
        if tidy:
            arrays["node_health"], found = oddities(names, arrays)
            for text in found:
                self.warn(text)
        try:
            return FabricTopology.build(
                fabric=fabric,
                ts_ns=ts_ns,
                source=source[:200],
                node_name=tuple(names),
                domain_name=tuple(domain_at),
                warnings=tuple(self.warnings),
                **arrays,
            )
        except FrameError as exc:
            raise ProblemError(
                str(exc).removeprefix(f"{FabricTopology.tag()}.").removeprefix(f"{FabricTopology.tag()}: ")
            ) from exc


def oddities(names: Sequence[str], arrays: Mapping[str, NDArray[np.generic]]) -> tuple[NDArray[np.uint8], list[str]]:
    """The health of nodes, uint8 [nodes], and what is odd about a fabric, a sentence each; `arrays` are those of the frame."""
    found = []
    src, dst, kind = arrays["link_src"], arrays["link_dst"], arrays["link_kind"]
    gpus = np.flatnonzero(arrays["node_type"] == GPU)
    pairs = set(zip(src.tolist(), dst.tolist(), strict=True))
    if single := sum((b, a) not in pairs for a, b in pairs):
        found.append(f"{single} links have one direction only")
    part = components(len(names), src, dst)
    if (parts := len(np.unique(part[gpus]))) > 1:
        found.append(f"{parts} parts of GPUs without connection: each is planned for itself")
    health: NDArray[np.uint8] = arrays["node_health"].astype(np.uint8)
    fast = np.isin(kind, SCALE_UP)
    joined = np.isin(gpus, np.concatenate([src[fast], dst[fast]]))
    if joined.any() and not joined.all():
        alone = gpus[~joined & (health[gpus] == 0)]
        found += [f"{names[gpu]} has no NVLink or xGMI, others have: degraded"[:200] for gpu in alone.tolist()]
        health[alone] = HEALTH.index("degraded")
    return health, found


def _check(link: Link, where: str) -> None:
    if link.kind not in LINK_KINDS:
        raise ProblemError(must_be(f"kind of the {where}", f"one of {', '.join(LINK_KINDS)}", link.kind))
    if not 1 <= link.count <= MAX_COUNT:
        raise ProblemError(must_be(f"links of the {where}", f"1 to {MAX_COUNT}", link.count))
    for name, speed in (("bw_gb_s", link.gb_s), ("bw_eff_gb_s", link.effective_gb_s)):
        if speed is not None and not 0 < speed < math.inf:
            raise ProblemError(must_be(f"{name} of the {where}", "a finite number above 0", speed))
        if speed is not None and speed / link.count > MAX_GB_S:
            raise ProblemError(must_be(f"{name} of the {where}", f"at most {MAX_GB_S:g} GB/s a link, in bytes", speed))
    if link.latency_us is not None and not 0 <= link.latency_us < 1e9:
        raise ProblemError(must_be(f"latency_us of the {where}", "0 to 1e9", link.latency_us))


def components(nodes: int, src: NDArray[np.generic], dst: NDArray[np.generic]) -> NDArray[np.int32]:
    """The part of a graph that each node is in, int32 [nodes], numbered by their lowest nodes; links count in both directions."""
    parent = list(range(nodes))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for a, b in zip(src.tolist(), dst.tolist(), strict=True):
        one, other = root(a), root(b)
        parent[max(one, other)] = min(one, other)
    _, part = np.unique([root(at) for at in range(nodes)], return_inverse=True)
    return part.astype(np.int32)


def domains_by_links(sketch: Sketch) -> None:
    """Give GPUs and switches that NVLink or xGMI joins a domain each, where they have none, by number."""
    names = list(sketch.nodes)
    index = {name: at for at, name in enumerate(names)}
    fast = [(index[a], index[b]) for (a, b), link in sketch.links.items() if link.kind in ("nvlink", "xgmi")]
    if not fast:
        return
    ends = np.array(fast)
    part = components(len(names), ends[:, 0], ends[:, 1])
    for number, at in enumerate(dict.fromkeys(part[np.unique(ends)].tolist())):
        for node in (sketch.nodes[names[member]] for member in np.flatnonzero(part == at)):
            node.domain = node.domain or f"clique-{number}"


def _arrays(nodes: list[Node], host_at: dict[str, int], domain_at: dict[str, int]) -> dict[str, NDArray[np.generic]]:
    return {
        "node_type": np.array([NODE_TYPES.index(node.type) for node in nodes], np.uint8),
        "node_host": np.array([-1 if node.host is None else host_at[node.host] for node in nodes], np.int32),
        "node_domain": np.array([-1 if node.domain is None else domain_at[node.domain] for node in nodes], np.int32),
        "node_health": np.array([HEALTH.index(node.health) for node in nodes], np.uint8),
        "node_free": np.array([node.free for node in nodes], np.bool_),
    }


def _link_arrays(links: list[tuple[int, int, Link]]) -> dict[str, NDArray[np.generic]]:
    """Columns of the links; of what is known for some of them only, the others have the usual value."""
    known = [link for _, _, link in links]
    arrays: dict[str, NDArray[np.generic]] = {
        "link_src": np.array([src for src, _, _ in links], np.int32),
        "link_dst": np.array([dst for _, dst, _ in links], np.int32),
        "link_kind": np.array([LINK_KINDS.index(link.kind) for link in known], np.uint8),
        "link_count": np.array([link.count for link in known], np.int32),
        "link_gb_s": np.array([link.gb_s for link in known], np.float32),
    }
    if any(link.effective_gb_s is not None for link in known):
        speeds = [link.gb_s if link.effective_gb_s is None else link.effective_gb_s for link in known]
        arrays["link_effective_gb_s"] = np.array(speeds, np.float32)
    if any(link.latency_us is not None for link in known):
        arrays["link_latency_us"] = np.array([link.latency_us or 0.0 for link in known], np.float32)
    if not all(link.up for link in known):
        arrays["link_up"] = np.array([link.up for link in known], np.bool_)
    return arrays
