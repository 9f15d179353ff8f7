"""Noise of gates and readout on simulated results: a calibrated white-noise model, its exact reference, and mitigation.

`noisy_probabilities` applies every channel to a density matrix, which small circuits allow. For larger ones the state is
mixed with white noise, ``F |psi><psi| + (1 - F) I / 2^n``, whose F `calibrate` fits on the small ones. The product of all
gates' fidelities would be far too small: an energy of pairs feels the noise of its own spins only, so that its loss goes
with the touches a spin, and the distribution's with those a square root of n, as measured for 4 to 8 spins, dense or
3-regular. Sources: Temme, Bravyi and Gambetta 2017 (extrapolation), Dalzell, Hunter-Jones and Brandao 2024 (white noise).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import real_number
from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem, basis_spins, finite_array
from schemas.wording import Shown, must_be

MAX_DENSITY_SPINS: Final = 8
Extrapolation = Literal["linear", "richardson", "exponential"]


@dataclass(frozen=True, slots=True)
class WhiteNoise:
    """F as measured on small circuits; touches count each gate once for each qubit that it acts on.

    For an energy ``F = (1 - p_gate)^(energy touches / n)``, for the distribution ``(1 - p_gate)^(distribution touches /
    sqrt n)``. The spreads are root mean square errors of log F in the fit, relative.
    """

    energy: float
    distribution: float
    energy_spread: float = 0.0
    distribution_spread: float = 0.0

    def energy_fidelity(self, p_gate: float, touches: int, n: int) -> float:
        """The share of an energy, above its mean over all states, that noise leaves."""
        return _power(p_gate, self.energy * touches / n)

    def fidelity(self, p_gate: float, touches: int, n: int) -> float:
        """The F of `white` for the distribution."""
        return _power(p_gate, self.distribution * touches / math.sqrt(n))


def touches(problem: IsingProblem, p: int) -> int:
    """Gate-qubit touches of p QAOA layers: one of two qubits a coupling, one a field, and one mixer a spin."""
    return p * int(2 * np.count_nonzero(problem.J) + np.count_nonzero(problem.h) + problem.n)


def white(probabilities: NDArray[np.float64], fidelity: float) -> NDArray[np.float64]:
    """Measured distribution [2^n] of the state mixed with white noise."""
    checked_probability("fidelity", fidelity)
    return fidelity * probabilities + (1 - fidelity) / len(probabilities)


def white_expectation(expectation: float, fidelity: float, mean: float) -> float:
    """Expectation under white noise; `mean` is that of the uniform distribution, for an Ising energy its offset."""
    checked_probability("fidelity", fidelity)
    return fidelity * expectation + (1 - fidelity) * mean


def readout(probabilities: NDArray[np.float64], p_up: float, p_down: float) -> NDArray[np.float64]:
    """Distribution [2^n] as read where each spin at +1 is read as -1 with `p_up`, and each at -1 as +1 with `p_down`."""
    return _each_qubit(probabilities, _confusion(p_up, p_down))


def undo_readout(probabilities: NDArray[np.float64], p_up: float, p_down: float) -> NDArray[np.float64]:
    """The inverse of `readout`: quasi-probabilities [2^n], of sum 1, some below 0 where samples are few.

    `ProblemError` if p_up + p_down = 1, when a reading says nothing.
    """
    confusion = _confusion(p_up, p_down)
    if p_up + p_down == 1:
        raise ProblemError(must_be("p_up + p_down", "other than 1", Shown(f"1 with p_up {p_up}")))
    return _each_qubit(probabilities, np.linalg.inv(confusion).astype(np.float64))


def read_spins(spins: NDArray[np.int8], p_up: float, p_down: float, rng: np.random.Generator) -> NDArray[np.int8]:
    """Samples [S, n] as read, each spin flipped by chance as in `readout`."""
    _confusion(p_up, p_down)
    flip = rng.random(spins.shape) < np.where(spins > 0, p_up, p_down)
    return np.where(flip, -spins, spins)


def noisy_probabilities(
    problem: IsingProblem, gammas: Sequence[float], betas: Sequence[float], p_gate: float
) -> NDArray[np.float64]:
    """Exact distribution [2^n] of the QAOA circuit with a depolarising channel on each qubit of each gate.

    A layer is one gate a coupling, one a field and one mixer a spin, after noiseless ``|+...+>``; the channel is ``(1 - p)
    rho + p/3 (X rho X + Y rho Y + Z rho Z)``. `ProblemError` above 8 spins, for unequal
    numbers of angles, or for one that is not finite.
    """
    n = problem.n
    checked_probability("p_gate", p_gate)
    angles = finite_array("gammas", gammas, np.shape(gammas)), finite_array("betas", betas, np.shape(betas))
    if angles[0].ndim != 1 or angles[0].shape != angles[1].shape:
        raise ProblemError(
            must_be("gammas and betas", "of the same length", Shown(f"shapes {angles[0].shape} and {angles[1].shape}"))
        )
    if n > MAX_DENSITY_SPINS:
        raise ProblemError(must_be("n", f"at most {MAX_DENSITY_SPINS} for a density matrix", n))
    rho = np.full((1 << n, 1 << n), 2.0**-n, np.complex128)
    spins = basis_spins(n)
    gates: list[tuple[tuple[int, ...], NDArray[np.float64]]]
    gates = [((i, j), problem.J[i, j] * spins[:, i] * spins[:, j]) for i, j in np.argwhere(problem.J).tolist()]
    gates += [((i,), problem.h[i] * spins[:, i]) for i in np.flatnonzero(problem.h).tolist()]
    for gamma, beta in zip(*map(np.ndarray.tolist, angles), strict=True):
        for qubits, energies in gates:
            phase = np.exp(-1j * gamma * energies)
            rho = phase[:, np.newaxis] * rho * phase.conj()
            for qubit in qubits:
                rho = depolarise(rho, qubit, p_gate)
        for qubit in range(n):
            rho = depolarise(_rotate(rho, qubit, beta), qubit, p_gate)
    return rho.diagonal().real.copy()


def depolarise(rho: NDArray[np.complex128], qubit: int, p: float) -> NDArray[np.complex128]:
    """The depolarising channel on one qubit of a density matrix [2^n, 2^n]."""
    size = len(rho)
    low = size >> qubit + 1
    parts = rho.reshape(1 << qubit, 2, low, 1 << qubit, 2, low)
    mixed = (1 - 4 * p / 3) * parts
    even = 2 * p / 3 * (parts[:, 0, :, :, 0] + parts[:, 1, :, :, 1])
    mixed[:, 0, :, :, 0] += even
    mixed[:, 1, :, :, 1] += even
    return mixed.reshape(size, size)


def fitted_fidelity(noisy: NDArray[np.float64], ideal: NDArray[np.float64]) -> float:
    """The F of `white` that brings `ideal` closest to `noisy` [2^n] in least squares, cut to 0..1.

    `ProblemError` where `ideal` is uniform, which white noise does not change.
    """
    uniform = 1 / len(ideal)
    signal = ideal - uniform
    power = float(signal @ signal)
    if power < 1e-24:
        raise ProblemError(must_be("ideal", "a distribution that noise changes", Shown("the uniform one")))
    return min(1.0, max(0.0, float((noisy - uniform) @ signal) / power))


def calibrate(
    *,
    sizes: Sequence[int] = (4, 5, 6),
    depths: Sequence[int] = (1, 2),
    p_gates: Sequence[float] = (0.002, 0.01, 0.03),
    seed: int = 0,
) -> WhiteNoise:
    """Fit the white-noise model to exact noisy circuits of dense random problems with fields, one for each combination.

    The angles are the linear ramp's. About 0.2 s by default.
    """
    rng = np.random.default_rng(seed)
    points: list[tuple[float, float, float, float]] = []
    for n in sizes:
        for p in depths:
            problem = IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))
            at, energies = (np.arange(p) + 0.5) / p, problem.diagonal()
            gammas, betas = (0.75 * at / problem.sigma()).tolist(), (-0.65 * (1 - at)).tolist()
            ideal = noisy_probabilities(problem, gammas, betas, 0.0)
            for p_gate in p_gates:
                noisy = noisy_probabilities(problem, gammas, betas, p_gate)
                lost = -touches(problem, p) * math.log1p(-p_gate)
                kept = float(noisy @ energies) / float(ideal @ energies)
                points.append((lost / n, -math.log(kept), lost / math.sqrt(n), -math.log(fitted_fidelity(noisy, ideal))))
    per_spin, energy_loss, per_root, loss = np.array(points).T
    energy, energy_spread = _rate(per_spin, energy_loss)
    distribution, distribution_spread = _rate(per_root, loss)
    return WhiteNoise(energy, distribution, energy_spread, distribution_spread)


def extrapolate(scales: ArrayLike, values: ArrayLike, method: Extrapolation = "linear", asymptote: float = 0.0) -> float:
    """Estimate at zero noise from `values` measured at noise `scales`, where 1 is the device's own.

    ``linear`` fits a line, ``richardson`` the polynomial through all points, ``exponential`` a decay towards `asymptote`,
    which for white noise is the mean of the uniform distribution.

    Raises
    ------
    ProblemError
        The method is unknown, a number is not finite, fewer than two points, equal scales, or for ``exponential`` values that
        touch the asymptote or lie on both sides.
    """
    if method not in get_args(Extrapolation):
        raise ProblemError(must_be("method", f"one of {', '.join(get_args(Extrapolation))}", method))
    x, y = finite_array("scales", scales, np.shape(scales)), finite_array("values", values, np.shape(values))
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or len(np.unique(x)) != len(x):
        raise ProblemError(
            must_be("scales and values", "two or more points of distinct scale", Shown(f"{x.tolist()} and {y.tolist()}"))
        )
    if method == "richardson":
        weights = [math.prod(other / (other - own) for other in x if other != own) for own in x]
        return float(y @ weights)
    if method == "linear":
        return _intercept(x, y)
    excess = y - asymptote
    if not (np.all(excess > 0) or np.all(excess < 0)):
        raise ProblemError(must_be("values", f"on one side of the asymptote {asymptote}", y.tolist()))
    return asymptote + float(np.sign(excess[0])) * math.exp(_intercept(x, np.log(np.abs(excess))))


def best_depth(fidelities: ArrayLike, ratios: ArrayLike, random_ratio: float = 0.0) -> int:
    """The depth p, 1 to P, of the best noisy ratio: the largest ``F(p) (ratio(p) - random_ratio)``; the smaller of equals.

    Both arrays are [P]; the ratio at p of the noisy device is ``F ratio + (1 - F) random_ratio``.
    """
    f, r = np.asarray(fidelities, np.float64), np.asarray(ratios, np.float64)
    if f.ndim != 1 or f.shape != r.shape or not len(f):
        raise ProblemError(
            must_be("fidelities and ratios", "of one axis and the same length", Shown(f"shapes {f.shape} and {r.shape}"))
        )
    return int(np.argmax(f * (r - random_ratio))) + 1


def checked_probability(name: str, value: float) -> None:
    """`ProblemError` that names `name` unless the value is in 0..1."""
    real_number(name, value, 0, 1)


def _power(p_gate: float, exponent: float) -> float:
    checked_probability("p_gate", p_gate)
    return math.exp(exponent * math.log1p(-p_gate)) if p_gate < 1 else float(exponent == 0)


def _rate(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Slope of the line through 0, and its relative root mean square error."""
    rate = float(x @ y / (x @ x))
    return rate, float(np.sqrt(np.mean((rate * x / y - 1) ** 2)))


