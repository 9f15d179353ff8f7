"""`qstream nvlink schedule`: when each transfer begins where a port does one at a time, next to rotation and matchings."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from qstream.cli.nvlink.files import matrix_of
from qstream.cli.nvlink.work import Work, of_work
from qstream.cli.options import AsJson
from qstream.cli.output import counted, print_json, print_table, printable, write_files
from qstream.cli.paths import require_outputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qstream.nvlink.schedule import Schedule

GB: Final = 1e9
MOST_COMPARED: Final = 256  # ports: above, matchings and sharing take minutes


@of_work
def schedule(
    work: Work,
    *,
    gb_s: Annotated[
        float,
        typer.Option("--gb-s", min=0.001, max=10_000, help="GB/s of a port in one direction; of the fabric's NICs if given."),
    ] = 50.0,
    startup_us: Annotated[float, typer.Option(min=0, max=1e9, help="What a transfer costs beside its bytes.")] = 0.0,
    barriers: Annotated[bool, typer.Option("--barriers", help="Transfers go in phases that wait for their longest.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the transfers go, as CSV.")] = None,
    as_json: AsJson = False,
) -> None:
    """Order transfers so that the last one ends early, where a port sends one and receives one at a time.

    The table shows the end of the last transfer over the bound, which is the fullest port, beside rotation and matchings of
    most bytes (LAP), both with barriers, and without start-ups beside ports that share fairly without any order. Where one port
    is so full that no order matters, that is said. All times are modelled.

    JOB is what qstream nvlink place takes. Without --topology, each rank is a port. With it, ports are the NICs of the job's
    GPUs, and transfers what they carry between servers once rails are balanced.

    \b
    Example:
      qstream nvlink schedule traffic.npy --startup-us 2 --out transfers.csv
      qstream nvlink schedule --dp 48 --ep 48 --topology hgx-h100:6 --barriers
    """
    from qstream.nvlink.schedule import schedule_transfers  # noqa: PLC0415 - numpy, which help does not need

    started = time.perf_counter()
    require_outputs([out], work.inputs())
    why = ""
    if work.topology is None:
        from qstream.cli.nvlink.between import without_diagonal  # noqa: PLC0415 - as above

        sent = without_diagonal(matrix_of(work.profile()))
        names = [f"rank{rank}" for rank in range(len(sent))]
    else:
        sent, names, gb_s, why = _on_fabric(work)
    if why:
        if as_json:
            print_json({"skip_reason": why, "schedules": [], "transfers": [], "modelled": True})
        else:
            typer.echo(printable(f"nothing to order: {why}"))
        return
    found = schedule_transfers(sent, gb_s, startup_us, barriers=barriers)
    written = [] if out is None else write_files([(out, _csv(found, names).encode())])
    rows = [("qstream", found.span_us), *_peers(sent, gb_s, startup_us)]
    data = {
        "ports": len(sent),
        "bytes": float(sent.sum()),
        "gb_s": gb_s,
        "startup_us": startup_us,
        "barriers": barriers,
        "method": found.method,
        "bound_us": found.bound_us,
        "schedules": [{"name": name, "span_us": us, "over_bound": us / found.bound_us} for name, us in rows],
        "modelled": True,
        "written": written,
    }
    if as_json:
        print_json(data | {"transfers": _transfers(found, names), "wall_s": round(time.perf_counter() - started, 3)})
        return
    cells = [(name, f"{us:,.1f}", f"{us / found.bound_us:.4f}") for name, us in rows]
    print_table(("order", "end of the last, us (modelled)", "over the bound"), cells, styles=["green"])
    typer.echo(
        f"{sent.sum() / GB:,.3f} GB in {counted(len(found.src), 'transfer')} between {len(sent)} ports, by {found.method};"
        f" the last cannot end before {found.bound_us:,.1f} us"
    )
    if found.method == "port-bound":
        typer.echo("one port is so full that no order matters")
    for path in written:
        typer.echo(printable(f"written: {path}"))


def _on_fabric(work: Work) -> tuple[NDArray[np.float64], list[str], float, str]:
    """Bytes between NICs of a job, their names and speed, and why there are none."""
    import numpy as np  # noqa: PLC0415 - as above

    from qstream.cli.nvlink.between import of_job  # noqa: PLC0415 - as above
    from qstream.nvlink.crossing import nic_traffic  # noqa: PLC0415 - as above
    from qstream.nvlink.rails import balance_rails  # noqa: PLC0415 - as above

    fabric = work.fabric()
    asked = of_job(work.profile(fabric), fabric)
    if asked.crossing is None:
        return np.zeros((1, 1)), [], 1.0, asked.why
    net = asked.crossing
    rails = balance_rails(net.sent, net.nic_gb_s, net.nvlink_gb_s)
    return nic_traffic(net, rails.src, rails.dst, rails.rail, rails.nbytes), list(asked.names), net.nic_gb_s, ""


def _peers(sent: NDArray[np.float64], gb_s: float, startup_us: float) -> list[tuple[str, float]]:
    import numpy as np  # noqa: PLC0415 - as above

    from qstream.nvlink.fluid import drain  # noqa: PLC0415 - as above
    from qstream.nvlink.schedule import matchings_us, rotation_us  # noqa: PLC0415 - as above

    found = [("rotation, barriers", rotation_us(sent, gb_s, startup_us))]
    if len(sent) > MOST_COMPARED:
        return found
    found.append(("matchings (LAP), barriers", matchings_us(sent, gb_s, startup_us)))
    if startup_us > 0:
        return found
    src, dst = np.nonzero(sent)
    links = np.stack([src, len(sent) + dst], axis=1).ravel()
    shared = drain(np.arange(len(src) + 1) * 2, links, sent[src, dst], np.full(2 * len(sent), gb_s), merge=0.005)
    return [*found, ("no order, fair sharing", float(shared.max()))]


def _transfers(found: Schedule, names: list[str]) -> list[dict[str, Any]]:
    columns = (found.src, found.dst, found.phase, found.start_us, found.nbytes)
    return [
        {"src": names[src], "dst": names[dst], "phase": phase, "start_us": start, "bytes": size}
        for src, dst, phase, start, size in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _csv(found: Schedule, names: list[str]) -> str:
    rows = (
        f"{each['src']},{each['dst']},{each['phase']},{each['start_us']:.3f},{each['bytes']:.0f}"
        for each in _transfers(found, names)
    )
    return "\n".join(["src,dst,phase,start_us,bytes", *rows, ""])
