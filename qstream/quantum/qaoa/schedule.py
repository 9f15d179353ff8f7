"""Angles that need no search: linear ramps and transferred tree angles, scaled to a problem by its sigma.

Scaled angles transfer between problems because sigma, the typical local field, is the natural unit of 1 / gamma; measured on
dense, sparse, weighted and number-partition problems. Gammas are positive and betas negative: see `statevector`.
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib import resources
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem
from qstream.quantum.record import Refused, SolveRequest, spin_problem
from schemas.solver import Reason
from schemas.wording import must_be

RAMP_GAMMA: Final = 0.75
RAMP_BETA: Final = 0.65
MAX_TREE_P: Final = 5
LARGEST_DEGREE: Final = 11.5
_LEAST_SIGMA: Final = 1e-300

Angles = tuple[NDArray[np.float64], NDArray[np.float64]]


def ramp(p: int, sigma: float) -> Angles:
    """Gammas rising and betas falling linearly over p layers: a discrete annealing (Montanez-Barrera, arXiv:2405.09169)."""
    middle = (np.arange(p) + 0.5) / p
    return RAMP_GAMMA * middle / scale(sigma), -RAMP_BETA * (1 - middle)


def tree(p: int, sigma: float, degree: float = math.inf) -> Angles:
    """The angles that are best for MaxCut on the tree of the nearest degree, 3 to 11, or beyond it of the dense limit.

    `ProblemError` above p = 5, where no tree angles are kept.
    """
    if not 1 <= p <= MAX_TREE_P:
        raise ProblemError(must_be("p", f"1 to {MAX_TREE_P} for tree angles", p))
    gamma, beta = tree_table()["limit" if degree > LARGEST_DEGREE else str(max(3, round(degree)))][p - 1]
    return gamma / scale(sigma), beta


def stretched(p: int, sigma: float) -> Angles:
    """The dense limit's angles of p = 5 as a curve, read at p > 5 points: well above the ramp up to p = 24, and its equal at 32.

    The idea is that of INTERP (Zhou et al., arXiv:1812.01041), without its optimisation.
    """
    gamma, beta = tree_table()["limit"][-1]
    at, known = (np.arange(p) + 0.5) / p, (np.arange(MAX_TREE_P) + 0.5) / MAX_TREE_P
    return extended(at, known, gamma) / scale(sigma), extended(at, known, beta)


def extended(at: NDArray[np.float64], known: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation of `values` at `known` points, whose end pieces go on to 0 and 1."""
    first = values[0] + (values[1] - values[0]) / (known[1] - known[0]) * (0 - known[0])
    last = values[-1] + (values[-1] - values[-2]) / (known[-1] - known[-2]) * (1 - known[-1])
    return np.asarray(np.interp(at, [0.0, *known, 1.0], [first, *values, last]), np.float64)


def scale(sigma: float) -> float:
    """`sigma`, or 1 of a problem without terms, or of so small ones that 1 / sigma is not finite: all angles are as good."""
    return sigma if sigma > _LEAST_SIGMA else 1.0


def effective_degree(problem: IsingProblem) -> float:
    """How many terms a spin has, weighted by their share: d for a d-regular graph of equal weights."""
    unit = max(float(np.abs(problem.J).max()), float(np.abs(problem.h).max())) or 1.0
    # By ratios to the largest, whose fourth powers neither overflow nor vanish all.
    terms = np.column_stack([problem.symmetric(), problem.h]) / unit
    np.square(terms, out=terms)
    heavy = terms[terms.any(axis=1)]
    if not heavy.size:
        return math.inf
    return float(np.mean(heavy.sum(axis=1) ** 2 / (heavy**2).sum(axis=1)))


def angles(request: SolveRequest, p: int) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    """Fixed gammas [p] and betas [p] for a request, and the name of their schedule.

    A warm start has the ramp; else ``auto`` has tree angles up to p = 5 and the stretched ones beyond. `Refused` where tree
    angles are asked for above p = 5.
    """
    problem = spin_problem(request)
    sigma = problem.sigma()
    if request.schedule == "ramp" or (request.schedule == "auto" and request.warm_start is not None):
        return *ramp(p, sigma), "ramp"
    if p <= MAX_TREE_P:
        return *tree(p, sigma, effective_degree(problem)), "tree"
    if request.schedule == "tree":
        raise Refused(Reason.UNSUPPORTED, f"p is {p}, tree angles are kept up to {MAX_TREE_P}")
    return *stretched(p, sigma), "stretched"


@cache
def tree_table() -> dict[str, list[Angles]]:
    """By degree, the angles for p = 1 to 5, gammas in units of 1 / sigma."""
    stored = json.loads(resources.files("qstream.quantum.qaoa").joinpath("angles.json").read_text())
    return {degree: [(np.array(row["gamma"]), np.array(row["beta"])) for row in rows] for degree, rows in stored.items()}
