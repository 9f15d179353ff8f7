"""QAOA inside the feasible subspace: one-hot variables as k-level systems, and spins of a fixed Hamming weight.

A mixer that keeps the constraint never leaves these states, so only they are simulated: prod k_i amplitudes instead of
2^(sum k_i), and C(n, k) instead of 2^n. Layers are ``exp(-i beta B) exp(-i gamma E)``, as in all of ``qstream.quantum``.
Sources: Hadfield et al. 2019 (alternating operator ansatz), Egger et al. 2021 (warm start).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem, spins_of
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.qaoa.measure import Distribution
from qstream.quantum.qaoa.statevector import unlimited
from qstream.quantum.record import Answer, Control, Refused, Remaining
from schemas.solver import Reason

OneHotMixer = Literal["complete", "ring"]
MAX_WEIGHT_SPINS: Final = 14
_BLOCK: Final = 32
MAX_WEIGHT_LAYERS: Final = 64
_JITTER: Final = 0.02


def complete_mixer(beta: float, around: NDArray[np.float64]) -> NDArray[np.complex128]:
    """``exp(-i beta (k |a><a| - I))`` for a unit vector a [k]: of the uniform a, the XY mixer between all k levels."""
    k = len(around)
    mixer: NDArray[np.complex128] = np.exp(1j * beta) * (np.eye(k) + np.expm1(-1j * beta * k) * np.outer(around, around))
    return mixer


def ring_mixer(beta: float, k: int) -> NDArray[np.complex128]:
    """``exp(-i beta A)``, A the adjacency of the ring of k levels: the XY mixer between neighbours."""
    values, vectors = _ring(k)
    mixer: NDArray[np.complex128] = (vectors * np.exp(-1j * beta * values)) @ vectors.T
    return mixer


def onehot_state(
    energies: NDArray[np.float64],
    gammas: ArrayLike,
    betas: ArrayLike,
    *,
    mixer: OneHotMixer = "complete",
    around: Sequence[NDArray[np.float64]] | None = None,
    remaining_s: Remaining = unlimited,
) -> NDArray[np.complex128]:
    """The state after p layers of gammas [p] and betas [p] or [p, m], of the shape of `energies`, the diagonal [k_1, ..., k_m].

    It starts from the product of the unit vectors `around`, by default uniform; the complete mixer turns around them, the
    ring mixer knows only the uniform ones. `Refused` (timeout) where the time ends between two layers.
    """
    sizes = energies.shape
    local = [np.full(k, k**-0.5) for k in sizes] if around is None else list(around)
    if mixer == "ring" and around is not None:
        raise ProblemError("mixer is 'ring' with a start of its own, allowed is 'complete'")
    psi = np.ones(1, np.complex128)
    for vector in local:
        psi = np.multiply.outer(psi, vector).reshape(-1)
    gammas, betas = np.asarray(gammas, np.float64), np.asarray(betas, np.float64)
    each = np.broadcast_to(betas if betas.ndim == 2 else betas[:, np.newaxis], (len(gammas), len(sizes)))
    for gamma, row in zip(gammas, each, strict=True):
        in_time(remaining_s)
        psi = psi.reshape(-1) * np.exp(-1j * gamma * energies.reshape(-1))
        mixers = [
            complete_mixer(beta, vector) if mixer == "complete" else ring_mixer(beta, len(vector))
            for vector, beta in zip(local, row, strict=True)
        ]
        for matrix in blocks(mixers):
            # The first axis goes to the end, so after all blocks the order is the first one again.
            psi = psi.reshape(len(matrix), -1).T @ matrix.T
    return psi.reshape(sizes)


def blocks(mixers: Sequence[NDArray[np.complex128]]) -> list[NDArray[np.complex128]]:
    """Kronecker products of neighbours up to 32 rows, which fill a matrix product better than each alone."""
    result: list[NDArray[np.complex128]] = []
    for mixer in mixers:
        if result and len(result[-1]) * len(mixer) <= _BLOCK:
            left = result[-1]
            size = len(left) * len(mixer)
            result[-1] = (left[:, np.newaxis, :, np.newaxis] * mixer[:, np.newaxis, :]).reshape(size, size)
        else:
            result.append(mixer)
    return result


def local_scale(problem: OneHotProblem) -> float:
    """Root mean square over variables of how far one variable alone moves the energy, others uniformly random.

    For two levels it is ``IsingProblem.sigma``: the scale by which angles transfer between problems.
    """
    starts, unary, pair = problem.stacked()
    # By ratios to the largest, whose squares neither overflow nor vanish all.
    unit = max(float(np.abs(unary).max()), float(np.abs(pair).max())) or 1.0
    unary, pair = unary / unit, pair / unit
    sizes = np.diff(starts)
    weight = np.repeat(1 / sizes, sizes)

    def centred(costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Less the mean over each variable's levels, along the first axis."""
        means = np.add.reduceat(costs.T * weight, starts[:-1], axis=-1)
        rest: NDArray[np.float64] = costs - np.repeat(means, sizes, axis=-1).T
        return rest

    alone, together = centred(unary + pair @ weight), centred(centred(pair).T)
    return unit * math.sqrt(float(weight @ (alone**2 + together**2 @ weight)) / len(sizes))


