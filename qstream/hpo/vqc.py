"""VQC-H: a Hamiltonian fitted to what was observed, minimised by gradient descent on a circuit of one rotation a parameter.

A parameter's place in a box is the angle of its qubit, ``theta_i = pi (u_i - a_i) / (b_i - a_i)``; the Hamiltonian is a sum of Z
and X on qubits and pairs (`PauliSum`). A sample of its posterior is minimised (Thompson, Biometrika 1933), so that each trial
explores. Without entangling layers all this is a trigonometric response surface, and classically trivial.

d parameters, one qubit each; n results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.hpo import circuit
from qstream.hpo.options import HpoOptions
from qstream.hpo.problem import Problem, rng, warp
from qstream.hpo.ranks import Ranks, ranks
from qstream.quantum.record import Refused
from qstream.quantum.variational.observable import PauliSum, size
from qstream.threads import one_thread
from schemas.solver import Execution, Reason, SolverRecord
from schemas.wording import must_be

Vec = NDArray[np.float64]
Mat = NDArray[np.float64]
Device = Callable[[PauliSum, Mat, int], tuple[Vec, Execution]]  # of angles [B, d] and layers: expectations [B], a label
Search = Callable[[circuit.Landscape, Mat], Mat]

STARTS: Final = 16  # the box's centre, and random points
NOISES: Final = (0.001, 0.01, 0.1, 0.5)
SCALES: Final = (0.25, 4.0)  # of all prior variances
CAUTION: Final = 0.25  # part of the posterior's deviation that a sample has
DEVICE_SHOTS: Final = 256  # of an expectation on a device, where the options have none
ON_DEVICE: Final = 4  # end points that a device measures
MOST_POINTS: Final = 256  # of a fit, so that its cost does not grow
SUCCESSES: Final = 2
SMALLEST: Final = 2.0**-9
PRIOR_CENTRES: Final = 10  # results below which an older study's best is the centre
SAMPLE, START, SHOTS, CONTROL, OTHERS = 40, 41, 42, 43, 44  # streams of random numbers


@dataclass(frozen=True, eq=False)
class Proposal:
    """A point of the unit cube, and how it was found.

    `mean` and `deviation` are what the Hamiltonian's posterior predicts there, in warped losses. `solver` has ``<H>`` of the
    choice, of its twin and of its control, all exact, also where shots chose.
    """

    unit: Vec
    mean: float
    deviation: float
    solver: SolverRecord
    fallback_reason: Reason | None = None


@dataclass(frozen=True, eq=False)
class Fit:
    """Bayesian ridge of warped losses on the terms of the Hamiltonian; noise and scale by evidence."""

    spread: Vec  # [T] prior deviation of each coefficient
    left: Mat  # [n, k] of the singular values of the rows times the spread
    root: Vec  # [k]
    right: Mat  # [k, T]
    noise: float

    def mean(self, z: Vec) -> Vec:
        """The coefficients' posterior mean, float64 [T], after warped losses [n]."""
        along: Vec = self.root / (self.root**2 + self.noise) * (self.left.T @ z)
        return self.spread * (along @ self.right)

    def sample(self, rows: Mat, z: Vec, draw: np.random.Generator) -> Vec:
        """One draw of the coefficients, float64 [T], with `CAUTION` times the posterior's deviation (Matheron's rule)."""
        first = CAUTION * self.spread * draw.standard_normal(len(self.spread))
        noise = CAUTION * np.sqrt(self.noise) * draw.standard_normal(len(z))
        return first + self.mean(z - rows @ first - noise)

    def deviation(self, row: Vec) -> float:
        """Posterior deviation of the expectation whose terms are `row`, float64 [T]."""
        scaled = row * self.spread
        seen = self.right @ scaled
        variance = float(scaled @ scaled - seen @ (self.root**2 / (self.root**2 + self.noise) * seen))
        return math.sqrt(max(variance, 0.0))


