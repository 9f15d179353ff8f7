"""What ``nvidia-smi -q -x`` says of the GPUs of a host: which NVLink domain each is in, and how it is."""

from __future__ import annotations

import re
from typing import Final

from qstream.errors import ProblemError
from qstream.nvlink.formats.xml_tree import Element
from qstream.nvlink.sketch import Link, Sketch
from qstream.nvlink.speeds import (
    PCIE_EFFICIENCY,
    PCIE_GENERATION_GT_S,
    PCIE_LANE_GB_S,
    PCIE_UNKNOWN,
    Speed,
    product_of,
)
from schemas.wording import Shown, must_be

HOST: Final = "host-0"
LOST: Final = "GPU is lost"


def read_query(root: Element) -> Sketch:
    """GPUs of a host with their domain, ``clusterUuid.cliqueId``: an all-zero or missing one is none, whatever `state` says.

    GPUs of a domain are joined by one virtual switch, as fast as their product; all hang below one processor, since the file says
    nothing of what is between.
    """
    sketch = Sketch()
    gpus = [element for element in root.children if element.tag == "gpu"]
    if not gpus:
        raise ProblemError(must_be("a topology", "one with GPUs", Shown("none")))
    domains: dict[str, str] = {}
    for number, gpu in enumerate(gpus):
        name = f"GPU{_number(gpu.find('minor_number')) or number}"
        name = name if name not in sketch.nodes else f"GPU{number}.{gpu.get('id')}"
        domain = domain_of(gpu)
        sketch.node(name, "gpu", host=HOST, domain=domain, health=_health(gpu))
        if domain is not None:
            domains[name] = domain
        elif LOST in gpu.find("fabric", "state") or any(LOST in element.text for element in gpu.children):
            sketch.warn(f"{name} is lost")
    sketch.node("CPU0", "cpu", host=HOST)
    for number, domain in enumerate(dict.fromkeys(domains.values())):
        sketch.node(f"NVSwitch{number or ''}", "nvswitch", domain=domain)
        members = {name: gpu for name, gpu in zip(list(sketch.nodes), gpus, strict=False) if domains.get(name) == domain}
        for name, gpu in members.items():
            _to_switch(sketch, name, gpu.find("product_name"), f"NVSwitch{number or ''}")
    for name, gpu in zip(list(sketch.nodes), gpus, strict=False):
        speed = _pcie(sketch, name, gpu)
        sketch.link(name, "CPU0", Link("pcie", 1, speed.nominal, speed.effective), both=True)
    return sketch


def domain_of(gpu: Element) -> str | None:
    """``clusterUuid.cliqueId`` of a ``<gpu>``, None where it is in no NVLink domain.

    >>> fabric = Element("fabric", {}, [Element("clusterUuid", {}, text="0000-00"), Element("cliqueId", {}, text="0")])
    >>> domain_of(Element("gpu", {}, [fabric])) is None
    True
    """
    cluster, clique = gpu.find("fabric", "clusterUuid"), gpu.find("fabric", "cliqueId")
    known = re.fullmatch(r"[0-9a-fA-F-]{4,40}", cluster) and clique.isdecimal() and len(clique) < 12
    return f"{cluster}.{clique}" if known and set(cluster) - set("0-") else None


def _health(gpu: Element) -> str:
    if any(LOST in element.text for element in gpu.walk()):
        return "down"
    said = gpu.find("fabric", "health", "summary") or gpu.find("fabric", "health")
    limited = gpu.find("fabric", "health", "bandwidth") == "Degraded"
    return "degraded" if said == "Unhealthy" or limited else "ok"


def _number(text: str) -> str:
    return text if text.isdecimal() and len(text) < 6 else ""


def _to_switch(sketch: Sketch, name: str, product_name: str, switch: str) -> None:
    product = product_of(product_name)
    if product is None:
        sketch.warn(f"NVLinks of {product_name or name} unknown: those of GB200 assumed")
        product = product_of("GB200")
    assert product is not None
    links, speed = product
    sketch.link(name, switch, Link("nvlink", links, links * speed.nominal, links * speed.effective), both=True)


def _pcie(sketch: Sketch, name: str, gpu: Element) -> Speed:
    """The link of the GPU at its best: an idle one runs slower."""
    info = ("pci", "pci_gpu_link_info")
    generation = gpu.find(*info, "pcie_gen", "max_link_gen")
    width = gpu.find(*info, "link_widths", "max_link_width").removesuffix("x")
    gt_s = PCIE_GENERATION_GT_S.get(int(generation)) if _number(generation) else None
    if gt_s is None or not _number(width) or not 1 <= int(width) <= 32:
        sketch.warn(f"PCIe speed of {name} unknown: {PCIE_UNKNOWN.nominal:g} GB/s assumed")
        return PCIE_UNKNOWN
    nominal = PCIE_LANE_GB_S[gt_s] * int(width)
    return Speed(nominal, nominal * PCIE_EFFICIENCY)
