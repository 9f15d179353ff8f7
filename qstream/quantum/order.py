"""The order of one solve: incumbent, the solver asked for, its twin, the optimum; then the best of them and the record."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from qstream.quantum.attempt import Attempt, Clock, Find, attempt, share
from qstream.quantum.classical.exact import EXACT, Spectrum, spectrum
from qstream.quantum.classical.greedy import random_solutions
from qstream.quantum.compare import is_lower, rounding
from qstream.quantum.ising import IsingProblem
from qstream.quantum.record import Answer, Control, Fallback, Problem, Refused, Remaining, SolveMeta, SolveRequest, SolveResult

AUTO: Final = "auto"
TWIN: Final = "sa"
YARDSTICK_BITS: Final = 22
# Shares of the time left: of greedy, of the exact optimum at most, and of a quantum solver before its twin.
_GREEDY, _EXACT, _QUANTUM = 0.25, 0.5, 0.5
_CLASSICAL: Final = ("exact", "greedy", "sa", "dsb")


@dataclass(frozen=True, eq=False)
class Track:
    """What all attempts of one solve share."""

    request: SolveRequest
    find: Find
    clock: Clock
    remaining_s: Remaining

    def attempt(self, name: str, budget_s: float = math.inf) -> Attempt:
        """Let a solver run within the time that is left, and within its own budget."""
        return attempt(name, self.find, self.request, share(self.remaining_s, budget_s, self.clock), self.clock)


def solve_in_order(request: SolveRequest, name: str, find: Find, clock: Clock) -> SolveResult:
    """Solve by the solver of this name; see `qstream.quantum.solvers.solve`."""
    start, cpu = clock(), time.thread_time()
    track = Track(replace(request, incumbent=None), find, clock, lambda: request.deadline_s - (clock() - start))
    greedy = track.attempt("greedy", _GREEDY * request.deadline_s)
    asked = by_default(track) if name == AUTO else [greedy if name == greedy.solver else asked_for(track, name)]
    refused = None if name == AUTO else asked[0].refused
    if refused is not None:
        asked += by_default(track)
    main = best(asked, request.problem)
    twin = twin_of(track, main)
    exact, ends = yardstick(track, main)
    others = [each for each in (given(request), twin, exact) if each is not None]
    winner = best([*asked, *others, greedy], request.problem)
    answer = winner.answer
    assert answer is not None, "greedy always answers"
    measured = with_means(main.answer or answer, ends)
    meta = SolveMeta(
        solver=winner.solver,
        requested=name,
        path=winner.path,
        execution=measured.execution,
        engine=measured.engine,
        device=request.device,
        digest=request.problem.digest(),
        n=size(request),
        seed=request.seed,
        shots=measured.shots,
        p=measured.p,
        n_2q=measured.n_2q,
        schedule=measured.schedule,
        wall_ms=1e3 * (clock() - start),
        cpu_ms=1e3 * (time.thread_time() - cpu),
        queue_ms=0.0,
        deadline_ms=None if request.deadline_s == math.inf else 1e3 * request.deadline_s,
        expectation=measured.expectation,
        ratio=ratio(measured, ends),
        p_opt=measured.p_opt,
        optimum=known_optimum(measured, ends, answer),
        control=control(request, measured, ends),
        baseline=(greedy if twin is None or twin.answer is None else twin).figures,
        tried=tuple(each.figures for each in dict.fromkeys([greedy, *asked, *others])),
        produced_by=answer.produced_by,
        fallback=None if refused is None else Fallback(name, winner.solver, refused.reason, refused.detail),
    )
    return SolveResult(answer.solution, answer.energy, meta, measured.samples, measured.energies, measured.counts)


def asked_for(track: Track, name: str) -> Attempt:
    """The attempt of the solver that was asked for, which leaves time for the optimum and, if it is quantum, for its twin."""
    left_s = track.remaining_s() - reserve_s(track)
    return track.attempt(name, left_s * (1.0 if name in _CLASSICAL else _QUANTUM))


def by_default(track: Track) -> list[Attempt]:
    """Exact where it fits the time, else annealing, then bifurcation if time remains."""
    if reserve_s(track) > 0:
        exact = track.attempt(EXACT.name)
        if exact.answer is not None:
            return [exact]
    first = track.attempt("sa")
    return [first, track.attempt("dsb")] if isinstance(track.request.problem, IsingProblem) else [first]


def twin_of(track: Track, main: Attempt) -> Attempt | None:
    """Annealing for as long as a quantum solver took, or with all its sweeps if there is no deadline."""
    if main.path == "classical" or main.answer is None:
        return None
    return track.attempt(TWIN, math.inf if track.request.deadline_s == math.inf else main.wall_s)


def yardstick(track: Track, main: Attempt) -> tuple[Attempt | None, Spectrum | None]:
    """The exact optimum as one more attempt, with both ends of the spectrum, where it fits the time and is not known."""
    if main.solver == EXACT.name or reserve_s(track) == 0:
        return None, None
    wall, cpu = track.clock(), time.thread_time()
    ends, answer, refused = None, None, None
    try:
        ends = spectrum(track.request.problem, track.remaining_s)
        answer = Answer(ends.solution, ends.minimum, "search", optimum=ends.minimum)
    except Refused as exc:
        refused = exc
    times = track.clock() - wall, time.thread_time() - cpu
    return Attempt(EXACT.name, EXACT.path, *times, answer, refused), ends


def reserve_s(track: Track) -> float:
    """What the exact optimum is expected to take; 0 if the problem is too large for it or the time is too short."""
    problem = track.request.problem
    if EXACT.refusal(track.request) is not None or (isinstance(problem, IsingProblem) and problem.n > YARDSTICK_BITS):
        return 0.0
    estimate_s = EXACT.estimate_ms(track.request) / 1e3
    return estimate_s if estimate_s <= _EXACT * track.remaining_s() else 0.0


def given(request: SolveRequest) -> Attempt | None:
    """The incumbent of the request as an attempt that took no time."""
    if request.incumbent is None:
        return None
    energy = request.problem.energy(request.incumbent)
    return Attempt("incumbent", "classical", 0.0, 0.0, Answer(request.incumbent, energy, "incumbent"))


def best(attempts: list[Attempt], problem: Problem) -> Attempt:
    """The lowest answer; of answers that differ by rounding alone the first, so that the solver asked for is preferred."""
    near = rounding(problem)
    lowest = attempts[0]
    for each in attempts[1:]:
        if each.answer is None:
            continue
        if lowest.answer is None or is_better(problem, each.answer, lowest.answer, near):
            lowest = each
    return lowest


def is_better(problem: Problem, found: Answer, known: Answer, near: float) -> bool:
    """Whether the one answer is lower; by the sum of the terms that differ where rounding leaves that open."""
    if abs(found.energy - known.energy) > near:
        return found.energy < known.energy
    return is_lower(problem, found.solution, known.solution)


def known_optimum(measured: Answer, ends: Spectrum | None, answer: Answer) -> float | None:
    """The optimum where it is known; of two sums for one energy the lower, so that no answer is below it."""
    optimum = measured.optimum if ends is None else ends.minimum
    return None if optimum is None else min(optimum, answer.energy)


def with_means(measured: Answer, ends: Spectrum | None) -> Answer:
    """With what the samples show where no state is at hand, as of a device: their mean, and the share of optimal ones.

    Shots that were no solution, as devices give them of one-hot problems, are not in the mean, and are not optimal.
    """
    energies, counts = measured.energies, measured.counts
    if measured.expectation is not None or energies is None or counts is None:
        return measured
    shots = max(measured.shots or 0, int(counts.sum()))
    p_opt = measured.p_opt if ends is None else float(counts @ ends.is_optimal(energies)) / shots
    return replace(measured, expectation=float(np.average(energies, weights=counts)), p_opt=p_opt)


def ratio(measured: Answer, ends: Spectrum | None) -> float | None:
    """How near the mean of the samples is to the optimum: ``(E_max - E) / (E_max - E_min)``."""
    if measured.expectation is None or ends is None:
        return None
    span = ends.maximum - ends.minimum
    return (ends.maximum - measured.expectation) / span if span > 0 else 1.0


def control(request: SolveRequest, measured: Answer, ends: Spectrum | None) -> Control | None:
    """As many uniformly random solutions as the quantum solver took samples."""
    if measured.control is not None or measured.shots is None:
        return measured.control
    drawn = random_solutions(request.problem, measured.shots, np.random.default_rng([request.seed, 4]))
    energies = request.problem.energies(drawn)
    p_opt = None if ends is None else ends.optimal / ends.states
    return Control(float(energies.min()), float(energies.mean()), p_opt)


def size(request: SolveRequest) -> int:
    """Spins, or variables of a one-hot problem."""
    problem = request.problem
    return problem.n if isinstance(problem, IsingProblem) else len(problem.sizes)
