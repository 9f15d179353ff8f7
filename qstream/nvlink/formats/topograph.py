"""Models of NVIDIA topograph: ``switches`` that hold switches, and ``blocks`` of nodes below one, in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qstream.errors import ProblemError
from qstream.nvlink.formats.hostlist import expand
from qstream.nvlink.formats.tree import Tree
from schemas.wording import Shown, must_be


def read_topograph(found: Mapping[str, Any]) -> Tree:
    """The tree that a model describes; the domain of a block is its annotation whose key ends in ``/domain``."""
    tree = Tree()
    switches = found.get("switches") or {}
    if not isinstance(switches, Mapping):
        raise ProblemError(must_be("switches", "a mapping by name", Shown(type(switches).__name__)))
    for name, switch in switches.items():
        given = switch if isinstance(switch, Mapping) else {}
        tree.below[str(name)] = [child for text in _list(given.get("switches"), f"switches of {name}") for child in expand(text)]
    for number, block in enumerate(_blocks(found.get("blocks"))):
        hosts = [host for text in _list(block.get("nodes"), f"nodes of block {number}") for host in expand(text)]
        switch = block.get("switch")
        if switch is not None:
            tree.hosts.setdefault(str(switch), []).extend(hosts)
        notes = block.get("annotations") or {}
        domain = (
            next((str(notes[key]) for key in notes if str(key).endswith("/domain")), None) if isinstance(notes, Mapping) else None
        )
        for host in hosts:
            if host in tree.domain_of:
                raise ProblemError(must_be("nodes of blocks", "in one block each", Shown(f"{host!r} twice")))
            tree.domain_of[host] = domain or host
    return tree


def _blocks(given: Any) -> list[Mapping[str, Any]]:
    if not isinstance(given, list) or not all(isinstance(block, Mapping) for block in given):
        raise ProblemError(must_be("blocks", "a list of mappings", Shown(type(given).__name__)))
    return given


def _list(given: Any, what: str) -> list[str]:
    items = [] if given is None else given
    if not isinstance(items, list) or not all(isinstance(item, str | int) for item in items):
        raise ProblemError(must_be(what, "a list of names", Shown(type(given).__name__)))
    return [str(item) for item in items]
