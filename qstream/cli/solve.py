"""`qstream solve`: a problem file, one solver, its record; or all solvers side by side."""

from __future__ import annotations

import dataclasses
import importlib
import math
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from qstream.cli.options import AsJson, new_app, seconds
from qstream.cli.output import print_json, print_table
from qstream.errors import ConfigError
from qstream.quantum.files import names_of, problem_of, read_fields
from qstream.quantum.ising import IsingProblem
from qstream.quantum.order import AUTO
from qstream.quantum.record import Problem, SolveMeta, SolveRequest, SolveResult
from qstream.quantum.solvers import SOLVERS, is_known, solver_names, warm
from qstream.quantum.solvers import solve as solve_problem
from schemas.solver import CLASSICAL, DEVICE
from schemas.wording import must_be

app = new_app()
STYLES: Final = {"simulated": "yellow", "device": "magenta", "classical": "green"}
SHOWN: Final = 64
BENCH_SIZES: Final = (12, 16)
BENCH_INSTANCES: Final = 10


@app.command()
def solve(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="JSON: spins, bits, levels or a graph.")] = None,
    solver: Annotated[str, typer.Option(help=f"{AUTO}, {', '.join(SOLVERS)}, or {DEVICE}NAME.")] = "auto",
    deadline: Annotated[str | None, typer.Option(metavar="TIME", help="As 50ms or 2s; else all the work is done.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is random.")] = 0,
    shots: Annotated[int, typer.Option(min=1, max=1_000_000, help="Samples of a quantum solver.")] = 256,
    p: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Layers of a quantum circuit; else what fits the deadline.")
    ] = None,
    kind: Annotated[str, typer.Option(help="What a graph is: maxcut, ising or coloring.")] = "maxcut",
    colors: Annotated[int | None, typer.Option(help="Colours of --kind coloring.")] = None,
    bench: Annotated[bool, typer.Option("--bench", help="Compare all solvers on this machine instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Solve an Ising problem, a QUBO, a one-hot problem or a graph, next to a classical twin.

    \b
    FILE is a JSON object of at most 16 MiB:
      {"n": 3, "h": [1, 0, 0], "J": [[0, 1, -0.5]], "offset": 0}   spins +1 and -1
      {"Q": [[-1, 2], [0, -1]]}                                    bits; or "n" and triples
      {"sizes": [2, 2], "unary": [[0, 1], [0, 1]],
       "pair": [[0, 1, [[1, 0], [0, 1]]]]}                         levels
      {"nodes": [{"id": "a"}, ...], "links": [{"source", ...}]}    a graph, as networkx writes it
    The energy is minimised. "classical", "simulated" or "device" says what gave the answer.

    \b
    Example:
      qstream solve graph.json --solver qaoa --deadline 50ms --seed 7
      qstream solve --bench
    """
    if bench:
        if file is not None:
            raise ConfigError(must_be("FILE", "absent with --bench, which makes its own problems", str(file)))
        _compare(seed, shots, as_json)
        return
    if file is None:
        raise ConfigError(must_be("FILE", "a problem file, or --bench given", None))
    if not is_known(solver):
        raise ConfigError(must_be("solver", f"{AUTO}, {', '.join(solver_names())} or {DEVICE}NAME", solver))
    deadline_s = math.inf if deadline is None else seconds(deadline)
    fields = read_fields(file)
    problem = problem_of(fields, kind, colors)
    warm(*([solver.removeprefix(DEVICE)] if solver.startswith(DEVICE) else []))
    result = solve_problem(SolveRequest(problem, deadline_s=deadline_s, seed=seed, shots=shots, p=p), solver)
    answer = as_data(names_of(fields, problem), result, of_bits="Q" in fields)
    if as_json:
        print_json(answer)
        return
    print_table(("", "answer"), summary(problem, answer.get("bits"), result), [STYLES[result.meta.label]])
    print_table(("solver", "energy", "wall ms", "CPU ms", ""), attempts(result.meta))


def as_data(names: tuple[Hashable, ...], result: SolveResult, *, of_bits: bool = False) -> dict[str, Any]:
    """The answer with its record, for machines: values in the order of the names; with the bits, for a problem of bits."""
    bits = {"bits": (result.solution < 0).astype(int).tolist()} if of_bits else {}
    return {
        "energy": result.energy,
        "solution": result.solution.tolist(),
        **bits,
        "labels": list(names),
        "meta": result.meta.as_dict(),
    }


def summary(problem: Problem, bits: list[int] | None, result: SolveResult) -> list[tuple[str, str]]:
    """The answer for people, its label first."""
    meta = result.meta
    rows = [
        (meta.label, f"{meta.solver}, asked for {meta.requested}, found by {meta.produced_by}"),
        ("energy", f"{result.energy:.9g}"),
    ]
    rows.append(("optimum", "not known" if meta.optimum is None else f"{meta.optimum:.9g}"))
    rows.append(("solution", _answer(problem, result)))
    if bits is not None and len(bits) <= SHOWN:
        rows.append(("bits", "".join(map(str, bits))))
    if meta.fallback is not None:
        rows.append(("fallback", f"{meta.fallback.reason}: {meta.fallback.detail}"))
    if meta.execution != CLASSICAL:
        rows.append(("circuit", f"{meta.execution}, p={meta.p}, {meta.schedule} angles, {meta.n_2q} two-qubit gates"))
        rows.append(
            (
                "samples",
                f"{meta.shots}, mean {_number(meta.expectation)}, ratio {_number(meta.ratio)}, P(opt) {_number(meta.p_opt)}",
            )
        )
    if meta.control is not None:
        at_random = meta.control
        rows.append(
            ("random", f"best {at_random.best_energy:.6g}, mean {at_random.mean_energy:.6g}, P(opt) {_number(at_random.p_opt)}")
        )
    rows.append(("time", f"{meta.wall_ms:.3g} ms" + ("" if meta.deadline_ms is None else f" of {meta.deadline_ms:g} ms")))
    return rows


def attempts(meta: SolveMeta) -> list[tuple[str, str, str, str, str]]:
    """What each solver reached, and what it cost."""
    return [
        (each.solver, _number(each.energy), f"{each.wall_ms:.3g}", f"{each.cpu_ms:.3g}", each.reason or "") for each in meta.tried
    ]


def _answer(problem: Problem, result: SolveResult) -> str:
    if len(result.solution) > SHOWN:
        return f"{len(result.solution)} values, shown by --json"
    if isinstance(problem, IsingProblem):
        return "".join("+" if spin > 0 else "-" for spin in result.solution)
    return " ".join(map(str, result.solution))


def _number(value: float | None, form: str = ".6g") -> str:
    return "" if value is None else format(value, form)


def _compare(seed: int, shots: int, as_json: bool) -> None:
    comparison = importlib.import_module("qstream.quantum.comparison")  # which imports networkx: not needed for a file
    warm()
    rows = [row for n in BENCH_SIZES for row in comparison.compare(n, BENCH_INSTANCES, seed, shots, time.perf_counter)]
    if as_json:
        print_json({"rows": [dataclasses.asdict(row) for row in rows], "verdict": comparison.verdict(rows)})
        return
    columns = ("method", "family", "n", "ms", "ratio", "P(opt)", "hit")
    cells = [
        (row.method, row.family, row.n, f"{row.ms:.2f}", f"{row.ratio:.3f}", _number(row.p_opt, ".2g"), f"{row.hit:.2f}")
        for row in rows
    ]
    print_table(columns, cells, [STYLES["simulated" if row.quantum else "classical"] for row in rows])
    typer.echo("ms: median. ratio: (E_max - E) / (E_max - E_min), of the mean of samples or of a classical method's answer.")
    typer.echo("P(opt): of one sample. hit: share of instances whose optimum was a sample, or the answer.")
    typer.echo(f"{BENCH_INSTANCES} instances a family, {shots} shots, seed {seed}. {comparison.verdict(rows)}")
