"""`qstream nvlink colour`: a graph in, a colour for each vertex out, beside networkx and the bound, without a server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from qstream.cli.names import parse_options
from qstream.cli.nvlink.files import ARRAYS, SOURCE_HELP, matrix_of, read_fabric, read_matrix, read_work
from qstream.cli.options import AsJson, OptionChanges, seconds
from qstream.cli.output import counted, print_json, print_table, printable
from qstream.cli.paths import require_readable
from qstream.errors import ConfigError, ProblemError
from schemas.solver import CLASSICAL
from schemas.wording import Shown, must_be

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qstream.nvlink.colouring import Colouring

PEER: Final = "networkx DSATUR"
MAX_PEER: Final = 300  # vertices above which networkx takes seconds
SHOWN: Final = 64
FILE_HELP: Final = "A graph as .col (DIMACS), a square matrix of weights as .npy or .npz, src,dst,bytes as CSV, or a job."


def colour(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help=FILE_HELP)] = None,
    *,
    topology: Annotated[
        str | None, typer.Option("--topology", metavar="FILE", help=f"Colour the GPUs of a fabric instead. {SOURCE_HELP}")
    ] = None,
    colours: Annotated[
        int | None, typer.Option("--colours", "--colors", min=1, max=2048, help="How many there are; else as few as possible.")
    ] = None,
    deadline: Annotated[str | None, typer.Option(metavar="TIME", help="As 50ms or 10s; else a fixed number of steps.")] = None,
    changes: OptionChanges = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of what is drawn at random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Colour a graph: vertices that share an edge get different colours, as few as possible.

    With --colours, as little weight as possible is left on edges between vertices of one colour. Of a matrix that is not
    symmetric, both directions add up. GPUs of a fabric are joined by their NVLink or xGMI, whose GB/s are the weights.

    With --set qaoa=true simulated circuits colour small graphs, or windows of larger ones, as many layers deep as there are
    colours; exact optimum, control at depth 0 and annealing stand beside them.

    \b
    Example:
      qstream nvlink colour queen8_8.col --deadline 10s
      qstream nvlink colour --topology dgx-1v --colours 4 --set qaoa=true --json
    """
    from qstream.nvlink.colouring import colour_graph  # noqa: PLC0415 - numpy and solvers, which help does not need
    from qstream.nvlink.options import NvlinkOptions  # noqa: PLC0415 - as above

    started = time.perf_counter()
    deadline_s = None if deadline is None else seconds(deadline)
    options = NvlinkOptions().changed({"seed": seed, **parse_options(changes or [])})
    weights, names = _graph(file, topology)
    found = colour_graph(weights, colours=colours, options=options, deadline_s=deadline_s, seed=options.seed)
    data = as_data(weights, names, found, fixed=colours is not None)
    if as_json:
        print_json(data | {"seed": options.seed, "wall_s": round(time.perf_counter() - started, 3)})
        return
    print_table(
        ("method", "colours", "weight of equal ones", ""),
        [(each["name"], each["colours"], f"{each['weight']:g}", each["label"]) for each in data["methods"]],
        styles=["green" if each["name"] == "answer" else "" for each in data["methods"]],
    )
    for line in facts(data, found, fixed=colours is not None):
        typer.echo(printable(line))


