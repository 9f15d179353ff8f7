"""Improve a partition by windows: a few items of two bins, rearranged by enumeration, by QAOA or by greedy exchanges.

A rearrangement is accepted only if it lowers the objective itself, so no window makes a plan worse, whoever solved it.
Source: large-neighbourhood search (Shaw 1998), with the circuit of `qstream.quantum.qaoa.subspace` as one of its solvers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.subspace import MAX_WEIGHT_SPINS, solve_fixed_weight, weight_energies, weight_spins
from qstream.quantum.record import Execution, Reason, Refused, Remaining, SolveRequest, SolveResult
from qstream.routing.window_model import Partition, Window, moved, window_of

WindowSolver = Literal["exact", "qaoa", "greedy"]
_LEAST_GAIN: Final = 1e-9  # of the objective: below it, an improvement is rounding noise
_CONTROL: Final = 1
_DEVICE_PRICE: Final = 2.0  # of the squared distance to the window's weight, in deviations of its energies


class Runtime(Protocol):
    """What windows need of `qstream.quantum.runtime.QuantumRuntime`."""

    def solve(self, request: SolveRequest, solver: str = ...) -> SolveResult: ...


@dataclass(frozen=True, slots=True, eq=False)
class WindowSettings:
    """How windows are solved: `size` free items, half of them of each bin; `layers` and `shots` of a circuit, on the named
    `device` of the `runtime` or simulated; `count` windows a layer of the model; `warm`: a circuit starts around the plan."""

    solver: WindowSolver = "exact"
    size: int = 10
    layers: int = 2
    shots: int = 32
    count: int = 16
    seed: int = 0
    warm: bool = False
    device: str | None = None
    runtime: Runtime | None = None

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("size", self.size, 2, MAX_WEIGHT_SPINS), ("layers", self.layers, 1, 64), ("shots", self.shots, 1, 1_000_000),
            ("count", self.count, 0, 1_000_000), ("seed", self.seed, 0, 2**63 - 1),
        ):  # fmt: skip
            if not low <= value <= high:
                raise ProblemError(f"{name}: {value}, must be in {low}..{high}")


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """One window: its solver and what else would have been found.

    Energies are those of the window's Ising model, in deviations from its mean: of the plan `before`, the best `found`, the
    exact `optimum`, and the best `control`, which is as many samples of the circuit at p = 0. `expectation`, `p_opt` and
    `ratio` = (E_max - expectation) / (E_max - E_min) belong to the circuit. `gain` is what the objective fell by, 0 if nothing
    was accepted, and `best_gain` what it would have with the best rearrangement of all.
    """

    layer: int
    bins: tuple[int, int]
    solver: WindowSolver
    execution: Execution
    n: int
    p: int | None
    shots: int | None
    seed: int
    before: float
    found: float
    optimum: float
    control: float | None
    expectation: float | None
    ratio: float | None
    p_opt: float | None
    gain: float
    best_gain: float

    @property
    def captured(self) -> float:
        """Share of the exact gain in energy that was found; 1 where there is none to be had."""
        return _share(self.before, self.found, self.optimum)

    @property
    def control_captured(self) -> float | None:
        """The same of the control."""
        return None if self.control is None else _share(self.before, self.control, self.optimum)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a solver proposes for a window: spins [S, n], and what a circuit measured."""

    spins: NDArray[np.int8]
    execution: Execution = "none"
    p: int | None = None
    shots: int | None = None
    expectation: float | None = None
    p_opt: float | None = None
    control: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Improved:
    """Partitions after windows, the record of each window, and why the solver stopped early, if it did."""

    partitions: tuple[Partition, ...]
    records: tuple[WindowRecord, ...]
    reason: Reason | None = None

    def objective(self) -> float:
        """Sum over layers."""
        return sum(partition.objective() for partition in self.partitions)


