"""`qstream energy topology`: recordings of GPUs in, the topology that `qstream energy cap` and the agent need out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qstream.cli.energy.recordings import Read, Zone, merged, watts
from qstream.cli.output import counted, write_files
from qstream.errors import ConfigError
from schemas.frame import JSON, FrameError
from schemas.power import PowerTopology
from schemas.wording import must_be


def topology(
    recordings: Annotated[list[Path], typer.Argument(metavar="RECORDING...", help="One a node, or one that names its nodes.")],
    *,
    domain: Annotated[str, typer.Option(help="Name of the power domain: the row or rack that one plan covers.")],
    budget: Annotated[str, typer.Option(metavar="WATTS", help="What the domain may draw, such as 40kW.")],
    opt_in: Annotated[
        list[str] | None,
        typer.Option("--opt-in", metavar="UUID", help="A GPU that may get targets, or all; may be repeated."),
    ] = None,
    zone: Zone = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the topology goes; else to stdout.")] = None,
) -> None:
    """Describe recorded GPUs as a topology.

    Limits are those that the recording reports (nvidia-smi: power.min_limit, power.max_limit, power.default_limit). A file
    that names no node is of the node that it is called after. Budgets of racks and nodes, and their overheads, are to be
    added by hand; no GPU is given a target unless it opts in.

    \b
    Example:
      qstream energy topology node-0.csv node-1.csv --zone UTC --domain rack-1 --budget 40kW --opt-in all --out rack.json
    """
    from qstream.energy.formats.topology import recorded_topology  # noqa: PLC0415 - numpy, which help does not need

    budget_w, read = watts(budget), Read()
    if out is not None and out.resolve() in {path.resolve() for path in recordings}:
        raise ConfigError(must_be("--out", "another file than a recording", str(out)))
    frames = merged(recordings, domain, zone, [path.stem for path in recordings], read)
    try:
        found = recorded_topology(frames, domain=domain, budget_w=budget_w, opt_in=opt_in or ())
    except FrameError as exc:
        raise ConfigError(str(exc)) from exc
    read.say_skipped()
    if out is None:
        typer.echo(found.encode(JSON).decode())
        return
    (written,) = write_files([(out, found.encode(JSON) + b"\n")])
    typer.echo(f"{_counts(found)}; written: {written}")


def _counts(found: PowerTopology) -> str:
    known = (found.limit_min_w > 0) & (found.limit_max_w > 0) & (found.limit_default_w > 0)
    opted = found.opt_in if found.opt_in is not None else known * 0
    targets = int((known & (opted == 1)).sum())
    return f"{counted(len(found.node), 'node')}, {counted(len(found.uuid), 'GPU')}, {targets} of them may be given targets"
