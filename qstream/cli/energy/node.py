"""`qstream energy telemetry` and `qstream energy actuate`: what runs on a GPU node."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote

import typer

from qstream.cli.ending import stop_signal
from qstream.cli.energy.lines import line
from qstream.cli.options import AsJson, BootstrapServers, client_settings, seconds
from qstream.cli.output import counted, print_json, printable
from qstream.errors import ConfigError
from schemas.energy import EnergyAck, EnergyPlan
from schemas.topics import ENERGY_PLAN
from schemas.wording import must_be

if TYPE_CHECKING:
    from threading import Event

    from qstream.config import Settings
    from qstream.node.actuator import Actuator
    from qstream.node.device import Device
    from qstream.node.telemetry import Source
    from qstream.node.trouble import Troubles

SOURCES: Final = "nvml, fake, fake:FILE, dcgm:URL, zeusd or zeusd:URL"
DEVICES: Final = "nvml, zeusd, zeusd:URL, fake, fake:FILE or null"
ZEUSD_TOKEN: Final = "ZEUSD_TOKEN"  # as in Zeus
STATE: Final = Path("/var/lib/qstream")
COUNTED: Final = {
    "damaged": "damaged lines",
    "kafka": "not confirmed in time",
    "power": "readings of a GPU without power",
    "progress": "unreadable files of progress",
    "repeated": "repeated readings",
    "source": "failed readings",
}
SOURCE_S: Final = 5.0  # for which a source may take to answer

MOST_CHARACTERS: Final = {"--domain": 200, "--node": 100}


def _name(option: str, text: str | None) -> str | None:
    """The text of an option, if it can be a name; `ConfigError` if not."""
    most = MOST_CHARACTERS[option]
    if text is not None and not (text.isprintable() and 0 < len(text) <= most):
        raise ConfigError(must_be(option, f"1 to {most} printable characters", text))
    return text


Domain = Annotated[str, typer.Option(help="The power domain of the node.", callback=lambda text: _name("--domain", text))]
Node = Annotated[
    str | None, typer.Option(help="Name of the node; else the machine's.", callback=lambda text: _name("--node", text))
]


def telemetry(
    *,
    domain: Domain,
    node: Node = None,
    source: Annotated[str, typer.Option(metavar="SOURCE", help=f"{SOURCES}.")] = "nvml",
    interval: Annotated[str, typer.Option(metavar="TIME", help="Between two readings, as 500ms or 1s.")] = "1s",
    progress: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where jobs write the work done, in a file named by each GPU's uuid.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after this many records.")] = None,
    bootstrap_servers: BootstrapServers = None,
) -> None:
    """Publish the readings of this node's GPUs, until Ctrl-C or SIGTERM.

    Each reading is one record of qstream.gpu.telemetry.v1. GPUs that report no power are left out. A source that does not
    answer and a broker that is away are said once, and counted; the command goes on.

    `fake` are modelled GPUs; with a FILE they have the limits that `actuate --device fake:FILE` has set. A file of --progress
    has COUNT [JOB [WORKLOAD]]: tokens or steps so far, the job's name, and prefill, decode, train or other.

    \b
    Example:
      qstream energy telemetry --domain row-1 -b localhost:9092
      qstream energy telemetry --domain row-1 --source dcgm:http://localhost:9400/metrics --interval 5s
    """
    from qstream.node.progress import with_progress  # noqa: PLC0415 - numpy and Kafka, which help does not need
    from qstream.node.telemetry import run_telemetry, within  # noqa: PLC0415 - as above
    from qstream.node.trouble import Troubles  # noqa: PLC0415 - as above
    from qstream.stream.client import Publisher  # noqa: PLC0415 - as above

    interval_s = seconds(interval, "--interval")
    stop, troubles = stop_signal(), Troubles(_say)
    read = _source(source, domain, node, troubles)
    read = within(read if progress is None else with_progress(read, progress, troubles), SOURCE_S)
    settings = client_settings(bootstrap_servers)
    named = node or socket.gethostname()
    _say(f"publishing readings of {named} ({source}) every {interval} to {settings.bootstrap_servers}, Ctrl-C to end")
    publisher = Publisher(settings.bootstrap_servers, f"qstream/telemetry/{named}", settings)
    sent = run_telemetry(read, publisher, troubles, interval_s=interval_s, stop=stop, count=count)
    counts = "".join(f", {number} {COUNTED[kind]}" for kind, number in sorted(troubles.counts.items()))
    _say(f"{counted(sent, 'record')}{counts}")


def actuate(
    *,
    domain: Domain,
    node: Node = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help=f"{DEVICES}.")] = "nvml",
    apply: Annotated[bool, typer.Option("--apply", help="Set what plans say; else it is only printed.")] = False,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="UUID", help="A GPU that may be set, or @FILE with one a line; may be repeated.")
    ] = None,
    state: Annotated[Path | None, typer.Option(metavar="FILE", help=f"What was set; else in {STATE}.")] = None,
    verify: Annotated[str, typer.Option(metavar="TIME", help="How often what was set is read back, as 30s.")] = "30s",
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
    from qstream.node.actuator import Actuator  # noqa: PLC0415 - numpy, which help does not need
    from qstream.node.lease import sole_owner  # noqa: PLC0415 - as above

    if apply and not allow:
        raise ConfigError(must_be("--allow", "given with --apply, once for each GPU that may be set", None))
    stop, verify_s = stop_signal(), seconds(verify, "--verify")
    named, settings, allowed = node or socket.gethostname(), client_settings(bootstrap_servers), allowed_uuids(allow or [])
    found = _device(device, named, allowed)
    path = state or STATE / f"{quote(domain, safe='')}.{quote(named, safe='')}.json"
    with sole_owner(path) if apply else nullcontext():
        actuator = Actuator(
            found,
            domain=domain,
            node=named,
            mode="apply" if apply else "dry_run",
            allow=allowed if apply or allow else found.uuids,  # without --apply it is only said what could be set
            state_path=path,
            verify_s=verify_s,
        )
        what = "setting" if apply else "printing, not setting,"
        _say(f"{what} plans of {domain} on {named} ({device}) from {settings.bootstrap_servers}, Ctrl-C to end")
        if actuator.fault is not None:
            _say(f"nothing will be set: {actuator.fault}")
        elif actuator.touched and not apply:
            _say(f"{', '.join(actuator.touched)} still have what was set before a kill; --apply puts it back")
        _take_plans(actuator, settings, stop, as_json)


def _take_plans(actuator: Actuator, settings: Settings, stop: Event, as_json: bool) -> None:
    """Take plans until the end, and print what came of them."""
    from qstream.node.actuate import run_actuator  # noqa: PLC0415 - Kafka, which help does not need
    from qstream.node.trouble import Troubles  # noqa: PLC0415 - as above
    from qstream.stream.client import PlanSubscriber, Publisher  # noqa: PLC0415 - as above

    publisher = Publisher(settings.bootstrap_servers, f"qstream/actuate/{actuator.node}", settings)

    def plans() -> PlanSubscriber[EnergyPlan]:
        found = PlanSubscriber(ENERGY_PLAN, EnergyPlan, settings.bootstrap_servers, key=actuator.domain, settings=settings)
        _say("plans are read from now on")
        return found

    def show(plan: EnergyPlan | None, ack: EnergyAck) -> None:
        if as_json:
            print_json(ack.model_dump(mode="json"))
            return
        for text in [line(ack) or "", *(_targets(plan, ack) if plan is not None and ack.dry_run else [])]:
            typer.echo(printable(text))

    run_actuator(actuator, plans, publisher, Troubles(_say), stop=stop, show=show)


def allowed_uuids(given: list[str]) -> list[str]:
    """The uuids of --allow, those of files included."""
    found = []
    for text in given:
        if not text.startswith("@"):
            found.append(text)
            continue
        try:
            lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
            raise ConfigError(must_be("--allow", f"a uuid, or @ and the path of a file of them ({reason})", text)) from exc
        found += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return found


def _targets(plan: EnergyPlan, ack: EnergyAck) -> list[str]:
    """What a dry run would have set, a line for each GPU."""
    rows = {uuid: row for row, uuid in enumerate(plan.uuid)}
    texts = []
    for uuid, result in zip(ack.uuid, ack.result, strict=True):
        limit, clock = float(plan.power_limit_w[rows[uuid]]), float(plan.sm_clock_mhz[rows[uuid]])
        wanted = [f"{limit:.0f} W" if limit > 0 else "default power limit", f"{clock:.0f} MHz" if clock > 0 else "no clock cap"]
        texts.append(f"  {uuid}: {'would set' if result == 'ok' else result}: {', '.join(wanted)}")
    return texts


def _source(text: str, domain: str, node: str | None, troubles: Troubles) -> Source:
    """The source of that name; `ConfigError` for none."""
    kind, _, place = text.partition(":")
    named = node or socket.gethostname()
    if kind == "fake":
        from qstream.node.fake_file import open_fake  # noqa: PLC0415 - each loads what only it needs
        from qstream.node.fake_source import fake_source, give_work  # noqa: PLC0415 - as above

        gpus = open_fake(named, Path(place) if place else None)
        give_work(gpus)
        return fake_source(gpus, domain)
    if kind == "dcgm":
        from qstream.node.dcgm import dcgm_source  # noqa: PLC0415 - as above
        from qstream.node.fetch import checked_place  # noqa: PLC0415 - as above

        return dcgm_source(checked_place(place), domain, node, troubles)
    if kind == "zeusd":
        from qstream.node.zeusd import uuid_by_address, zeusd_source  # noqa: PLC0415 - as above

        return zeusd_source(_zeusd(place), domain, named, uuid_by_address(), token=os.environ.get(ZEUSD_TOKEN, ""))
    if text == "nvml":
        from qstream.node.nvml import NvmlGpus, nvml_source  # noqa: PLC0415 - as above

        return nvml_source(NvmlGpus(), domain, named)
    raise ConfigError(must_be("--source", SOURCES, text))


def _device(text: str, node: str, allow: list[str]) -> Device:
    """The device of that name; `ConfigError` for none."""
    kind, _, place = text.partition(":")
    if kind == "fake":
        from qstream.node.fake_file import open_fake  # noqa: PLC0415 - each loads what only it needs

        return open_fake(node, Path(place) if place else None)
    if text == "null":
        from qstream.node.null import NullDevice  # noqa: PLC0415 - as above

        return NullDevice(allow)
    if kind == "zeusd" or text == "nvml":
        from qstream.node.nvml import NvmlGpus  # noqa: PLC0415 - as above

        if text == "nvml":
            return NvmlGpus()
        from qstream.node.zeusd import ZeusdDevice, uuid_by_address  # noqa: PLC0415 - as above

        return ZeusdDevice(NvmlGpus(), _zeusd(place), uuid_by_address(), token=os.environ.get(ZEUSD_TOKEN, ""))
    raise ConfigError(must_be("--device", DEVICES, text))


def _zeusd(place: str) -> str:
    """Where zeusd is: as named, else where Zeus' own variables say, else its usual socket."""
    from qstream.node.fetch import SOCKET, checked_place  # noqa: PLC0415 - as above

    if place:
        return checked_place(place)
    if address := os.environ.get("ZEUSD_HOST_PORT"):
        return checked_place(f"http://{address}")
    return checked_place(SOCKET + os.environ.get("ZEUSD_SOCK_PATH", "/run/zeusd/zeusd.sock"))


def _say(text: str) -> None:
    typer.echo(printable(text), err=True)
