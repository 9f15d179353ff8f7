"""The solver ``qaoa-xy``: one-hot problems by QAOA in the feasible subspace, every sample feasible, simulated on the CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.classical.greedy import polish_levels, stacked_refusal
from qstream.quantum.compare import is_lower
from qstream.quantum.onehot import OneHotProblem, states_text
from qstream.quantum.qaoa.measure import Distribution
from qstream.quantum.qaoa.subspace import OneHotMixer, control, local_scale, onehot_state
from qstream.quantum.record import Answer, ProducedBy, Refused, Remaining, SolveRequest
from schemas.solver import Reason
from schemas.wording import Shown, must_be

MAX_STATES: Final = 1 << 20
MOST_P: Final = 10
POLISHED: Final = 16
# The linear ramp: gammas rise on the scale of 1 / local_scale, betas fall on that of 2 / gap of the mixer. Both were sought
# on Gaussian and on placement problems of 4 to 6 variables with 3 to 8 levels.
_GAMMA: Final = 1.3
_BETA: Final = {"complete": 0.8, "ring": 0.65}
# Seconds of a quiet core of 2024, doubled: a run without its layers, and of each layer a variable, and a variable's state.
_FIXED_S: Final = 1e-3
_VARIABLE_S: Final = 2e-5
_STATE_S: Final = 2e-8
_ELSEWHERE: Final = 0.25


@dataclass(frozen=True)
class QaoaXY:
    """QAOA with XY mixers on k-level variables, of linear-ramp angles; its 16 best samples are descended by single changes.

    A warm start begins, and mixes, around its solution, whose levels have 3/4 of the probability each.
    """

    mixer: OneHotMixer = "complete"
    name: str = "qaoa-xy"
    path: Literal["quantum"] = "quantum"

    def refusal(self, request: SolveRequest) -> Refused | None:
        problem = request.problem
        if not isinstance(problem, OneHotProblem):
            return Refused(Reason.UNSUPPORTED, "the problem has spins, this solver takes one-hot variables")
        if request.schedule not in ("auto", "ramp"):
            return Refused(Reason.UNSUPPORTED, f"schedule is {request.schedule!r}, this solver has 'ramp'")
        if request.noise is not None or request.device is not None:
            return Refused(Reason.UNSUPPORTED, "noise and devices need the whole register, this solver has the subspace")
        if request.warm_start is not None and self.mixer == "ring":
            return Refused(Reason.UNSUPPORTED, "a warm start needs the complete mixer, this solver has the ring")
        if problem.states > MAX_STATES:
            return Refused(Reason.TOO_LARGE, must_be("sizes", f"of at most {MAX_STATES} states", Shown(states_text(problem))))
        return stacked_refusal(problem)

    def estimate_ms(self, request: SolveRequest) -> float:
        return 1e3 * (_FIXED_S + (request.p or 1) * layer_s(onehot(request)))

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        problem = onehot(request)
        p = request.p or fitting_layers(problem, remaining_s())
        energies = problem.diagonal()
        warm = None if request.warm_start is None else around(problem.sizes, request.warm_start.astype(np.int64))
        gammas, betas = self.angles(problem, p)
        psi = onehot_state(energies, gammas, betas, mixer=self.mixer, around=warm, remaining_s=remaining_s)
        m, flat = len(problem.sizes), energies.reshape(-1)
        found = Distribution(m, 0.0, False, flat, np.abs(psi.reshape(-1)) ** 2)
        start = onehot_state(energies, (), (), around=warm)
        before = Distribution(m, 0.0, False, flat, np.abs(start.reshape(-1)) ** 2)
        rng = np.random.default_rng(request.seed)
        states, counts = found.sample(request.shots, rng)
        samples = np.stack(np.unravel_index(states, problem.sizes), 1).astype(np.int64)
        solution, produced_by = polished(problem, samples, flat[states])
        return Answer(
            solution,
            problem.energy(solution),
            produced_by,
            execution="simulated-subspace",
            samples=samples,
            energies=flat[states],
            counts=counts,
            shots=request.shots,
            p=p,
            schedule="ramp",
            n_2q=two_qubit_gates(problem, p, self.mixer),
            expectation=found.expectation,
            p_opt=found.p_opt,
            optimum=found.optimum,
            control=control(before, request.shots, rng),
        )

    def angles(self, problem: OneHotProblem, p: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Gammas [p] and betas [p, m] of the linear ramp."""
        at = (np.arange(p) + 0.5) / p
        scale = local_scale(problem)
        gammas = _GAMMA / scale * at if scale > 0 else np.zeros(p)
        # The complete mixer of k levels has the gap k, as the X mixer of a spin has the gap 2.
        gaps = np.array(problem.sizes if self.mixer == "complete" else [2] * len(problem.sizes))
        return gammas, -_BETA[self.mixer] * np.multiply.outer(1 - at, 2 / gaps)


QAOA_XY: Final = QaoaXY()


def onehot(request: SolveRequest) -> OneHotProblem:
    """The request's problem, which `refusal` has let through."""
    if not isinstance(request.problem, OneHotProblem):
        raise Refused(Reason.UNSUPPORTED, "the problem has spins, this solver takes one-hot variables")
    return request.problem


def layer_s(problem: OneHotProblem) -> float:
    """Expected seconds of one layer."""
    return len(problem.sizes) * (_VARIABLE_S + _STATE_S * problem.states)


def fitting_layers(problem: OneHotProblem, left_s: float) -> int:
    """As many layers, up to 10, as fit half of the time; `Refused` if not one does."""
    if math.isinf(left_s):
        return MOST_P
    layers = int((left_s / 2 - _FIXED_S) / layer_s(problem))
    if layers < 1:
        raise Refused(Reason.DEADLINE_INSUFFICIENT, f"{left_s * 1e3:.3g} ms left, one layer does not fit")
    return min(layers, MOST_P)


def around(sizes: Sequence[int], levels: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Unit vectors [k_i] that give each variable's level 3/4 of the probability and share the rest among its others."""
    vectors = []
    for k, level in zip(sizes, levels, strict=True):
        vector = np.full(k, math.sqrt(_ELSEWHERE / max(k - 1, 1)))
        vector[level] = math.sqrt(1 - _ELSEWHERE) if k > 1 else 1.0
        vectors.append(vector)
    return vectors


def polished(
    problem: OneHotProblem, samples: NDArray[np.int64], energies: NDArray[np.float64]
) -> tuple[NDArray[np.int64], ProducedBy]:
    """The best of the samples [S, m], or what the best 16 descend to where that is lower."""
    order = np.argsort(energies, kind="stable")[:POLISHED]
    descended = polish_levels(problem, samples[order])
    found = problem.energies(descended)
    best = int(found.argmin())
    if is_lower(problem, descended[best], samples[order[0]]):
        return descended[best], "polish"
    return samples[order[0]], "sample"


def two_qubit_gates(problem: OneHotProblem, p: int, mixer: OneHotMixer) -> int:
    """Gates of the circuit on one qubit a level: W states to begin, then in each layer the phases and the mixers.

    The complete mixer turns the W state back, and on again, as the circuits do that devices run; the ring takes an XY gate a
    pair of neighbours.
    """
    sizes = np.array(problem.sizes)
    chain = int((sizes - 1).sum())
    phases = sum(int(np.count_nonzero(costs)) for costs in problem.pair.values())
    mixing = 2 * chain if mixer == "complete" else int(np.where(sizes > 2, sizes, sizes - 1).sum())
    return chain + p * (phases + mixing)
