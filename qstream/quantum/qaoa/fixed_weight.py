"""QAOA of spins of a fixed Hamming weight, inside the subspace of their C(n, k) states, from any start, by XY or Grover mixers.

Layers are ``exp(-i beta B) exp(-i gamma E)``, as in all of ``qstream.quantum``. Sources: Hadfield et al. 2019 (alternating
operator ansatz), Egger et al. 2021 (warm start), Bartschi and Eidenbenz 2020 (Grover mixer).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import resources
from itertools import combinations
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import array, whole_number
from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem, spins_of
from qstream.quantum.qaoa.measure import Distribution
from qstream.quantum.qaoa.statevector import unlimited
from qstream.quantum.qaoa.subspace import control, in_time
from qstream.quantum.record import Answer, Remaining
from schemas.wording import Shown, must_be

WeightMixer = Literal["xy", "grover"]
MAX_WEIGHT_SPINS: Final = 62  # bits of a state's index
MAX_WEIGHT_STATES: Final = 16_384
MAX_WEIGHT_LAYERS: Final = 64
_JITTER: Final = 0.02


def weight_states(n: int, weight: int) -> int:
    """How many states of n spins have `weight` of them at -1; `ProblemError` where a circuit of them is not simulated."""
    n = whole_number("n", n, 1, MAX_WEIGHT_SPINS)
    states = math.comb(n, whole_number("weight", weight, 0, n))
    if states > MAX_WEIGHT_STATES:
        allowed = f"of at most {MAX_WEIGHT_STATES} states"
        raise ProblemError(must_be("n and weight", allowed, Shown(f"{n} and {weight}, which have {states}")))
    return states


@lru_cache(maxsize=64)
def weight_indices(n: int, weight: int) -> NDArray[np.int64]:
    """Indices [C(n, weight)], ascending, of the basis states of n qubits with `weight` spins at -1."""
    weight_states(n, weight)
    return _indices(n, weight)


@lru_cache(maxsize=64)
def _indices(n: int, weight: int) -> NDArray[np.int64]:
    """`weight_indices` of any number of states."""
    few = min(weight, n - weight)
    chosen = np.array(list(combinations(range(n), few)), np.int64).reshape(math.comb(n, few), few)
    bits: NDArray[np.int64] = (np.int64(1) << chosen).sum(1, dtype=np.int64)
    found = np.sort(bits if few == weight else np.int64((1 << n) - 1) - bits)
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
    here, above = _indices(n, weight), _indices(n, weight - 1)
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
    states = weight_states(n, weight)
    if around is None:
        return np.full(states, states**-0.5)
    spins = weight_spins(n, weight)
    if around.shape != (n,) or not np.isin(around, (-1, 1)).all() or np.count_nonzero(around < 0) != weight:
        raise ProblemError(must_be("warm_start", f"{n} spins of +1 or -1 with {weight} at -1", around.tolist()))
    swaps = (n - spins.astype(np.int64) @ around) / 4
    noise = np.random.default_rng(seed).normal(size=len(swaps))
    amplitudes: NDArray[np.float64] = np.exp(jitter * noise - falloff * swaps)
    return amplitudes / np.linalg.norm(amplitudes)


def prior_start(prior: ArrayLike, states: int) -> NDArray[np.float64]:
    """Amplitudes [states] whose squares are the probabilities `prior`, which need not sum to 1.

    Raises
    ------
    ProblemError
        Not one number a state, or one is negative or not finite, or all are 0.
    """
    given = array("prior", prior, np.float64, "states")
    if given.shape != (states,):
        raise ProblemError(must_be("prior", f"{states} probabilities, one a state", Shown(f"shape {given.shape}")))
    if not np.isfinite(given).all() or given.min() < 0 or given.max() == 0:
        raise ProblemError(must_be("prior", "finite, >= 0, and above 0 for a state", Shown(f"{given.min()} to {given.max()}")))
    part = given / given.max()  # the sum of what is given may overflow
    amplitudes: NDArray[np.float64] = np.sqrt(part / part.sum())
    return amplitudes


def weight_state(
    energies: NDArray[np.float64],
    start: NDArray[np.float64] | NDArray[np.complex128],
    gammas: Sequence[float],
    betas: Sequence[float],
    mixer: WeightMixer = "xy",
    *,
    n: int | None = None,
    weight: int | None = None,
    remaining_s: Remaining = unlimited,
) -> NDArray[np.complex128]:
    """The state [C] after ``len(gammas)`` layers from the unit vector `start` [C], for the diagonal `energies` [C].

    The mixer `xy` exchanges all pairs of unequal spins, and leaves the uniform state as it is: it needs to know `n` and `weight`,
    whose states are in the order of `weight_indices`. The mixer `grover` turns the phase of `start` alone,
    ``1 - (1 - e^(-i beta)) |start><start|``: for a start that is a prior, and for states of any kind.

    Raises
    ------
    ProblemError
        The lengths differ, or `xy` has no `n` and `weight`.
    Refused
        The time ended between two layers (timeout).
    """
    if mixer not in get_args(WeightMixer):
        raise ProblemError(must_be("mixer", "xy or grover", mixer))
    if energies.shape != start.shape or energies.ndim != 1:
        raise ProblemError(must_be("start", f"an array of the shape {energies.shape}", Shown(f"shape {start.shape}")))
    if len(gammas) != len(betas):
        raise ProblemError(must_be("betas", f"{len(gammas)} numbers, one a gamma", Shown(f"{len(betas)} numbers")))
    psi = start.astype(np.complex128)
    if mixer == "grover":
        for gamma, beta in zip(gammas, betas, strict=True):
            in_time(remaining_s)
            psi *= np.exp(-1j * gamma * energies)
            psi += np.expm1(-1j * beta) * np.vdot(start, psi) * start
        return psi
    if n is None or weight is None or weight_states(n, weight) != len(energies):
        raise ProblemError(must_be("n and weight", f"those of the {len(energies)} states", Shown(f"{n} and {weight}")))
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
    prior: ArrayLike | None = None,
    mixer: WeightMixer = "xy",
    remaining_s: Remaining = unlimited,
) -> Answer:
    """Minimise an Ising energy over the solutions with `weight` spins at -1, by QAOA with transferred angles.

    The answer is the best sample, unpolished. Its optimum is exact over these solutions, for their energies are all at
    hand; its control is the same number of shots of the circuit at p = 0, which samples the start: around the warm start, of
    the prior, or uniform. `n_2q` counts a gate a coupling and an XY gate a pair of spins in each layer, without the start's
    preparation; it is open for the Grover mixer, which prepares the start twice a layer.

    Parameters
    ----------
    p
        Layers, 1 to 64; above 4 their angles are interpolated.
    warm_start : int8 [n], optional
        A solution of that weight to start around.
    prior : float64 [C(n, weight)], optional
        Probabilities to start from in place of a warm start, in the order of `weight_indices`. The Grover mixer keeps to them;
        the XY mixer leads away from them, and serves starts that are nearly uniform.

    Raises
    ------
    ProblemError
        More than 16,384 states, both kinds of start, or an argument out of range.
    Refused
        The time ended between two layers.
    """
    n = problem.n
    p, shots = whole_number("p", p, 1, MAX_WEIGHT_LAYERS), whole_number("shots", shots, 1, 1_000_000)
    if prior is not None and warm_start is not None:
        raise ProblemError(must_be("prior", "absent where a warm_start is given", Shown("both")))
    energies = weight_energies(problem, weight)
    falloff = _table("warm" if warm_start is not None else "uniform", p)[2]
    start = (
        weight_start(n, weight, warm_start, falloff=falloff, jitter=_JITTER, seed=seed)
        if prior is None
        else prior_start(prior, len(energies))
    )
    if mixer == "grover":
        gammas, betas = grover_angles(p, _deviation(energies, start**2))
    else:
        gammas, betas, _ = weight_angles(p, float(energies.std()), warm=warm_start is not None)
    psi = weight_state(energies, start, gammas, betas, mixer, n=n, weight=weight, remaining_s=remaining_s)
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
        n_2q=None if mixer == "grover" else p * (int(np.count_nonzero(problem.J)) + n * (n - 1) // 2),
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
    gammas, betas, falloff = _table("warm" if warm else "uniform", p)
    return *_transferred(p, deviation, gammas, betas), falloff


def grover_angles(p: int, deviation: float) -> tuple[list[float], list[float]]:
    """Gammas [p] and betas [p] of the Grover mixer, for energies of that standard deviation under the start's probabilities.

    They minimise the mean energy of a normal spectrum, for which p = 1 has the closed form ``2 gamma exp(-gamma^2) sin(beta)``
    with the minimum -0.858 at (1 / sqrt(2), -pi / 2); above p = 4 they are interpolated. Clip energies of heavy tails, to about 4
    deviations, before they are used as a phase.
    """
    return _transferred(p, deviation, *_GROVER[min(p, len(_GROVER)) - 1])


@cache
def weight_table() -> dict[str, list[tuple[list[float], list[float], float]]]:
    """By start, ``warm`` or ``uniform``, the gammas, betas and falloff for p = 1 to 4."""
    stored = json.loads(resources.files("qstream.quantum.qaoa").joinpath("weight_angles.json").read_text())
    return {start: [(row["gamma"], row["beta"], row["falloff"]) for row in rows] for start, rows in stored.items()}


_GROVER: Final = (
    ([0.7071], [-1.5708]),
    ([0.5901, 1.0389], [-1.9652, -1.3562]),
    ([0.5232, 0.9410, 1.0585], [-2.1544, -1.7084, -1.3097]),
    ([0.4793, 0.8801, 0.9761, 1.0559], [-2.2680, -1.8859, -1.6380, -1.2972]),
)


def _table(start: str, p: int) -> tuple[list[float], list[float], float]:
    rows = weight_table()[start]
    return rows[min(p, len(rows)) - 1]


def _transferred(p: int, deviation: float, gammas: list[float], betas: list[float]) -> tuple[list[float], list[float]]:
    """Angles on the scale of the energies, interpolated where there are fewer than p."""
    at, own = (np.arange(p) + 0.5) / p, (np.arange(len(gammas)) + 0.5) / len(gammas)
    scale = 1 / deviation if deviation > 0 else 0.0
    return (scale * np.interp(at, own, gammas)).tolist(), np.interp(at, own, betas).tolist()


def _deviation(energies: NDArray[np.float64], probabilities: NDArray[np.float64]) -> float:
    mean = probabilities @ energies
    return math.sqrt(float(probabilities @ (energies - mean) ** 2))
