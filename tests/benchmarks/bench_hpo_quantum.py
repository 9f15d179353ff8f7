"""What the circuit and the quantum kernels are worth to the search, on the measuring stick, next to their controls and twins."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import lru_cache, partial
from types import ModuleType
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import pennylane as qml
from threadpoolctl import threadpool_limits

from qstream.hpo import circuit, gp, kernels, vqc
from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import suggest
from qstream.hpo.problem import Observation, gather
from qstream.hpo.space import SearchSpace
from tests.benchmarks.clock import cpu_ms
from tests.benchmarks.stick import load_scores

Row = tuple[str, float, str, str]
SEEDS: Final = 5
TRIALS: Final = 100
TPE: Final = {30: 0.175, 60: 0.100, 100: 0.071}  # Optuna 5.0, five seeds of the same stick
SIX: Final = ("branin", "hartmann6", "rosenbrock5", "rastrigin5", "peaks5", "svm_digits")
KERNEL_SEEDS, KERNEL_TRIALS = 3, 60


class Tuned:
    """`suggest` as a study of the stick; `propose` replaces the circuit's proposals where it is given."""

    def __init__(self, options: HpoOptions, propose: Any, space: Any, _objective: str, seed: int) -> None:
        self.space, self.seed, self.options, self.propose = SearchSpace.load(space), seed, options, propose
        self.seen: list[Observation] = []
        self.pending: dict[int, dict[str, Any]] = {}

    def ask(self) -> tuple[int, dict[str, Any]]:
        trial = len(self.seen) + len(self.pending)
        found = None
        if self.propose is not None and trial >= self.options.initial:
            found = self.propose(gather(self.space, self.seen, self.pending, trial, self.seed), self.options)
        if found is None:
            asked = suggest(self.space, self.seen, pending=self.pending, trial=trial, seed=self.seed, options=self.options)
            params = asked.params
        else:
            params = self.space.decode(found.unit)
        self.pending[trial] = params
        return trial, params

    def tell(self, trial: int, metrics: dict[str, float] | None) -> None:
        value = metrics["loss"] if metrics else None
        self.seen.append(Observation(trial, self.pending.pop(trial), value, "complete" if metrics else "failed", metrics))


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    with threadpool_limits(1):
        stick = load_scores("hpo_stick")
        on_stick = [*circuits(stick), *kernel_regrets(stick)] if stick else []
        return [*grams(), *on_stick]


def circuits(stick: ModuleType) -> list[Row]:
    """Regret on ten problems of the circuit, of its control, with shots and entanglers, and of random settings."""
    arms: dict[str, tuple[HpoOptions, Any, tuple[str, ...], int]] = {
        "vqc": (HpoOptions(optimizer="vqc"), None, (), SEEDS),
        "its control, random points of the same Hamiltonian": (HpoOptions(optimizer="vqc"), control(), (), SEEDS),
    }
    random = scores(stick, stick.RandomSearch, tuple(stick.PROBLEMS), SEEDS, TRIALS)
    found: list[Row] = [(f"random, NR@{t}", random[f"nr@{t}"], "", "-") for t in TPE]
    for name, (options, propose, only, seeds) in arms.items():
        found_by = scores(stick, partial(Tuned, options, propose), only or tuple(stick.PROBLEMS), seeds, TRIALS)
        for t, theirs in TPE.items():
            found.append((f"{name}, NR@{t}", found_by[f"nr@{t}"], "", f"<= {1.1 * theirs:.4f}" if name == "vqc" else "-"))
        found.append((f"{name}, geometric mean of NR@{TRIALS}", found_by[f"gm@{TRIALS}"], "", "-"))
        if name == "vqc":
            found.append(("  NR@60 / random's", found_by["nr@60"] / random["nr@60"], "", "<= 0.45"))
            found.append(("  CPU of an ask and its result", found_by["cpu_ms"], "ms", "-"))
    return found


