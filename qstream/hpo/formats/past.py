"""Past metrics to begin a study from: CSV of any tool, MLflow's export of runs, our own history, a study of Optuna.

One row a trial. Columns are parameters, by their names, and the objective. In MLflow's export they are ``params.NAME`` and
``metrics.NAME``, in our history ``param.NAME`` and ``metric.NAME``; what else such files hold is left alone.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from qstream.errors import ProblemError
from qstream.hpo.problem import finite
from qstream.hpo.space import SearchSpace
from schemas.control import Scalar
from schemas.space import Parameter, allowed_values, allows
from schemas.wording import Shown, must_be

OnBad = Literal["refuse", "drop"]
MAX_COLUMNS: Final = 10_000
MLFLOW: Final = ("params.", "metrics.")
OWN: Final = ("param.", "metric.")
COUNTED: Final = frozenset(("complete", "FINISHED"))  # of a column that says how a trial ended
_TRUTH: Final = {"true": True, "false": False}


class Past(NamedTuple):
    """Configurations of a space and the objective of each, as measured; and what was left out, a line for each fault."""

    rows: tuple[tuple[dict[str, Scalar], float], ...]
    dropped: tuple[str, ...] = ()


def read_csv(
    path: str | Path,
    space: SearchSpace,
    *,
    objective: str = "loss",
    rename: Mapping[str, str] | None = None,
    on_bad: OnBad = "refuse",
) -> Past:
    """Read past metrics from a CSV file.

    Parameters
    ----------
    objective
        The metric that decides: a column, or what stands behind ``metrics.`` or ``metric.``.
    rename
        Names of the file -> names of the space, where they differ.
    on_bad
        What becomes of an unknown column and of a row with a value that its parameter cannot have: the whole file is refused,
        or it is dropped, and `Past.dropped` says so. Rows of trials that did not complete are no fault, and left out.

    Raises
    ------
    ProblemError
        Names line and column, the rule and the value; or the column that is missing.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            header = next(lines, [])
            columns, dropped = _columns(header, path.name, space, objective, rename or {}, on_bad)
            rows: list[tuple[dict[str, Scalar], float]] = []
            for cells in lines:
                if cells:
                    _take(cells, len(header), f"line {lines.line_num}", path.name, columns, space, on_bad, rows, dropped)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise ProblemError(must_be("a file of past metrics", f"readable CSV ({exc})", str(path))) from exc
    return Past(tuple(rows), tuple(dropped))


def checked(rows: Sequence[tuple[Mapping[str, Scalar], float]], space: SearchSpace, on_bad: OnBad = "refuse") -> Past:
    """Past results that are in memory, kept or left out by the same rules; a row is named by its number, from 0."""
    kept: list[tuple[dict[str, Scalar], float]] = []
    dropped: list[str] = []
    for number, (params, value) in enumerate(rows):
        try:
            space.encode(params)
            found = finite(value, "the objective")
        except ProblemError as exc:
            if on_bad == "refuse":
                raise ProblemError(f"row {number}: {exc}") from exc
            dropped.append(f"row {number}: {exc}")
        else:
            kept.append((dict(params), found))
    return Past(tuple(kept), tuple(dropped))


class _Columns(NamedTuple):
    """Where in a line everything stands: parameters by name, the objective, and how the trial ended, if the file says it."""

    of_parameter: dict[str, int]
    names: tuple[str, ...]
    objective: int
    ended: int | None


