"""Fabrics as networkx graphs, there and back, and as the node-link JSON that networkx writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from qstream.errors import ProblemError
from qstream.nvlink.sketch import MAX_WARNINGS, Link, Node, Sketch, oddities
from qstream.nvlink.speeds import BY_KIND
from schemas.fabric import HEALTH, HOST, LINK_KINDS, NODE_TYPES, FabricTopology
from schemas.wording import Shown, must_be

NODE_KEYS: Final = frozenset({"type", "host", "node", "domain", "health", "free"})
EDGE_KEYS: Final = frozenset({"kind", "links", "bw_gb_s", "bw_eff_gb_s", "latency_us", "up", "link"})
SILENT: Final = frozenset({"id", "source", "target", "key", "numa", "label", "name", "weight", "pos", "rank", "job"})
KIND_PREFIXES: Final = {"infiniband": "ib", "nvl": "nvlink", "eth": "ethernet", "qpi": "smp", "upi": "smp"}

Nodes = Iterable[tuple[Any, Mapping[str, Any]]]
Edges = Iterable[tuple[Any, Any, Mapping[str, Any]]]


def to_networkx(topology: FabricTopology) -> Any:
    """The fabric as `networkx.DiGraph`: what `from_networkx` reads back as the same frame.

    Nodes, by their names, have `type`, `health`, `free` and, where known, `host` and `domain`; edges, one a direction, `kind`,
    `links`, `bw_gb_s` and, where known, `bw_eff_gb_s`, `latency_us` and `up`. A host that is only named by its nodes is no node
    of the graph, and of several links of a pair, such as C2C and PCIe, only the fastest is an edge. The graph's own attributes
    are `fabric`, `source`, `ts_ns`, `domains` and `warnings`.

    Raises
    ------
    ProblemError
        A host that has to be a node is named as another node is.
    """
    import networkx as nx  # noqa: PLC0415 takes longer to import than most calls take

    graph = nx.DiGraph(
        fabric=topology.fabric,
        source=topology.source,
        ts_ns=topology.ts_ns,
        domains=list(topology.domain_name),
        warnings=list(topology.warnings),
    )
    implied = _implied_hosts(topology)
    names = topology.node_name
    for at, name in enumerate(names[: len(names) - implied]):
        if name in graph:
            raise ProblemError(must_be("names of nodes", "distinct where hosts are nodes of the graph", name))
        graph.add_node(name, **_node_attributes(topology, at))
    sorted_links = _in_order(topology)
    for at, (src, dst) in enumerate(zip(topology.link_src.tolist(), topology.link_dst.tolist(), strict=True)):
        attributes = _link_attributes(topology, at)
        if graph.has_edge(names[src], names[dst]) and graph.edges[names[src], names[dst]]["bw_gb_s"] >= attributes["bw_gb_s"]:
            continue
        graph.add_edge(names[src], names[dst], **(attributes if sorted_links else attributes | {"link": at}))
    return graph


def from_networkx(graph: Any, *, fabric: str) -> FabricTopology:
    """The fabric of a networkx graph, directed or not: an undirected edge is a link in both directions.

    Attributes as in `to_networkx`; `node` may stand for `host`. Self loops, second edges of a pair, and whatever else makes sense
    without being right are taken with a warning (`.warnings`).

    Raises
    ------
    ProblemError
        No GPU, no link, or an attribute that breaks a rule: its message names the field, the rule and the value.
    """
    known = graph.graph
    edges = graph.edges(data=True)
    return topology_of(graph.nodes(data=True), edges, fabric=fabric, directed=graph.is_directed(), known=known)


def tidied(topology: FabricTopology) -> FabricTopology:
    """A frame that came as it is, such as from a topic, with what is odd about it in its warnings.

    Links from a node to itself, and second links of one kind between a pair, are marked as not working, so that all links keep
    their numbers; GPUs without NVLink or xGMI among others that have it are degraded. A frame without oddities comes back as it
    was.
    """
    src, dst = topology.link_src.astype(np.int64), topology.link_dst.astype(np.int64)
    ends = (src * len(topology.node_name) + dst) * 256 + topology.link_kind
    first = np.zeros(len(ends), np.bool_)
    first[np.unique(ends, return_index=True)[1]] = True
    loops, twice = src == dst, ~first & (src != dst)
    texts = [f"{count} {what}: not used" for count, what in (
        (int(loops.sum()), "links from a node to itself"), (int(twice.sum()), "second links between a pair"),
    ) if count]  # fmt: skip
    arrays = {name: getattr(topology, name) for name in topology.arrays}
    health, more = oddities(topology.node_name, arrays)
    found = [text for text in (*texts, *more) if text not in topology.warnings]
    fields = dict(topology) | {"node_health": health}
    if texts:
        fields["link_up"] = topology.up & ~loops & ~twice
    if not found and np.array_equal(health, topology.node_health):
        return topology
    return FabricTopology.build(**(fields | {"warnings": (*topology.warnings, *found)[:MAX_WARNINGS]}))


def topology_of(
    nodes: Nodes, edges: Edges, *, fabric: str, directed: bool, known: Mapping[str, Any], source: str = "networkx"
) -> FabricTopology:
    """The fabric of nodes and edges with attributes; `known` are the attributes of the whole graph."""
    sketch = Sketch(warnings=_texts(known, "warnings"), domains=_texts(known, "domains"))
    unknown: dict[str, None] = {}
    for key, attributes in nodes:
        name = _name("id of a node", key)
        node = _node(name, attributes)
        sketch.node(name, node.type, host=node.host, domain=node.domain, health=node.health, free=node.free)
        unknown |= dict.fromkeys(sorted(attributes.keys() - NODE_KEYS - SILENT))
    place: dict[tuple[str, str], int] = {}
    for one, other, attributes in edges:
        src, dst = _name("source of an edge", one), _name("target of an edge", other)
        sketch.link(src, dst, _link(sketch, src, dst, attributes), both=not directed)
        if type(attributes.get("link")) is int:
            place[src, dst] = attributes["link"]
        unknown |= dict.fromkeys(sorted(attributes.keys() - EDGE_KEYS - SILENT))
    if unknown:
        sketch.warn(f"unknown attributes, ignored: {', '.join(list(unknown)[:10])}")
    stamp = known.get("ts_ns", 0)
    origin = known.get("source", source)
    topology = sketch.topology(
        fabric,
        origin if isinstance(origin, str) else source,
        ts_ns=stamp if type(stamp) is int and 0 <= stamp < 2**63 else 0,
        tidy="warnings" not in known,  # what `to_networkx` wrote has been looked at, and says so in its warnings
    )
    return _reordered(topology, place) if place else topology


def _node(name: str, attributes: Mapping[str, Any]) -> Node:
    """The attributes of a node, checked; a host on itself is one that is only named."""
    kind = attributes.get("type")
    if not isinstance(kind, str) or kind.lower() not in NODE_TYPES:
        shown = Shown("nothing") if kind is None else kind
        raise ProblemError(must_be(f"type of node {name!r}", f"one of {', '.join(NODE_TYPES)}", shown))
    host = attributes.get("host", attributes.get("node"))
    domain = attributes.get("domain")
    health, free = attributes.get("health", "ok"), attributes.get("free", True)
    if health not in HEALTH:
        raise ProblemError(must_be(f"health of node {name!r}", f"one of {', '.join(HEALTH)}", health))
    if not isinstance(free, bool):
        raise ProblemError(must_be(f"free of node {name!r}", "true or false", free))
    return Node(
        kind.lower(),
        None if host is None else _name(f"host of node {name!r}", host),
        None if domain is None else _name(f"domain of node {name!r}", domain),
        health,
        free,
    )


def _link(sketch: Sketch, src: str, dst: str, attributes: Mapping[str, Any]) -> Link:
    where = f"edge {src} to {dst}"
    kind = _kind(attributes.get("kind", "nvlink"), where)
    count = attributes.get("links", 1)
    if type(count) is not int:
        raise ProblemError(must_be(f"links of {where}", "a whole number", count))
    speeds: dict[str, float | None] = {}
    for key in ("bw_gb_s", "bw_eff_gb_s", "latency_us"):
        value = attributes.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ProblemError(must_be(f"{key} of {where}", "a number", value))
        speeds[key] = None if value is None else float(value)
    up = attributes.get("up", True)
    if not isinstance(up, bool):
        raise ProblemError(must_be(f"up of {where}", "true or false", up))
    gb_s = speeds["bw_gb_s"]
    if gb_s is None:
        bits = next((key for key in attributes if "gbps" in str(key).lower() or "gbit" in str(key).lower()), None)
        if bits is not None:
            raise ProblemError(must_be(f"bw_gb_s of {where}", "given, in bytes", Shown(f"{bits} only, which may be bits")))
        gb_s = BY_KIND[kind] * max(count, 1)
        sketch.warn(f"speed of {kind} links unknown: {BY_KIND[kind]:g} GB/s a link assumed")
    return Link(kind, count, gb_s, speeds["bw_eff_gb_s"], speeds["latency_us"], up)


def _kind(given: Any, where: str) -> str:
    """The kind that a word begins with: ``nvlink2`` is nvlink."""
    word = given.lower() if isinstance(given, str) else ""
    for known in LINK_KINDS:
        if word.startswith(known):
            return known
    for prefix, known in KIND_PREFIXES.items():
        if word.startswith(prefix):
            return known
    raise ProblemError(must_be(f"kind of {where}", f"one of {', '.join(LINK_KINDS)}", given))


def _name(what: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not 1 <= len(str(value)) <= 200:
        raise ProblemError(must_be(what, "a name of 1 to 200 letters, or a number", value))
    return str(value)


def _texts(known: Mapping[str, Any], key: str) -> list[str]:
    found = known.get(key, [])
    if not isinstance(found, list | tuple) or not all(isinstance(text, str) for text in found):
        raise ProblemError(must_be(f"{key} of the graph", "a list of texts", found))
    return list(found)


def _implied_hosts(topology: FabricTopology) -> int:
    """How many of the last nodes are hosts that a reader of the others would add again, in the same order."""
    names, host = topology.node_name, topology.node_host.tolist()
    ends = np.zeros(len(names), np.bool_)
    ends[topology.link_src] = ends[topology.link_dst] = True
    plain = (topology.node_type == HOST) & (topology.node_health == 0) & topology.node_free & (topology.node_domain < 0) & ~ends
    first = len(names)
    while first and plain[first - 1] and host[first - 1] == first - 1:
        first -= 1
    mentioned = list(dict.fromkeys(at for at in host[:first] if at >= first))
    return len(names) - first if mentioned == list(range(first, len(names))) else 0


def _in_order(topology: FabricTopology) -> bool:
    """Whether links are sorted by their ends, as every reader sorts them."""
    place = topology.link_src.astype(np.int64) * len(topology.node_name) + topology.link_dst
    return bool((np.diff(place) > 0).all())


def _reordered(topology: FabricTopology, place: Mapping[tuple[str, str], int]) -> FabricTopology:
    """With links in the order that their edges gave, if they all gave one."""
    names = topology.node_name
    ends = zip(topology.link_src.tolist(), topology.link_dst.tolist(), strict=True)
    wanted = [place.get((names[src], names[dst]), -1) for src, dst in ends]
    if sorted(wanted) != list(range(len(wanted))):
        return topology
    order = np.argsort(wanted)
    columns = [name for name in topology.arrays if name.startswith("link_") and getattr(topology, name) is not None]
    fields = {name: getattr(topology, name) for name in FabricTopology.model_fields}
    return FabricTopology.build(**(fields | {name: fields[name][order] for name in columns}))


def _node_attributes(topology: FabricTopology, at: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": NODE_TYPES[topology.node_type[at]]}
    if topology.node_host[at] >= 0:
        found["host"] = topology.node_name[topology.node_host[at]]
    if topology.node_domain[at] >= 0:
        found["domain"] = topology.domain_name[topology.node_domain[at]]
    return found | {"health": HEALTH[topology.node_health[at]], "free": bool(topology.node_free[at])}


def _link_attributes(topology: FabricTopology, at: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": LINK_KINDS[topology.link_kind[at]],
        "links": int(topology.link_count[at]),
        "bw_gb_s": float(topology.link_gb_s[at]),
    }
    if topology.link_effective_gb_s is not None:
        found["bw_eff_gb_s"] = float(topology.link_effective_gb_s[at])
    if topology.link_latency_us is not None:
        found["latency_us"] = float(topology.link_latency_us[at])
    if topology.link_up is not None:
        found["up"] = bool(topology.link_up[at])
    return found