@lru_cache(maxsize=64)
def weight_indices(n: int, weight: int) -> NDArray[np.int64]:
    """Indices [C(n, weight)], ascending, of the basis states of n qubits with `weight` spins at -1."""
    if not 1 <= n <= MAX_WEIGHT_SPINS:
        raise ProblemError(f"n is {n}, allowed are 1 to {MAX_WEIGHT_SPINS} spins of a fixed weight")
    if not 0 <= weight <= n:
        raise ProblemError(f"weight is {weight}, allowed are 0 to {n} spins at -1")
    found = np.flatnonzero(np.bitwise_count(np.arange(1 << n, dtype=np.uint32)) == weight)
    found.flags.writeable = False
    return found


@lru_cache(maxsize=64)
def weight_spins(n: int, weight: int) -> NDArray[np.int8]:
    """Spins [C(n, weight), n] of the states of `weight_indices`."""
    spins = spins_of(weight_indices(n, weight), n)
    spins.flags.writeable = False
    return spins


def weight_energies(problem: IsingProblem, weight: int) -> NDArray[np.float64]:
    """Energies [C(n, weight)] of all states of that weight."""
    return problem.energies(weight_spins(problem.n, weight))


@lru_cache(maxsize=32)
def ladder(n: int, weight: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """What ``sum_i |+1><-1|_i`` and its transpose gather, for 0 < weight <= n.

    For each state of one weight less [n - weight + 1, C(n, weight - 1)] the states it is raised from, and for each state of
    this weight [weight, C(n, weight)] those that it is raised to.
    """
    here, above = weight_indices(n, weight), weight_indices(n, weight - 1)
    bits = np.int64(1) << np.arange(n)
    down = np.array([below[below > state] for state, below in zip(above, above[:, np.newaxis] | bits, strict=True)])
    up = np.array([less[less < state] for state, less in zip(here, here[:, np.newaxis] & ~bits, strict=True)])
    return np.searchsorted(here, down.T), np.searchsorted(above, up.T)


def swap_mixer(psi: NDArray[np.complex128], beta: float, n: int, weight: int) -> NDArray[np.complex128]:
    """Apply ``exp(-i beta A)``, A taking a state to all that are one swap of unequal spins away, without error.

    A is ``sum_{i<j} (X_i X_j + Y_i Y_j) / 2`` inside the subspace, the Johnson graph. It has min(k, n-k) + 1 distinct
    eigenvalues ``(k-j)(n-k-j) - j``, so the exponential is a polynomial of one degree less, here in Newton's form at the
    eigenvalues; raising and lowering one spin and then less the states that come back is A.
    """
    nodes = np.array([(weight - j) * (n - weight - j) - j for j in range(min(weight, n - weight) + 1)], np.float64)
    coefficients = np.exp(-1j * beta * nodes)
    for order in range(1, len(nodes)):
        coefficients[order:] = (coefficients[order:] - coefficients[order - 1 : -1]) / (nodes[order:] - nodes[:-order])
    result: NDArray[np.complex128] = coefficients[-1] * psi
    if len(nodes) > 1:
        raised_from, raised_to = ladder(n, weight)
        for c, node in zip(coefficients[-2::-1], nodes[-2::-1], strict=True):
            raised = result[raised_from].sum(0)
            result = raised[raised_to].sum(0) - (weight + node) * result + c * psi
    return result


def weight_start(
    n: int, weight: int, around: NDArray[np.int8] | None, *, falloff: float = 1.0, jitter: float = 0.0, seed: int = 0
) -> NDArray[np.float64]:
    """Amplitudes [C(n, weight)] to start from: uniform, or falling off as ``exp(-falloff swaps)`` from a solution.

    `jitter` is the standard deviation of a seeded normal factor in the exponent of each.
    """
    indices = weight_indices(n, weight)
    if around is None:
        return np.full(len(indices), len(indices) ** -0.5)
    spins = weight_spins(n, weight)
    if around.shape != (n,) or not np.isin(around, (-1, 1)).all() or np.count_nonzero(around < 0) != weight:
        raise ProblemError(f"warm_start is no solution, allowed are {n} spins with {weight} at -1")
    swaps = (n - spins.astype(np.int64) @ around) / 4
    noise = np.random.default_rng(seed).normal(size=len(swaps))
    amplitudes: NDArray[np.float64] = np.exp(jitter * noise - falloff * swaps)
    return amplitudes / np.linalg.norm(amplitudes)


def weight_state(
    energies: NDArray[np.float64],
    start: NDArray[np.float64],
    gammas: Sequence[float],
    betas: Sequence[float],
    *,
    n: int,
    weight: int,
    remaining_s: Remaining = unlimited,
) -> NDArray[np.complex128]:
    """The state [C(n, weight)] after ``len(gammas)`` layers from `start`, mixed by XY between all pairs of spins.

    `Refused` (timeout) where the time ends between two layers.
    """
    psi = start.astype(np.complex128)
    for gamma, beta in zip(gammas, betas, strict=True):
        in_time(remaining_s)
        psi = swap_mixer(psi * np.exp(-1j * gamma * energies), beta, n, weight)
    return psi


def solve_fixed_weight(
    problem: IsingProblem,
    weight: int,
    *,
    p: int,
    shots: int,
    seed: int,
    warm_start: NDArray[np.int8] | None = None,
    remaining_s: Remaining = unlimited,
) -> Answer:
    """Minimise an Ising energy over the solutions with `weight` spins at -1, by QAOA with transferred angles.

    The answer is the best sample, unpolished. Its optimum is exact over these solutions, for their energies are all at
    hand; its control is the same number of shots of the circuit at p = 0, which samples the start: around the warm start,
    or uniform. `n_2q` counts a gate a coupling and an XY gate a pair of spins in each layer, without the start's preparation.

    Parameters
    ----------
    p
        Layers, 1 to 64; above 4 their angles are interpolated.
    warm_start : int8 [n], optional
        A solution of that weight to start around.

    Raises
    ------
    ProblemError
        n is above 14, or another argument out of range.
    Refused
        The time ended between two layers.
    """
    n = problem.n
    for name, value, most in (("p", p, MAX_WEIGHT_LAYERS), ("shots", shots, 1_000_000)):
        if not 1 <= value <= most:
            raise ProblemError(f"{name} is {value!r}, allowed are 1 to {most}")
    energies = weight_energies(problem, weight)
    gammas, betas, falloff = weight_angles(p, float(energies.std()), warm=warm_start is not None)
    start = weight_start(n, weight, warm_start, falloff=falloff, jitter=_JITTER, seed=seed)
    psi = weight_state(energies, start, gammas, betas, n=n, weight=weight, remaining_s=remaining_s)
    found = Distribution(n, 0.0, False, energies, np.abs(psi) ** 2)
    rng = np.random.default_rng([seed, n, weight])
    states, counts = found.sample(shots, rng)
    spins, best = weight_spins(n, weight), states[energies[states].argmin()]
    return Answer(
        spins[best],
        float(energies[best]),
        "sample",
        execution="simulated-subspace",
        samples=spins[states],
        energies=energies[states],
        counts=counts,
        shots=shots,
        p=p,
        schedule="transferred",
        n_2q=p * (int(np.count_nonzero(problem.J)) + n * (n - 1) // 2),
        expectation=found.expectation,
        p_opt=found.p_opt,
        optimum=found.optimum,
        control=control(Distribution(n, 0.0, False, energies, start**2), shots, rng),
    )


def weight_angles(p: int, deviation: float, *, warm: bool = True) -> tuple[list[float], list[float], float]:
    """Gammas [p], betas [p] and the start's falloff, for energies of that standard deviation over the subspace.

    From the table that `qstream.quantum.qaoa.weight_angles` makes, up to p = 4; above, interpolated. Its falloffs are near 0:
    what a trained circuit captures, it does not have from the start.
    """
    rows = weight_table()["warm" if warm else "uniform"]
    known = min(p, len(rows))
    gammas, betas, falloff = rows[known - 1]
    at, own = (np.arange(p) + 0.5) / p, (np.arange(known) + 0.5) / known
    scale = 1 / deviation if deviation > 0 else 0.0
    return (scale * np.interp(at, own, gammas)).tolist(), np.interp(at, own, betas).tolist(), falloff


@cache
def weight_table() -> dict[str, list[tuple[list[float], list[float], float]]]:
    """By start, ``warm`` or ``uniform``, the gammas, betas and falloff for p = 1 to 4."""
    stored = json.loads(resources.files("qstream.quantum.qaoa").joinpath("weight_angles.json").read_text())
    return {start: [(row["gamma"], row["beta"], row["falloff"]) for row in rows] for start, rows in stored.items()}


def control(start: Distribution, shots: int, rng: np.random.Generator) -> Control:
    """What as many shots give before the first layer; mean and probability of the optimum are exact."""
    states, _ = start.sample(shots, rng)
    return Control(float(start.energies[states].min()), start.expectation, start.p_opt)


def in_time(remaining_s: Remaining) -> None:
    """`Refused` (timeout) when no time is left."""
    if remaining_s() <= 0:
        raise Refused(Reason.TIMEOUT, "the deadline passed between two layers")


@lru_cache(maxsize=64)
def _ring(k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    adjacency = np.zeros((k, k))
    if k > 1:
        at = np.arange(k)
        adjacency[at, (at + 1) % k] = adjacency[(at + 1) % k, at] = 1
    values, vectors = np.linalg.eigh(adjacency)
    return values, vectors
