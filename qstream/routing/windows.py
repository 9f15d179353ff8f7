"""Improve a partition by windows: a few items of two bins, rearranged by enumeration, by QAOA or by greedy exchanges.

A rearrangement is accepted only if it lowers the objective itself, so no window makes a plan worse, whichever solver answered.
Source: large-neighbourhood search (Shaw 1998), with the circuit of `qstream.quantum.qaoa.subspace` as one of its solvers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.quantum.qaoa.fixed_weight import (
    weight_angles,
    weight_energies,
    weight_spins,
    weight_start,
)
from qstream.quantum.record import Refused, Remaining
from qstream.quantum.window import Circuits, Runtime, WindowSolver, exchange_descent, sample_fixed_weight
from qstream.routing.window_model import Partition, Window, moved, window_of
from schemas.solver import Execution, Reason
from schemas.wording import must_be

MAX_WINDOW: Final = 16  # half of each bin: 12,870 rearrangements
_LEAST_GAIN: Final = 1e-9  # of the objective: below it, an improvement is rounding noise
_CONTROL: Final = 1


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
            ("size", self.size, 2, MAX_WINDOW),
            ("layers", self.layers, 1, 64),
            ("shots", self.shots, 1, 1_000_000),
            ("count", self.count, 0, 1_000_000),
            ("seed", self.seed, 0, 2**63 - 1),
        ):
            if not low <= value <= high:
                raise ProblemError(must_be(name, f"{low} to {high}", value))


@dataclass(frozen=True, slots=True)
class CircuitRecord:
    """What a circuit found in a window, and what else would have been found.

    Energies are those of the window's Ising model, in deviations from its mean: of the plan `before`, the best `found`, the
    exact `optimum`, and the best `control`, which is as many samples of the circuit at p = 0. `expectation`, `p_opt` and
    `ratio` = (E_max - expectation) / (E_max - E_min) are exact; a device leaves them open.
    """

    execution: Execution
    p: int | None
    shots: int | None
    before: float
    found: float
    optimum: float
    control: float
    expectation: float | None = None
    ratio: float | None = None
    p_opt: float | None = None

    @property
    def captured(self) -> float:
        """Share of the exact gain in energy that was found; 1 where there is none to be had."""
        return _share(self.before, self.found, self.optimum)

    @property
    def control_captured(self) -> float:
        """The same of the control."""
        return _share(self.before, self.control, self.optimum)


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """One window of n items between two bins of a layer, and the circuit, if there was one.

    `gain` is what the objective fell by, 0 if nothing was accepted; it would have fallen by `best_gain` with the best
    rearrangement of all, by `control_gain` with the best of the control's samples, and by `mean_gain`, often below 0, with the
    mean sample.
    """

    layer: int
    bins: tuple[int, int]
    solver: WindowSolver
    n: int
    seed: int
    gain: float
    best_gain: float
    mean_gain: float
    control_gain: float | None = None
    circuit: CircuitRecord | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a solver proposes for a window, spins [S, n]; `whole` if these are all rearrangements.

    A circuit's samples come with their counts [S], its control's spins [C, n] and its record.
    """

    spins: NDArray[np.int8]
    whole: bool = False
    counts: NDArray[np.int64] | None = None
    control: NDArray[np.int8] | None = None
    circuit: CircuitRecord | None = None


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

    Layers take turns, that of the highest objective first, so a deadline leaves all with about as many windows. Equal
    arguments give equal bytes where the deadline does not strike; another `turn` tries other windows. A solver that refuses
    ends the work with its reason.
    """
    now = list(partitions)
    records: list[WindowRecord] = []
    order = sorted(range(len(now)), key=lambda layer: -partitions[layer].objective())
    for i in range(settings.count):
        for layer in order:
            partition = now[layer]
            if remaining_s() <= 0:
                return Improved(tuple(now), tuple(records), Reason.TIMEOUT)
            seed = np.random.SeedSequence([settings.seed, turn, layer, i])
            window = choose(partition, settings.size, np.random.default_rng(seed))
            if window is None:
                continue
            try:
                now[layer], record = _try_window(partition, window, settings, layer, int(seed.generate_state(1)[0]), remaining_s)
            except Refused as exc:
                return Improved(tuple(now), tuple(records), exc.reason)
            records.append(record)
    return Improved(tuple(now), tuple(records))


def choose(partition: Partition, size: int, rng: np.random.Generator) -> Window | None:
    """Two bins and, of each, the items that gain most by leaving and as many random ones; None where nothing can move.

    With a price on the fullest bin, the first bin is the fullest of a random scenario.
    """
    levels = partition.levels()
    a = int(rng.integers(len(partition.share)))
    if partition.prices.balance:
        a = int(levels[:, rng.integers(partition.load.shape[1])].argmax())
    others = np.flatnonzero(partition.group == partition.group[a])
    others = others[others != a]
    if not len(others):
        return None
    b = int(rng.choice(others))
    free = partition.free(a, b)
    whole = window_of(partition, (a, b), free, levels)
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
    return window_of(partition, (a, b), np.sort(free[np.concatenate(chosen)]), levels)


def _leaving_gains(window: Window) -> NDArray[np.float64]:
    """What the costs of traffic and loads fall by if one item alone goes to the other bin, float64 [n]."""
    turned = np.where(np.eye(len(window.spins), dtype=np.bool_), -window.spins, window.spins).astype(np.int8)
    gains: NDArray[np.float64] = window.costs(window.spins[None])[0] - window.costs(turned)
    return gains


def _try_window(
    partition: Partition, window: Window, settings: WindowSettings, layer: int, seed: int, remaining_s: Remaining
) -> tuple[Partition, WindowRecord]:
    """Let the solver propose, accept the best proposal if it lowers the objective; `Refused` if the solver cannot."""
    found = SOLVERS[settings.solver](window, settings, seed, remaining_s)
    costs = window.costs(found.spins)
    before = float(window.costs(window.spins[None])[0])
    best = int(costs.argmin())
    gain, least = before - float(costs[best]), _LEAST_GAIN * max(1.0, abs(before))
    every = costs if found.whole else window.costs(weight_spins(len(window.items), window.weight))
    control = None if found.control is None else max(0.0, before - float(window.costs(found.control).min()))
    record = WindowRecord(
        layer=layer,
        bins=window.bins,
        solver=settings.solver,
        n=len(window.items),
        seed=seed,
        gain=gain if gain > least else 0.0,
        best_gain=max(0.0, before - float(every.min())),
        mean_gain=gain if found.counts is None else before - float(np.average(costs, weights=found.counts)),
        control_gain=control,
        circuit=found.circuit,
    )
    return moved(partition, window, found.spins[best]) if gain > least else partition, record


def _exact(window: Window, _: WindowSettings, __: int, ___: Remaining) -> Found:
    """All rearrangements, to be judged by the objective itself."""
    return Found(weight_spins(len(window.items), window.weight), whole=True)


def _greedy(window: Window, _settings: WindowSettings, _seed: int, _remaining_s: Remaining) -> Found:
    """The best exchange of two items, again and again."""
    spins, _ = exchange_descent(window.costs, window.spins)
    return Found(spins[None])


def _qaoa(window: Window, settings: WindowSettings, seed: int, remaining_s: Remaining) -> Found:
    """Samples of a circuit: simulated in the window's subspace, or of a device."""
    problem, weight = window.ising(), window.weight
    energies = weight_energies(problem, weight)
    before, least, most = problem.energy(window.spins), float(energies.min()), float(energies.max())
    every = weight_spins(problem.n, weight)
    rng = np.random.default_rng([seed, _CONTROL])
    circuits = Circuits(settings.layers, settings.shots, device=settings.device, runtime=settings.runtime)
    around = window.spins if settings.warm and settings.device is None else None
    answer = sample_fixed_weight(problem, weight, circuits, seed, around=around, remaining_s=remaining_s)
    if answer.samples is None:
        raise Refused(Reason.INVALID_OUTPUT, "the circuit has no samples")
    start = None
    if settings.device is None:
        start = weight_start(problem.n, weight, around, falloff=weight_angles(settings.layers, 1.0)[2]) ** 2
        start /= start.sum()
    drawn = rng.choice(len(every), settings.shots, p=start)
    ratio = None
    if answer.expectation is not None:
        ratio = (most - answer.expectation) / (most - least) if most > least else 1.0
    circuit = CircuitRecord(
        answer.execution,
        answer.p,
        answer.shots,
        before,
        answer.energy,
        least,
        float(energies[drawn].min()),
        answer.expectation,
        ratio,
        answer.p_opt,
    )
    return Found(answer.samples.astype(np.int8), counts=answer.counts, control=every[drawn], circuit=circuit)


SolveWindow = Callable[[Window, WindowSettings, int, Remaining], Found]
SOLVERS: Final[dict[WindowSolver, SolveWindow]] = {"exact": _exact, "qaoa": _qaoa, "greedy": _greedy}


def _share(before: float, found: float, optimum: float) -> float:
    possible = before - optimum
    return 1.0 if possible <= 1e-9 else max(0.0, before - found) / possible
