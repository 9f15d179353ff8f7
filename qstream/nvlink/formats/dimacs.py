"""Graphs in DIMACS form (.col): ``p edge VERTICES EDGES``, then ``e U V`` for each edge, vertices from 1."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

MAX_BYTES: Final = 64_000_000
MAX_VERTICES: Final = 2048
_NUMBER: Final = re.compile(r"\d{1,9}")


def read_dimacs(text: str) -> NDArray[np.float64]:
    """The graph as float64 [n, n], 1 where there is an edge; edges that stand twice, or in both directions, are one.

    Raises
    ------
    ProblemError
        There is no line ``p``, or a line breaks a rule: its number, the rule and what stands there.
    """
    if len(text) > MAX_BYTES:
        raise ProblemError(must_be("the file", f"at most {MAX_BYTES} bytes", Shown("more")))
    matrix: NDArray[np.float64] | None = None
    for at, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0] in ("c", "n", "d", "v", "x"):  # comments, and what other problems say of vertices
            continue
        if words[0] == "p" and matrix is None:
            n = _whole(at, words, 4, 2)
            if not 1 <= n <= MAX_VERTICES:
                raise ProblemError(must_be(f"vertices, line {at}", f"1 to {MAX_VERTICES}", n))
            matrix = np.zeros((n, n))
        elif words[0] == "e" and matrix is not None:
            u, v = _whole(at, words, 3, 1), _whole(at, words, 3, 2)
            if not (1 <= u <= len(matrix) and 1 <= v <= len(matrix) and u != v):
                rule = f"between two different vertices from 1 to {len(matrix)}"
                raise ProblemError(must_be(f"edge, line {at}", rule, Shown(f"{u} and {v}")))
            matrix[u - 1, v - 1] = matrix[v - 1, u - 1] = 1.0
        else:
            rule = "c, or p once and then e" if matrix is not None else "c or p"
            raise ProblemError(must_be(f"line {at}", f"one that begins with {rule}", line[:40]))
    if matrix is None:
        raise ProblemError(must_be("the file", "DIMACS, with a line: p edge VERTICES EDGES", Shown("none")))
    return matrix


def _whole(at: int, words: list[str], count: int, place: int) -> int:
    if len(words) != count or not _NUMBER.fullmatch(words[place]):
        form = "p edge VERTICES EDGES" if count == 4 else "e U V"
        raise ProblemError(must_be(f"line {at}", f"of the form {form}", " ".join(words)[:40]))
    return int(words[place])
