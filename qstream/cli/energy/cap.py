"""`qstream energy cap`: a recording of GPU power in, a plan of power limits and clock caps out, without a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from qstream.cli.options import AsJson
from qstream.cli.output import counted, print_json, print_table, solver_text
from qstream.errors import ConfigError
from schemas.energy import EnergyPlan
from schemas.frame import JSON, FrameError
from schemas.power import GpuTelemetry, PowerBudget, PowerTopology
from schemas.wording import Shown, must_be

WATTS: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(W|kW|MW)?\s*$")
SCALE: Final = {None: 1.0, "W": 1.0, "kW": 1e3, "MW": 1e6}


def cap(
    recording: Annotated[Path, typer.Argument(metavar="RECORDING", help="nvidia-smi CSV, DCGM exporter text, or JSON lines.")],
    *,
    topology: Annotated[Path, typer.Option(metavar="FILE", help="PowerTopology as JSON: GPUs, limits and budgets.")],
    budget: Annotated[str | None, typer.Option(metavar="WATTS", help="A further budget of the domain, such as 40kW.")] = None,
    zone: Annotated[str | None, typer.Option(help="Time zone of nvidia-smi's times, such as UTC.")] = None,
    node: Annotated[str | None, typer.Option(help="The node, where the recording names none.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of what is drawn at random.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the plan goes, as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Plan the power limits and clock caps of recorded GPUs.

    The plan is compared with default limits and with the simple scheduler, under which each node has its share of the budgets.
    Only GPUs with opt_in in the topology are given targets.

    \b
    Example:
      qstream energy cap gpus.csv --topology rack.json --zone UTC
      qstream energy cap dcgm.prom --topology rack.json --budget 40kW --out plan.json
    """
    from qstream.energy.formats.read import read_recording  # noqa: PLC0415 - numpy and solvers, which help does not need
    from qstream.energy.plan import plan_energy  # noqa: PLC0415

    tree = _topology(topology)
    found = read_recording(recording, domain=tree.domain, node=node, zone=zone)
    budgets = [] if budget is None else [PowerBudget(domain=tree.domain, budget_w=watts(budget), source="--budget")]
    plan = plan_energy(tree, found.frames, budgets=budgets, seed=seed)
    if out is not None:
        _write(out, plan)
    rows = _rows(plan, tree)
    if as_json:
        print_json(
            {"plan": plan.model_dump(mode="json"), "compared": rows, "frames": len(found.frames), "skipped": found.skipped}
        )
        return
    print_table(("limits", "at most", "expected", "slowest"), [_texts(row) for row in rows], styles=["", "", "green"])
    typer.echo(_summary(plan, tree, found.frames, found.skipped))
    if plan.status == "infeasible":
        typer.echo(f"infeasible: {plan.missing_w:.0f} W are missing; parked: {', '.join(plan.parked) or 'none'}")
    if not plan.uuid:
        typer.echo("no target: no GPU of the topology has opted in, with known limits")
    if out is not None:
        typer.echo(f"written: {out}")


def watts(text: str) -> float:
    """Watts of a text such as 2600, 40kW or 1.2 MW; `ConfigError` if it is none."""
    found = WATTS.match(text)
    if found is None:
        raise ConfigError(must_be("--budget", "watts, such as 2600, 40kW or 1.2MW", text))
    return float(found[1]) * SCALE[found[2]]


def _topology(path: Path) -> PowerTopology:
    try:
        return PowerTopology.decode(path.read_bytes(), JSON)
    except OSError as exc:
        raise ConfigError(must_be("--topology", "a file that can be read", Shown(f"{path}: {exc.strerror}"))) from exc
    except FrameError as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def _write(path: Path, plan: EnergyPlan) -> None:
    try:
        path.write_bytes(plan.encode(JSON) + b"\n")
    except OSError as exc:
        raise ConfigError(must_be("--out", "a file that can be written", Shown(f"{path}: {exc.strerror}"))) from exc


def _rows(plan: EnergyPlan, tree: PowerTopology) -> list[dict[str, Any]]:
    """Watts that the domain cannot pass, watts to expect and the worst slowdown: default, each node alone, and planned."""
    score = plan.expected
    if score is None:
        return []
    at = {uuid: row for row, uuid in enumerate(tree.uuid)}
    default = tree.limit_default_w[[at[uuid] for uuid in plan.uuid]]
    upper = plan.upper_w if plan.upper_w is not None else np.zeros(len(default))
    others = score.peak_upper_w - float(upper.sum())
    drawn = 0.0 if plan.predicted_w is None else float(plan.predicted_w.sum())
    free = drawn + score.saved_w
    return [
        {"limits": "default", "at_most_w": others + float(default.sum()), "expected_w": free, "slowdown": 0.0},
        {
            "limits": "each node alone",
            "at_most_w": score.simple_peak_upper_w,
            "expected_w": free - score.simple_saved_w,
            "slowdown": score.simple_slowdown_worst,
        },
        {"limits": "planned", "at_most_w": score.peak_upper_w, "expected_w": drawn, "slowdown": score.slowdown_worst},
    ]


def _texts(row: dict[str, Any]) -> tuple[str, ...]:
    return row["limits"], f"{row['at_most_w']:.0f} W", f"{row['expected_w']:.0f} W", f"{100 * row['slowdown']:.1f} %"


def _summary(plan: EnergyPlan, tree: PowerTopology, frames: list[GpuTelemetry], skipped: int) -> str:
    left_out = f", {counted(skipped, 'damaged row')} left out" if skipped else ""
    gpus = f"{len(plan.uuid)} of {counted(len(tree.uuid), 'GPU')} may be given targets"
    return f"{counted(len(frames), 'record')}{left_out}; {gpus}; {solver_text(plan.solver)}"
