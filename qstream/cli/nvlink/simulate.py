"""`qstream nvlink simulate`: how long the traffic of a job takes in the fluid model, in linear order and as placed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from qstream.cli.names import parse_options
from qstream.cli.nvlink.files import Current, Free
from qstream.cli.nvlink.work import Work, of_work
from qstream.cli.options import AsJson, OptionChanges
from qstream.cli.output import counted, print_json, print_table, printable, size_text

if TYPE_CHECKING:
    from qstream.nvlink.simulate import Drained


@of_work
def simulate(
    work: Work,
    *,
    free: Free = None,
    current: Current = None,
    changes: OptionChanges = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of what is drawn at random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate what a job sends, on a fabric: the time of each collective and of all at once.

    Ranks are in linear order, where they run now (--current), and as qstream nvlink place puts them. Bytes of one part start
    together and share links max-min fairly; those between hosts go over the receiver's rail and all spines evenly. The bound
    is the fullest link alone. Latency and computation are left out. All times are modelled, none is measured.

    \b
    Example:
      qstream nvlink simulate --tp 8 --pp 4 --dp 16 --ep 32 --topology gb200-nvl72:8
      qstream nvlink simulate traffic.npy --topology topo.xml --json
    """
    from qstream.cli.nvlink.compared import OURS, compared  # noqa: PLC0415 - numpy and solvers, which help does not need
    from qstream.cli.nvlink.current import read_current, with_free  # noqa: PLC0415 - as above
    from qstream.nvlink.options import NvlinkOptions  # noqa: PLC0415 - as above
    from qstream.nvlink.simulate import simulate_job  # noqa: PLC0415 - as above

    options = NvlinkOptions().changed({"seed": seed, **parse_options(changes or [])})
    fabric = work.fabric()
    profile = work.profile(fabric)
    if free is not None:
        fabric = with_free(fabric, free)
    found = compared(profile, fabric, None if current is None else read_current(current, fabric), options)
    shown = [row for row in found.rows if row.name in ("linear", "in force", OURS) and row.gpus is not None]
    drained = {row.name: simulate_job(profile, fabric, row.gpus) for row in shown if row.gpus is not None}
    skip = None if found.plan.skip_reason is None else str(found.plan.skip_reason)
    if as_json:
        head = {"fabric": fabric.fabric, "job": profile.job, "ranks": profile.num_ranks, "modelled": True, "skip_reason": skip}
        print_json(head | {"placements": {name: [_fields(part) for part in parts] for name, parts in drained.items()}})
        return
    columns = ["traffic", "GB"]
    for name in drained:
        columns += [f"{name}, ms (modelled)", "bound, ms"]
    rows = []
    for parts in zip(*drained.values(), strict=True):
        times = [text for part in parts for text in (_ms(part.time_us), _ms(part.bound_us))]
        rows.append([_what(parts[0]), f"{parts[0].nbytes / 1e9:,.3f}", *times])
    print_table(columns, rows)
    on = f"{profile.job}: {counted(profile.num_ranks, 'rank')} on {fabric.fabric}"
    typer.echo(printable(f"{on}; times are modelled, none is measured"))
    if any(part.time_us is None for parts in drained.values() for part in parts):
        typer.echo("none: some pairs of ranks have no way to one another")
    if skip is not None:
        typer.echo(f"the placement stays: {skip}")


def _fields(part: Drained) -> dict[str, Any]:
    return {name: getattr(part, name) for name in type(part).__slots__}


def _what(part: Drained) -> str:
    if part.members is None or part.group_bytes is None:
        return {"all": "all at once", "pairs": "pairs of ranks"}.get(part.kind, part.kind)
    return f"{part.kind} of {part.members} ranks, {size_text(part.group_bytes)}"


def _ms(time_us: float | None) -> str:
    return "none" if time_us is None else f"{time_us / 1e3:,.3f}"
