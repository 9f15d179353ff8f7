"""Slurm's ``topology.conf`` and ``topology.yaml``: trees of switches, and blocks of nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from qstream.errors import ProblemError
from qstream.nvlink.formats.hostlist import expand
from qstream.nvlink.formats.tree import Tree
from schemas.wording import Shown, must_be

CORE: Final = "core"  # what joins blocks, of which a file says nothing
_PAIR: Final = re.compile(r"(\w+)=(\S+)")


def read_conf(text: str) -> Tree:
    """The tree of a ``topology.conf``: ``SwitchName=`` lines, or ``BlockName=`` lines, in any letters."""
    tree = Tree()
    for number, line in enumerate(text.replace("\\\n", " ").splitlines(), 1):
        words = {key.lower(): value for key, value in _PAIR.findall(line.split("#")[0])}
        if "switchname" in words:
            _switch(tree, words["switchname"], words.get("switches", ""), words.get("nodes", ""))
        elif "blockname" in words:
            _block(tree, words["blockname"], words.get("nodes", ""))
        elif words and "blocksizes" not in words:
            raise ProblemError(must_be(f"line {number}", "SwitchName=, BlockName= or BlockSizes=", line.strip()))
    return tree


def read_topologies(found: Sequence[Any], *, name: str | None = None) -> Tree:
    """The tree of a ``topology.yaml``: of the topology of that name, else of the cluster's default, else of the first."""
    known = [item for item in found if isinstance(item, Mapping) and "topology" in item]
    chosen = next((item for item in known if item["topology"] == name), None)
    chosen = chosen or next((item for item in known if item.get("cluster_default") is True), known[0] if known else None)
    if chosen is None:
        raise ProblemError(must_be("topology.yaml", "a list of topologies", Shown("none")))
    tree = Tree()
    for switch in _rows(chosen, "tree", "switches"):
        _switch(tree, str(switch.get("switch")), str(switch.get("children") or ""), str(switch.get("nodes") or ""))
    for block in _rows(chosen, "block", "blocks"):
        _block(tree, str(block.get("block")), str(block.get("nodes") or ""))
    return tree


def _rows(topology: Mapping[str, Any], kind: str, rows: str) -> list[Mapping[str, Any]]:
    part = topology.get(kind)
    if part is None:
        return []
    found = part.get(rows) if isinstance(part, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(row, Mapping) for row in found):
        raise ProblemError(must_be(f"{rows} of {kind} of topology {topology['topology']}", "a list of mappings", found))
    return found


def _switch(tree: Tree, name: str, switches: str, nodes: str) -> None:
    if name in tree.hosts or name in tree.below:
        raise ProblemError(must_be("names of switches", "distinct", Shown(f"{name!r} twice")))
    if nodes:
        tree.hosts[name] = expand(nodes)
    if switches or not nodes:
        tree.below[name] = expand(switches)


def _block(tree: Tree, name: str, nodes: str) -> None:
    if name in tree.hosts:
        raise ProblemError(must_be("names of blocks", "distinct", Shown(f"{name!r} twice")))
    hosts = expand(nodes)
    tree.hosts[f"{name}/leaf"] = hosts
    tree.below.setdefault(CORE, []).append(f"{name}/leaf")
    for host in hosts:
        if host in tree.domain_of:
            raise ProblemError(must_be("nodes of blocks", "in one block each", Shown(f"{host!r} twice")))
        tree.domain_of[host] = name
