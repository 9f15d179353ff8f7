"""Problems of any size whose optimum is known by construction, for tests and figures."""

from __future__ import annotations

import numpy as np

from qstream.errors import ProblemError
from qstream.quantum.ising import MAX_SPINS, IsingProblem
from schemas.wording import must_be


def planted_torus(side: int, rng: np.random.Generator) -> tuple[IsingProblem, float]:
    """A +-J spin glass on a side x side torus, and its ground energy, ``-side^2``.

    Every second plaquette, as on a chessboard, is frustrated by one random bond, so each bond belongs to one plaquette and no
    state lowers any below -2; the planted state reaches that in all. A random gauge hides it.
    Source: Hamze et al., From near to eternity: spin-glass planting, tiling puzzles, and constraint-satisfaction problems,
    Phys. Rev. E 97 (2018).
    """
    if side < 4 or side % 2 or side * side > MAX_SPINS:
        raise ProblemError(must_be("side", f"an even number from 4 to {int(MAX_SPINS**0.5)}", side))
    n = side * side
    couplings = np.zeros((n, n))
    for row in range(side):
        for column in range(row % 2, side, 2):
            right, down = (column + 1) % side, (row + 1) % side
            loop = [row * side + column, row * side + right, down * side + right, down * side + column]
            _add_frustrated(couplings, loop, rng)
    return _hidden(couplings, rng), -float(n)


def planted_loops(n: int, loops: int, length: int, rng: np.random.Generator) -> tuple[IsingProblem, float]:
    """A sum of random frustrated loops over n spins, and its ground energy, ``-loops (length - 2)``.

    A loop with one unsatisfied bond is never below ``-(length - 2)``, which the planted state reaches in all at once.
    Source: Hen et al., Probing for quantum speedup in spin-glass problems with planted solutions, Phys. Rev. A 92 (2015).
    """
    if not 3 <= length <= n:
        raise ProblemError(must_be("length", f"3 to the number of spins, {n}", length))
    couplings = np.zeros((n, n))
    for _ in range(loops):
        _add_frustrated(couplings, rng.choice(n, length, replace=False).tolist(), rng)
    return _hidden(couplings, rng), -float(loops * (length - 2))


def _add_frustrated(couplings: np.ndarray, loop: list[int], rng: np.random.Generator) -> None:
    """Add a loop of ferromagnetic bonds of which one is turned."""
    turned = int(rng.integers(len(loop)))
    for at, i in enumerate(loop):
        j = loop[(at + 1) % len(loop)]
        couplings[min(i, j), max(i, j)] += 1.0 if at == turned else -1.0


def _hidden(couplings: np.ndarray, rng: np.random.Generator) -> IsingProblem:
    n = len(couplings)
    return IsingProblem(n, couplings).gauge(rng.random(n) < 0.5)
