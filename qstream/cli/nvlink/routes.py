"""`qstream nvlink routes`: what GPUs send in, paths over links out, beside one shortest path a pair, without a server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from qstream.cli.nvlink.files import matrix_of
from qstream.cli.nvlink.work import Work, of_work
from qstream.cli.options import AsJson
from qstream.cli.output import counted, print_json, print_table, printable
from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qstream.nvlink.routes import Routes
    from schemas.fabric import FabricTopology, JobProfile

OURS: Final = "qstream"
SHOWN: Final = 12  # paths; --json has all
GB: Final = 1e9


@of_work
def routes(
    work: Work,
    *,
    current: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The GPU of each rank: a plan, CSV, rank file, or JSON list; else GPUs in their order."
        ),
    ] = None,
    relay: Annotated[bool, typer.Option("--relay/--no-relay", help="Whether GPUs pass on what is not for them.")] = True,
    as_json: AsJson = False,
) -> None:
    """Split what GPUs send over paths, so that the fullest link is done as soon as possible.

    For boxes whose GPUs are joined without switches, as DGX-1V or xGMI: beside one shortest path a pair, with and without
    relays by GPUs. Times are those of the fullest link, modelled. Inside a healthy switched box there is one way, and all agree.

    JOB is what place takes: a square matrix of bytes as .npy or .npz, CSV with columns src,dst,bytes, a JobProfile, a workload
    of SimAI, or sizes, in the file or as --tp, --cp, --ep, --dp and --pp.

    \b
    Example:
      qstream nvlink routes --tp 2 --dp 4 --ep 8 --topology dgx-1v
      qstream nvlink routes traffic.npy --topology topo.xml --no-relay --json
    """
    from qstream.nvlink.collapse import collapse  # noqa: PLC0415 - numpy and solvers, which help does not need
    from qstream.nvlink.routes import route_demand  # noqa: PLC0415 - as above

    started = time.perf_counter()
    fabric = work.fabric()
    profile = work.profile(fabric)
    demand = demand_of(profile, fabric, current)
    fabric, _ = collapse(fabric)  # hardware spreads bytes over the chips of a switch
    found = route_demand(fabric, demand, relay=relay)
    rows = {**peers(fabric, demand, relay=relay), OURS: found}
    data = as_data(fabric, profile, rows, demand)
    if as_json:
        print_json(data | {"relay": relay, "wall_s": round(time.perf_counter() - started, 3)})
        return
    print_table(
        ("routes", "fullest link, us (modelled)", "over bound", "paths", "most hops"),
        [
            (row["name"], f"{row['drain_us']:,.1f}", f"{row['over_bound']:.4f}", row["paths"], row["most_hops"])
            for row in data["routes"]
        ],
        styles=["green" if name == OURS else "" for name in rows],
    )
    typer.echo(
        printable(
            f"{counted(profile.num_ranks, 'rank')} send {demand.sum() / GB:,.3f} GB; no routes drain sooner than"
            f" {found.bound_us:,.1f} us; the fullest GPU alone takes {found.port_us:,.1f} us"
        )
    )
    for path in data["paths"][:SHOWN]:
        typer.echo(printable(f"  {' > '.join(path['nodes'])}  {path['bytes'] / GB:,.4f} GB"))
    if len(data["paths"]) > SHOWN:
        typer.echo(f"  ... and {len(data['paths']) - SHOWN} more, shown by --json")
    for text in fabric.warnings:
        typer.echo(printable(f"warning: {text}"))


def demand_of(profile: JobProfile, fabric: FabricTopology, current: Path | None) -> NDArray[np.float64]:
    """Bytes between GPUs [G, G]: of ranks where they run, by `current` or the profile, else on the GPUs in their order."""
    import numpy as np  # noqa: PLC0415 - as above

    from qstream.cli.nvlink.current import read_current  # noqa: PLC0415 - as above
    from schemas.fabric import GPU  # noqa: PLC0415 - as above

    gpus = np.flatnonzero(fabric.node_type == GPU)
    known = profile.gpu_of_rank if current is None else read_current(current, fabric)
    at = gpus[: profile.num_ranks].astype(np.int32) if known is None else known
    if len(at) != profile.num_ranks:
        shown = Shown(f"{profile.num_ranks} ranks, {len(at)} GPUs")
        raise ProblemError(must_be("ranks", "as many as they have GPUs", shown))
    place = np.searchsorted(gpus, at)
    if not np.array_equal(gpus[np.minimum(place, len(gpus) - 1)], at):
        raise ProblemError(must_be("GPUs of ranks", "nodes of the fabric that are GPUs", Shown("others")))
    demand = np.zeros((len(gpus), len(gpus)))
    demand[np.ix_(place, place)] = matrix_of(profile)
    return demand


def peers(fabric: FabricTopology, demand: NDArray[np.float64], *, relay: bool) -> dict[str, Routes]:
    """One shortest path a pair; without relays only where every pair has such a path."""
    from qstream.nvlink.routes import shortest_routes  # noqa: PLC0415 - as above

    found = {"one shortest path": shortest_routes(fabric, demand, relay=relay)}
    if relay:
        try:
            found = {"no relays, one path": shortest_routes(fabric, demand, relay=False), **found}
        except ProblemError:
            return found
    return found


def as_data(fabric: FabricTopology, profile: JobProfile, rows: dict[str, Routes], demand: NDArray[np.float64]) -> dict[str, Any]:
    """What is shown, for machines, with every path."""
    import numpy as np  # noqa: PLC0415 - as above

    ours = rows[OURS]
    ways = np.split(ours.node, ours.first[1:-1]) if len(ours.nbytes) else []
    order = np.argsort(-ours.nbytes, kind="stable").tolist()
    return {
        "fabric": fabric.fabric,
        "job": profile.job,
        "ranks": profile.num_ranks,
        "bytes": float(demand.sum()),
        "modelled": True,
        "bound_us": ours.bound_us,
        "port_us": ours.port_us,
        "routes": [
            {
                "name": name,
                "drain_us": each.drain_us,
                "over_bound": each.drain_us / ours.bound_us if ours.bound_us > 0 else 1.0,
                "paths": len(each.nbytes),
                "most_hops": int(np.diff(each.first).max(initial=1)) - 1,
                "method": each.method,
            }
            for name, each in rows.items()
        ],
        "paths": [
            {"nodes": [fabric.node_name[node] for node in ways[at].tolist()], "bytes": float(ours.nbytes[at])} for at in order
        ],
    }
