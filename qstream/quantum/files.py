"""Problem files: JSON of spins, bits, levels or a graph, read with bounded memory and checked field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ConfigError, ProblemError
from qstream.quantum.convert import coloring, from_qubo, from_terms, maxcut
from qstream.quantum.ising import MAX_SPINS, IsingProblem, finite_array
from qstream.quantum.onehot import MAX_LEVELS, MAX_VARIABLES, OneHotProblem
from qstream.quantum.record import Problem

KINDS: Final = ("maxcut", "ising", "coloring")
MAX_FILE_BYTES: Final = 16 << 20
MAX_ENTRIES: Final = 1 << 23
FORMS: Final = "'n' with 'h' and 'J', 'Q', 'sizes' with 'unary' and 'pair', or 'nodes' with 'links' or 'edges'"


def read_problem(path: Path, kind: str = "maxcut", colors: int | None = None) -> Problem:
    """The problem of a JSON file; `kind` and `colors` say what is made of a graph.

    Raises
    ------
    ProblemError
        The file is too large, no JSON, or a field of it is missing, wrong or unknown: the message names it.
    ConfigError
        `kind` or `colors` do not fit the file.
    OSError
        The file cannot be read.
    """
    return problem_of(read_fields(path), kind, colors)


def read_fields(path: Path) -> dict[str, Any]:
    """The JSON object of a file, of which no more than 16 MiB are read; errors as of `read_problem`."""
    with path.open("rb") as file:
        body = file.read(MAX_FILE_BYTES + 1)
    if len(body) > MAX_FILE_BYTES:
        raise ProblemError(f"{path.name} has more than {MAX_FILE_BYTES} bytes, which are allowed")
    return _fields(body)


def parse_problem(body: bytes, kind: str = "maxcut", colors: int | None = None) -> Problem:
    """The same of bytes."""
    return problem_of(_fields(body), kind, colors)


def problem_of(value: Mapping[str, Any], kind: str = "maxcut", colors: int | None = None) -> Problem:
    """The same of the object's fields.

    Forms, each a JSON object: ``{"n", "h", "J": [[i, j, value]], "offset"}`` spins; ``{"Q": [[...]]}`` a square matrix over
    bits, or ``{"n", "Q": [[i, j, value]], "offset"}``; ``{"sizes", "unary": [[...]], "pair": [[i, j, [[...]]]], "offset"}``
    levels; networkx' node-link data, a graph. Equal couples of J, Q and edges add up.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}, allowed are {', '.join(KINDS)}")
    if (kind == "coloring") != (colors is not None):
        raise ConfigError(f"kind is {kind} and colors is {colors}, allowed is colors with kind coloring, and only then")
    if "nodes" in value:
        return _graph(value, kind, colors)
    if kind != "maxcut":
        raise ConfigError(f"kind is {kind}, allowed only for a graph, and the file has no field 'nodes'")
    if "sizes" in value:
        return _levels(value)
    if "Q" in value:
        return _bits(value)
    if "n" in value:
        return _spins(value)
    raise ProblemError(f"the file has the fields {_told(list(value))}, allowed are {FORMS}")


def names_of(value: Mapping[str, Any], problem: Problem) -> tuple[Hashable, ...]:
    """What the file calls the spins or variables of its problem: a graph's node ids, else their numbers."""
    if isinstance(problem, IsingProblem):
        return problem.labels
    return tuple(node["id"] for node in value["nodes"]) if "nodes" in value else tuple(range(len(problem.sizes)))


