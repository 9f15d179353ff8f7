"""`qstream nvlink rails`: which NICs carry which bytes between servers, next to what NCCL does and to an even split."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from qstream.cli.nvlink.files import matrix_of
from qstream.cli.nvlink.work import Work, of_work
from qstream.cli.options import AsJson
from qstream.cli.output import print_json, print_table, printable, write_files
from qstream.cli.paths import require_outputs

if TYPE_CHECKING:
    from qstream.cli.nvlink.between import Between
    from qstream.nvlink.rails import Rails

GB: Final = 1e9
NicSpeed = Annotated[
    float, typer.Option("--nic-gb-s", min=0.001, max=10_000, help="GB/s of a NIC, 50 for 400 Gb/s; of the fabric if given.")
]
NvlinkSpeed = Annotated[
    float,
    typer.Option(
        "--nvlink-gb-s", min=0.001, max=10_000, help="GB/s of a GPU's NVLinks in one direction; of the fabric if given."
    ),
]


@of_work
def rails(
    work: Work,
    *,
    nic_gb_s: NicSpeed = 50.0,
    nvlink_gb_s: NvlinkSpeed = 450.0,
    slack: Annotated[float, typer.Option(min=0, max=1, help="Part of the bound that a NIC may be fuller.")] = 0.001,
    min_piece_bytes: Annotated[float, typer.Option(min=0, help="Messages are not split into pieces below this.")] = 0.0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the pieces go, as CSV.")] = None,
    as_json: AsJson = False,
) -> None:
    """Balance what each NIC carries between servers.

    Rail r joins the NICs r of all servers; a byte that takes another rail than its sender's or its receiver's is relayed over
    NVLink. The table shows the fullest NIC over the bound, which is the fullest server with its NICs evenly full, beside NCCL's
    way (PXN: the receiver's rail), the sender's rail, and an even split. All times are modelled.

    JOB is what qstream nvlink place takes. Without --topology, ranks fill servers of --gpus-per-host GPUs in their order.

    \b
    Example:
      qstream nvlink rails traffic.npy --out pieces.csv
      qstream nvlink rails --tp 4 --dp 8 --ep 32 --topology hgx-h100:4
    """
    from qstream.cli.nvlink.between import of_job, of_matrix  # noqa: PLC0415 - numpy, which help does not need
    from qstream.nvlink.rails import balance_rails  # noqa: PLC0415 - as above

    started = time.perf_counter()
    require_outputs([out], work.inputs())
    if work.topology is None:
        asked = of_matrix(matrix_of(work.profile()), work.gpus_per_host, nic_gb_s, nvlink_gb_s)
    else:
        fabric = work.fabric()
        asked = of_job(work.profile(fabric), fabric)
    if asked.crossing is None:
        _say_nothing(asked, as_json)
        return
    net = asked.crossing
    found = balance_rails(net.sent, net.nic_gb_s, net.nvlink_gb_s, slack=slack, min_piece_bytes=min_piece_bytes)
    written = [] if out is None else write_files([(out, _csv(found, asked).encode())])
    rows = [_row("qstream", found), *(_row(name, peer) for name, peer in _peers(asked))]
    data = {
        "servers": net.gpu.shape[0],
        "gpus_per_server": net.gpu.shape[1],
        "bytes": float(net.sent.sum()),
        "bytes_within_servers": asked.left_out,
        "nic_gb_s": net.nic_gb_s,
        "nvlink_gb_s": net.nvlink_gb_s,
        "bound_us": found.bound_us,
        "rails": rows,
        "modelled": True,
        "written": written,
    }
    if as_json:
        print_json(data | {"pieces": _pieces(found, asked), "wall_s": round(time.perf_counter() - started, 3)})
        return
    columns = ("rails", "fullest NIC, us (modelled)", "over the bound", "relayed GB", "NVLink, us", "pieces")
    print_table(columns, [_cells(row) for row in rows], styles=["green"])
    typer.echo(
        f"{net.sent.sum() / GB:,.3f} GB between {net.gpu.shape[0]} servers of {net.gpu.shape[1]} GPUs; no rails are faster than"
        f" {found.bound_us:,.1f} us"
    )
    for path in written:
        typer.echo(printable(f"written: {path}"))


def _say_nothing(asked: Between, as_json: bool) -> None:
    if as_json:
        print_json(
            {"bytes_within_servers": asked.left_out, "skip_reason": asked.why, "rails": [], "pieces": [], "modelled": True}
        )
    else:
        typer.echo(printable(f"nothing to balance: {asked.why}"))


def _peers(asked: Between) -> list[tuple[str, Rails]]:
    import numpy as np  # noqa: PLC0415 - as above

    from qstream.nvlink.rails import fixed_rails, receivers_rails  # noqa: PLC0415 - as above

    net = asked.crossing
    assert net is not None
    given = net.sent, net.nic_gb_s, net.nvlink_gb_s
    g = net.gpu.shape[1]
    return [
        ("PXN, the receiver's", receivers_rails(*given)),
        ("the sender's", fixed_rails(*given, lambda src, dst: np.stack([src % g]))),
        ("even split", fixed_rails(*given, lambda src, dst: np.repeat(np.arange(g)[:, None], len(src), 1))),
    ]


def _row(name: str, found: Rails) -> dict[str, Any]:
    return {
        "name": name,
        "nic_us": found.nic_us,
        "over_bound": found.nic_us / found.bound_us,
        "relayed_bytes": found.relayed_bytes,
        "nvlink_us": found.nvlink_us,
        "pieces": len(found.src),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["name"],
        f"{row['nic_us']:,.1f}",
        f"{row['over_bound']:.4f}",
        f"{row['relayed_bytes'] / GB:,.3f}",
        f"{row['nvlink_us']:,.1f}",
        str(row["pieces"]),
    ]


def _pieces(found: Rails, asked: Between) -> list[dict[str, Any]]:
    assert asked.crossing is not None
    ends = [[asked.names[gpu] for gpu in column.tolist()] for column in (found.src, found.dst)]
    rail = asked.crossing.rail[found.rail].tolist()
    columns = zip(*ends, rail, found.nbytes.tolist(), strict=True)
    return [{"src": src, "dst": dst, "rail": number, "bytes": size} for src, dst, number, size in columns]


def _csv(found: Rails, asked: Between) -> str:
    rows = (f"{each['src']},{each['dst']},{each['rail']},{each['bytes']:.0f}" for each in _pieces(found, asked))
    return "\n".join(["src,dst,rail,bytes", *rows, ""])
