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
from schemas.parse import read_json
from schemas.wording import Shown, must_be

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
        raise ProblemError(must_be(path.name, f"at most {MAX_FILE_BYTES} bytes", Shown("more")))
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
        raise ConfigError(must_be("kind", f"one of {', '.join(KINDS)}", kind))
    if (kind == "coloring") != (colors is not None):
        raise ConfigError(must_be("colors", "given with the kind coloring, and only then", Shown(f"{colors} with {kind}")))
    if "nodes" in value:
        return _graph(value, kind, colors)
    if kind != "maxcut":
        raise ConfigError(must_be("kind", "maxcut for a file without the field 'nodes', which is not a graph", kind))
    if "sizes" in value:
        return _levels(value)
    if "Q" in value:
        return _bits(value)
    if "n" in value:
        return _spins(value)
    raise ProblemError(must_be("the fields of the file", FORMS, Shown(_as_json(list(value)))))


def names_of(value: Mapping[str, Any], problem: Problem) -> tuple[Hashable, ...]:
    """What the file calls the spins or variables of its problem: a graph's node ids, else their numbers."""
    if isinstance(problem, IsingProblem):
        return problem.labels
    return tuple(_node_id(node["id"]) for node in value["nodes"]) if "nodes" in value else tuple(range(len(problem.sizes)))


def _fields(body: bytes) -> dict[str, Any]:
    try:
        value = read_json(body)
    except ValueError as exc:
        raise ProblemError(must_be("the file", "JSON", Shown(exc))) from exc
    if not isinstance(value, dict):
        raise ProblemError(must_be("the file", f"an object with {FORMS}", Shown(_as_json(value))))
    return value


def _allow(value: Mapping[str, Any], *fields: str) -> None:
    """An unknown field would silently leave out a part of the problem."""
    if unknown := [field for field in value if field not in fields]:
        raise ProblemError(must_be("a field of the file", f"one of {', '.join(fields)}", Shown(_as_json(unknown[0]))))


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
            raise ProblemError(must_be("Q", "a square matrix of at least one row", []))
        if any(not isinstance(row, list) or len(row) != len(rows) for row in rows):
            raise ProblemError(
                must_be("Q", "a square matrix, or triples next to 'n'", Shown(f"{len(rows)} rows of other lengths"))
            )
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
            raise ProblemError(must_be("unary", f"one list for each of the {m} variables", Shown(f"{len(rows)} lists")))
        unary = tuple(finite_array(f"unary[{i}]", row, (sizes[i],)) for i, row in enumerate(rows))
    pair: dict[tuple[int, int], NDArray[np.float64]] = {}
    for number, entry in enumerate(_list(value, "pair", m * m) if "pair" in value else []):
        if not isinstance(entry, list) or len(entry) != 3:
            raise ProblemError(must_be(f"pair[{number}]", "[i, j, costs]", Shown(_as_json(entry))))
        i, j = (_whole(f"pair[{number}][{at}]", entry[at], 0, m - 1) for at in (0, 1))
        if i >= j or (i, j) in pair:
            raise ProblemError(must_be(f"pair[{number}]", "i < j, each pair once,", Shown(f"{i} and {j}")))
        pair[i, j] = finite_array(f"pair[{number}] costs", entry[2], (sizes[i], sizes[j]))
    return OneHotProblem(sizes, unary, pair, _offset(value))


def _graph(value: Mapping[str, Any], kind: str, colors: int | None) -> Problem:
    if value.get("directed") or value.get("multigraph"):
        raise ProblemError(must_be("the graph", "undirected and simple", Shown("a directed one or a multigraph")))
    at: dict[Hashable, int] = {}
    fields = []
    for number, node in enumerate(_list(value, "nodes", MAX_SPINS)):
        name = _node_id(node.get("id")) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name is None or name in at:
            raise ProblemError(must_be(f"nodes[{number}]", "an object with an id of its own", Shown(_as_json(node))))
        at[name] = number
        fields.append(((number,), node.get("h", 0.0)))
    edges = []
    key = "links" if "links" in value else "edges"
    for number, edge in enumerate(_list(value, key, MAX_ENTRIES)):
        ends = [_node_id(edge.get(end)) for end in ("source", "target")] if isinstance(edge, dict) else []
        if len(ends) != 2 or any(end not in at for end in ends) or ends[0] == ends[1]:
            raise ProblemError(
                must_be(f"{key}[{number}]", "an object whose source and target are two nodes", Shown(_as_json(edge)))
            )
        edges.append((at[ends[0]], at[ends[1]], edge.get("weight", 1.0)))
    if kind == "coloring":
        return coloring(len(at), edges, _whole("colors", colors, 1, MAX_LEVELS))
    if kind == "ising":
        return from_terms(len(at), [*fields, *(((i, j), weight) for i, j, weight in edges)], tuple(at))
    return maxcut(tuple(at), edges)


def _node_id(value: Any) -> Hashable | None:
    """A node's id; of a list the tuple that networkx has written as one, as of a grid; None for what is not an id."""
    if isinstance(value, list | tuple):
        parts = tuple(map(_node_id, value))
        return None if None in parts else parts
    return value if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)) else None


def _triples(
    value: Mapping[str, Any], field: str, n: int, loops: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows, columns and values of ``[[i, j, value], ...]``."""
    rows = _list(value, field, MAX_ENTRIES) if field in value else []
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 3:
            raise ProblemError(must_be(f"{field}[{number}]", "[i, j, value]", Shown(_as_json(row))))
    table = finite_array(field, rows, (len(rows), 3)) if rows else np.zeros((0, 3))
    at = table[:, :2]
    wrong = (at != np.floor(at)).any(1) | (at < 0).any(1) | (at >= n).any(1)
    if not loops:
        wrong |= at[:, 0] == at[:, 1]
    if wrong.any():
        number = int(wrong.argmax())
        kind = "two" if loops else "two different"
        raise ProblemError(
            must_be(f"{field}[{number}]", f"{kind} whole numbers from 0 to {n - 1} and a value", Shown(_as_json(rows[number])))
        )
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
        raise ProblemError(must_be(field, f"a list of at most {most}", Shown("no such field")))
    found = value[field]
    if not isinstance(found, list) or len(found) > most:
        shown = f"{len(found)} entries" if isinstance(found, list) else _as_json(found)
        raise ProblemError(must_be(field, f"a list of at most {most}", Shown(shown)))
    return found


def _count(value: Mapping[str, Any], field: str, most: int) -> int:
    return _whole(field, value[field], 1, most)


def _whole(field: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ProblemError(must_be(field, f"a whole number from {low} to {high}", Shown(_as_json(value))))
    return value


def _offset(value: Mapping[str, Any]) -> float:
    return float(finite_array("offset", value.get("offset", 0.0), ()))


def _as_json(value: Any) -> str:
    """The start of a value of the file, as JSON."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "nested too deeply"
    return text if len(text) <= 60 else text[:57] + "..."
