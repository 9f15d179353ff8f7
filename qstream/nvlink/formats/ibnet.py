"""What ``ibnetdiscover`` prints: InfiniBand switches and adapters, port by port."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from qstream.errors import ProblemError
from qstream.nvlink.formats.tree import ASSUMED
from qstream.nvlink.sketch import Link, Sketch
from qstream.nvlink.speeds import INFINIBAND_LANE_GB_S, NIC_GB_S, PCIE_UNKNOWN
from schemas.wording import Shown, must_be

_NODE: Final = re.compile(r'^(Switch|Ca|Rt)\s+\d+\s+"([^"]+)"\s*(?:#\s*"([^"]*)")?')
_PORT: Final = re.compile(r'^\[(\d+)\](?:\([0-9a-fA-F]+\))?\s+"([^"]+)"\[(\d+)\]')
_RATE: Final = re.compile(r"\b(\d{1,2})x([A-Z]+\d*)\b")
NOT_AN_ADAPTER: Final = "Aggregation Node"  # the switch's own


@dataclass(slots=True)
class _Net:
    """Devices by GUID: what they are and say of themselves; links by pair of GUIDs, with the speed of each port."""

    kind: dict[str, str] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)
    ports: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    unknown: int = 0


def read_ibnet(text: str, gpus_per_host: int) -> Sketch:
    """Switches, adapters and their hosts, named by the first word of the adapter's description.

    Switches with adapters are leaves, the others spines. Each host has `gpus_per_host` GPUs, which one NVSwitch joins; the
    adapters of a host are shared out among its GPUs in order of their names, which is what rails are.
    """
    net = _parse(text)
    sketch = Sketch()
    nics = {guid: net.says[guid] for guid in net.kind if net.kind[guid] == "Ca" and NOT_AN_ADAPTER not in net.says[guid]}
    hosts: dict[str, list[str]] = {}
    for guid, says in nics.items():
        hosts.setdefault((says.split() or [guid])[0], []).append(guid)
    if not hosts:
        raise ProblemError(must_be("a topology", "one with adapters (Ca)", Shown("none")))
    names: dict[str, str] = {}
    taken: set[str] = set()
    for host, adapters in hosts.items():
        for at, guid in enumerate(adapters):
            name = f"{host}/{_adapter(nics[guid], at)}"
            names[guid] = f"{host}/{guid}" if name in taken else name
            taken.add(name)
    _draw_hosts(sketch, hosts, names, gpus_per_host)
    switches = [guid for guid in net.kind if net.kind[guid] == "Switch"]
    near = {one for one, other in net.ports if other in nics} | {other for one, other in net.ports if one in nics}
    twice = Counter((net.says[guid].split(":")[0] or guid) for guid in switches)
    for guid in switches:
        plain = net.says[guid].split(";")[-1].split(":")[0].strip() or guid
        names[guid] = plain if plain not in sketch.nodes and twice[plain] < 2 else guid
        sketch.node(names[guid], "leaf" if guid in near else "spine")
    for (one, other), speeds in net.ports.items():
        if one in names and other in names:
            sketch.link(names[one], names[other], Link("ib", len(speeds), sum(speeds)))
    if net.unknown:
        sketch.warn(f"speed of {net.unknown} InfiniBand ports unknown: {NIC_GB_S:g} GB/s assumed")
    return sketch


def _parse(text: str) -> _Net:
    net = _Net()
    at = ""
    for line in text.splitlines():
        if node := _NODE.match(line):
            at = node[2]
            if at in net.kind:
                raise ProblemError(must_be("switches and adapters", "described once each", Shown(f"{at!r} twice")))
            net.kind[at] = node[1]
            net.says[at] = node[3] or ""
        elif (port := _PORT.match(line)) and at:
            net.ports.setdefault((at, port[2]), []).append(_speed(net, line))
    return net


def _speed(net: _Net, line: str) -> float:
    """GB/s of a port: ``4xNDR`` is four lanes."""
    found = _RATE.findall(line.split('"')[-1])
    lane = INFINIBAND_LANE_GB_S.get(found[-1][1]) if found else None
    if lane is None or not int(found[-1][0]):
        net.unknown += 1
        return NIC_GB_S
    return int(found[-1][0]) * lane


def _adapter(says: str, at: int) -> str:
    words = says.split()
    return words[1] if len(words) > 1 else f"NIC{at}"


def _draw_hosts(sketch: Sketch, hosts: dict[str, list[str]], names: dict[str, str], gpus_per_host: int) -> None:
    for host in sorted(hosts):
        for number in range(gpus_per_host):
            sketch.node(f"{host}/GPU{number}", "gpu", host=host, domain=host)
    nvlink = Link("nvlink", ASSUMED.links, ASSUMED.links * ASSUMED.speed.nominal)
    for host in sorted(hosts):
        switch = f"{host}/NVSwitch"
        sketch.node(switch, "nvswitch", host=host, domain=host)
        nics = sorted((names[guid] for guid in hosts[host]), key=_by_number)
        for name in nics:
            sketch.node(name, "nic", host=host)
        for number in range(gpus_per_host):
            gpu = f"{host}/GPU{number}"
            sketch.link(gpu, switch, nvlink, both=True)
            nic = nics[number * len(nics) // gpus_per_host]
            sketch.link(gpu, nic, Link("pcie", 1, max(PCIE_UNKNOWN.nominal, NIC_GB_S)), both=True)
        for extra in sorted(set(nics) - {nics[number * len(nics) // gpus_per_host] for number in range(gpus_per_host)}):
            sketch.warn(f"{extra} has no GPU of its own: not used")
    sketch.warn(f"{gpus_per_host} GPUs a host and {nvlink.gb_s:g} GB/s of NVLink each assumed: the file says nothing of GPUs")


def _by_number(name: str) -> tuple[object, ...]:
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d{1,9})", name))
