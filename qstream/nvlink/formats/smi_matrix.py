"""The matrix of ``nvidia-smi topo -m``: how each pair of GPUs and adapters of a host is connected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.nvlink.sketch import Link, Sketch, components, domains_by_links
from qstream.nvlink.speeds import NVLINK_UNKNOWN, PCIE_UNKNOWN, SMP_UNKNOWN_GB_S
from schemas.wording import Shown, must_be

MOST_LINKS: Final = 18  # of a GPU, all to peers together: what is more is the links to a switch, counted for each peer
LEVELS: Final = {"X": 0, "PIX": 1, "PSB": 1, "PXB": 2, "PHB": 3, "NODE": 3, "SYS": 4, "SOC": 4}
HOST: Final = "host-0"
_ESCAPE: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_DEVICE: Final = re.compile(r"^(GPU\d+|NIC\d+|mlx\w+|bnxt\w+|rdma\w+|ib\w+|hfi\w+|irdma\w+|efa\w+|hsi\w+)$")


class Matrix(NamedTuple):
    """Devices in order, what stands between each pair, and the NUMA node of each where the matrix says it."""

    names: list[str]
    cell: list[list[str]]
    numa: list[str]


def read_matrix(text: str) -> Sketch:
    """GPUs and adapters of a host, their PCIe switches and processors.

    Where each GPU of a group has the same NVLinks to every other, and more than a GPU has in all, they are the links to one
    switch. Speeds are not in the matrix: they are assumed, with a warning.
    """
    matrix = _parse(text)
    sketch = Sketch()
    gpus = [at for at, name in enumerate(matrix.names) if name.startswith("GPU")]
    if not gpus:
        raise ProblemError(must_be("a topology", "one with GPUs", Shown("none")))
    for at in (*gpus, *(at for at in range(len(matrix.names)) if at not in gpus)):
        sketch.node(matrix.names[at], "gpu" if at in gpus else "nic", host=HOST)
    _nvlinks(sketch, matrix, gpus)
    _pcie(sketch, matrix)
    domains_by_links(sketch)
    return sketch


def _parse(text: str) -> Matrix:
    lines = [_ESCAPE.sub("", line).split() for line in text.splitlines()]
    head = next((number for number, words in enumerate(lines) if words and words[0] == "GPU0"), None)
    if head is None:
        raise ProblemError(must_be("a matrix of nvidia-smi topo -m", "one with a line of names from GPU0 on", Shown("none")))
    names: list[str] = []
    for word in lines[head]:
        if _DEVICE.match(word) is None:
            break
        names.append(word)
    if len(set(names)) < len(names):
        raise ProblemError(must_be("names of the matrix", "distinct", Shown(" ".join(names)[:80])))
    rows = {words[0]: words[1:] for words in lines[head + 1 :] if words and words[0] in names and len(words) > len(names)}
    # The legend says what the names NIC0 and so on stand for.
    said = {words[0][:-1]: words[1] for words in lines if len(words) == 2 and re.fullmatch(r"NIC\d+:", words[0])}
    for name in names:
        if name not in rows:
            raise ProblemError(must_be(f"row {name} of the matrix", f"{len(names)} entries", Shown("fewer, or none")))
        for word in rows[name][: len(names)]:
            if word not in LEVELS and not re.fullmatch(r"NV\d{1,3}", word):
                raise ProblemError(must_be(f"row {name} of the matrix", f"NV<links>, {', '.join(LEVELS)}", word))
    # CPU affinity, then the NUMA node: a number, where there is one.
    numa = [rows[name][len(names) + 1] if len(rows[name]) > len(names) + 1 else "" for name in names]
    numa = [word if re.fullmatch(r"\d{1,4}", word) else "" for word in numa]
    return Matrix([said.get(name, name) for name in names], [rows[name][: len(names)] for name in names], numa)


def _nvlinks(sketch: Sketch, matrix: Matrix, gpus: Sequence[int]) -> None:
    count = np.array([[_links(matrix.cell[a][b]) if a != b else 0 for b in gpus] for a in gpus], np.int64)
    if not count.any():
        return
    speed = NVLINK_UNKNOWN
    sketch.warn(f"speed of NVLinks is not in the matrix: {speed.nominal:g} GB/s a link assumed")
    src, dst = np.nonzero(count)
    part = components(len(gpus), src, dst)
    for number in dict.fromkeys(part.tolist()):
        members = np.flatnonzero(part == number)
        inner = count[np.ix_(members, members)]
        names = [matrix.names[gpus[at]] for at in members.tolist()]
        off = inner[~np.eye(len(members), dtype=bool)]
        if len(members) > 2 and (off > 0).all() and inner.sum(1).max() > MOST_LINKS:
            _switch(sketch, names, inner, number)
            continue
        for a, b in zip(*np.nonzero(inner), strict=True):
            links = int(inner[a, b])
            sketch.link(names[a], names[b], Link("nvlink", links, links * speed.nominal, links * speed.effective))


def _switch(sketch: Sketch, names: list[str], inner: NDArray[np.int64], number: int) -> None:
    """One switch, to which each GPU has as many links as the matrix says of its best pair."""
    switch = "NVSwitch" if number == 0 else f"NVSwitch{number}"
    sketch.node(switch, "nvswitch", host=HOST)
    most = inner.max(1)
    for name, links in zip(names, most.tolist(), strict=True):
        # A pair has the fewer of both ends' links, so a GPU with fewer than the others has them with every peer.
        if links < most.max():
            sketch.warn(f"{name} has {links} NVLinks, others {most.max()}: degraded")
            sketch.nodes[name].health = "degraded"
        speed = NVLINK_UNKNOWN
        sketch.link(name, switch, Link("nvlink", links, links * speed.nominal, links * speed.effective), both=True)


def _links(cell: str) -> int:
    return int(cell[2:]) if cell.startswith("NV") else 0


def _pcie(sketch: Sketch, matrix: Matrix) -> None:
    """Processors, PCIe switches below them, and devices below those, from the nearest level that pairs share."""
    total = len(matrix.names)
    level = np.array([[LEVELS.get(word, 9) for word in row] for row in matrix.cell])
    switch = _groups(level, 1, total)
    root = _groups(level, 2, total)
    cpu = _groups(level, 3, total)
    by_numa = {word: [at for at in range(total) if matrix.numa[at] == word] for word in dict.fromkeys(matrix.numa) if word}
    pairs = [(members[0], other) for members in by_numa.values() for other in members[1:]]
    pairs += [(a, b) for a in range(total) for b in range(a + 1, total) if cpu[a] == cpu[b]]
    cpu = components(total, *np.array(pairs, np.int64).reshape(-1, 2).T)
    sketch.warn(f"PCIe speeds are not in the matrix: {PCIE_UNKNOWN.nominal:g} GB/s a link assumed")
    wire = Link("pcie", 1, PCIE_UNKNOWN.nominal, PCIE_UNKNOWN.effective)
    cpus: list[str] = []
    for number, members in enumerate(_members(cpu)):
        word = next((matrix.numa[at] for at in members if matrix.numa[at]), "")
        cpus.append(f"CPU{word or number}")
        while cpus[-1] in sketch.nodes:
            cpus[-1] += "'"
        sketch.node(cpus[-1], "cpu", host=HOST)
        for upper in _members(root[members]):
            group = [members[at] for at in upper]
            above = _below(sketch, cpus[-1], len(group) > 1, wire)
            for lower in _members(switch[group]):
                devices = [group[at] for at in lower]
                parent = _below(sketch, above, 1 < len(devices) < len(group), wire)
                for at in devices:
                    sketch.link(matrix.names[at], parent, wire, both=True)
    for at, name in enumerate(cpus):
        for other in cpus[at + 1 :]:
            sketch.link(name, other, Link("smp", 1, SMP_UNKNOWN_GB_S), both=True)


def _below(sketch: Sketch, parent: str, needed: bool, wire: Link) -> str:
    """A new PCIe switch below the parent, or the parent itself where none is needed."""
    if not needed:
        return parent
    name = f"PCIe{sum(node.type == 'pcie' for node in sketch.nodes.values())}"
    sketch.node(name, "pcie", host=HOST)
    sketch.link(name, parent, wire, both=True)
    return name


def _groups(level: NDArray[np.int64], most: int, total: int) -> NDArray[np.int32]:
    src, dst = np.nonzero(level <= most)
    return components(total, src, dst)


def _members(part: NDArray[np.int32]) -> list[list[int]]:
    return [np.flatnonzero(part == number).tolist() for number in dict.fromkeys(part.tolist())]
