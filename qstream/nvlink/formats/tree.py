"""Trees of switches with hosts below, as schedulers know a fabric, drawn with GPUs, domains and speeds that are assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qstream.errors import ProblemError
from qstream.nvlink.sketch import Link, Sketch
from qstream.nvlink.speeds import NIC_GB_S, NVLINK_BY_SM, Product
from schemas.wording import Shown, must_be

ASSUMED = Product(18, NVLINK_BY_SM[100])


@dataclass(slots=True)
class Tree:
    """Switches, the switches and hosts below each, and the domain of hosts that are in one, all by name."""

    below: dict[str, list[str]] = field(default_factory=dict)
    hosts: dict[str, list[str]] = field(default_factory=dict)
    domain_of: dict[str, str] = field(default_factory=dict)

    def all_hosts(self) -> list[str]:
        """Hosts in their order, each once."""
        return list(dict.fromkeys([*(host for hosts in self.hosts.values() for host in hosts), *self.domain_of]))


def draw_tree(tree: Tree, gpus_per_host: int) -> Sketch:
    """GPUs `host/GPU0` and so on, joined by one switch a domain; each GPU's NIC is its link to the leaf of its host.

    Hosts without a domain are domains of their own. Switches with hosts are leaves, those above are spines. Files of this kind
    name no speeds: 900 GB/s of NVLink and 50 of network a GPU are assumed, uplinks that carry as much as all GPUs below, and a
    warning says so.
    """
    sketch = Sketch()
    hosts = tree.all_hosts()
    if not hosts:
        raise ProblemError(must_be("a topology", "one with nodes", Shown("none")))
    gpus = {host: [f"{host}/GPU{number}" for number in range(gpus_per_host)] for host in hosts}
    domains: dict[str, list[str]] = {}
    for host in hosts:
        domain = tree.domain_of.get(host, host)
        domains.setdefault(domain, []).append(host)
        for gpu in gpus[host]:
            sketch.node(gpu, "gpu", host=host, domain=domain)
    for domain, members in domains.items():
        switch = f"{domain}/NVSwitch"
        sketch.node(switch, "nvswitch", domain=domain, host=members[0] if members == [domain] else None)
        wire = Link("nvlink", ASSUMED.links, ASSUMED.links * ASSUMED.speed.nominal)
        for host in members:
            for gpu in gpus[host]:
                sketch.link(gpu, switch, wire, both=True)
    _switches(sketch, tree, gpus)
    text = f"no speeds in the file: {ASSUMED.links * ASSUMED.speed.nominal:g} GB/s of NVLink and {NIC_GB_S:g} of network assumed"
    sketch.warn(f"{text}, and {gpus_per_host} GPUs a host")
    return sketch


def _switches(sketch: Sketch, tree: Tree, gpus: Mapping[str, Sequence[str]]) -> None:
    for name in tree.hosts:
        sketch.node(name, "leaf" if tree.hosts[name] else "spine")
    for name in tree.below:
        if name not in tree.hosts:
            sketch.node(name, "spine")
    for name in [*tree.below, *(child for children in tree.below.values() for child in children)]:
        if name not in sketch.nodes:
            raise ProblemError(must_be("a switch below another", "described too", name))
    for name, hosts in tree.hosts.items():
        for host in hosts:
            for gpu in gpus[host]:
                sketch.link(gpu, name, Link("ib", 1, NIC_GB_S), both=True)
    counts: dict[str, int] = {}
    for name, children in tree.below.items():
        for child in children:
            count = max(1, _gpus_below(tree, child, gpus, counts, ()))
            sketch.link(child, name, Link("ib", count, count * NIC_GB_S), both=True)


def _gpus_below(
    tree: Tree, switch: str, gpus: Mapping[str, Sequence[str]], counts: dict[str, int], above: tuple[str, ...]
) -> int:
    """GPUs below a switch; `ProblemError` if switches are below themselves, or deeper than any cluster is."""
    if switch in above or len(above) > 16:
        raise ProblemError(must_be("switches", "a tree of at most 16 levels", Shown(f"{switch!r} below itself")))
    if switch not in counts:
        own = sum(len(gpus[host]) for host in tree.hosts.get(switch, ()))
        down = (_gpus_below(tree, child, gpus, counts, (*above, switch)) for child in tree.below.get(switch, ()))
        counts[switch] = own + sum(down)
    return counts[switch]
