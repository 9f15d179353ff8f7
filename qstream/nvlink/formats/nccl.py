"""Topology XML of NCCL and RCCL: what ``NCCL_TOPO_DUMP_FILE`` writes and ``NCCL_TOPO_FILE`` reads."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from qstream.errors import ProblemError
from qstream.nvlink.formats.xml_tree import Element
from qstream.nvlink.sketch import Link, Sketch, domains_by_links
from qstream.nvlink.speeds import (
    BY_KIND,
    NVLINK_UNKNOWN,
    PCIE_EFFICIENCY,
    PCIE_UNKNOWN,
    SMP_GB_S,
    SMP_UNKNOWN_GB_S,
    XGMI_BY_GFX,
    XGMI_UNKNOWN,
    Speed,
    nvlink_of_sm,
    pcie_of,
)
from schemas.wording import Shown, must_be

GPU_CLASSES: Final = ("0x0300", "0x0302", "0x0380", "0x1200")
NIC_CLASSES: Final = ("0x02",)
SWITCH_CLASS: Final = "0x0680"
CPU_CLASS: Final = "0x068001"
NOT_A_DEVICE: Final = frozenset("f")  # fffffff:ff:ff.0: somewhere behind the hypervisor
KNOWN: Final = frozenset({"system", "cpu", "pci", "gpu", "nic", "net", "nvlink", "xgmi", "pcilink", "c2c"})
LINK_TAGS: Final = {"nvlink": "nvlink", "xgmi": "xgmi"}
MAX_LINKS_OF_PAIR: Final = 10_000


@dataclass(slots=True)
class _Machine:
    """One pass over the tree: devices by bus id, and links that wait until all devices are known."""

    sketch: Sketch
    by_bus: dict[str, str] = field(default_factory=dict)
    waiting: list[tuple[str, Element, Element]] = field(default_factory=list)  # GPU, its element, the link's element
    bridges: list[tuple[str, str, Speed]] = field(default_factory=list)  # bridge, bus id of its target, speed
    cpu_of: dict[str, str] = field(default_factory=dict)
    gpus: int = 0
    nics: int = 0


def read_nccl(root: Element) -> Sketch:
    """Nodes and links of a ``<system>``: GPUs first, each host's processors joined to one another.

    GPUs are those of ``<gpu>`` and PCI devices of a GPU's class; adapters those of ``<nic>`` and devices of a network class, as
    fast as the slower of their port and their PCIe link. Switches that the host does not see are one virtual switch.
    """
    machine = _Machine(Sketch())
    if unknown := sorted({element.tag for element in root.walk()} - KNOWN):
        machine.sketch.warn(f"unknown elements, ignored: {', '.join(unknown[:10])}")
    cpus: dict[str, list[tuple[str, Element]]] = {}
    hosts = list(dict.fromkeys(cpu.get("host_hash", "host-0") for cpu in root.children if cpu.tag == "cpu"))
    for number, cpu in enumerate(child for child in root.children if child.tag == "cpu"):
        host = cpu.get("host_hash", "host-0")
        before = f"{host}/" if len(hosts) > 1 else ""
        name = f"{before}CPU{cpu.get('numaid') or number}"
        name = name if name not in machine.sketch.nodes else f"{name}.{number}"
        machine.sketch.node(name, "cpu", host=host)
        cpus.setdefault(host, []).append((name, cpu))
        for child in cpu.children:
            _device(machine, child, name, host, name, before)
    for host in cpus:
        _join(machine.sketch, cpus[host])
    for bridge, target, speed in machine.bridges:
        _bridge(machine, bridge, target, speed)
    for gpu, element, link in machine.waiting:
        _fast_link(machine, gpu, element, link)
    domains_by_links(machine.sketch)
    _gpus_first(machine.sketch)
    return machine.sketch


def _device(machine: _Machine, element: Element, parent: str, host: str, cpu: str, before: str) -> None:
    """A ``<pci>`` and all below it; depth is bounded by the reader of XML. A ``<nic>`` without one is virtual."""
    if element.tag == "nic":
        ports = [net for net in element.children if net.tag == "net"]
        name = _nic(machine, [element], host, before)
        _wire(machine.sketch, name, parent, _through_port(machine.sketch, name, ports, PCIE_UNKNOWN))
    if element.tag != "pci":
        return
    bus, kind = element.get("busid"), element.get("class")
    gpus = [child for child in element.children if child.tag == "gpu"]
    nics = [child for child in element.children if child.tag == "nic"]
    speed = _pcie(machine.sketch, element, bus)
    if gpus or (kind.startswith(GPU_CLASSES) and not nics):
        for gpu in gpus or [Element("gpu", {})]:
            name = _gpu_name(machine, gpu, before)
            machine.sketch.node(name, "gpu", host=host)
            machine.gpus += 1
            machine.cpu_of[name] = cpu
            _known_as(machine, bus, name)
            _wire(machine.sketch, name, parent, speed)
            machine.waiting += [(name, gpu, link) for link in gpu.children if link.tag in (*LINK_TAGS, "c2c")]
        return
    if nics or kind.startswith(NIC_CLASSES):
        name = _nic(machine, nics, host, before)
        _known_as(machine, bus, name)
        ports = [net for nic in nics for net in nic.children if net.tag == "net"]
        _wire(machine.sketch, name, parent, _through_port(machine.sketch, name, ports, speed))
        return
    name = f"{before}{bus}" or f"{before}pci"
    while name in machine.sketch.nodes:
        machine.sketch.warn(f"bus id {bus} stands twice")
        name += "'"
    machine.sketch.node(name, "pcie", host=host)
    _known_as(machine, bus, name)
    _wire(machine.sketch, name, parent, speed)
    for child in element.children:
        if child.tag == "pcilink":
            machine.bridges.append((name, child.get("target"), speed))
        else:
            _device(machine, child, name, host, cpu, before)


def _gpu_name(machine: _Machine, gpu: Element, before: str) -> str:
    name = f"{before}GPU{gpu.get('dev') or machine.gpus}"
    number = machine.gpus
    while name in machine.sketch.nodes:
        name = f"{before}GPU{number}"
        number += 1
    return name


def _nic(machine: _Machine, nics: list[Element], host: str, before: str) -> str:
    nets = [net.get("name") for nic in nics for net in nic.children if net.tag == "net"]
    name = f"{before}{(nets or [''])[0] or f'NIC{machine.nics}'}"
    while name in machine.sketch.nodes:
        name += "'"
    machine.sketch.node(name, "nic", host=host)
    machine.nics += 1
    return name


def _known_as(machine: _Machine, bus: str, name: str) -> None:
    if bus in machine.by_bus:
        machine.sketch.warn(f"bus id {bus} stands twice: links to it go to {machine.by_bus[bus]}")
    else:
        machine.by_bus[bus] = name


def _wire(sketch: Sketch, name: str, parent: str, speed: Speed) -> None:
    sketch.link(name, parent, Link("pcie", 1, speed.nominal, speed.effective), both=True)


def _pcie(sketch: Sketch, element: Element, bus: str) -> Speed:
    """The speed of the link above a device; "16 GT/s", "32.0 GT/s PCIe" and "" are all seen."""
    given = re.match(r"\s*(\d+(?:\.\d+)?)\s*GT/s", element.get("link_speed"))
    width = element.get("link_width").strip()
    found = pcie_of(float(given[1]) if given else None, int(width) if width.isdecimal() and len(width) < 6 else None)
    if found is None:
        sketch.warn(f"PCIe speed of {bus} unknown: {PCIE_UNKNOWN.nominal:g} GB/s assumed")
    return found or PCIE_UNKNOWN


def _through_port(sketch: Sketch, name: str, ports: list[Element], pcie: Speed) -> Speed:
    """What an adapter carries: the slower of all its ports together, whose speed is in Mbit/s, and its PCIe link."""
    total = 0.0
    for port in ports:
        try:
            speed = float(port.get("speed", "0"))
        except ValueError as exc:
            raise ProblemError(must_be(f"speed of net {name}", "Mbit/s", port.get("speed"))) from exc
        total += speed / 8000 if 0 < speed < 1e9 else 0.0
    if ports and not total:
        sketch.warn(f"speed of net {name} unknown: that of its PCIe link assumed")
    return Speed(pcie.nominal, min(pcie.effective, total or pcie.effective))


def _join(sketch: Sketch, cpus: list[tuple[str, Element]]) -> None:
    """All processors of a host, pair by pair, as NCCL does."""
    for at, (name, cpu) in enumerate(cpus):
        maker = cpu.get("vendor") if cpu.get("arch") == "x86_64" else cpu.get("arch")
        if len(cpus) > 1 and maker not in SMP_GB_S:
            sketch.warn(f"speed between processors {maker or 'of unknown make'}: {SMP_UNKNOWN_GB_S:g} GB/s assumed")
        for other, _ in cpus[at + 1 :]:
            sketch.link(name, other, Link("smp", 1, SMP_GB_S.get(maker, SMP_UNKNOWN_GB_S)), both=True)


def _bridge(machine: _Machine, bridge: str, target: str, speed: Speed) -> None:
    """A ``<pcilink>``: PCIe switches that are joined to one another; both ends may name it."""
    other = machine.by_bus.get(target)
    if other is None:
        raise ProblemError(must_be(f"target of pcilink of {bridge}", "the bus id of a device", target))
    if (bridge, other) not in machine.sketch.links:
        machine.sketch.link(bridge, other, Link("pcie", 1, speed.nominal, speed.nominal * PCIE_EFFICIENCY), both=True)


def _fast_link(machine: _Machine, gpu: str, element: Element, link: Element) -> None:
    """A ``<nvlink>``, ``<xgmi>`` or ``<c2c>`` of a GPU; each end has its own element, but a switch and a processor."""
    sketch = machine.sketch
    text = link.get("count", "1").strip()
    count = int(text) if text.isdecimal() and len(text) < 6 else 0
    if not 1 <= count <= MAX_LINKS_OF_PAIR:
        raise ProblemError(must_be(f"count of {link.tag} of {gpu}", f"1 to {MAX_LINKS_OF_PAIR}", text))
    if link.tag == "c2c":
        bw = link.get("bw")
        gb_s = float(bw) / 1000 if bw.isdecimal() and 0 < int(bw) < 10**7 else BY_KIND["c2c"]
        cpu = machine.cpu_of[gpu]
        for way in ((gpu, cpu), (cpu, gpu)):  # in place of PCIe, which is slower
            sketch.links.pop(way, None)
        sketch.link(gpu, cpu, Link("c2c", count, gb_s * count), both=True)
        return
    speed = _speed(sketch, element, link.tag)
    wire = Link(LINK_TAGS[link.tag], count, count * speed.nominal, count * speed.effective)
    target, kind = link.get("target"), link.get("tclass")
    if target in machine.by_bus and not kind.startswith(SWITCH_CLASS):
        sketch.link(gpu, machine.by_bus[target], wire)
        return
    if kind.startswith(CPU_CLASS):
        sketch.link(gpu, machine.cpu_of[gpu], wire, both=True)
        return
    hidden = set(re.sub(r"[:.0]", "", target.lower())) <= NOT_A_DEVICE
    if not (hidden or kind.startswith(SWITCH_CLASS)):
        raise ProblemError(must_be(f"target of {link.tag} of {gpu}", "the bus id of a device", target))
    host = sketch.nodes[gpu].host or ""
    switch = f"{host}/NVSwitch" if hidden else target
    if switch not in sketch.nodes:
        sketch.node(switch, "nvswitch", host=host)
    sketch.link(gpu, switch, wire, both=True)


def _speed(sketch: Sketch, gpu: Element, tag: str) -> Speed:
    """One link of a GPU of this capability (``sm``) or this AMD architecture (``gcn``: 910, gfx942)."""
    if tag == "xgmi":
        number = re.sub(r"\D", "", gpu.get("gcn").replace("90a", "910"))[:3]
        known = [gfx for gfx in XGMI_BY_GFX if number and gfx <= int(number)]
        if known:
            return XGMI_BY_GFX[max(known)]
    sm = gpu.get("sm")
    found = nvlink_of_sm(int(sm)) if tag == "nvlink" and sm.isdecimal() and len(sm) < 5 else None
    if found is None:
        unknown = XGMI_UNKNOWN if tag == "xgmi" else NVLINK_UNKNOWN
        sketch.warn(f"speed of {tag} links unknown: {unknown.nominal:g} GB/s a link assumed")
        return unknown
    return found


def _gpus_first(sketch: Sketch) -> None:
    """Number GPUs as programs do: before everything else, in their own order."""
    if not any(node.type == "gpu" for node in sketch.nodes.values()):
        raise ProblemError(must_be("a topology", "one with GPUs", Shown("none")))
    sketch.nodes = dict(sorted(sketch.nodes.items(), key=lambda named: named[1].type != "gpu"))
