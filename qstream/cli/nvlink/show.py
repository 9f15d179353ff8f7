"""`qstream nvlink show`: what a fabric is made of, how fast GPUs reach one another, and whether there is anything to optimise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import typer

from qstream.cli.nvlink.files import FormatOption, GpusPerHost, Source, read_fabric
from qstream.cli.options import AsJson
from qstream.cli.output import counted, print_json, print_table, printable

if TYPE_CHECKING:
    from qstream.nvlink.survey import Survey
    from schemas.fabric import FabricTopology

SHOWN: Final = 16  # rows of a table; --json has all
PLURALS: Final = {
    "nvswitch": "NVSwitches",
    "pcie": "PCIe switches",
    "cpu": "processors",
    "nic": "NICs",
    "leaf": "leaves",
}


def show(file: Source, format: FormatOption = "auto", gpus_per_host: GpusPerHost = 8, as_json: AsJson = False) -> None:  # noqa: A002
    """Show a fabric: its GPUs, domains, tiers, speeds and warnings, and which decisions can gain anything.

    FILE is node-link JSON of networkx, XML of NCCL or RCCL, what nvidia-smi topo -m or nvidia-smi -q -x prints, a model of
    topograph, a topology.conf or topology.yaml of Slurm, what ibnetdiscover prints, or a FabricTopology frame. Speeds are
    GB/s, 1e9 bytes/s, of one direction. They are what the file says or what is known of the product: modelled, not measured.

    \b
    Example:
      qstream nvlink show topo.xml
      nvidia-smi topo -m | qstream nvlink show -
      qstream nvlink show gb200-nvl72:8 --json
    """
    from qstream.nvlink.survey import survey  # noqa: PLC0415 - numpy, which help does not need

    topology = read_fabric(file, format=format, gpus_per_host=gpus_per_host)
    found = survey(topology)
    if as_json:
        print_json(as_data(topology, found))
        return
    data = as_data(topology, found)
    typer.echo(printable(f"{topology.fabric}: {_counts(data)}; digest {data['digest']}"))
    _print_first(("domain", "hosts", "GPUs", "free", "degraded", "down"), [tuple(row.values()) for row in data["domains"]])
    print_table(
        ("links between", "kind", "links a pair", "GB/s", "GB/s that programs reach", "pairs"),
        [
            (each.between, each.kind, each.links, f"{each.gb_s:g}", f"{each.effective_gb_s:g}", _pairs(each.pairs, each.down))
            for each in found.links
        ],
    )
    tiers = [(t.where, f"{t.gb_s:.4g}", f"{t.us_kb:.4g}", t.pairs) for t in found.tiers]
    _print_first(("GPUs", "GB/s, modelled", "us/KB, modelled", "pairs"), tiers)
    print_table(
        ("decision", "helps", "why"),
        [(each.name, "yes" if each.helps else "no", each.why) for each in found.decisions],
        styles=["green" if each.helps else "" for each in found.decisions],
    )
    for text in topology.warnings:
        typer.echo(printable(f"warning: {text}"))
    if found.nothing_to_win:
        typer.echo(f"Nothing to optimise: {found.decisions[0].why}.")


def as_data(topology: FabricTopology, found: Survey) -> dict[str, Any]:
    """What is shown, for machines."""
    import numpy as np  # noqa: PLC0415 - as above

    from schemas.fabric import GPU, NODE_TYPES  # noqa: PLC0415 - as above

    gpus = np.flatnonzero(topology.node_type == GPU)
    skip = found.blocks.skip_reason
    return {
        "fabric": topology.fabric,
        "source": topology.source,
        "digest": topology.digest(),
        "nodes": {name: int((topology.node_type == at).sum()) for at, name in enumerate(NODE_TYPES)},
        "gpus": len(gpus),
        "free_gpus": int(found.blocks.capacity.sum()),
        "links": len(topology.link_src),
        "domains": _domains(topology, gpus),
        "link_classes": [_fields(each) for each in found.links],
        "blocks": len(found.blocks.name),
        "tiers": [_fields(each) | {"modelled": True} for each in found.tiers],
        "decisions": [_fields(each) for each in found.decisions],
        "nothing_to_optimise": found.nothing_to_win,
        "skip_reason": None if skip is None else str(skip),
        "warnings": list(topology.warnings),
    }


def _fields(each: Any) -> dict[str, Any]:
    return {name: getattr(each, name) for name in type(each).__slots__}


def _domains(topology: FabricTopology, gpus: Any) -> list[dict[str, Any]]:
    """Hosts and GPUs of each domain; a GPU without one is in that of its host."""
    rows: dict[str, dict[str, Any]] = {}
    hosts: dict[str, set[int]] = {}
    for gpu in gpus.tolist():
        domain, host = int(topology.node_domain[gpu]), int(topology.node_host[gpu])
        name = topology.domain_name[domain] if domain >= 0 else topology.node_name[host] if host >= 0 else "none"
        row = rows.setdefault(name, {"domain": name, "hosts": 0, "gpus": 0, "free": 0, "degraded": 0, "down": 0})
        health = int(topology.node_health[gpu])
        row["gpus"] += 1
        row["free"] += bool(topology.node_free[gpu]) and health != 2
        row["degraded"] += health == 1
        row["down"] += health == 2
        hosts.setdefault(name, set()).update({host} - {-1})
        row["hosts"] = len(hosts[name])
    return list(rows.values())


def _counts(data: dict[str, Any]) -> str:
    nodes = {name: count for name, count in data["nodes"].items() if count and name != "gpu"}
    others = ", ".join(f"{count} {PLURALS.get(name, name + 's')}" if count > 1 else f"1 {name}" for name, count in nodes.items())
    free = "" if data["free_gpus"] == data["gpus"] else f" ({data['free_gpus']} free)"
    return f"{counted(data['gpus'], 'GPU')}{free}, {others + ', ' if others else ''}{counted(data['links'], 'link')}"


def _pairs(pairs: int, down: int) -> str:
    return f"{pairs}, {down} of them down" if down else str(pairs)


def _print_first(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """A table of the first rows, and how many more there are."""
    print_table(columns, rows[:SHOWN])
    if len(rows) > SHOWN:
        typer.echo(f"... and {len(rows) - SHOWN} more, shown by --json")
