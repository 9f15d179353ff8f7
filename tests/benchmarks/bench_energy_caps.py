"""Power caps next to their peers: 164 measured sweeps, each planned by a prior of the others, in another group than its own."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from qstream.energy import Sweep, default_prior, fit_prior, next_cap, predict_levels
from qstream.energy.priors.make import modelled
from tests.benchmarks.bench_learn import Row, cpu_us
from tests.benchmarks.stick import load_scores

_TARGETS = {0.03: ">= 6.55", 0.05: ">= 8.80", 0.10: ">= 13.0"}
_NOISE = 0.003  # of a modelled measurement of time


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_scores("energy_stick")
    return [*([*probes(stick), *unvisited(stick)] if stick else []), *clocks(), *times()]


def sweep_of(one: Any) -> Sweep:
    return Sweep(one.gpu, one.levels, one.time_s, one.power_w)


def policy(max_slowdown: float) -> Callable[[list[Any]], Callable[..., int | None]]:
    """`next_cap` in the stick's form."""

    def make(train: list[Any]) -> Callable[..., int | None]:
        prior = fit_prior([sweep_of(one) for one in train])

        def choose(gpu: str, levels: Any, visited: list[int], time_s: Any, power_w: Any) -> int | None:
            return next_cap(levels, visited, time_s, power_w, prior=prior, gpu=gpu, max_slowdown=max_slowdown)

        return choose

    return make


def probes(stick: ModuleType) -> list[Row]:
    """What probing saves and costs, at three accepted slowdowns."""
    curves, found = stick.sweeps(), []
    for limit, target in _TARGETS.items():
        score = stick.cap_score(policy(limit), curves, curves, limit)
        what = f"caps at <= {100 * limit:.0f} % slowdown"
        found += [
            (f"{what}: energy saved", 100 * score["saved"], "%", target),
            ("  an oracle that knows all", 100 * score["oracle"], "%", "-"),
            ("  Zeus: full sweep, lowest that is not too slow", 100 * score["lowest"], "%", "-"),
            ("  levels visited, default included", score["visited"], "", "<= 3.3"),
            ("  slowest level visited, 95 % of jobs", 100 * score["slowdown_p95"], "%", "<= 11.5" if limit == 0.05 else "-"),
        ]
    for patience in (1, 2):
        score = stick.cap_score(stick.descent(patience), curves, curves)
        found += [
            (f"descent with patience {patience}, <= 5 %: saved", 100 * score["saved"], "%", "-"),
            ("  levels visited", score["visited"], "", "-"),
        ]
    return found


def unvisited(stick: ModuleType) -> list[Row]:
    """Mean error at levels that were not measured, with the highest, the middle and the lowest measured."""
    curves, error = stick.sweeps(), [[], []]
    for group in sorted({one.group for one in curves}):
        prior = fit_prior([sweep_of(one) for one in curves if one.group != group])
        for one in (one for one in curves if one.group == group):
            last = len(one.levels) - 1
            seen = [last, (last + 1) // 2, 0]
            said = predict_levels(one.levels, seen, one.time_s[seen], one.power_w[seen], prior=prior, gpu=one.gpu)
            for each, predicted, came in zip(error, said[:2], (one.time_s, one.power_w), strict=True):
                each += np.delete(np.abs(predicted / came - 1), seen).tolist()
    return [
        ("error at unvisited caps: time", 100 * float(np.mean(error[0])), "%", "<= 2.5"),
        ("  power", 100 * float(np.mean(error[1])), "%", "<= 1.5"),
    ]


def clocks() -> list[Row]:
    """200 modelled clock curves of 12 clocks, other than those of the bundled prior."""
    rng, prior, saved, oracle, visits = np.random.default_rng(1), default_prior("sm_clock_mhz"), [], [], []
    for sweep in modelled(200, seed=7, clocks=12):
        time_s = sweep.time_s * (1 + _NOISE * rng.standard_normal(12))
        seen: list[int] = []
        index: int | None = 11
        while index is not None:
            seen.append(index)
            index = next_cap(sweep.levels, seen, time_s[seen], sweep.power_w[seen], prior=prior)
        energy = np.where(time_s <= 1.05 * time_s[-1], time_s * sweep.power_w, np.inf)
        saved.append(1 - energy[seen].min() / energy[-1])
        oracle.append(1 - energy.min() / energy[-1])
        visits.append(len(seen))
    return [
        ("modelled clocks at <= 5 %: energy saved", 100 * float(np.mean(saved)), "%", "-"),
        ("  an oracle", 100 * float(np.mean(oracle)), "%", "-"),
        ("  levels visited", float(np.mean(visits)), "", "-"),
    ]


def times() -> list[Row]:
    sweep = modelled(1, seed=3, clocks=8)[0]
    seen = [7, 4]
    cost = cpu_us(lambda: next_cap(sweep.levels, seen, sweep.time_s[seen], sweep.power_w[seen]), 20)
    return [("one decision, prior of 164 sweeps", cost / 1e3, "ms", "-")]
