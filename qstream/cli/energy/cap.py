"""`qstream energy cap`: recordings of GPU power in, a plan of power limits and clock caps out, without a server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qstream.arguments import named
from qstream.cli.energy.files import read_frame
from qstream.cli.energy.recordings import Read, Zone, merged, watts
from qstream.cli.names import parse_options
from qstream.cli.options import AsJson, OptionChanges
from qstream.cli.output import print_json, print_table, write_files
from qstream.cli.paths import require_outputs
from qstream.errors import ConfigError, ProblemError
from schemas.frame import JSON
from schemas.power import GpuTelemetry, PowerBudget, PowerTopology
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    from qstream.cli.energy.compared import Compared

FILE_NAMES: Final = {"nvidia-smi": "power-limits.sh", "dps": "dps-gpu-policy.sh", "dynamo": "dynamo-power.yaml"}
EXPORTS: Final = ", ".join(FILE_NAMES)
STYLES: Final = ("", "", "green")


def cap(
    recordings: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RECORDING...]", help="nvidia-smi CSV, DCGM exporter text, or JSON lines of frames."),
    ] = None,
    *,
    example: Annotated[bool, typer.Option("--example", help="Plan for a modelled rack of two nodes with 4 GPUs each.")] = False,
    topology: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PowerTopology as JSON: GPUs, limits and budgets.")
    ] = None,
    budget: Annotated[str | None, typer.Option(metavar="WATTS", help="A further budget of the domain, such as 40kW.")] = None,
    zone: Zone = None,
    node: Annotated[str | None, typer.Option(help="The node, where the recording names none.")] = None,
    changes: OptionChanges = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of what is drawn at random.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the plan goes, as JSON.")] = None,
    export_as: Annotated[
        str | None, typer.Option("--export", metavar="FORMAT", help=f"Write the limits for one of {EXPORTS}.")
    ] = None,
    export_to: Annotated[
        Path | None, typer.Option("--export-to", metavar="FILE", help="Where the export goes; else its usual name, here.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Where a page with pictures goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Plan the power limits and clock caps of recorded GPUs.

    The plan is compared with default limits and with uniform ones, the same part of its default for each GPU. Only GPUs
    with opt_in in the topology are given targets. Nothing is set: --export writes what sets it. Exit code 1 if budgets
    cannot be kept.

    \b
    Example:
      qstream energy cap --example --html report.html
      qstream energy cap gpus.csv --topology rack.json --zone UTC
      qstream energy cap node-0.prom node-1.prom --topology rack.json --budget 40kW --out plan.json --html report.html
      qstream energy cap gpus.csv --topology rack.json --zone UTC --export nvidia-smi
    """
    from qstream.cli.energy.compared import HEAD, compared  # noqa: PLC0415 - numpy and solvers, which help does not need
    from qstream.energy.options import EnergyOptions  # noqa: PLC0415 - as above

    started = time.perf_counter()
    limit_w = None if budget is None else watts(budget)
    export_to = _exported_to(export_as, export_to)
    options = EnergyOptions().changed({"seed": seed, **parse_options(changes or [])})
    read, files = Read(), recordings or []
    require_outputs([out, export_to, html], [*files, *([] if topology is None else [topology])])
    tree, frames = _given(files, topology, example, zone, node, read)
    budgets = [] if limit_w is None else [PowerBudget(domain=tree.domain, budget_w=limit_w, source="--budget")]
    source = ", ".join(path.name for path in files) or "a modelled rack"
    try:
        found = compared(source, tree, frames, budgets, options, read)
    except ProblemError as exc:
        raise ConfigError(f"{source}: {exc}") from exc
    read.say_skipped()
    written = write_files(_bodies(found, out, export_as, export_to, html))
    if as_json:
        print_json(found.as_data() | {"written": written, "wall_s": round(time.perf_counter() - started, 3)})
    else:
        print_table(HEAD, found.cells(), styles=STYLES)
        for line in (*found.facts(), *(f"written: {path}" for path in written)):
            typer.echo(line)
    if found.offline.plan.status == "infeasible":
        raise typer.Exit(1)


def _given(
    files: Sequence[Path], topology: Path | None, example: bool, zone: str | None, node: str | None, read: Read
) -> tuple[PowerTopology, Iterator[GpuTelemetry]]:
    """The topology and the frames to plan from."""
    if example:
        if files or topology is not None:
            raise ConfigError(must_be("RECORDING and --topology", "absent with --example", Shown("one of them")))
        from qstream.cli.energy.example import rack  # noqa: PLC0415 - as above

        tree, frames = rack()
        return tree, read.seen(frames)
    if topology is None:
        if not files:
            raise ConfigError(must_be("RECORDING and --topology", "given, or --example", Shown("neither")))
        raise ConfigError(must_be("--topology", "given with RECORDING (qstream energy topology writes one)", None))
    if not files:
        raise ConfigError(must_be("RECORDING", "given with --topology: a file of GPU power", None))
    tree = read_frame(PowerTopology, topology, "--topology")
    return tree, merged(files, tree.domain, zone, [node] * len(files), read)


def _exported_to(export_as: str | None, path: Path | None) -> Path | None:
    """The file of the export: the one named, else the format's own name in this folder."""
    if export_as is None:
        if path is not None:
            raise ConfigError(must_be("--export", f"given with --export-to, one of {EXPORTS}", None))
        return None
    usual = Path(named("--export", FILE_NAMES, export_as))
    return path or usual


def _bodies(
    found: Compared, out: Path | None, export_as: str | None, export_to: Path | None, html: Path | None
) -> list[tuple[Path, bytes]]:
    """The files that were asked for; all are made before any is written."""
    from qstream.cli.energy.page import page  # noqa: PLC0415 - as above
    from qstream.energy.formats.export import Exported, export  # noqa: PLC0415 - as above

    plan, now = found.offline.plan, found.offline.memory.now
    bodies: list[tuple[Path, bytes]] = []
    if out is not None:
        bodies.append((out, plan.encode(JSON) + b"\n"))
    if export_as is not None and export_to is not None:
        roles = tuple(found.read.role.get(uuid, "") for uuid in now.topology.uuid)
        bodies.append((export_to, export(Exported(plan, now.topology, now.limit_w.astype(float), roles), export_as)))
    if html is not None:
        bodies.append((html, page(found).encode()))
    return bodies
