"""`qstream energy topology`: recordings of GPUs, or their telemetry, in, the topology that `cap` and the agent need out."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from qstream.cli.cluster import reach, require_topics
from qstream.cli.energy.recordings import Read, Zone, merged, watts
from qstream.cli.options import BootstrapServers, client_settings, seconds
from qstream.cli.output import counted, write_files
from qstream.config import Settings
from qstream.errors import ConfigError, ProblemError
from schemas.frame import JSON, FrameError
from schemas.power import GpuTelemetry, PowerTopology
from schemas.topics import GPU_TELEMETRY
from schemas.wording import must_be

CLOCKS: Final = re.compile(r"(\d{1,5}):(\d{1,5})")
STEP_MHZ: Final = 15


def topology(
    recordings: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RECORDING]...", help="One a node, or one that names its nodes; else telemetry."),
    ] = None,
    *,
    domain: Annotated[str, typer.Option(help="Name of the power domain: the row or rack that one plan covers.")],
    budget: Annotated[str, typer.Option(metavar="WATTS", help="What the domain may draw, such as 40kW.")],
    opt_in: Annotated[
        list[str] | None,
        typer.Option("--opt-in", metavar="UUID", help="A GPU that may get targets, or all; may be repeated."),
    ] = None,
    clocks: Annotated[
        str | None, typer.Option(metavar="MHZ:MHZ", help=f"Lowest and highest SM clock, as 345:1980, in steps of {STEP_MHZ}.")
    ] = None,
    zone: Zone = None,
    listen: Annotated[str, typer.Option(metavar="TIME", help="Without a recording, how long telemetry is listened to.")] = "5s",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the topology goes; else to stdout.")] = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Describe recorded GPUs, or those whose telemetry comes, as a topology.

    Limits are those that are reported (nvidia-smi: power.min_limit, power.max_limit, power.default_limit). A file
    that names no node is of the node that it is called after. Budgets of racks and nodes, and their overheads, are to be
    added by hand; no GPU is given a target unless it opts in. Without --clocks only power limits are planned, no clock caps.

    \b
    Example:
      qstream energy topology --domain row-1 --budget 40kW --clocks 345:1980 --out row-1.json -b localhost:9092
      qstream energy topology node-0.csv node-1.csv --zone UTC --domain rack-1 --budget 40kW --opt-in all --out rack.json
    """
    from qstream.energy.formats.topology import recorded_topology  # noqa: PLC0415 - numpy, which help does not need

    budget_w, steps, listen_s, read = watts(budget), _clocks(clocks), seconds(listen, "--listen"), Read()
    paths = recordings or []
    if out is not None and out.resolve() in {path.resolve() for path in paths}:
        raise ConfigError(must_be("--out", "another file than a recording", str(out)))
    frames: Iterable[GpuTelemetry] = merged(paths, domain, zone, [path.stem for path in paths], read)
    if not paths:
        frames = _heard(client_settings(bootstrap_servers), domain, listen_s)
    try:
        found = recorded_topology(frames, domain=domain, budget_w=budget_w, opt_in=opt_in or (), clocks_mhz=steps)
    except (FrameError, ProblemError) as exc:
        raise ConfigError(str(exc)) from exc
    read.say_skipped()
    if out is None:
        typer.echo(found.encode(JSON).decode())
        return
    (written,) = write_files([(out, found.encode(JSON) + b"\n")])
    typer.echo(f"{_counts(found)}; written: {written}")


def _heard(settings: Settings, domain: str, listen_s: float) -> Iterator[GpuTelemetry]:
    """The telemetry of the domain that comes from now on."""
    from qstream.stream.client import PlanSubscriber  # noqa: PLC0415 - Kafka, which recordings do not need

    require_topics(reach(settings), [GPU_TELEMETRY])
    with PlanSubscriber(GPU_TELEMETRY, GpuTelemetry, settings.bootstrap_servers, key=domain, settings=settings) as subscriber:
        until_s = time.monotonic() + listen_s
        while (left_s := until_s - time.monotonic()) > 0:
            frame = subscriber.poll(left_s)
            if frame is not None:
                yield frame


def _clocks(text: str | None) -> list[float]:
    """The clocks from one to the other of a text such as 345:1980; `ConfigError` if it is none."""
    found = None if text is None else CLOCKS.fullmatch(text)
    lowest, highest = (int(part) for part in found.groups()) if found else (0, 0)
    if text is not None and not 0 < lowest < highest:
        raise ConfigError(must_be("--clocks", "the lowest and the highest SM clock in MHz, such as 345:1980", text))
    return [] if text is None else [float(mhz) for mhz in range(lowest, highest + 1, STEP_MHZ)]


def _counts(found: PowerTopology) -> str:
    known = (found.limit_min_w > 0) & (found.limit_max_w > 0) & (found.limit_default_w > 0)
    opted = found.opt_in if found.opt_in is not None else known * 0
    targets = int((known & (opted == 1)).sum())
    counts = f"{counted(len(found.node), 'node')}, {counted(len(found.uuid), 'GPU')}, {targets} of them may be given targets"
    unknown = len(found.uuid) - int(known.sum())
    return f"{counts} ({unknown} without known limits: set limit_min_w, limit_max_w, limit_default_w)" if unknown else counts
