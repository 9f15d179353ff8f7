"""The solver ``rqaoa``: eliminate spins one by one along the strongest correlation of the p = 1 state, in closed form.

Source: Bravyi, Kliesch, Koenig and Tang 2020, here with fields. No state is simulated: the correlators are exact formulas,
so hundreds of spins are possible; the last few are enumerated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.quantum.classical.exact import spectrum
from qstream.quantum.classical.greedy import polish, random_solutions
from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.analytic import Correlators, best_angles, profile
from qstream.quantum.record import Answer, Control, ProducedBy, Refused, Remaining, SolveRequest, spin_problem
from schemas.solver import Reason
from schemas.wording import must_be

MAX_SPINS: Final = 256
ENUMERATED: Final = 10
# Up to here the optimum is cheap enough to come with every answer.
KNOWN_OPTIMUM: Final = 16
_REFINE_EVERY: Final = 8
# Milliseconds of a quiet core of 2024, doubled: means at one gamma, and of those each factor of a pair's products.
_EVALUATION_MS: Final = 0.2
_FACTOR_MS: Final = 4e-5
_GRID: Final = 30
_LEAST: Final = 6
# The best gamma times sigma of large dense problems, exactly (Farhi et al. 2022).
_TRANSFERRED: Final = 0.5


@dataclass(frozen=True)
class Link:
    """A spin eliminated: it is `sign` times the spin `to`, or `sign` itself where that is None."""

    spin: int
    to: int | None
    sign: int


@dataclass(frozen=True)
class Rqaoa:
    """Recursive QAOA at p = 1.

    Each round takes the strongest of all means of coupled pairs and of spins, and makes it a rule; with a deadline, as many
    of the strongest as bring the end in time. The solution is descended by single flips at last. A warm start is refused.
    No samples are taken; the control has as many random solutions as the request has shots.
    """

    name: str = "rqaoa"
    path: Literal["quantum"] = "quantum"

    def refusal(self, request: SolveRequest) -> Refused | None:
        problem = request.problem
        if not isinstance(problem, IsingProblem):
            return Refused(Reason.UNSUPPORTED, "the problem is one-hot, this solver takes spins")
        if request.p not in (None, 1) or request.schedule not in ("auto", "optimize"):
            return Refused(Reason.UNSUPPORTED, f"p is {request.p}, schedule {request.schedule!r}: only p = 1 is in closed form")
        if request.noise is not None or request.device is not None:
            return Refused(Reason.UNSUPPORTED, "noise and devices need a circuit, this solver has a formula")
        if request.warm_start is not None:
            return Refused(Reason.UNSUPPORTED, "a warm start needs a circuit of its own, this solver's formula starts uniform")
        if problem.n > MAX_SPINS:
            return Refused(Reason.TOO_LARGE, must_be("n", f"at most {MAX_SPINS} spins", problem.n))
        return None

    def estimate_ms(self, request: SolveRequest) -> float:
        return _LEAST * evaluation_ms(spin_problem(request))

    def run(self, request: SolveRequest, remaining_s: Remaining) -> Answer:
        problem = spin_problem(request)
        if remaining_s() <= 0:
            raise Refused(Reason.DEADLINE_INSUFFICIENT, "no time is left")
        gamma = first_gamma(problem, remaining_s())
        _, expectation = profile(problem, gamma).best_beta(problem)
        found = recurse(problem, gamma, remaining_s)
        descended = polish(problem, found[np.newaxis])[0]
        produced_by: ProducedBy = "search" if np.array_equal(descended, found) else "polish"
        known = spectrum(problem) if problem.n <= KNOWN_OPTIMUM else None
        rng = np.random.default_rng(request.seed)
        chance = problem.energies(random_solutions(problem, request.shots, rng))
        control = Control(float(chance.min()), problem.offset, known.optimal / known.states if known else None)
        return Answer(
            descended,
            problem.energy(descended),
            produced_by,
            execution="simulated-analytic-p1",
            p=1,
            schedule="optimize",
            n_2q=int(np.count_nonzero(problem.J)),
            expectation=expectation,
            optimum=known.minimum if known else None,
            control=control,
        )


RQAOA: Final = Rqaoa()


def evaluation_ms(problem: IsingProblem) -> float:
    """Expected time of all means at one gamma."""
    return _EVALUATION_MS + _FACTOR_MS * problem.n * int(np.count_nonzero(problem.J))


def first_gamma(problem: IsingProblem, left_s: float) -> float:
    """The gamma to begin with: the best one, or where a third of the time is too short to seek it, the transferred one."""
    if 1e3 * left_s / 3 > _GRID * evaluation_ms(problem):
        return best_angles(problem)[0]
    sigma = problem.sigma()
    return _TRANSFERRED / sigma if sigma > 0 else 0.0


def recurse(problem: IsingProblem, gamma: float, remaining_s: Remaining = lambda: math.inf) -> NDArray[np.int8]:
    """Spins [n] of the problem by elimination down to ten, which are enumerated; `gamma` is the first round's angle."""
    reduced, alive = problem, list(range(problem.n))
    links: list[Link] = []
    hat = gamma * problem.sigma()
    left, count = remaining_s(), 1
    while len(alive) > ENUMERATED:
        sigma = reduced.sigma()
        gamma = hat / sigma if sigma > 0 else 0.0
        if len(links) % _REFINE_EVERY == _REFINE_EVERY - 1 and math.isinf(left):
            gamma, _, _ = best_angles(reduced, near=gamma)
            hat = gamma * sigma
        means = profile(reduced, gamma)
        beta, _ = means.best_beta(reduced)
        reduced, alive = eliminate(reduced, alive, strongest(means.at(beta), min(count, len(alive) - ENUMERATED)), links)
        before, left = left, remaining_s()
        count = paced(len(alive) - ENUMERATED, left, before - left)
    spins = np.zeros(problem.n, np.int8)
    spins[alive] = spectrum(reduced).solution
    for link in reversed(links):
        spins[link.spin] = link.sign if link.to is None else link.sign * spins[link.to]
    return spins


