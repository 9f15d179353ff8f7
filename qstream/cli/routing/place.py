"""`qstream routing place`: a recording of an engine in, a placement plan in the engine's own format out, without a server."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, get_args

import typer

from qstream.arguments import named
from qstream.cli.options import AsJson
from qstream.cli.output import counted, print_json, print_table, solver_text, write_files
from qstream.cli.routing.page import page
from qstream.cli.routing.placements import Row, compare, topology_of
from qstream.errors import ConfigError
from qstream.routing.formats.bundled import BUNDLED
from qstream.routing.formats.choices import ALL, PHASES
from qstream.routing.formats.export import EXPORTERS, FILE_NAMES, export
from qstream.routing.formats.flags import engine_flags
from qstream.routing.formats.read import fitting, read_placement, read_recording
from qstream.routing.formats.recording import Recording, fold
from qstream.routing.options import Dispatch
from qstream.routing.placement import PlaceOptions
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan
from schemas.wording import must_be

DISPATCH: Final[Mapping[str, Dispatch]] = {name: name for name in get_args(Dispatch)}
STYLES: Final = {"qstream": "green"}
UNORDERED: Final = (
    "The steps fill a ring that does not say which is the oldest: all count alike, and none is unseen. Several dumps in a folder,"
    " or a ring that is not full, are in the order of time."
)


def place(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help=".json, .npy, .npz, .safetensors, .pt, or a folder.")
    ] = None,
    *,
    example: Annotated[bool, typer.Option("--example", help="Plan from the recording that qstream is shipped with.")] = False,
    gpus: Annotated[int, typer.Option(min=1, max=65536, help="GPUs that hold the experts of a layer.")],
    slots: Annotated[int | None, typer.Option(min=1, help="Slots of a layer over all GPUs; else one an expert.")] = None,
    nodes: Annotated[int, typer.Option(min=1, max=65536, help="Nodes, among which the GPUs are spread in order.")] = 1,
    experts: Annotated[
        int | None, typer.Option(min=1, max=65536, help="Experts of a layer, if the recording does not show it.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, max=4096, help="Choices of a token, if they are flat.")] = None,
    phase: Annotated[
        str, typer.Option(help="Tokens to plan for, where the recording says which: prefill, decode, or all.")
    ] = ALL,
    model: Annotated[str, typer.Option(help="Name of the model in the plan.")] = "default",
    previous: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Placement in force, -1 for an empty slot; else the contiguous one.")
    ] = None,
    move_cost: Annotated[float, typer.Option(min=0.0, help="Price of a moved expert, in mean GPU loads of its layer.")] = 0.0,
    eps: Annotated[float, typer.Option(min=0.0, help="Load of a node above its share, where co-activations count.")] = 0.05,
    hot_experts: Annotated[
        int, typer.Option(min=0, max=65536, help="Heaviest experts of a layer with two replicas or more.")
    ] = 0,
    windows: Annotated[int, typer.Option(min=1, max=1024, help="Windows into which the recording is folded.")] = 16,
    steps: Annotated[int, typer.Option(min=0, max=10_000_000, help="Annealing steps a layer.")] = 8000,
    colocate: Annotated[bool, typer.Option(help="Bring experts of one token to one node, where tokens are known.")] = True,
    dispatch: Annotated[
        str, typer.Option(help="How the engine chooses a replica: even, or nearest (SGLang with an all-to-all backend).")
    ] = "even",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the annealing.")] = 0,
    export_as: Annotated[str | None, typer.Option("--export", metavar="FORMAT", help=f"One of {', '.join(EXPORTERS)}.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the exported plan goes; else here.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Where a page with pictures goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Plan where the experts of a recorded model live.

    The plan is compared with the contiguous placement and EPLB's.

    FILE is a dump of SGLang's expert distribution recorder, a folder of TensorRT-LLM expert statistics, a load window of
    vLLM, routed_experts of their answers, {"load_history": [{"logical_expert_load"}]}, or an array [windows, layers,
    experts]. Counts of slots that do not say which expert each held, as of TensorRT-LLM, need --experts, and --previous if
    its balancer was on. The column "unseen" scores
    plans made from all windows but the last on that last one. "even" is what a plan gives where replicas serve alike, "nearest"
    where each GPU asks the nearest one; --dispatch says for which of them to plan, and which the other columns are. --phase
    plans from tokens of prompts or of answers alone, where the recording says which are which.

    \b
    Example:
      qstream routing place --example --gpus 8 --slots 72 --html report.html
      qstream routing place recorder.pt --gpus 32 --slots 288 --nodes 4 --export sglang
      qstream routing place recorder.pt --gpus 32 --slots 288 --nodes 4 --dispatch nearest --export sglang
      qstream routing place counts.npz --gpus 8 --html report.html
    """
    way, phase = named("--dispatch", DISPATCH, dispatch), named("--phase", PHASES, phase)
    file = _recorded(file, example)
    out = _exported_to(export_as, out, (file, previous))
    in_force = None if previous is None else read_placement(previous)
    given = fold(read_recording(file, experts, in_force, top_k, phase), windows)
    topology = topology_of(given, model, gpus, slots, nodes)
    before = None
    if previous is not None and in_force is not None:
        before = fitting(previous.name, in_force, topology.num_layers, topology.num_slots, topology.num_logical_experts)
    options = PlaceOptions(windows=windows, steps=steps, node_slack=eps, hot_experts=hot_experts)
    if not given.ordered:
        options = replace(options, decay=1.0)
    started = time.perf_counter()
    plan, rows = compare(
        given, topology, colocate=colocate, previous=before, move_cost=move_cost, options=options, seed=seed, dispatch=way
    )
    now_ns = time.time_ns()
    plan = plan.model_copy(update={"ts_ns": now_ns, "version": now_ns // 1_000_000})
    flags = engine_flags(plan, export_as, topology, way, out) if export_as is not None and out is not None else ()
    written = _write(plan, rows, given, topology, export_as, out, html, file.name)
    if as_json:
        data = _as_data(plan, rows, given, topology, written, time.perf_counter() - started)
        print_json(data | {"dispatch": way, "flags": list(flags), "phase": phase, "phases": dict(given.phases)})
        return
    print_table(*_table(rows), styles=[STYLES.get(row.name, "") for row in rows])
    shape = f"{len(given.history)} windows, {topology.num_layers} layers x {topology.num_logical_experts} experts"
    on = f"{topology.num_slots} slots of {gpus} GPUs, {counted(nodes, 'node')}"
    typer.echo(f"{given.tool}: {shape}, on {on}; {solver_text(plan.solver)}")
    if given.phases:
        told = ", ".join(f"{name} {choices:,}" for name, choices in sorted(given.phases.items()))
        neither = "; mixed passes hold both and count for neither" if phase != ALL and "mixed" in given.phases else ""
        typer.echo(f"gate choices by phase: {told}; planned for {phase}{neither}")
    if not given.ordered:
        typer.echo(UNORDERED)
    for path in written:
        typer.echo(f"written: {path}")
    for flag in flags:
        typer.echo(f"the engine needs: {flag}")


def _recorded(file: Path | None, example: bool) -> Path:
    """The recording to plan from."""
    if (file is None) != example:
        raise ConfigError(must_be("FILE", "a recording, or absent with --example", file and str(file)))
    return BUNDLED if file is None else file


def _exported_to(export_as: str | None, out: Path | None, inputs: Sequence[Path | None]) -> Path | None:
    """The file of the exported plan: that of `out`, else the format's own name in this folder."""
    if export_as is None:
        if out is not None:
            raise ConfigError(must_be("--export", f"given with --out, one of {', '.join(EXPORTERS)}", None))
        return None
    usual = Path(named("--export", FILE_NAMES, export_as))
    if out is not None:
        return out
    if any(path is not None and path.resolve() == usual.resolve() for path in inputs):
        raise ConfigError(f"--out must be given, as {usual} is an input; to overwrite it: --out {usual}")
    return usual


def _write(
    plan: PlacementPlan,
    rows: Sequence[Row],
    given: Recording,
    topology: ExpertTopology,
    export_as: str | None,
    out: Path | None,
    html: Path | None,
    source: str,
) -> list[str]:
    """The files that were asked for; all are made before any is written."""
    bodies: list[tuple[Path, bytes]] = []
    if export_as is not None and out is not None:
        bodies.append((out, _exported(plan, export_as, given)))
    if html is not None:
        bodies.append((html, page(rows, topology, given, source).encode()))
    return write_files(bodies)


def _exported(plan: PlacementPlan, export_as: str, given: Recording) -> bytes:
    """The file's bytes. Readers of vLLM-Ascend's take MoE layers by position, so that layers without tokens are left out."""
    slots, served = plan.physical_to_logical_map, given.history.any((0, 2))
    if export_as != "ascend" or slots is None:
        return export(plan, export_as, given.layer_ids)
    return export(plan.model_copy(update={"physical_to_logical_map": slots[served]}), export_as)


def _table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Columns that some row has, and the cells."""
    columns = ["placement", "balancedness", "worst layer", "max/mean", "moved experts"]
    cells = [[r.name, f"{r.balancedness:.4f}", f"{r.worst_layer:.4f}", f"{r.max_over_mean:.3f}", str(r.moved)] for r in rows]
    if any(abs(r.even - r.nearest) > 1e-9 for r in rows):
        columns += ["even", "nearest"]
        for row, cell in zip(rows, cells, strict=True):
            cell += [f"{row.even:.4f}", f"{row.nearest:.4f}"]
    extra = {"unseen": "unseen", "nodes": "nodes a token", "together": "pairs on a node"}
    for field, title in extra.items():
        values = [getattr(row, field) for row in rows]
        if all(value is not None for value in values):
            columns.append(title)
            for cell, value in zip(cells, values, strict=True):
                cell.append(f"{value:.4f}")
    return columns, cells


def _as_data(
    plan: PlacementPlan,
    rows: Sequence[Row],
    given: Recording,
    topology: ExpertTopology,
    written: Sequence[str],
    wall_s: float,
) -> dict[str, object]:
    """The rows with what they were made of, for machines."""
    return {
        "tool": given.tool,
        "windows": len(given.history),
        "ordered": given.ordered,
        "layers": topology.num_layers,
        "experts": topology.num_logical_experts,
        "gpus": topology.num_gpus,
        "slots": topology.num_slots,
        "nodes": topology.num_nodes,
        "layer_ids": list(given.layer_ids),
        "placements": [row.scores() for row in rows],
        "solver": plan.solver.model_dump(exclude_none=True),
        "expected": None if plan.expected is None else plan.expected.model_dump(),
        "written": list(written),
        "wall_s": round(wall_s, 3),
    }
