"""`qstream nvlink place`: a job and a fabric in, the GPU of each rank out, next to what others would do, without a server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qstream.arguments import named
from qstream.cli.names import parse_options
from qstream.cli.nvlink.files import Current, Free
from qstream.cli.nvlink.work import Work, of_work
from qstream.cli.options import AsJson, OptionChanges
from qstream.cli.output import counted, print_json, print_table, printable, solver_text, write_files
from qstream.cli.paths import require_outputs
from qstream.errors import ConfigError
from schemas.wording import must_be

if TYPE_CHECKING:
    from qstream.cli.nvlink.compared import Compared

EXPORTS: Final = "slurm, kueue, kai, nccl-tuner, rankfile, rank-cost, csv, json, networkx"
STYLES: Final = {"qstream": "green"}
GB: Final = 1e9


@of_work
def place(
    work: Work,
    *,
    free: Free = None,
    current: Current = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="As many ranks in each block that is used.")] = False,
    max_slices: Annotated[int | None, typer.Option(min=1, max=65536, help="Most blocks that are used.")] = None,
    changes: OptionChanges = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of what is drawn at random.")] = 0,
    export_as: Annotated[str | None, typer.Option("--export", metavar="FORMAT", help=f"One of {EXPORTS}.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the export goes, a file or a folder; else here.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Where a page with pictures goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Plan which GPU holds which rank of a job.

    The plan is compared with ranks in random order, in linear order, with METIS where it is installed, and with the placement
    in force. The cost is bytes times us/KB, summed over pairs of ranks: modelled, lower is better. It is not a time;
    qstream nvlink simulate estimates times. On a single tier there is nothing to gain, and the command says so.

    JOB is a JobProfile frame, a workload of SimAI, CSV with columns src,dst,bytes, a square matrix of bytes as .npy or .npz,
    or sizes of any trainer as JSON or YAML. Without it, --tp, --cp, --ep, --dp and --pp say how ranks divide the model; what
    they send is that of a mixture-of-experts job, or as --bytes says. Sizes also complete those of a file.

    \b
    Example:
      qstream nvlink place --tp 8 --pp 4 --dp 16 --ep 32 --topology gb200-nvl72:8
      qstream nvlink place workload.txt --dp 4 --topology topo.yaml --export slurm --out job/
      qstream nvlink place traffic.csv --topology fabric.json --free 'node[01-16]' --current rankfile --html report.html
    """
    from qstream.cli.nvlink.compared import compared  # noqa: PLC0415 - numpy and solvers, which help does not need
    from qstream.cli.nvlink.current import read_current, with_free  # noqa: PLC0415 - as above
    from qstream.nvlink.options import NvlinkOptions  # noqa: PLC0415 - as above

    started = time.perf_counter()
    require_export(export_as, out)
    options = NvlinkOptions().changed({"seed": seed, **parse_options(changes or [])})
    fabric = work.fabric()
    profile = work.profile(fabric)
    if balanced or max_slices is not None:
        profile = profile.model_copy(
            update={"balanced": balanced or profile.balanced, "max_slices": max_slices or profile.max_slices}
        )
    if free is not None:
        fabric = with_free(fabric, free)
    found = compared(profile, fabric, None if current is None else read_current(current, fabric), options)
    written = _write(found, export_as, out, html, [*work.inputs(), *([] if current is None else [current])])
    if as_json:
        print_json(found.as_data() | {"written": written, "wall_s": round(time.perf_counter() - started, 3)})
        return
    print_table(*cells(found), styles=[STYLES.get(row.name, "") for row in found.rows])
    for text in (*facts(found), *(f"warning: {text}" for text in fabric.warnings), *(f"written: {path}" for path in written)):
        typer.echo(printable(text))


def require_export(export_as: str | None, out: Path | None) -> None:
    """`ConfigError` that names what is wrong with the format, or that a file is named without one."""
    from qstream.nvlink.formats.export import EXPORTERS  # noqa: PLC0415 - as above

    if export_as is not None:
        named("--export", EXPORTERS, export_as)
    elif out is not None:
        raise ConfigError(must_be("--export", f"given with --out, one of {', '.join(EXPORTERS)}", None))


def cells(found: Compared) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table."""
    columns = ["placement", "cost, us (modelled)", "over linear", "GB between domains", "domains"]
    moved = any(row.moved is not None for row in found.rows)
    rows = []
    for row in found.rows:
        cell = [row.name, f"{row.cost_us:,.0f}", f"{row.over_linear:.4f}", f"{row.crossing_bytes / GB:,.3f}", str(row.domains)]
        rows.append([*cell, "-" if row.moved is None else str(row.moved)] if moved else cell)
    return [*columns, "moved ranks"] if moved else columns, rows


def facts(found: Compared) -> list[str]:
    """The lines below the table."""
    plan, blocks = found.plan, found.blocks
    free = int(blocks.capacity.sum())
    total = found.traffic[2].sum() / GB
    lines = [
        f"{found.profile.job}: {counted(found.profile.num_ranks, 'rank')} send {total:,.3f} GB in a step, on {free} free GPUs in"
        f" {counted(int((blocks.capacity > 0).sum()), 'block')}; {solver_text(plan.solver)}"
    ]
    if plan.score is not None:
        lines.append(
            f"gain {100 * plan.score.gain:.1f} % of the cost before; no placement costs less than {plan.score.bound_us:,.0f}"
        )
    if found.lost:
        lines.append("the placement in force is on GPUs that are down: the plan is a fresh one")
    if plan.skip_reason is not None:
        lines.append(f"the placement stays: {plan.skip_reason}; gain 0")
    if plan.fallback_reason is not None:
        lines.append(f"fallback: {plan.fallback_reason}")
    return lines


def _write(found: Compared, export_as: str | None, out: Path | None, html: Path | None, inputs: list[Path]) -> list[str]:
    """The files that were asked for; all are made before any is written."""
    bodies: list[tuple[Path, bytes]] = []
    if export_as is not None:
        from qstream.nvlink.formats.export import EXPORTERS  # noqa: PLC0415 - as above

        files = EXPORTERS[export_as](found.plan, found.topology)
        bodies += [(path, body.encode()) for path, body in zip(_paths(list(files), out), files.values(), strict=True)]
    if html is not None:
        from qstream.cli.nvlink.page import page  # noqa: PLC0415 - as above

        bodies.append((html, page(found).encode()))
    require_outputs([path for path, _ in bodies], inputs)
    return write_files(bodies)


def _paths(names: list[str], out: Path | None) -> list[Path]:
    """Where the files of an export go: by their names into a folder; else the first to the file named, others beside it."""
    if out is None or out.is_dir():
        return [(out or Path()) / name for name in names]
    return [out, *(out.with_name(f"{out.stem}.{name}") for name in names[1:])]