def as_data(weights: NDArray[np.float64], names: list[str], found: Colouring, *, fixed: bool) -> dict[str, Any]:
    """What is shown, for machines: every way that was tried, the peer, and the colour of each vertex."""
    import numpy as np  # noqa: PLC0415 - as above

    methods = [] if len(weights) > MAX_PEER else [_peer(weights)]
    for record in found.candidates:
        windowed = record.variant is not None
        value = record.objective or 0.0
        methods.append(
            {
                "name": f"window, {record.solver}" if windowed else record.solver,
                "colours": int((record.variant or "").partition("-")[0] or (found.colours if fixed else value)),
                "weight": value if fixed or windowed else 0.0,
                "label": "classical" if record.execution == CLASSICAL else "simulated",
            }
        )
    methods.append(
        {
            "name": "answer",
            "colours": found.colours,
            "weight": found.weight,
            "label": "classical" if found.solver.execution == CLASSICAL else "simulated",
        }
    )
    return {
        "vertices": len(weights),
        "edges": int(np.count_nonzero(weights) // 2),
        "colours": found.colours,
        "weight": found.weight,
        "bound": found.bound,
        "bound_of": "weight" if fixed else "colours",
        "proven": found.proven,
        "methods": methods,
        "solver": found.solver.model_dump(exclude_none=True),
        "candidates": [each.model_dump(exclude_none=True) for each in found.candidates],
        "circuits": found.circuits,
        "fallback_reason": found.fallback_reason,
        "colour": dict(zip(names, found.colour.tolist(), strict=True)),
    }


def facts(data: dict[str, Any], found: Colouring, *, fixed: bool) -> list[str]:
    """The lines below the table."""
    least = f"no {found.colours} colours leave less weight than" if fixed else "no colouring has fewer colours than"
    vertices = f"{data['vertices']} {'vertex' if data['vertices'] == 1 else 'vertices'}"
    proven = "proven optimal" if found.proven else "not proven optimal"
    lines = [
        f"{vertices}, {counted(data['edges'], 'edge')}; {least} {found.bound:g}; {proven}; by {found.solver.solver}",
    ]
    lines += [
        f"circuit ({found.circuits}): n {record.n}, p {record.depth}, {record.shots} shots, seed {record.seed}: weight"
        f" {_text(record.objective)}, exact {_text(record.exact)}, control at p = 0 {_text(record.control)}, annealing"
        f" {_text(record.twin)}"
        for record in found.candidates
        if record.depth is not None
    ]
    if found.fallback_reason is not None:
        lines.append(f"fallback: {found.fallback_reason}")
    if data["vertices"] <= SHOWN:
        lines.append("colours: " + " ".join(f"{name}:{number}" for name, number in data["colour"].items()))
    return lines


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"


def _peer(weights: NDArray[np.float64]) -> dict[str, Any]:
    import networkx as nx  # noqa: PLC0415 - as above

    used = nx.greedy_color(nx.from_numpy_array(weights), "DSATUR")
    return {"name": PEER, "colours": max(used.values()) + 1, "weight": 0.0, "label": "classical"}


def _graph(file: Path | None, topology: str | None) -> tuple[NDArray[np.float64], list[str]]:
    """The weights of a graph [n, n], symmetric without a diagonal, and the names of its vertices."""
    import numpy as np  # noqa: PLC0415 - as above

    if (file is None) == (topology is None):
        raise ConfigError(must_be("FILE", "a graph, a matrix or a job, or --topology given in its place", _given(file, topology)))
    if topology is not None:
        return _gpus(topology)
    assert file is not None
    require_readable("FILE", file)
    try:
        if file.suffix == ".col":
            from qstream.nvlink.formats.dimacs import MAX_BYTES, read_dimacs  # noqa: PLC0415 - as above

            with file.open("rb") as opened:
                matrix = read_dimacs(opened.read(MAX_BYTES + 1).decode("utf-8", "replace"))
        else:
            matrix = read_matrix(file) if file.suffix in ARRAYS else matrix_of(read_work(file, {}))
    except ProblemError as exc:
        raise ProblemError(str(exc) if str(file) in str(exc) else f"{file}: {exc}") from exc
    np.fill_diagonal(matrix, 0.0)
    symmetric = matrix if np.array_equal(matrix, matrix.T) else matrix + matrix.T
    return symmetric, [str(at) for at in range(len(matrix))]


def _given(file: Path | None, topology: str | None) -> Shown:
    return Shown("neither" if file is None and topology is None else "both")


def _gpus(topology: str) -> tuple[NDArray[np.float64], list[str]]:
    """The GPUs of a fabric, and GB/s of the links that join them directly, of the wider direction."""
    import numpy as np  # noqa: PLC0415 - as above

    from qstream.nvlink.sketch import SCALE_UP  # noqa: PLC0415 - as above
    from schemas.fabric import GPU  # noqa: PLC0415 - as above

    fabric = read_fabric(topology, name="--topology")
    gpus = np.flatnonzero(fabric.node_type == GPU)
    place = np.full(len(fabric.node_type), -1)
    place[gpus] = np.arange(len(gpus))
    src, dst = place[fabric.link_src], place[fabric.link_dst]
    direct = np.isin(fabric.link_kind, SCALE_UP) & (src >= 0) & (dst >= 0) & (src != dst)
    weights = np.zeros((len(gpus), len(gpus)))
    np.add.at(weights, (src[direct], dst[direct]), fabric.speed_gb_s[direct])
    return np.maximum(weights, weights.T), [fabric.node_name[gpu] for gpu in gpus.tolist()]