def paced(rounds: int, left_s: float, round_s: float) -> int:
    """Eliminations a round so that `rounds` of them end in half of the time left, a round taking what the last one took."""
    if math.isinf(left_s):
        return 1
    affordable = left_s / 2 / max(round_s, 1e-6)
    return max(1, rounds if affordable < 1 else math.ceil(rounds / affordable))


def strongest(means: Correlators, count: int) -> list[Link]:
    """The `count` strongest rules, in order, none about a spin eliminated by one before; ties go to pairs, then in order."""
    strength = np.concatenate((np.abs(means.pair), np.abs(means.spin)))
    rules: list[Link] = []
    gone: set[int] = set()
    for at in np.argsort(-strength, kind="stable") if count > 1 else [int(strength.argmax())]:
        if at < len(means.pair):
            to, spin, mean = int(means.i[at]), int(means.j[at]), means.pair[at]
            rule = Link(spin, to, -1 if mean < 0 else 1)
        else:
            spin, to = int(at - len(means.pair)), -1
            rule = Link(spin, None, -1 if means.spin[spin] < 0 else 1)
        if spin in gone or to in gone:
            continue
        rules.append(rule)
        gone.add(spin)
        if len(rules) == count:
            break
    return rules


def eliminate(problem: IsingProblem, alive: list[int], rules: list[Link], links: list[Link]) -> tuple[IsingProblem, list[int]]:
    """The problem of the spins that are left, and their names; the rules go to `links` under the names of `alive`."""
    couplings, fields, offset = problem.symmetric().copy(), problem.h.copy(), problem.offset
    for rule in rules:
        row = couplings[rule.spin].copy()
        couplings[rule.spin] = couplings[:, rule.spin] = 0
        if rule.to is None:
            offset += rule.sign * fields[rule.spin]
            fields += rule.sign * row
        else:
            offset += rule.sign * row[rule.to]
            fields[rule.to] += rule.sign * fields[rule.spin]
            row[rule.to] = 0
            couplings[rule.to] += rule.sign * row
            couplings[:, rule.to] += rule.sign * row
        links.append(Link(alive[rule.spin], None if rule.to is None else alive[rule.to], rule.sign))
    kept = np.setdiff1d(np.arange(problem.n), [rule.spin for rule in rules])
    reduced = IsingProblem(len(kept), np.triu(couplings[np.ix_(kept, kept)], 1), fields[kept], offset)
    return reduced, [alive[at] for at in kept]
