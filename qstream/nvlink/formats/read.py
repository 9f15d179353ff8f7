"""`read_topology`: a fabric from whatever describes one, found out by how it begins."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

from qstream.errors import ProblemError
from qstream.nvlink.formats.ibnet import read_ibnet
from qstream.nvlink.formats.nccl import read_nccl
from qstream.nvlink.formats.safe_yaml import read_yaml
from qstream.nvlink.formats.slurm import read_conf, read_topologies
from qstream.nvlink.formats.smi_matrix import read_matrix
from qstream.nvlink.formats.smi_query import read_query
from qstream.nvlink.formats.source import frame_of, load, text_of
from qstream.nvlink.formats.topograph import read_topograph
from qstream.nvlink.formats.tree import Tree, draw_tree
from qstream.nvlink.formats.xml_tree import Element, read_xml
from qstream.nvlink.graph import from_networkx, topology_of
from qstream.nvlink.sketch import Sketch
from schemas.fabric import FabricTopology
from schemas.wording import Shown, must_be

Format = Literal["auto", "node-link", "nccl", "smi-topo", "smi-query", "topograph", "slurm", "ibnetdiscover", "frame"]
FORMATS: Final[tuple[str, ...]] = get_args(Format)
MAX_BYTES: Final = 16_000_000
MAX_GPUS_PER_HOST: Final = 1024
MAX_JSON_DEPTH: Final = 200
_XML_ROOTS: Final[Mapping[str, tuple[Format, Callable[[Element], Sketch]]]] = {
    "system": ("nccl", read_nccl),
    "nvidia_smi_log": ("smi-query", read_query),
}


def read_topology(
    source: str | bytes | Path | Mapping[str, Any] | Any,
    *,
    format: Format = "auto",  # noqa: A002 the word users know
    fabric: str | None = None,
    gpus_per_host: int = 8,
) -> FabricTopology:
    """The fabric that a file, its text, a mapping or a networkx graph describes.

    Parameters
    ----------
    source
        A path; or the text or bytes of a file, where a text is one that has lines or begins with a brace or ``<``; or node-link
        data of networkx as a mapping; or a networkx graph.
    format
        ``node-link`` (networkx, keys ``edges`` and ``links``), ``nccl`` (NCCL's and RCCL's XML), ``smi-topo`` (``nvidia-smi topo
        -m``), ``smi-query`` (``nvidia-smi -q -x``), ``topograph`` (models in YAML), ``slurm`` (``topology.conf`` and
        ``topology.yaml``), ``ibnetdiscover``, ``frame`` (a `FabricTopology`), or found out.
    fabric
        Name of the fabric; by default what the description calls it, else the name of the file.
    gpus_per_host
        For formats that know hosts only.

    Returns
    -------
    topology
        What is strange in the description, and what was assumed, is in its `warnings`.

    Raises
    ------
    ProblemError
        The source cannot be read, is of no such format, or breaks a rule: the message names field, value and rule.
    """
    if format not in FORMATS:
        raise ProblemError(must_be("format", f"one of {', '.join(FORMATS)}", format))
    if not 1 <= gpus_per_host <= MAX_GPUS_PER_HOST:
        raise ProblemError(must_be("gpus_per_host", f"1 to {MAX_GPUS_PER_HOST}", gpus_per_host))
    if hasattr(source, "is_directed") and hasattr(source, "graph"):
        return from_networkx(source, fabric=fabric or str(source.graph.get("fabric", "fabric")))
    if isinstance(source, Mapping):
        return _node_link(source, fabric, "fabric")
    sources = "a path, text, node-link data or a networkx graph"
    data, stem = load(source, "fabric", what="a topology", sources=sources, max_bytes=MAX_BYTES)
    return _read(data, format, fabric, stem, gpus_per_host)


def _read(data: bytes, format: str, fabric: str | None, stem: str, gpus_per_host: int) -> FabricTopology:  # noqa: A002
    frame = frame_of(data, FabricTopology, format)
    if frame is not None:
        return frame if fabric is None else FabricTopology.build(**(dict(frame) | {"fabric": fabric}))
    name = fabric or stem
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") or format in ("nccl", "smi-query"):
        return _xml(data, format).topology(name, stem)
    text = text_of(data, "a topology")
    found = guess(text) if format == "auto" else format
    if found == "node-link":
        return _node_link(_json(text), fabric, stem)
    if found == "smi-topo":
        return read_matrix(text).topology(name, stem)
    if found == "ibnetdiscover":
        return read_ibnet(text, gpus_per_host).topology(name, stem)
    return draw_tree(_tree(text, found), gpus_per_host).topology(name, stem)


def guess(text: str) -> Format:
    """The format of a text; `ProblemError` where it looks like none."""
    if text.lstrip()[:1] == "{":
        return "node-link"
    if re.search(r"^\s*(SwitchName|BlockName)=", text, re.MULTILINE | re.IGNORECASE):
        return "slurm"
    if re.search(r"^(Switch|Ca)\s+\d+\s+\"", text, re.MULTILINE):
        return "ibnetdiscover"
    if re.search(r"^[^\S\n]*(?:\x1b\[[0-9;]*m)?\s*GPU0\s", text, re.MULTILINE):
        return "smi-topo"
    if re.search(r"^-\s+topology:", text, re.MULTILINE):
        return "slurm"
    if re.search(r"^(blocks|switches):", text, re.MULTILINE):
        return "topograph"
    raise ProblemError(must_be("a topology", f"of one of the formats {', '.join(FORMATS[1:])}", Shown(f"{text.strip()[:60]!r}")))


def _xml(data: bytes, format: str) -> Sketch:  # noqa: A002
    root = read_xml(data)
    found, read = _XML_ROOTS.get(root.tag, ("auto", None))
    if read is None or format not in ("auto", found):
        wanted = next((tag for tag in _XML_ROOTS if _XML_ROOTS[tag][0] == format), None)
        raise ProblemError(must_be("root of XML", wanted or f"one of {', '.join(_XML_ROOTS)}", root.tag))
    return read(root)


def _json(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ProblemError(must_be("a topology", f"JSON ({str(exc)[:100]})", Shown("other text"))) from exc
    if not isinstance(found, Mapping):
        raise ProblemError(must_be("node-link data", "an object", Shown(type(found).__name__)))
    return cast("Mapping[str, Any]", found)


def _node_link(found: Mapping[str, Any], fabric: str | None, stem: str) -> FabricTopology:
    """Node-link data: newer versions of networkx call edges ``edges``, older ones ``links``; both are read."""
    nodes = _rows(found, "nodes")
    keys = [key for key in ("edges", "links") if key in found]
    if not keys:
        raise ProblemError(must_be("edges", "given, under edges or links", Shown("neither")))
    edges = [edge for key in keys for edge in _rows(found, key)]
    known = found.get("graph", {})
    if isinstance(known, list):  # as networkx wrote it once: pairs
        pairs = [pair for pair in known if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)]
        known = dict(pairs) if len(pairs) == len(known) else None
    if not isinstance(known, Mapping):
        raise ProblemError(must_be("graph", "an object, or pairs of names and values", Shown(f"{found['graph']!r:.80}")))
    ends = []
    for number, edge in enumerate(edges):
        if "source" not in edge or "target" not in edge:
            raise ProblemError(must_be(f"edge {number}", "one with source and target", Shown(str(sorted(edge))[:80])))
        ends.append((edge["source"], edge["target"], edge))
    for number, node in enumerate(nodes):
        if "id" not in node:
            raise ProblemError(must_be(f"node {number}", "one with an id", Shown(str(sorted(node))[:80])))
    name = fabric or (known["fabric"] if isinstance(known.get("fabric"), str) and known["fabric"] else stem)
    return topology_of(
        ((node["id"], node) for node in nodes),
        ends,
        fabric=name,
        directed=found.get("directed") is True,
        known=known,
        source=stem,
    )


def _rows(found: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    rows = found.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ProblemError(must_be(key, "a list of objects", Shown(type(rows).__name__)))
    return rows


def _tree(text: str, format: str) -> Tree:  # noqa: A002
    if format == "slurm" and re.search(r"^\s*(SwitchName|BlockName)=", text, re.MULTILINE | re.IGNORECASE):
        return read_conf(text)
    found = read_yaml(text)
    if format == "slurm" and isinstance(found, list):
        return read_topologies(found)
    if format == "topograph" and isinstance(found, Mapping):
        return read_topograph(found)
    raise ProblemError(must_be(f"a file of format {format}", "one of its form", Shown(type(found).__name__)))
