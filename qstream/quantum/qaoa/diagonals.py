"""Energies of all basis states, of one problem or of many, and their levels where these are few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem, basis_spins
from schemas.wording import Shown, must_be

MAX_QUBITS: Final = 22
MAX_LEVELS: Final = 4096
MAX_STACKED: Final = 12  # spins above which the patterns of all pairs outgrow a cache


def checked_size(problems: Sequence[IsingProblem]) -> int:
    """The one n of all problems; `ProblemError` if there is none or it is too large."""
    sizes = {problem.n for problem in problems}
    if len(sizes) != 1:
        raise ProblemError(must_be("problems", "of one size in a call", Shown(f"{sorted(sizes)} spins")))
    (n,) = sizes
    if n > MAX_QUBITS:
        raise ProblemError(must_be("n", f"at most {MAX_QUBITS} for a simulated state", n))
    return n


def diagonals(problems: Sequence[IsingProblem], mirrored: bool) -> NDArray[np.float64]:
    """Energies [B, N] of problems of equal n: of many small ones by one matrix product over all pairs of spins."""
    n = problems[0].n
    if len(problems) == 1 or n > MAX_STACKED:
        return np.concatenate([diagonal(problem, mirrored)[np.newaxis] for problem in problems])
    rows, columns = np.triu_indices(n, 1)
    terms = np.array([[*problem.J[rows, columns], *problem.h] for problem in problems])
    patterns = term_patterns(n)
    return np.asarray(terms @ patterns[:, : patterns.shape[1] >> mirrored], np.float64)


@cache
def term_patterns(n: int) -> NDArray[np.float64]:
    """Products of all pairs of spins, then all spins [n (n - 1) / 2 + n, 2^n], of all basis states."""
    spins = basis_spins(n).T
    rows, columns = np.triu_indices(n, 1)
    return np.concatenate([spins[rows] * spins[columns], spins])


def diagonal(problem: IsingProblem, mirrored: bool) -> NDArray[np.float64]:
    """Energies of all states, or of those with spin 0 at +1, without the offset, which would cost their last digits."""
    if mirrored:
        return IsingProblem(problem.n - 1, problem.J[1:, 1:], problem.J[0, 1:]).diagonal(MAX_QUBITS)
    return IsingProblem(problem.n, problem.J, problem.h).diagonal(MAX_QUBITS)


def integer_levels(problem: IsingProblem, energies: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]] | None:
    """Of energies that are few multiples of a unit: the level of each state [N], and the energy of each level; else None."""
    terms = np.abs(np.concatenate([problem.J[np.nonzero(problem.J)], problem.h[np.nonzero(problem.h)]]))
    unit = float(terms.min(initial=math.inf))
    multiples = terms / unit
    if terms.size == 0 or np.any(np.abs(multiples - np.rint(multiples)) > 1e-12 * multiples):
        return None
    low = float(energies.min())
    count = round((float(energies.max()) - low) / unit) + 1
    if count > min(MAX_LEVELS, energies.size):
        return None
    values = np.asarray(low + unit * np.arange(count), np.float64)
    return np.rint((energies - low) / unit).astype(np.intp), values