def _confusion(p_up: float, p_down: float) -> NDArray[np.float64]:
    checked_probability("p_up", p_up)
    checked_probability("p_down", p_down)
    return np.array([[1 - p_up, p_down], [p_up, 1 - p_down]])


def _each_qubit(probabilities: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    found = finite_array("probabilities", probabilities, np.shape(probabilities))
    if found.ndim != 1 or found.size.bit_count() != 1:
        raise ProblemError(must_be("probabilities", "[2^n], one a basis state", Shown(f"shape {found.shape}")))
    for _ in range(found.size.bit_length() - 1):
        found = (matrix @ found.reshape(2, -1)).T.reshape(-1)
    return found


def _rotate(rho: NDArray[np.complex128], qubit: int, beta: float) -> NDArray[np.complex128]:
    """``exp(-i beta X)`` on one qubit of a density matrix."""
    size = len(rho)
    gate = np.array([[math.cos(beta), -1j * math.sin(beta)], [-1j * math.sin(beta), math.cos(beta)]])
    left = gate @ rho.reshape(1 << qubit, 2, -1)
    right: NDArray[np.complex128] = gate.conj() @ left.reshape(size << qubit, 2, -1)
    return right.reshape(size, size)


def _intercept(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    slope = (x - x.mean()) @ (y - y.mean()) / ((x - x.mean()) @ (x - x.mean()))
    return float(y.mean() - slope * x.mean())
