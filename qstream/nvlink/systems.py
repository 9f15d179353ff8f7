"""Fabrics of well-known products, drawn from their data sheets: healthy, with nominal speeds."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, get_args

from qstream.errors import ProblemError
from qstream.nvlink.sketch import Link, Sketch
from qstream.nvlink.speeds import NIC_GB_S, PCIE_UNKNOWN, SMP_UNKNOWN_GB_S
from schemas.fabric import FabricTopology
from schemas.wording import must_be

System = Literal["dgx-1v", "hgx-a100", "hgx-h100", "hgx-b200", "gb200-nvl72"]
SYSTEMS: Final[tuple[str, ...]] = get_args(System)
MAX_GPUS: Final = 16_384
SPINES_PER_RAIL: Final = 4
TRAYS: Final = 18
GPUS_PER_TRAY: Final = 4
MAX_RACKS_OF_CHIPS: Final = 16  # of more, with each chip a node, the frame would be above its size
# DGX-1V: pairs of GPUs with two NVLinks and with one (msccl-tools, topologies/nvidia.py).
DOUBLE: Final = ((0, 1), (0, 4), (1, 3), (2, 3), (2, 6), (4, 5), (5, 7), (6, 7))
SINGLE: Final = ((0, 2), (0, 3), (1, 2), (1, 5), (3, 7), (4, 6), (4, 7), (5, 6))


class Box(NamedTuple):
    """A host of 8 GPUs and NVSwitches: links from each GPU to each switch, GB/s of one."""

    links: tuple[int, ...]
    link_gb_s: float


BOXES: Final = {
    "hgx-a100": Box((2,) * 6, 25.0),
    "hgx-h100": Box((5, 4, 4, 5), 25.0),
    "hgx-b200": Box((9, 9), 50.0),
}


def generate(system: System, *, racks: int = 1, hosts: int = 1) -> FabricTopology:
    """A healthy fabric of `racks` racks with `hosts` boxes each; a rack of ``gb200-nvl72`` is 18 trays of 4 GPUs, and no boxes.

    With more than one box or rack, rail r joins the NICs r of all hosts: a leaf for each rack and rail, and 4 spines for
    the leaves of each rail, with uplinks that carry as much as all NICs below. A NIC, of 50 GB/s, is the link from its
    GPU to the leaf. What crosses rails goes over NVLink first. Above 16 racks, the 18 switch chips of a rack are one
    switch.

    Raises
    ------
    ProblemError
        An unknown system, no racks or hosts, or more than 16,384 GPUs.
    """
    if system not in SYSTEMS:
        raise ProblemError(must_be("system", f"one of {', '.join(SYSTEMS)}", system))
    if racks < 1:
        raise ProblemError(must_be("racks", "at least 1", racks))
    if hosts < 1 or (system == "gb200-nvl72" and hosts != 1):
        raise ProblemError(must_be("hosts", "1 for a rack of trays" if hosts > 0 else "at least 1", hosts))
    rails = GPUS_PER_TRAY if system == "gb200-nvl72" else 8
    trays = TRAYS if system == "gb200-nvl72" else hosts
    if racks * trays * rails > MAX_GPUS:
        raise ProblemError(must_be("GPUs", f"at most {MAX_GPUS}", racks * trays * rails))
    sketch = Sketch()
    names = [[f"r{rack}h{host}" for host in range(trays)] for rack in range(racks)]
    for rack, inside in enumerate(names):
        for host in inside:
            for gpu in range(rails):
                domain = f"rack{rack}" if system == "gb200-nvl72" else host
                sketch.node(f"{host}g{gpu}", "gpu", host=host, domain=domain)
    for rack, inside in enumerate(names):
        if system == "gb200-nvl72":
            gpus = [f"{host}g{gpu}" for host in inside for gpu in range(rails)]
            chips = (1,) * 18 if racks <= MAX_RACKS_OF_CHIPS else (18,)
            _switches(sketch, gpus, f"rack{rack}", f"r{rack}", None, Box(chips, 50.0))
            continue
        for host in inside:
            gpus = [f"{host}g{gpu}" for gpu in range(rails)]
            if system == "dgx-1v":
                _dgx1v(sketch, gpus, host)
            else:
                _switches(sketch, gpus, host, host, host, BOXES[system])
    if racks * len(names[0]) > 1 and (system != "gb200-nvl72" or racks > 1):
        _rails(sketch, names, rails)
    size = f"{racks} x {hosts} " if system != "gb200-nvl72" else f"{racks} x " if racks > 1 else ""
    return sketch.topology(f"{size}{system}" if racks * hosts > 1 else system, "generated")


def _switches(sketch: Sketch, gpus: list[str], domain: str, prefix: str, host: str | None, box: Box) -> None:
    for number, links in enumerate(box.links):
        switch = f"{prefix}s{number}"
        sketch.node(switch, "nvswitch", domain=domain, host=host)
        for gpu in gpus:
            sketch.link(gpu, switch, Link("nvlink", links, links * box.link_gb_s), both=True)


def _dgx1v(sketch: Sketch, gpus: list[str], host: str) -> None:
    """The hybrid cube mesh, and PCIe: a switch for two GPUs, two switches a processor."""
    for links, pairs in ((2, DOUBLE), (1, SINGLE)):
        for a, b in pairs:
            sketch.link(gpus[a], gpus[b], Link("nvlink", links, links * 25.0), both=True)
    for cpu in range(2):
        sketch.node(f"{host}c{cpu}", "cpu", host=host)
    pcie = Link("pcie", 1, PCIE_UNKNOWN.nominal)
    for switch in range(4):
        name = f"{host}p{switch}"
        sketch.node(name, "pcie", host=host)
        sketch.link(name, f"{host}c{switch // 2}", pcie, both=True)
        for gpu in gpus[2 * switch : 2 * switch + 2]:
            sketch.link(gpu, name, pcie, both=True)
    sketch.link(f"{host}c0", f"{host}c1", Link("smp", 1, SMP_UNKNOWN_GB_S), both=True)


def _rails(sketch: Sketch, names: list[list[str]], rails: int) -> None:
    for rack in range(len(names)):
        for rail in range(rails):
            sketch.node(f"r{rack}l{rail}", "leaf")
    nic = Link("ib", 1, NIC_GB_S)
    for rack, inside in enumerate(names):
        for host in inside:
            for rail in range(rails):
                sketch.link(f"{host}g{rail}", f"r{rack}l{rail}", nic, both=True)
    if len(names) == 1:
        return
    links = -(-len(names[0]) // SPINES_PER_RAIL)
    for rail in range(rails):
        for spine in range(SPINES_PER_RAIL):
            sketch.node(f"x{rail}s{spine}", "spine")
            for rack in range(len(names)):
                sketch.link(f"r{rack}l{rail}", f"x{rail}s{spine}", Link("ib", links, links * NIC_GB_S), both=True)