def control() -> Callable[..., Any]:
    """Proposals by the lowest of as many random points of the same Hamiltonian as the descent visits."""
    random = np.random.default_rng(0)

    def search(landscape: circuit.Landscape, starts: np.ndarray) -> np.ndarray:
        points = np.pi * random.random((len(starts) * circuit.STEPS, starts.shape[1]))
        return np.asarray(points[np.argsort(landscape.energy(points), kind="stable")[: len(starts)]])

    return partial(vqc.propose, search=search)


def kernel_regrets(stick: ModuleType) -> list[Row]:
    """Regret on six problems by kernel; the twin is Matern, the control has no entangling phases."""
    regret, found = {}, []
    for name in ("matern", *gp.QUANTUM, "auto"):
        summary = _kernel_scores(stick, name)
        regret[name] = summary["nr@60"]
        target = "-" if name == "matern" else f"<= {(1.1 * min(regret.values()) if name == 'auto' else 2 * regret['matern']):.4f}"
        found.append((f"kernel={name}, six problems, NR@60", summary["nr@60"], "", target))
        found.append(("  CPU of an ask and its result, fit included", summary["cpu_ms"], "ms", "-"))
    for name in gp.QUANTUM:
        # Fits are kept by their options and results, which a kernel and its control share, unless an option differs.
        with patch.dict(gp.COVARIANCES, {name: gp.CONTROLS[name]}):
            summary = _kernel_scores(stick, name, explore=0)
        found.append((f"control of {name}, no entangling gates, NR@60", summary["nr@60"], "", "-"))
    return found


def _kernel_scores(stick: ModuleType, name: str, **changed: int) -> dict[str, float]:
    options = HpoOptions(optimizer="gp").changed({"kernel": name, **changed})
    return scores(stick, partial(Tuned, options, None), SIX, KERNEL_SEEDS, KERNEL_TRIALS)


def grams() -> list[Row]:
    """Time of a Gram matrix of 200 points and ten qubits, and how far it is from PennyLane's pairs of circuits."""
    n, d = 200, 10
    x, few = np.random.default_rng(0).random((n, d)), 5
    found: list[Row] = []
    for name in kernels.KERNELS:
        covariance = kernels.covariance(name, np.arange(d))
        theta = covariance.start()
        took = cpu_ms(partial(covariance.gram, theta, x))
        found.append((f"Gram of 200 points, 10 qubits, {name}, CPU", took, "ms", "<= 40"))
    covariance = kernels.covariance("iqp", np.arange(d))
    theta = covariance.start()
    angles = (x[:few] - 0.5) / np.exp(theta[:d])
    device = qml.device("default.qubit", wires=d)

    @qml.qnode(device)
    def overlap(a: np.ndarray, b: np.ndarray) -> object:
        qml.IQPEmbedding(a, wires=range(d))
        qml.adjoint(qml.IQPEmbedding)(b, wires=range(d))
        return qml.probs(wires=range(d))

    begun = time.perf_counter()
    expected = np.array([[overlap(a, b)[0] for b in angles] for a in angles])
    pair_s = (time.perf_counter() - begun) / few**2
    difference = np.abs(covariance.gram(theta, x[:few]) - expected).max()
    return [
        *found,
        ("  PennyLane, pairs of circuits: all 20,100", pair_s * n * (n + 1) / 2, "s", "-"),
        ("  largest difference from PennyLane, 5 points", 1e12 * float(difference), "1e-12", "<= 1"),
    ]


def scores(stick: ModuleType, optimizer: Any, names: tuple[str, ...], seeds: int, trials: int) -> dict[str, float]:
    """The stick's summary over problems and seeds."""
    runs = {name: [stick.replay(optimizer, _problem(stick, name), seed, trials) for seed in range(seeds)] for name in names}
    summary: dict[str, float] = stick.summary(runs)
    return summary | {"cpu_ms": statistics.median(run.cpu_ms for each in runs.values() for run in each)}


@lru_cache(maxsize=16)
def _problem(stick: ModuleType, name: str) -> Any:
    return stick.PROBLEMS[name]()
