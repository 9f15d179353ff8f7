"""`qstream energy telemetry` and `qstream energy actuate`: what runs on a GPU node."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qstream.cli.ending import stop_signal
from qstream.cli.energy.lines import line
from qstream.cli.options import AsJson, BootstrapServers, client_settings, seconds
from qstream.cli.output import print_json, printable
from qstream.errors import ConfigError
from schemas.energy import EnergyAck, EnergyPlan
from schemas.topics import ENERGY_PLAN
from schemas.wording import must_be

if TYPE_CHECKING:
    from qstream.node.device import Device
    from qstream.node.telemetry import Source

SOURCES: Final = "nvml, fake, fake:FILE, dcgm:URL or zeusd:URL"
DEVICES: Final = "fake, fake:FILE, nvml, zeusd:URL or null"
SOURCE_S: Final = 5.0  # for which a source may take to answer

Domain = Annotated[str, typer.Option(help="The power domain of the node.")]


def telemetry(
    *,
    domain: Domain,
    node: Annotated[str | None, typer.Option(help="Name of the node; else the machine's.")] = None,
    source: Annotated[str, typer.Option(metavar="SOURCE", help=f"{SOURCES}.")] = "nvml",
    interval: Annotated[str, typer.Option(metavar="TIME", help="Between two readings, as 500ms or 1s.")] = "1s",
    count: Annotated[int | None, typer.Option(min=1, help="End after this many records.")] = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Publish the readings of this node's GPUs, until Ctrl-C or SIGTERM.

    Each reading is one record of qstream.gpu.telemetry.v1. GPUs that report no power are left out. A source that does not
    answer and a broker that is away are said once, and counted; the command goes on.

    `fake` are modelled GPUs; with a FILE they have the limits that `actuate --device fake:FILE` has set.

    \b
    Example:
      qstream energy telemetry --domain row-1 -b localhost:9092
      qstream energy telemetry --domain row-1 --source dcgm:http://localhost:9400/metrics --interval 5s
    """
    from qstream.node.telemetry import run_telemetry, within  # noqa: PLC0415 - numpy and Kafka, which help does not need
    from qstream.node.trouble import Troubles  # noqa: PLC0415
    from qstream.stream.client import Publisher  # noqa: PLC0415

    interval_s = seconds(interval, "--interval")
    named = node or socket.gethostname()
    read = within(_source(source, domain, named), SOURCE_S)
    settings = client_settings(bootstrap_servers)
    stop, troubles = stop_signal(), Troubles(_say)
    _say(f"publishing readings of {named} ({source}) every {interval} to {settings.bootstrap_servers}, Ctrl-C to end")
    publisher = Publisher(settings.bootstrap_servers, f"qstream/telemetry/{named}", settings)
    sent = run_telemetry(read, publisher, troubles, interval_s=interval_s, stop=stop, count=count)
    counts = "".join(f", {number} {kind}" for kind, number in sorted(troubles.counts.items()))
    _say(f"{sent} records{counts}")


def actuate(
    *,
    domain: Domain,
    node: Annotated[str | None, typer.Option(help="Name of the node; else the machine's.")] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help=f"{DEVICES}.")] = "nvml",
    apply: Annotated[bool, typer.Option("--apply", help="Set what plans say; else it is only printed.")] = False,
    allow: Annotated[list[str] | None, typer.Option(metavar="UUID", help="A GPU that may be set; may be repeated.")] = None,
    state: Annotated[Path | None, typer.Option(metavar="FILE", help="What was set, to put it back after a kill.")] = None,
    bootstrap_servers: BootstrapServers = None,
    as_json: AsJson = False,
) -> None:
    """Take the plans of a domain on this node, until Ctrl-C or SIGTERM; by default nothing is set.

    With --apply the power limits and SM clock caps of the GPUs named by --allow are set, if the plan too is in mode apply.
    Defaults come back when the plan is over, also while Kafka is away, at the end of the command, and when it starts again
    after a kill. Every plan is acknowledged on qstream.energy.ack.v1.

    \b
    Example:
      qstream energy actuate --domain row-1 --device fake
      qstream energy actuate --domain row-1 --apply --allow GPU-5c1b... --state /var/lib/qstream/row-1.json
    """
    from qstream.node.actuate import run_actuator  # noqa: PLC0415 - numpy and Kafka, which help does not need
    from qstream.node.actuator import Actuator  # noqa: PLC0415
    from qstream.node.trouble import Troubles  # noqa: PLC0415
    from qstream.stream.client import PlanSubscriber, Publisher  # noqa: PLC0415

    named = node or socket.gethostname()
    if apply and not allow:
        raise ConfigError(must_be("--allow", "given with --apply, once for each GPU that may be set", None))
    settings = client_settings(bootstrap_servers)
    stop, troubles = stop_signal(), Troubles(_say)
    actuator = Actuator(
        _device(device, named, allow or []),
        domain=domain,
        node=named,
        mode="apply" if apply else "dry_run",
        allow=allow or (),
        state_path=state,
    )
    if actuator.fault is not None:
        _say(f"nothing will be set: {actuator.fault}")
    _say(f"{'setting' if apply else 'printing, not setting,'} plans of {domain} on {named} ({device}), Ctrl-C to end")
    publisher = Publisher(settings.bootstrap_servers, f"qstream/actuate/{named}", settings)

    def plans() -> PlanSubscriber[EnergyPlan]:
        found = PlanSubscriber(ENERGY_PLAN, EnergyPlan, settings.bootstrap_servers, key=domain, settings=settings)
        _say("plans are read from now on")
        return found

    def show(plan: EnergyPlan | None, ack: EnergyAck) -> None:
        if as_json:
            print_json(ack.model_dump(mode="json"))
            return
        for text in [printable(line(ack) or ""), *(_targets(plan, ack) if plan is not None and ack.dry_run else [])]:
            typer.echo(text)

    run_actuator(actuator, plans, publisher, troubles, stop=stop, show=show)


def _targets(plan: EnergyPlan, ack: EnergyAck) -> list[str]:
    """What a dry run would have set, a line for each GPU."""
    rows = {uuid: row for row, uuid in enumerate(plan.uuid)}
    texts = []
    for uuid, result in zip(ack.uuid, ack.result, strict=True):
        limit, clock = float(plan.power_limit_w[rows[uuid]]), float(plan.sm_clock_mhz[rows[uuid]])
        wanted = [f"{limit:.0f} W" if limit > 0 else "default power limit", f"{clock:.0f} MHz" if clock > 0 else "no clock cap"]
        texts.append(printable(f"  {uuid}: {'would set' if result == 'ok' else result}: {', '.join(wanted)}"))
    return texts


def _source(text: str, domain: str, node: str) -> Source:
    """The source of that name; `ConfigError` for none."""
    kind, _, place = text.partition(":")
    if kind == "fake":
        from qstream.node.fake_file import open_fake  # noqa: PLC0415
        from qstream.node.fake_source import fake_source, give_work  # noqa: PLC0415

        gpus = open_fake(node, Path(place) if place else None)
        give_work(gpus)
        return fake_source(gpus, domain)
    raise ConfigError(must_be("--source", SOURCES, text))


def _device(text: str, node: str, allow: list[str]) -> Device:
    """The device of that name; `ConfigError` for none."""
    kind, _, place = text.partition(":")
    if kind == "fake":
        from qstream.node.fake_file import open_fake  # noqa: PLC0415

        return open_fake(node, Path(place) if place else None)
    raise ConfigError(must_be("--device", DEVICES, text))


def _say(text: str) -> None:
    typer.echo(printable(text), err=True)
