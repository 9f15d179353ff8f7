"""What older studies and limits are worth to the search, on the measuring stick: warm starts, misleading ones, failing trials."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import suggest
from qstream.hpo.problem import Limit, Observation
from qstream.hpo.space import SearchSpace
from schemas.solver import Reason
from tests.benchmarks.stick import load_scores

Row = tuple[str, float, str, str]
Prior = list[tuple[dict[str, Any], float]]
SEEDS: Final = 8  # of warm starts: with four, means differ by .03 by chance
SERVED: Final = 6  # of the serving problem
WARM_TRIALS, SERVED_TRIALS = 40, 60
AT: Final = (5, 10, 20, 40)
ASKED: Final = {10: "<= 0.16", 20: "<= 0.065"}
NEAR: Final = 0.02  # of the best
KINDS: Final = ("true", "shuffled", "inverted")


class Tuned:
    """`suggest` as a study of the stick; `dropped` asks were answered without the prior mean, since it misled."""

    def __init__(
        self, space: Any, seed: int, options: HpoOptions, prior: Prior | None = None, limits: dict[str, float] | None = None
    ) -> None:
        self.space, self.seed, self.options, self.prior = SearchSpace.load(space), seed, options, prior
        self.limits = [Limit(metric, "<=", value) for metric, value in (limits or {}).items()]
        self.seen: list[Observation] = []
        self.pending: dict[int, dict[str, Any]] = {}
        self.dropped = self.trials = 0

    def ask(self) -> tuple[int, dict[str, Any]]:
        trial = self.trials
        found = suggest(
            self.space,
            self.seen,
            pending=self.pending,
            trial=trial,
            seed=self.seed,
            options=self.options,
            prior=self.prior,
            limits=self.limits,
        )
        self.dropped += found.fallback_reason is Reason.PRIOR_MISLEADS
        self.trials += 1
        self.pending[trial] = found.params
        return trial, found.params

    def tell(self, trial: int, metrics: dict[str, float] | None) -> None:
        state = "complete" if metrics else "failed"
        value = metrics["loss"] if metrics else None
        self.seen.append(Observation(trial, self.pending.pop(trial), value, state, metrics))


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_scores("hpo_stick")
    return [*warm_starts(stick), *served(stick)] if stick else []


def warm_starts(stick: ModuleType) -> list[Row]:
    """Regret with 60 random trials of a sibling study, with their values shuffled or inverted, and without."""
    found: list[Row] = []
    cold = regrets(stick, HpoOptions(), "cold")[0]
    found += [(f"no older study, NR@{t}", float(cold[t - 1]), "", "-") for t in AT]
    for option in ("mean", "both"):
        for kind in KINDS:
            regret, dropped = regrets(stick, HpoOptions().changed({"warm_start": option}), kind)
            what = f"warm_start={option}, {'older study' if kind == 'true' else f'{kind} values'}"
            for t in AT:
                asked = ASKED.get(t, "-") if kind == "true" else f"<= {1.15 * cold[t - 1]:.4f}" if t == WARM_TRIALS else "-"
                found.append((f"{what}, NR@{t}", float(regret[t - 1]), "", asked))
            found.append((f"{what}, asks that the guard answered without it", 100 * dropped, "%", "-"))
    return found


def regrets(stick: ModuleType, options: HpoOptions, kind: str) -> tuple[NDArray[np.float64], float]:
    """Mean regret after each trial, of the three pairs and all seeds, and the share of asks that the guard changed."""
    runs: list[NDArray[np.float64]] = []
    dropped = 0
    for old, new in stick.WARM:
        problem = _table(stick, new)
        for seed in range(SEEDS):
            prior = None if kind == "cold" else spoilt(stick.prior(old, seed), kind, seed)
            study, made = _kept(lambda space, seed, prior=prior: Tuned(space, seed, options, prior))
            runs.append(stick.replay(study, problem, seed, WARM_TRIALS).regret)
            dropped += made[0].dropped
    return np.mean(runs, axis=0), dropped / (len(runs) * WARM_TRIALS)


def spoilt(prior: Prior, kind: str, seed: int) -> Prior:
    """An older study as it is, or with its values shuffled or inverted."""
    value = np.array([each for _, each in prior])
    changed = {"true": value, "shuffled": np.random.default_rng([seed, 5]).permutation(value), "inverted": -value}[kind]
    return [(params, float(each)) for (params, _), each in zip(prior, changed, strict=True)]


def served(stick: ModuleType) -> list[Row]:
    """Trials until a setting within 2 % of the best that keeps both limits, and failed trials, of a modelled server."""
    found: list[Row] = []
    problem = stick.serving()
    near = NEAR * abs(problem.best) / (problem.median - problem.best)  # of the normalised regret
    for name, options in (("auto", HpoOptions()), ("gp, feasibility off", HpoOptions(optimizer="gp", feasibility=False))):
        trials, failed, middle = [], 0, []
        for seed in range(SERVED):
            study, _ = _kept(lambda space, seed, options=options: Tuned(space, seed, options, limits=problem.limits))
            run = stick.replay(study, problem, seed, SERVED_TRIALS)
            close = np.flatnonzero(run.regret <= near)
            trials.append(float(close[0] + 1 if len(close) else SERVED_TRIALS + 1))
            failed += run.failed
            middle.append(run.regret[29])
        asked = ("<= 20", "<= 32", "<= 10") if name == "auto" else ("-", "-", "-")
        found += [
            (
                f"serving, {name}: trials to within 2 % of the best, median of {SERVED} seeds",
                float(np.median(trials)),
                "",
                asked[0],
            ),
            ("  largest (61: not in 60)", max(trials), "", asked[1]),
            ("  failed trials", 100 * failed / (SERVED * SERVED_TRIALS), "%", asked[2]),
            ("  NR@30", float(np.mean(middle)), "", "-"),
        ]
    return found


def _kept(make: Callable[[Any, int], Tuned]) -> tuple[Callable[[Any, str, int], Tuned], list[Tuned]]:
    """An optimizer of the stick, and the list of the studies that it made."""
    made: list[Tuned] = []

    def study(space: Any, _objective: str, seed: int) -> Tuned:
        made.append(make(space, seed))
        return made[-1]

    return study, made


@lru_cache(maxsize=8)
def _table(stick: ModuleType, name: str) -> Any:
    return stick.table(name)