@one_thread()
def propose(
    problem: Problem,
    options: HpoOptions,
    z: Vec | None = None,
    *,
    search: Search = circuit.descend,
    device: Device | None = None,
) -> Proposal | None:
    """The next trial: the lowest end point of the circuit's descent that is not taken.

    If all are taken, the lowest of 256 random points of the cube; None if all of those are taken as well.

    Parameters
    ----------
    problem
        With one result at least.
    options
        `shots` and `circuit_layers` count. Above 10 parameters both are left out, which `fallback_reason` says.
    z : float64 [n], optional
        Warped losses; by default those of the problem's values.
    search
        From a landscape and starts float64 [S, d] to end points; another one shows what descent is worth.
    device
        Measures the lowest end points once more, and so makes the last choice; where it is refused, `fallback_reason` says why.
    """
    if not len(problem.value):
        raise ProblemError(must_be("results", "one or more", 0))
    z = warp(problem.value) if z is None else z
    large = problem.space.size > circuit.MOST_QUBITS
    layers, shots = (0, None) if large else (options.circuit_layers, options.shots)
    reason = Reason.TOO_LARGE if large and (options.circuit_layers or options.shots) else None
    drawn = _draw(problem, z, layers)
    exact = circuit.exact(drawn.hamiltonian, layers)
    measuring = rng(problem.seed, SHOTS, problem.trial)
    landscape = exact if shots is None else circuit.measured(drawn.hamiltonian, layers, shots, measuring)
    starts = _starts(problem, drawn)
    unit, theta = _ends(problem, drawn, landscape, search(landscape, starts))
    if not len(unit):
        return None
    choice, execution, variant = 0, "simulated-statevector" if layers or shots else "simulated-product", None
    if device is not None:
        try:
            energy, execution = device(drawn.hamiltonian, theta[:ON_DEVICE], layers)
            choice, variant, shots = int(energy.argmin()), options.device, shots or DEVICE_SHOTS
        except Refused as refused:
            reason = refused.reason
    record = SolverRecord(
        solver="vqc",
        variant=variant,
        execution=execution,
        asked=("vqc",),
        n=problem.space.size,
        depth=layers,
        shots=shots,
        seed=problem.seed,
        objective=float(exact.energy(theta[choice][None])[0]),
        twin=circuit.twin(exact, starts),
        control=_control(problem, exact),
    )
    row = circuit.design(theta[choice][None], layers)[0]
    return Proposal(unit[choice], float(row @ drawn.fitted.mean(drawn.z)), drawn.fitted.deviation(row), record, reason)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A box, what was fitted to the losses `z` in it, and the Hamiltonian that was drawn; points are in an order of choices."""

    order: Ranks
    low: Vec
    high: Vec
    centre: Vec  # where the best result is
    fitted: Fit
    z: Vec
    hamiltonian: PauliSum


def _draw(problem: Problem, z: Vec, layers: int) -> _Drawn:
    """The Hamiltonian of this trial, a sample of what warped losses [n] say of it."""
    d, order = problem.space.size, _order(problem, z)
    at = order.to(problem.unit)
    centre = order.to(problem.prior_unit)[int(problem.prior_value.argmin())] if _new(problem) else None
    low, high = box(problem, at, centre)
    chosen = _points_of_fit(at, z, low, high)
    rows = circuit.design(_angles(at[chosen], low, high), layers)
    fitted = fit(rows, z[chosen], d)
    hamiltonian = PauliSum(d, fitted.sample(rows, z[chosen], rng(problem.seed, SAMPLE, problem.trial)))
    best = at[int(problem.value.argmin())] if centre is None else centre
    return _Drawn(order, low, high, best, fitted, z[chosen], hamiltonian)


def _starts(problem: Problem, drawn: _Drawn) -> Mat:
    """Angles [S, d] from which is descended: those of the best result, and random ones."""
    random = np.pi * rng(problem.seed, START, problem.trial).random((STARTS - 1, problem.space.size))
    return np.concatenate([np.clip(_angles(drawn.centre[None], drawn.low, drawn.high), 0, np.pi), random])


def _ends(problem: Problem, drawn: _Drawn, landscape: circuit.Landscape, found: Mat) -> tuple[Mat, Mat]:
    """Points that are not taken and their angles, from low to high energy: of angles that were found, else random ones."""
    space, order = problem.space, drawn.order
    ends = space.snap(order.back(_points(found, drawn.low, drawn.high)))
    others = space.snap(rng(problem.seed, OTHERS, problem.trial).random((MOST_POINTS, space.size)))
    for unit in (ends, others):
        # Where a parameter has cells, the circuit is measured in the middle of one, which is what the trial will be.
        theta = np.clip(_angles(order.to(unit), drawn.low, drawn.high), 0, np.pi)
        free = _free(problem, unit, landscape.energy(theta))
        if len(free):
            break
    return unit[free], theta[free]


def _control(problem: Problem, exact: circuit.Landscape) -> float:
    """The lowest of as many random points as the descent visits."""
    return circuit.control(exact, STARTS * circuit.STEPS, problem.space.size, rng(problem.seed, CONTROL, problem.trial))


def box(problem: Problem, unit: Mat | None = None, centre: Vec | None = None) -> tuple[Vec, Vec]:
    """Where the circuit looks: low and high corner, float64 [d] each; a function of the sorted results alone, so it is no state.

    The side is 1 at first, doubles after 2 improvements in a row, halves after max(3, d // 2 + 1) trials without one, and is 1
    again below 2^-9 (as in TuRBO: Eriksson et al., NeurIPS 2019). The box lies inside of the cube, around the best result where
    there is room, and is widened to hold d + 3 results.

    Parameters
    ----------
    unit : float64 [n, d], optional
        The results' points, if not those of the problem.
    centre : float64 [d], optional
        In place of the best result.
    """
    at, d = problem.unit if unit is None else unit, problem.space.size
    patience, side, won, lost = max(3, d // 2 + 1), 1.0, 0, 0
    for better in problem.value < np.minimum.accumulate(np.r_[np.inf, problem.value])[:-1]:
        won, lost = (won + 1, 0) if better else (0, lost + 1)
        if won == SUCCESSES:
            side, won = min(1.0, 2 * side), 0
        elif lost == patience:
            side, lost = side / 2, 0
        side = side if side >= SMALLEST else 1.0
    middle = at[int(problem.value.argmin())] if centre is None else centre
    # What the side must be at least for each result to be inside, as the box shifts at the faces of the cube.
    needed = np.sort(_side_to_hold(middle, at))
    side = max(side, float(needed[min(d + 3, len(at)) - 1]))
    low = np.clip(middle - side / 2, 0, 1 - side)
    return low, low + side


def fit(rows: Mat, z: Vec, d: int) -> Fit:
    """Bayesian ridge on the terms of each result, float64 [n, T]."""
    spread = np.full(size(d), 0.5 / d)
    spread[0], spread[1 : 1 + 2 * d] = 1.0, d**-0.5
    left, root, right = np.linalg.svd(rows * spread, full_matrices=False)
    along = left.T @ z
    rest, free = max(float(z @ z - along @ along), 0.0), len(z) - len(root)

    def evidence(scale: float, noise: float) -> float:
        variance = scale * root**2 + noise
        return -float((along**2 / variance + np.log(variance)).sum() + rest / noise + free * np.log(noise))

    scale, noise = max(((s, v) for s in SCALES for v in NOISES), key=lambda pair: evidence(*pair))
    return Fit(np.sqrt(scale) * spread, left, np.sqrt(scale) * root, right, noise)


def _new(problem: Problem) -> bool:
    """Whether an older study knows better than this one where the good places are."""
    return len(problem.prior_value) > 0 and len(problem.value) < PRIOR_CENTRES


def _order(problem: Problem, z: Vec) -> Ranks:
    """The order of unordered choices by all results, an older study's too."""
    unit = np.concatenate([problem.unit, problem.prior_unit])
    return ranks(problem.space, unit, np.concatenate([z, warp(problem.prior_value)]))


def _side_to_hold(centre: Vec, at: Mat) -> Vec:
    """The least side of a box around `centre`, shifted into the cube, that holds each point [n, d]: float64 [n]."""
    away = 2 * np.abs(at - centre)
    face = np.where(at > centre, at, 1 - at)  # once the box touches the other face, it grows on one side alone
    found: Vec = np.minimum(away, face).max(1)
    return found


def _points_of_fit(at: Mat, z: Vec, low: Vec, high: Vec) -> NDArray[np.int64]:
    """Which results the Hamiltonian is fitted to: those in the box, at most the best third and the newest of the others."""
    inside = np.flatnonzero(((at >= low - 1e-9) & (at <= high + 1e-9)).all(1))
    if len(inside) <= MOST_POINTS:
        return inside
    best = inside[np.argsort(z[inside], kind="stable")[: MOST_POINTS // 3]]
    newest = np.setdiff1d(inside, best)[-(MOST_POINTS - len(best)) :]
    return np.union1d(best, newest)


def _free(problem: Problem, unit: Mat, energy: Vec) -> NDArray[np.int64]:
    """Rows whose configurations are not taken, from low to high energy, each configuration once."""
    space = problem.space
    taken = problem.taken
    keys = space.keys(unit)
    found: dict[bytes, int] = {}
    for row in np.argsort(energy, kind="stable"):
        if keys[row] not in taken:
            found.setdefault(keys[row], int(row))
    return np.array(list(found.values()), np.int64)


def _angles(unit: Mat, low: Vec, high: Vec) -> Mat:
    found: Mat = np.pi * (unit - low) / (high - low)
    return found


def _points(theta: Mat, low: Vec, high: Vec) -> Mat:
    found: Mat = np.clip(low + (high - low) * theta / np.pi, 0, 1)
    return found
