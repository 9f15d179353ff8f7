"""One solver's attempt at a problem: timed, its answer checked against the problem itself, its refusal kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from qstream.errors import ProblemError
from qstream.quantum.record import Answer, AttemptFigures, Refused, Remaining, Solver, SolveRequest, checked_solution
from schemas.solver import Reason

Clock = Callable[[], float]
Find = Callable[[str, float], Solver]


@dataclass(frozen=True, eq=False)
class Attempt:
    """One solver on the problem, with its answer or its refusal."""

    solver: str
    path: Literal["quantum", "classical"]
    wall_s: float
    cpu_s: float
    answer: Answer | None = None
    refused: Refused | None = None

    @property
    def figures(self) -> AttemptFigures:
        """What the record keeps of it."""
        energy = None if self.answer is None else self.answer.energy
        reason = None if self.refused is None else self.refused.reason
        return AttemptFigures(self.solver, energy, 1e3 * self.wall_s, 1e3 * self.cpu_s, reason)


def attempt(name: str, find: Find, request: SolveRequest, remaining_s: Remaining, clock: Clock) -> Attempt:
    """Let one solver answer, found by its name and the seconds left. Whatever it returns, the energy is the problem's own."""
    wall, cpu = clock(), time.thread_time()
    path: Literal["quantum", "classical"] = "quantum" if name.startswith("device:") else "classical"
    answer, refused = None, None
    try:
        solver = find(name, remaining_s())
        path = solver.path
        if (refused := solver.refusal(request)) is None:
            estimate_ms, left_ms = solver.estimate_ms(request), 1e3 * max(remaining_s(), 0.0)
            if estimate_ms > left_ms:
                detail = f"about {estimate_ms:.3g} ms needed, {left_ms:.3g} ms left"
                raise Refused(Reason.DEADLINE_INSUFFICIENT, detail)
            answer = checked(request, solver.run(request, remaining_s))
    except Refused as exc:
        refused = exc
    return Attempt(name, path, clock() - wall, time.thread_time() - cpu, answer, refused)


def checked(request: SolveRequest, answer: Answer) -> Answer:
    """The answer with a valid solution and its true energy; `Refused` if the solution is not valid."""
    try:
        solution = checked_solution("solution", request.problem, answer.solution)
    except ProblemError as exc:
        raise Refused(Reason.INVALID_OUTPUT, str(exc)) from exc
    return replace(answer, solution=solution, energy=request.problem.energy(solution))


def share(remaining_s: Remaining, budget_s: float, clock: Clock) -> Remaining:
    """At most `budget_s` seconds from now of what remains."""
    if budget_s == math.inf:
        return remaining_s
    end = clock() + budget_s
    return lambda: min(remaining_s(), end - clock())