def _fields(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise ProblemError(f"no JSON: {exc or 'nested too deeply'}") from exc
    if not isinstance(value, dict):
        raise ProblemError(f"the file holds {_told(value)}, allowed is an object with {FORMS}")
    return value


def _allow(value: Mapping[str, Any], *fields: str) -> None:
    """A field that nobody reads would leave a part of the problem out without a word."""
    if unknown := [field for field in value if field not in fields]:
        raise ProblemError(f"the file has the field {_told(unknown[0])}, allowed are {', '.join(fields)}")


def _spins(value: Mapping[str, Any]) -> IsingProblem:
    _allow(value, "n", "h", "J", "offset")
    n = _count(value, "n", MAX_SPINS)
    fields = finite_array("h", _list(value, "h", n) if "h" in value else np.zeros(n), (n,))
    return IsingProblem(n, _upper("J", n, _triples(value, "J", n)), fields, _offset(value))


def _bits(value: Mapping[str, Any]) -> IsingProblem:
    _allow(value, "n", "Q", "offset")
    offset = _offset(value)
    if "n" not in value:
        rows = _list(value, "Q", MAX_SPINS)
        if not rows:
            raise ProblemError("Q is [], allowed is a square matrix of at least one row")
        if any(not isinstance(row, list) or len(row) != len(rows) for row in rows):
            raise ProblemError(f"Q has {len(rows)} rows of other lengths, allowed is a square matrix, or triples beside 'n'")
        return from_qubo(finite_array("Q", rows, (len(rows), len(rows))), offset)
    n = _count(value, "n", MAX_SPINS)
    matrix = np.zeros((n, n))
    i, j, weight = _triples(value, "Q", n, loops=True)
    np.add.at(matrix, (i, j), weight)
    return from_qubo(matrix, offset)


def _levels(value: Mapping[str, Any]) -> OneHotProblem:
    _allow(value, "sizes", "unary", "pair", "offset")
    sizes = tuple(_whole(f"sizes[{i}]", k, 1, MAX_LEVELS) for i, k in enumerate(_list(value, "sizes", MAX_VARIABLES)))
    m = len(sizes)
    unary: tuple[NDArray[np.float64], ...] = ()
    if "unary" in value:
        rows = _list(value, "unary", m)
        if len(rows) != m:
            raise ProblemError(f"unary has {len(rows)} lists, allowed is one for each of the {m} variables")
        unary = tuple(finite_array(f"unary[{i}]", row, (sizes[i],)) for i, row in enumerate(rows))
    pair: dict[tuple[int, int], NDArray[np.float64]] = {}
    for number, entry in enumerate(_list(value, "pair", m * m) if "pair" in value else []):
        if not isinstance(entry, list) or len(entry) != 3:
            raise ProblemError(f"pair[{number}] is {_told(entry)}, allowed is [i, j, costs]")
        i, j = (_whole(f"pair[{number}][{at}]", entry[at], 0, m - 1) for at in (0, 1))
        if i >= j or (i, j) in pair:
            raise ProblemError(f"pair[{number}] couples {i} and {j}, allowed is i < j and each couple once")
        pair[i, j] = finite_array(f"pair[{number}] costs", entry[2], (sizes[i], sizes[j]))
    return OneHotProblem(sizes, unary, pair, _offset(value))


def _graph(value: Mapping[str, Any], kind: str, colors: int | None) -> Problem:
    if value.get("directed") or value.get("multigraph"):
        raise ProblemError("the graph is directed or a multigraph, allowed are simple undirected graphs")
    at: dict[Hashable, int] = {}
    fields = []
    for number, node in enumerate(_list(value, "nodes", MAX_SPINS)):
        name = node.get("id") if isinstance(node, dict) else None
        finite = isinstance(name, (str, int)) or (isinstance(name, float) and math.isfinite(name))
        if not isinstance(node, dict) or not finite or name in at:
            raise ProblemError(f"nodes[{number}] is {_told(node)}, allowed is an object with an id of its own")
        at[name] = number
        fields.append(((number,), node.get("h", 0.0)))
    edges = []
    key = "links" if "links" in value else "edges"
    for number, edge in enumerate(_list(value, key, MAX_ENTRIES)):
        ends = [edge.get(end) for end in ("source", "target")] if isinstance(edge, dict) else []
        if len(ends) != 2 or any(not isinstance(end, (str, int, float)) or end not in at for end in ends) or ends[0] == ends[1]:
            raise ProblemError(f"{key}[{number}] is {_told(edge)}, allowed is an object whose source and target are two nodes")
        edges.append((at[ends[0]], at[ends[1]], edge.get("weight", 1.0)))
    if kind == "coloring":
        return coloring(len(at), edges, _whole("colors", colors, 1, MAX_LEVELS))
    if kind == "ising":
        return from_terms(len(at), [*fields, *(((i, j), weight) for i, j, weight in edges)], tuple(at))
    return maxcut(tuple(at), edges)


def _triples(
    value: Mapping[str, Any], field: str, n: int, loops: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows, columns and values of ``[[i, j, value], ...]``."""
    rows = _list(value, field, MAX_ENTRIES) if field in value else []
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 3:
            raise ProblemError(f"{field}[{number}] is {_told(row)}, allowed is [i, j, value]")
    table = finite_array(field, rows, (len(rows), 3)) if rows else np.zeros((0, 3))
    at = table[:, :2]
    wrong = (at != np.floor(at)).any(1) | (at < 0).any(1) | (at >= n).any(1)
    if not loops:
        wrong |= at[:, 0] == at[:, 1]
    if wrong.any():
        number = int(wrong.argmax())
        kind = "two" if loops else "two different"
        raise ProblemError(f"{field}[{number}] is {_told(rows[number])}, allowed are {kind} whole numbers from 0 to {n - 1}")
    indices = at.astype(np.int64)
    return indices[:, 0], indices[:, 1], table[:, 2]


def _upper(field: str, n: int, triples: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]) -> NDArray[np.float64]:
    """The triples as an upper triangle; of two for one couple the sum."""
    i, j, weight = triples
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.minimum(i, j), np.maximum(i, j)), weight)
    return finite_array(field, matrix, (n, n))


def _list(value: Mapping[str, Any], field: str, most: int) -> list[Any]:
    if field not in value:
        raise ProblemError(f"{field} is missing, allowed is a list of at most {most}")
    found = value[field]
    if not isinstance(found, list) or len(found) > most:
        told = f"{len(found)} entries" if isinstance(found, list) else _told(found)
        raise ProblemError(f"{field} has {told}, allowed is a list of at most {most}")
    return found


def _count(value: Mapping[str, Any], field: str, most: int) -> int:
    return _whole(field, value[field], 1, most)


def _whole(field: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ProblemError(f"{field} is {_told(value)}, allowed are whole numbers from {low} to {high}")
    return value


def _offset(value: Mapping[str, Any]) -> float:
    return float(finite_array("offset", value.get("offset", 0.0), ()))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number, allowed are finite ones")


def _told(value: Any) -> str:
    """The start of a value of the file, as JSON."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "nested too deeply"
    return text if len(text) <= 60 else text[:57] + "..."