def improve(
    partitions: tuple[Partition, ...], settings: WindowSettings, *, turn: int = 0, remaining_s: Remaining = lambda: math.inf
) -> Improved:
    """Try `settings.count` windows in every layer, and keep what improves.

    Layers take turns, so a deadline leaves all with about as many windows. Equal arguments give equal bytes where the deadline
    does not strike; another `turn` tries other windows. A solver that refuses ends the work with its reason.
    """
    now, records = list(partitions), []
    for i in range(settings.count):
        for layer, partition in enumerate(now):
            if remaining_s() <= 0:
                return Improved(tuple(now), tuple(records), Reason.TIMEOUT)
            seed = np.random.SeedSequence([settings.seed, turn, layer, i])
            window = choose(partition, settings.size, np.random.default_rng(seed))
            if window is None:
                continue
            try:
                now[layer], record = solve_window(partition, window, settings, layer, int(seed.generate_state(1)[0]), remaining_s)
            except Refused as exc:
                return Improved(tuple(now), tuple(records), exc.reason)
            records.append(record)
    return Improved(tuple(now), tuple(records))


def choose(partition: Partition, size: int, rng: np.random.Generator) -> Window | None:
    """Two bins and, of each, the items that gain most by leaving and as many random ones; None where nothing can move.

    With a price on the fullest bin, the first bin is the fullest of a random scenario.
    """
    a = int(rng.integers(len(partition.share)))
    if partition.prices.balance:
        a = int(partition.levels()[:, rng.integers(partition.load.shape[1])].argmax())
    others = np.flatnonzero(partition.group == partition.group[a])
    others = others[others != a]
    if not len(others):
        return None
    b = int(rng.choice(others))
    free = partition.free(a, b)
    whole = window_of(partition, (a, b), free)
    leaving = _leaving_gains(whole)
    sides = [np.flatnonzero(whole.spins == spin) for spin in (1, -1)]
    if not all(len(side) for side in sides):
        return None
    chosen = []
    for side in sides:
        k = min(size // 2, len(side))
        order = side[np.argsort(-leaving[side], kind="stable")]
        best = order[: (k + 1) // 2]
        chosen.append(np.concatenate([best, rng.choice(order[len(best) :], k - len(best), replace=False)]))
    return window_of(partition, (a, b), np.sort(free[np.concatenate(chosen)]))


def _leaving_gains(window: Window) -> NDArray[np.float64]:
    """What the costs of traffic and loads fall by if one item alone goes to the other bin, float64 [n]."""
    turned = np.where(np.eye(len(window.spins), dtype=np.bool_), -window.spins, window.spins).astype(np.int8)
    gains: NDArray[np.float64] = window.costs(window.spins[None])[0] - window.costs(turned)
    return gains


def solve_window(
    partition: Partition, window: Window, settings: WindowSettings, layer: int, seed: int, remaining_s: Remaining
) -> tuple[Partition, WindowRecord]:
    """Let the solver propose, accept the best proposal if it lowers the objective; `Refused` if the solver cannot."""
    problem = window.ising()
    found = SOLVERS[settings.solver](window, problem, settings, seed, remaining_s)
    costs = window.costs(found.spins)
    before = float(window.costs(window.spins[None])[0])
    best = int(costs.argmin())
    scale = max(abs(before), float(np.abs(costs).max()))
    gain = before - float(costs[best])
    accepted = gain > _LEAST_GAIN * scale
    energies = weight_energies(problem, window.weight)
    ratio = None
    if found.expectation is not None:
        span = float(np.ptp(energies))
        ratio = (float(energies.max()) - found.expectation) / span if span > 0 else 1.0
    record = WindowRecord(
        layer=layer, bins=window.bins, solver=settings.solver, execution=found.execution, n=len(window.items), p=found.p,
        shots=found.shots, seed=seed, before=problem.energy(window.spins), found=float(problem.energies(found.spins).min()),
        optimum=float(energies.min()), control=found.control, expectation=found.expectation, ratio=ratio, p_opt=found.p_opt,
        gain=gain if accepted else 0.0,
        best_gain=max(0.0, before - float(window.costs(weight_spins(len(window.items), window.weight)).min())),
    )  # fmt: skip
    return moved(partition, window, found.spins[best]) if accepted else partition, record


def _exact(window: Window, _: IsingProblem, __: WindowSettings, ___: int, ____: Remaining) -> Found:
    """All rearrangements, to be judged by the objective itself."""
    return Found(weight_spins(len(window.items), window.weight))


def _greedy(window: Window, _: IsingProblem, __: WindowSettings, ___: int, ____: Remaining) -> Found:
    """The best exchange of two items, again and again."""
    spins = window.spins
    cost = float(window.costs(spins[None])[0])
    while True:
        out, into = np.meshgrid(np.flatnonzero(spins > 0), np.flatnonzero(spins < 0))
        each = np.tile(spins, (out.size, 1))
        rows = np.arange(out.size)
        each[rows, out.ravel()], each[rows, into.ravel()] = -1, 1
        costs = window.costs(each)
        best = int(costs.argmin())
        if not costs[best] < cost - 1e-12 * max(1.0, abs(cost)):
            return Found(spins[None])
        spins, cost = each[best], float(costs[best])


def _qaoa(window: Window, problem: IsingProblem, settings: WindowSettings, seed: int, remaining_s: Remaining) -> Found:
    """Samples of a circuit: simulated in the window's subspace, or of a device."""
    if settings.device is not None:
        return _from_device(window, problem, settings, seed, remaining_s)
    warm_start = window.spins if settings.warm else None
    answer = solve_fixed_weight(
        problem, window.weight, p=settings.layers, shots=settings.shots, seed=seed, warm_start=warm_start, remaining_s=remaining_s
    )
    if answer.samples is None or answer.control is None:
        raise Refused(Reason.INVALID_OUTPUT, "the circuit has no samples")
    return Found(
        answer.samples.astype(np.int8), answer.execution, answer.p, answer.shots, answer.expectation, answer.p_opt,
        answer.control.best_energy,
    )  # fmt: skip


def _from_device(window: Window, problem: IsingProblem, settings: WindowSettings, seed: int, remaining_s: Remaining) -> Found:
    """Samples of the device's circuit, of which those of the window's weight count; `Refused` with the runtime's reason."""
    if settings.runtime is None:
        raise Refused(Reason.UNAVAILABLE, f"device {settings.device!r} needs a runtime")
    n, weight = problem.n, window.weight
    aim = n - 2 * weight
    # (sum_i s_i - aim)^2, without its constant: this device's mixer does not keep the weight.
    pair = problem.J + np.triu(np.full((n, n), 2.0 * _DEVICE_PRICE), 1)
    priced = IsingProblem(n, pair, problem.h - 2.0 * _DEVICE_PRICE * aim)
    request = SolveRequest(
        priced, deadline_s=remaining_s(), seed=seed, shots=settings.shots, p=settings.layers, device=settings.device
    )
    result = settings.runtime.solve(request, f"device:{settings.device}")
    meta = result.meta
    if meta.fallback is not None:
        raise Refused(meta.fallback.reason, meta.fallback.detail)
    samples = np.empty((0, n), np.int8) if result.samples is None else result.samples.astype(np.int8)
    kept = samples[np.count_nonzero(samples < 0, axis=1) == weight]
    rng = np.random.default_rng([seed, _CONTROL])
    control = rng.choice(weight_energies(problem, weight), settings.shots).min()
    # Without a sample of that weight the plan stays.
    spins = kept if len(kept) else window.spins[None]
    return Found(spins, meta.execution, meta.p, meta.shots, control=float(control))


SolveWindow = Callable[[Window, IsingProblem, WindowSettings, int, Remaining], Found]
SOLVERS: Final[dict[WindowSolver, SolveWindow]] = {"exact": _exact, "qaoa": _qaoa, "greedy": _greedy}


def _share(before: float, found: float, optimum: float) -> float:
    possible = before - optimum
    return 1.0 if possible <= 1e-9 else max(0.0, before - found) / possible