def _columns(
    header: Sequence[str], file: str, space: SearchSpace, objective: str, rename: Mapping[str, str], on_bad: OnBad
) -> tuple[_Columns, list[str]]:
    """Find the columns; those that are unknown are refused or dropped."""
    if not 1 <= len(header) <= MAX_COLUMNS:
        raise ProblemError(must_be(f"columns of {file}", f"1 to {MAX_COLUMNS}", len(header)))
    names = tuple(name.strip() for name in header)
    if twice := sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
        raise ProblemError(must_be(f"columns of {file}", "distinct", Shown(f"{twice[0]!r} twice")))
    prefix = next((found for found in (MLFLOW, OWN) if any(name.startswith(found[0]) for name in names)), ("", ""))
    at: dict[str, int] = {}
    unknown, wanted = [], {prefix[0] + name: name for name in space.names}
    for number, name in enumerate(names):
        ours = rename.get(name, rename.get(name.removeprefix(prefix[0]), wanted.get(name)))
        if ours in space.names and ours not in at:
            at[ours] = number
        elif not prefix[0] and name != rename.get(objective, objective) and rename.get(name) != objective:
            unknown.append(name)
    where = _objective(names, prefix[1], objective, rename)
    if where is None:
        raise ProblemError(
            must_be(f"columns of {file}", f"among them the objective, {prefix[1]}{objective}", Shown(_some(names)))
        )
    missing = [p.name for p in space.parameters if p.name not in at and p.when is None and len(p.choices or "ab") > 1]
    if missing:
        raise ProblemError(must_be(f"columns of {file}", f"among them {prefix[0]}{missing[0]}", Shown(_some(names))))
    if unknown and on_bad == "refuse":
        known = ", ".join((*space.names, objective))
        raise ProblemError(must_be(f"line 1, column {names.index(unknown[0]) + 1} of {file}", f"one of {known}", unknown[0]))
    ended = next((names.index(name) for name in ("state", "status") if prefix[0] and name in names), None)
    return _Columns(at, names, where, ended), [f"column {name!r} is unknown" for name in unknown]


def _objective(names: Sequence[str], prefix: str, objective: str, rename: Mapping[str, str]) -> int | None:
    """The column of the objective: under its name, under a name that was renamed to it, or ``value`` next to our own parameters.

    With a column for each metric, ``value`` is that of one of them, and not of another that is asked for.
    """
    renamed = [name for name in names if objective in (rename.get(name), rename.get(name.removeprefix(prefix)))]
    alone = prefix == OWN[1] and not any(name.startswith(prefix) for name in names)
    for name in (*renamed, prefix + objective, objective, *(("value",) if alone else ())):
        if name in names:
            return names.index(name)
    return None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def _take(
    cells: Sequence[str],
    width: int,
    line: str,
    file: str,
    columns: _Columns,
    space: SearchSpace,
    on_bad: OnBad,
    rows: list[tuple[dict[str, Scalar], float]],
    dropped: list[str],
) -> None:
    """Add the row of a line, or the fault for which it is left out."""
    try:
        if len(cells) != width:
            raise ProblemError(must_be(f"{line} of {file}", f"{width} cells, as the header has", len(cells)))
        if columns.ended is not None and cells[columns.ended].strip() not in COUNTED:
            return
        rows.append(_row(cells, line, file, columns, space))
    except ProblemError as exc:
        if on_bad == "refuse":
            raise
        dropped.append(str(exc))


def _row(cells: Sequence[str], line: str, file: str, columns: _Columns, space: SearchSpace) -> tuple[dict[str, Scalar], float]:
    params: dict[str, Scalar] = {}
    for parameter in space.parameters:
        at = columns.of_parameter.get(parameter.name)
        if at is None:  # it has one value, or it is conditional
            params |= {parameter.name: parameter.choices[0]} if parameter.choices and len(parameter.choices) == 1 else {}
        elif cells[at].strip() or (parameter.choices and "" in parameter.choices):
            value = value_of_text(parameter, cells[at])
            if value is None or not allows(parameter, value):
                where = f"{line}, column {columns.names[at]!r} of {file}"
                raise ProblemError(must_be(where, allowed_values(parameter), cells[at]))
            params[parameter.name] = value
    try:
        unit = space.encode(params)
    except ProblemError as exc:  # an active parameter is missing
        raise ProblemError(f"{line} of {file}: {exc}") from exc
    value = _number(cells[columns.objective])
    if value is None:
        where = f"{line}, column {columns.names[columns.objective]!r} of {file}"
        raise ProblemError(must_be(where, "a finite number", cells[columns.objective]))
    active = space.active(unit[None])[0]
    return {name: params[name] for name, there in zip(space.names, active, strict=True) if there}, value


def value_of_text(parameter: Parameter, text: str) -> Scalar | None:
    """The value that a parameter may have and a text says; None if it says none."""
    stripped = text.strip()
    number = _number(stripped)
    if parameter.choices is None:
        whole = number is not None and parameter.type == "int" and number.is_integer()
        return int(number) if whole and number is not None else number
    for choice in parameter.choices:  # a text before the number or switch that is written as it is
        if isinstance(choice, str) and choice in (text, stripped):
            return choice
    truth = _TRUTH.get(stripped.lower())
    for choice in parameter.choices:
        if isinstance(choice, bool):
            if choice is truth:
                return choice
        elif not isinstance(choice, str) and number == choice:
            return choice
    return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None
