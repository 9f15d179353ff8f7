"""Fixed angles for spins of a fixed weight: ``python -m qstream.quantum.qaoa.weight_angles [--check]`` makes or checks the table.

They maximise the expected share of the exact gain over an incumbent that the best of 32 samples captures, over Gaussian problems
and problems of items that attract each other and have a load to be split, half of the spins at -1. Incumbents are the best of
eight random solutions, as those of a search under way are not the first to come. The expectation over samples is exact, so that
the search of angles is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.angles import deeper
from qstream.quantum.qaoa.fixed_weight import swap_mixer, weight_energies, weight_spins
from qstream.quantum.qaoa.tables import write_or_check

MAX_P: Final = 4
SHOTS: Final = 32
SIZES: Final = (8, 10, 12)
INSTANCES: Final = 16
DRAWS: Final = 8
PATH: Final = Path(__file__).with_name("weight_angles.json")

Vector = NDArray[np.float64]
Row = dict[str, float | list[float]]
Table = dict[str, list[Row]]


@dataclass(frozen=True, eq=False)
class Family:
    """Problems of n spins, B of them: energies [C, B] of mean 0 and deviation 1, and swaps [C, B] from an incumbent each."""

    n: int
    energies: Vector
    swaps: Vector
    before: Vector
    """Energies [B] of the incumbents."""


def family(n: int, instances: int = INSTANCES, seed: int = 0) -> Family:
    """As many problems of either kind, with incumbents that are not optimal."""
    rng = np.random.default_rng([seed, n])
    energies = np.stack([weight_energies(make(n, rng), n // 2) for make in (gaussian, split) for _ in range(instances)], 1)
    energies = (energies - energies.mean(0)) / energies.std(0)
    drawn = [rng.choice(np.flatnonzero(column > column.min() + 1e-9), DRAWS) for column in energies.T]
    incumbents = [int(few[column[few].argmin()]) for few, column in zip(drawn, energies.T, strict=True)]
    spins = weight_spins(n, n // 2).astype(np.float64)
    return Family(n, energies, (n - spins @ spins[incumbents].T) / 4, energies[incumbents, np.arange(len(incumbents))])


def gaussian(n: int, rng: np.random.Generator) -> IsingProblem:
    """All couplings and fields standard normal."""
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))


def split(n: int, rng: np.random.Generator) -> IsingProblem:
    """Items that attract each other at random, and whose loads repel: the square of a difference of two sums."""
    load, together = rng.lognormal(0.0, 0.5, n), rng.exponential(1.0, (n, n))
    repel = 2.0 * np.outer(load, load)
    # Scaled so that either part moves the energy as much.
    return IsingProblem(n, np.triu(repel / repel.std() - together / together.std(), 1), rng.normal(size=n))


def captured(problems: Family, gammas: Vector, betas: Vector, falloff: float) -> float:
    """Expected share of the exact gain that the best of 32 samples captures, mean over the problems."""
    psi = np.exp(-falloff * problems.swaps).astype(np.complex128)
    psi /= np.linalg.norm(psi, axis=0)
    for gamma, beta in zip(gammas, betas, strict=True):
        psi = swap_mixer(psi * np.exp(-1j * gamma * problems.energies), beta, problems.n, problems.n // 2)
    order = np.argsort(problems.energies, axis=0, kind="stable")
    energies = np.take_along_axis(problems.energies, order, 0)
    above = 1 - np.cumsum(np.take_along_axis(np.abs(psi) ** 2, order, 0), axis=0)
    none_lower = np.vstack([np.ones((1, above.shape[1])), np.clip(above, 0, 1) ** SHOTS])
    best_is = none_lower[:-1] - none_lower[1:]
    gains = np.maximum(problems.before - energies, 0) / (problems.before - energies[0])
    return float(np.mean(np.sum(best_is * gains, axis=0)))


def objective(families: list[Family], angles: Vector, *, warm: bool) -> float:
    """Mean of `captured` over sizes; angles are (gammas, betas), and for a warm start the falloff before them."""
    falloff, rest = (float(angles[0]), angles[1:]) if warm else (0.0, angles)
    gammas, betas = np.split(rest, 2)
    return float(np.mean([captured(problems, gammas, betas, falloff) for problems in families]))


def maximise(value: Callable[[Vector], float], start: Vector) -> tuple[float, Vector]:
    """The local maximum from a start, and where it is."""
    from scipy.optimize import minimize  # noqa: PLC0415 - only the generator needs it

    found = minimize(lambda x: -value(x), start, method="L-BFGS-B", options={"ftol": 1e-9, "eps": 1e-6, "maxiter": 60})
    return -float(found.fun), np.asarray(found.x, np.float64)


def generate(max_p: int = MAX_P, instances: int = INSTANCES, starts_of: Sequence[str] = ("warm", "uniform")) -> Table:
    """The table: of the warm and of the uniform start, for p = 1, 2..., the share reached and the angles.

    Gammas are on the scale of the energies' deviation. Each p starts from the angles of one layer less, and the best of a few
    starts is the first.
    """
    families = [family(n, instances) for n in SIZES]
    table: Table = {}
    for start in starts_of:
        warm = start == "warm"
        first = [0.5] if warm else []
        starts = [np.array([*first, gamma, beta]) for gamma in (0.7, 1.3) for beta in (-0.08, -0.2)]
        rows: list[Row] = []
        for _ in range(max_p):
            value, angles = max((maximise(partial(objective, families, warm=warm), each) for each in starts), key=lambda f: f[0])
            falloff, rest = (angles[:1], angles[1:]) if warm else (np.zeros(1), angles)
            gamma, beta = (np.round(part, 4).tolist() for part in np.split(rest, 2))
            rows.append({"value": round(value, 5), "gamma": gamma, "beta": beta, "falloff": round(float(falloff[0]), 4) + 0.0})
            starts = [np.concatenate([angles[:1] if warm else angles[:0], deeper(rest)])]
        table[start] = rows
    return table


def differs(made: Table, stored: Table) -> list[str]:
    """Where two tables differ by more than their accuracy."""
    return [
        f"{start}, p = {p + 1}: {row} made, {stored[start][p]} stored"
        for start, rows in made.items()
        for p, row in enumerate(rows)
        if any(not np.allclose(row[name], stored[start][p][name], atol=2e-3 if name == "value" else 5e-2) for name in row)
    ]


if __name__ == "__main__":
    write_or_check("python -m qstream.quantum.qaoa.weight_angles", __doc__, PATH, generate, differs)
