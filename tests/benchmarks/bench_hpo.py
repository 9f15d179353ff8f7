"""The search next to Optuna's samplers on the measuring stick, with one worker and with eight, and what an ask costs."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any, Final

import numpy as np

from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import suggest_from
from qstream.hpo.problem import Problem, gather
from qstream.hpo.space import SearchSpace
from tests.benchmarks.bench_hpo_reuse import Tuned
from tests.benchmarks.stick import load_scores

Row = tuple[str, float, str, str]
Runs = dict[str, list[Any]]  # problem -> a run of each seed

SEEDS: Final = 10
SLOW_SEEDS: Final = 2  # of the peer that takes a quarter of a second an ask
TRIALS: Final = 100
AT: Final = (30, 60, 100)
FLAT: Final = "ackley5"  # decides plain means, so that all figures are given without it as well
PARALLEL: Final = ("hartmann6", "rastrigin5", "mlp_segment", "nas_cifar100")
WORKERS: Final = 8
PARALLEL_SEEDS: Final = 48  # the ratio of means of five is anything from .8 to 2.2
ASKS: Final = 60  # timed at each size
TARGETS: Final = {
    "auto": {"nr@60": "<= 0.060", "nr@100": "<= 0.042", "gm@100": "<= 0.0025"},
    "auto without Ackley": {"nr@60": "<= 0.035", "nr@100": "<= 0.022", "gm@100": "<= 0.0025"},
    "gp without Ackley": {"nr@60": "<= 0.027", "nr@100": "<= 0.019", "gm@100": "<= 0.0025"},
}
ASK_MS: Final = {200: ("<= 18", "<= 50"), 1000: ("<= 45", "<= 100")}


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_scores("hpo_stick")
    return [*(sequential(stick) if stick else []), *(parallel(stick) if stick else []), *asks()]


def sequential(stick: ModuleType) -> Iterator[Row]:
    """Ten problems, one trial at a time."""
    ours = {name: run(stick, tuned(name), SEEDS) for name in ("auto", "gp")}
    for name, runs in ours.items():
        yield from scores(stick, name, runs)
    for peer, seeds, limit in (("tpe", SEEDS, "<= 0.65"), ("gp", SLOW_SEEDS, "<= 0.95")):
        if importlib.util.find_spec("optuna") is None or (peer == "gp" and importlib.util.find_spec("torch") is None):
            continue
        runs = run(stick, stick.optuna_peer(peer), seeds)
        yield from scores(stick, f"Optuna {peer}, {seeds} seeds", runs)
        theirs, same = stick.summary(runs), stick.summary({name: each[:seeds] for name, each in ours["auto"].items()})
        for at in ("nr@60", "nr@100"):
            yield f"{at} of auto / Optuna {peer}, the same {seeds} seeds", same[at] / theirs[at], "", limit


def parallel(stick: ModuleType) -> Iterator[Row]:
    """Four problems, eight trials at a time."""
    alone, together = (run(stick, tuned("auto"), PARALLEL_SEEDS, workers, PARALLEL, 60) for workers in (1, WORKERS))
    for name in ("mlp_segment", "nas_cifar100"):
        yield f"{WORKERS} workers, {name}: different settings of 60", min(each.unique for each in together[name]), "", "60"
    one, eight = (stick.summary(runs)["nr@60"] for runs in (alone, together))
    yield f"{WORKERS} workers, nr@60 of four problems", eight, "", "-"
    if importlib.util.find_spec("optuna") is not None:
        runs = run(stick, stick.optuna_peer("tpe"), PARALLEL_SEEDS, WORKERS, PARALLEL, 60)
        yield f"{WORKERS} workers, nr@60 of four problems, Optuna tpe", stick.summary(runs)["nr@60"], "", "-"
    yield f"{WORKERS} workers, nr@60 / sequential", eight / one, "", "<= 1.25"


def asks() -> Iterator[Row]:
    """CPU time of an ask, fits within it, for six parameters."""
    for n, targets in ASK_MS.items():
        alone, pending = ask_ms(n, 0), ask_ms(n, WORKERS)
        for share, target in zip((50, 95), targets, strict=True):
            yield f"ask at {n} results, p{share}", float(np.percentile(alone, share)), "ms CPU", target
        yield f"ask at {n} results with {WORKERS} pending / without", float(np.median(pending) / np.median(alone)), "", "<= 1.3"


def ask_ms(n: int, pending: int) -> list[float]:
    """CPU ms of this thread for each of the asks that follow n results."""
    options, whole = HpoOptions(optimizer="gp"), results(n + ASKS + pending)
    suggest_from(first(whole, n, pending), options)
    found = []
    for more in range(ASKS):
        problem = first(whole, n + more, pending)
        start = time.thread_time()
        suggest_from(problem, options)
        found.append(1e3 * (time.thread_time() - start))
    return found


def results(n: int) -> Problem:
    """A noisy bowl with ripples, at random points."""
    space = SearchSpace.load([{"name": f"x{i}", "type": "float", "low": 0, "high": 1} for i in range(6)])
    random = np.random.default_rng(0)
    unit = space.snap(random.random((n, 6)))
    value = ((unit - 0.4) ** 2 * np.arange(1, 7)).sum(1) + 0.1 * np.sin(9 * unit).sum(1) + 0.01 * random.normal(size=n)
    return replace(gather(space, []), number=np.arange(n), unit=unit, value=value, limit_value=np.zeros((n, 0)))


def first(whole: Problem, n: int, pending: int) -> Problem:
    """The problem after n results, while the next ones run."""
    return replace(
        whole,
        trial=n + pending,
        number=whole.number[:n],
        unit=whole.unit[:n],
        value=whole.value[:n],
        limit_value=whole.limit_value[:n],
        pending_number=whole.number[n : n + pending],
        pending_unit=whole.unit[n : n + pending],
    )


def tuned(optimizer: str) -> Callable[..., Tuned]:
    """An optimizer of the stick."""
    options = HpoOptions(optimizer=optimizer)  # type: ignore[arg-type]
    return lambda space, _objective, seed: Tuned(space, seed, options)


def run(
    stick: ModuleType,
    optimizer: Callable[..., Any],
    seeds: int,
    workers: int = 1,
    names: tuple[str, ...] = (),
    trials: int = TRIALS,
) -> Runs:
    """The runs of all seeds on each problem."""
    problems = {name: stick.PROBLEMS[name]() for name in names or stick.PROBLEMS}
    return {
        name: [stick.replay(optimizer, problem, seed, trials, workers) for seed in range(seeds)]
        for name, problem in problems.items()
    }


def scores(stick: ModuleType, name: str, runs: Runs) -> Iterator[Row]:
    """Normalised regret with and without the flat problem, and the CPU time of an ask and its tell."""
    for suffix, part in (("", runs), (" without Ackley", {k: v for k, v in runs.items() if k != FLAT})):
        found = stick.summary(part)
        for key in [f"{kind}@{at}" for at in AT for kind in ("nr", "gm")]:
            yield f"{name}{suffix}, {key}", found[key], "", TARGETS.get(name + suffix, {}).get(key, "-")
    yield f"{name}, an ask and its tell", stick.summary(runs)["cpu_ms"], "ms CPU", "-"
