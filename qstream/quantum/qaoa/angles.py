"""Fixed QAOA angles for MaxCut on trees: ``python -m qstream.quantum.qaoa.angles [--check]`` makes or checks angles.json.

On a d-regular graph without cycles of length 2p + 1 or less, the expected cut is that of a tree, whatever the graph; its
best angles serve all graphs of that degree, and those of the limit d -> infinity all dense random problems (the SK model).
Source: Basso, Farhi, Marwaha, Villalonga, Zhou, The QAOA at high depth for MaxCut on large-girth regular graphs and the
Sherrington-Kirkpatrick model (arXiv:2110.14206), theorems 1 and 2. Gammas here are positive and betas negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.qaoa.tables import write_or_check

DEGREES: Final = tuple(range(3, 12))
LIMIT: Final = math.inf
MAX_P: Final = 5
PATH: Final = Path(__file__).with_name("angles.json")

Complex = NDArray[np.complex128]
Vector = NDArray[np.float64]
Table = dict[str, list[dict[str, float | list[float]]]]


def tree_cut(degree: int, gammas: Vector, betas: Vector) -> float:
    """Expected share of the edges that the circuit cuts on the tree of this degree.

    Parameters
    ----------
    gammas, betas : float64 [p]
        Phase ``exp(-i gamma Z Z)`` on every edge, mixer ``exp(-i beta X)`` on every vertex.
    """
    walk, middle = paths(betas), centre_spin(len(betas))
    phases = [(np.exp(1j * angle), np.exp(-1j * angle)) for angle in mirrored(gammas)]
    branch = np.ones_like(walk)
    for _ in gammas:
        # Both signs of the phase make the cosine of theorem 1; the walk is even, so that one is enough.
        branch = convolve(walk * branch, phases) ** (degree - 1)
    root = middle * walk * branch
    # The sine is the odd part of the phase, and the root is odd.
    correlation = np.sum(root * convolve(root, phases))
    return float(0.5 - correlation.real / 2)


def limit_energy(gammas: Vector, betas: Vector) -> float:
    """Minus the energy a spin of the SK model, ``<E> / (n sigma)`` in the limit of many spins; gammas in units of 1 / sigma."""
    walk, spins, angle = paths(betas), all_spins(2 * len(betas) + 1), mirrored(gammas)
    phases = spins * angle[:, np.newaxis]
    branch = np.ones_like(walk)
    for _ in gammas:
        moments = (spins * (walk * branch)) @ spins.T
        branch = np.exp(-0.5 * np.sum(phases * (moments @ phases), axis=0))
    with_root = (spins * (walk * branch)) @ spins[len(betas)]
    return float((-0.5j * np.sum(angle * with_root**2)).real)


def paths(betas: Vector) -> Complex:
    """Amplitude [2^(2p+1)] of each history of one spin through all mixers and back, the middle being the measurement."""
    amplitude: Complex = np.full(2, 0.5 + 0j)
    for beta in [*betas, *(-betas[::-1])]:
        stay, flip = math.cos(beta), -1j * math.sin(beta)
        step = np.array([[stay, flip], [flip, stay]])
        amplitude = (amplitude.reshape(-1, 2)[:, :, np.newaxis] * step).reshape(-1)
    return amplitude


def mirrored(gammas: Vector) -> Vector:
    """Phase angles [2p+1] along a history: forth, none at the measurement, and back."""
    return np.concatenate([-gammas, [0.0], gammas[::-1]])


def all_spins(count: int) -> Vector:
    """Spins [count, 2^count] of all histories."""
    bits = np.arange(1 << count) >> np.arange(count - 1, -1, -1)[:, np.newaxis] & 1
    return np.asarray(1 - 2 * bits, np.float64)


def centre_spin(p: int) -> Vector:
    """The measured spin [2^(2p+1)] of all histories."""
    return np.asarray(all_spins(2 * p + 1)[p], np.float64)


def convolve(values: Complex, phases: list[tuple[complex, complex]]) -> Complex:
    """``sum_b values(b) exp(i sum_j angle_j a_j b_j)`` for every history a: a product of 2 x 2 matrices."""
    result: Complex = values
    for same, other in phases:
        # Each turn moves the first spin to the end; after all, the order is as before.
        up, down = result.reshape(2, -1)
        result = np.stack([same * up + other * down, other * up + same * down], axis=1).reshape(-1)
    return result


def maximise(value: Callable[[Vector, Vector], float], starts: list[Vector]) -> tuple[float, Vector]:
    """The best of the local maxima over (gammas, betas) from these starts [2p], and where it is."""
    from scipy.optimize import minimize  # noqa: PLC0415 - only the generator needs it

    def loss(x: Vector) -> float:
        return -value(*np.split(x, 2))

    found = [minimize(loss, start, method="L-BFGS-B", jac="3-point", options={"ftol": 1e-14, "gtol": 1e-8}) for start in starts]
    best = min(found, key=lambda result: float(result.fun))
    return -float(best.fun), np.asarray(best.x, np.float64)


def deeper(angles: Vector) -> Vector:
    """Angles [2p + 2] that interpolate those [2p] of one layer less (INTERP of Zhou et al., arXiv:1812.01041)."""
    return np.concatenate([interpolated(part) for part in np.split(angles, 2)])


def interpolated(part: Vector) -> Vector:
    p = len(part)
    weight: Vector = np.arange(p + 1) / p
    mixed: Vector = weight * np.append(0.0, part) + (1 - weight) * np.append(part, 0.0)
    return mixed


def generate(max_p: int = MAX_P, degrees: tuple[float, ...] = (LIMIT, *DEGREES[::-1])) -> Table:
    """The table: of each degree, for p = 1, 2..., the value reached and the angles, gammas in units of 1 / sigma.

    The value is the share of cut edges, or in the limit minus the energy a spin. Each degree starts from the one before and
    from its own angles of one layer less.
    """
    table: Table = {}
    before: list[Vector] = []
    for degree in degrees:
        found: list[Vector] = []
        rows: list[dict[str, float | list[float]]] = []
        for p in range(1, max_p + 1):
            starts = [deeper(found[-1]) if found else np.array([0.5, -math.pi / 8]), *before[p - 1 : p]]
            value, angles = maximise(objective(degree), starts)
            found.append(angles)
            gamma, beta = (np.round(part, 6).tolist() for part in np.split(angles, 2))
            rows.append({"value": round(value, 8), "gamma": gamma, "beta": beta})
        table[name(degree)] = rows
        before = found
    return table


def objective(degree: float) -> Callable[[Vector, Vector], float]:
    """What the angles of this degree maximise; gammas in units of 1 / sigma, and sigma is the root of the degree."""
    if degree == LIMIT:
        return limit_energy
    return lambda gammas, betas: tree_cut(int(degree), gammas / math.sqrt(degree), betas)


def name(degree: float) -> str:
    """The key of a degree in the table."""
    return "limit" if degree == LIMIT else str(int(degree))


def differs(made: Table, stored: Table) -> list[str]:
    """Where two tables differ by more than their accuracy."""
    return [
        f"degree {degree}, p = {p + 1}: {row['value']} made, {stored[degree][p]['value']} stored"
        for degree, rows in made.items()
        for p, row in enumerate(rows)
        if not np.allclose(row["value"], stored[degree][p]["value"], atol=1e-7)
        or not np.allclose(
            [*np.ravel(row["gamma"]), *np.ravel(row["beta"])],
            [*np.ravel(stored[degree][p]["gamma"]), *np.ravel(stored[degree][p]["beta"])],
            atol=1e-3,
        )
    ]


if __name__ == "__main__":
    write_or_check("python -m qstream.quantum.qaoa.angles", __doc__, PATH, generate, differs)
