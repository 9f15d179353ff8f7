"""Learners next to their peers, on the measuring stick where it is installed. CPU times are those of one thread."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from qstream.learn import conformal, drift, forecast, hedge, weights
from tests.benchmarks.stick import SCORES

Row = tuple[str, float, str, str]

_STICK = SCORES.with_name("learn_stick.py")
_SEEDS = 4
_EXPERTS = 7


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_stick()
    measured = [*hedge_regret(stick), *bounds(stick), *forecasts(stick)] if stick else []
    return [*measured, *drifts(), *paths(), *hedge_times(), *forecast_times()]


def load_stick() -> ModuleType | None:
    """The stick as a module, or None where it is absent."""
    spec = importlib.util.spec_from_file_location("learn_stick", _STICK) if _STICK.exists() else None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules["learn_stick"] = module
    spec.loader.exec_module(module)
    return module


def cpu_us(call: Callable[[], Any], rounds: int) -> float:
    """CPU time of this thread for a call, the least of five means."""
    call()
    means = []
    for _ in range(5):
        start = time.thread_time()
        for _ in range(rounds):
            call()
        means.append((time.thread_time() - start) / rounds)
    return 1e6 * min(means)


def hedge_step(arms: int) -> Any:
    """The hedge in the stick's form: losses of a round in, weights out."""
    state = hedge.start(arms)

    def step(loss: np.ndarray, _used: np.ndarray) -> np.ndarray:
        nonlocal state
        state = hedge.learn(state, loss[None])
        return hedge.mix(state)[0]

    return step


def even(arms: int) -> Any:
    return lambda _loss, _used: np.full(arms, 1 / arms)


def hedge_regret(stick: ModuleType) -> list[Row]:
    """Regret a round, mean of the seeds. The best fixed arm is 0 by definition."""
    found: list[Row] = []
    makers = {
        "hedge": hedge_step,
        "fixed share 2 / .02": stick.fixed_share(),
        "ML-Poly": stick.ml_poly(),
        "even mixture": even,
    }
    targets = {(0, "regret"): "<= 1.2", (200, "regret"): "<= -53", (50, "regret"): "<= -35"}
    targets |= {(200, "tracking_regret"): "<= 18", (50, "tracking_regret"): "<= 52"}
    for every, switches in ((0, 0), (200, 14), (50, 59)):
        problems = [stick.switching_losses(seed, every=every) for seed in range(_SEEDS)]
        for name, make in makers.items():
            scores = [stick.hedge_score(make, losses, switches=switches) for losses in problems]
            for kind in ("regret", "tracking_regret") if switches else ("regret",):
                what = "best arm" if kind == "regret" else "best sequence"
                target = targets[every, kind] if name == "hedge" else "-"
                changes = f"every {every} rounds" if every else "never"
                value = float(np.mean([score[kind] for score in scores]))
                found.append((f"{name}, regret to the {what}, which changes {changes}", 1000 * value, "1/1000", target))
    return found


def hedge_times() -> list[Row]:
    """A step is an answer and what is learnt from the losses."""
    found: list[Row] = []
    for series, rounds, target in ((1, 500, "<= 25"), (1000, 20, "<= 0.7")):
        state, loss = hedge.start(_EXPERTS, series=series), np.random.default_rng(0).random((series, _EXPERTS))

        def step(state: Any = state, loss: np.ndarray = loss) -> None:
            hedge.mix(state)
            hedge.learn(state, loss)

        found.append((f"hedge step, {_EXPERTS} experts, each of {series} series", cpu_us(step, rounds) / series, "us", target))
    return found


def highest(series: np.ndarray) -> np.ndarray:
    """The highest of the last 30 values, after each."""
    return np.array([series[max(0, t - 29) : t + 1].max() for t in range(len(series))])


def conformal_bound(series: np.ndarray, horizon: int) -> np.ndarray:
    """A bound of the next `horizon` values after each: scores are the highest of them over the highest of the last 30."""
    top, used, state = highest(series), np.zeros(len(series)), conformal.start()
    for t in range(len(series)):
        at = t - horizon
        if at >= 0:
            state = conformal.learn(state, [series[at + 1 : t + 1].max() / top[at] - 1], [used[at]])
        used[t] = conformal.bound(state, 0.05)[0]
    return top * (1 + used)


def bounds(stick: ModuleType) -> list[Row]:
    """Bounds of the next 5 and 10 s of the three power series, 1,800 samples."""
    found: list[Row] = []
    series = [watts[:1800] for watts in stick.energy_stick.power_series().values()]
    makers = {"conformal": conformal_bound, "1.05 x highest of 30": lambda watts, _horizon: 1.05 * highest(watts)}
    for name, bound in makers.items():
        scores = [stick.bound_score(bound, watts, horizon) for watts in series for horizon in (5, 10)]
        coverage, own = [score["coverage"] for score in scores], name == "conformal"
        found += [
            (f"{name}, bound of the next 5 and 10 s: coverage of 95 asked, mean", 100 * float(np.mean(coverage)), "%", "-"),
            ("  least", 100 * min(coverage), "%", ">= 94" if own else "-"),
            ("  above what came", 100 * float(np.mean([score["width"] for score in scores])), "%", "<= 22" if own else "-"),
        ]
    return found


def mixed(analogs: tuple[int, ...]) -> Callable[[np.ndarray, int], np.ndarray]:
    """The forecast in the stick's form: the mean of the next `horizon` values, after each."""

    def run(series: np.ndarray, horizon: int) -> np.ndarray:
        state, means = forecast.start(horizon=horizon, analogs=analogs), np.empty(len(series))
        for t, value in enumerate(series):
            state, answer = forecast.step(state, [value])
            means[t] = answer.mean[0]
        return means

    return run


def smoothed(series: np.ndarray, _horizon: int) -> np.ndarray:
    """Exponential smoothing, .3."""
    means = np.array(series, float)
    for t in range(1, len(series)):
        means[t] = 0.7 * means[t - 1] + 0.3 * series[t]
    return means


def forecasts(stick: ModuleType) -> list[Row]:
    """Error over that of the last value, mean of the three power series of 1,500 samples."""
    found: list[Row] = []
    series = [watts[:1500] for watts in stick.energy_stick.power_series().values()]
    worst = 0.0
    for horizon, target in ((1, "<= 0.76"), (5, "<= 0.81"), (10, "<= 0.76"), (30, "<= 0.60")):
        for name, run in (("forecast", mixed((10, 30))), ("without analogs", mixed(())), ("EWMA .3", smoothed)):
            scores = [stick.series_score(run, watts, horizon) for watts in series]
            worst = max(worst, *scores) if name == "forecast" else worst
            own = target if name == "forecast" else "-"
            found.append((f"{name}, {horizon} s ahead: error over the last value's", float(np.mean(scores)), "", own))
    return [*found, ("forecast, worst of all series", worst, "", "<= 1.02")]


def forecast_times() -> list[Row]:
    found: list[Row] = []
    values = 4350 + 60 * np.random.default_rng(0).normal(size=(1500, 1))
    for analogs, horizon, cpu, size in (((10, 30), 10, "<= 150", "<= 10"), ((), 5, "<= 60", "<= 3.5")):
        state = forecast.start(horizon=horizon, analogs=analogs)
        for value in values:
            state, _ = forecast.step(state, value)
        took = cpu_us(lambda state=state: forecast.step(state, values[0]), 100)
        held = sum(getattr(part, name).nbytes for part in (state, state.hedge) for name in part.arrays)
        found.append((f"forecast step, {len(forecast.names(state))} forecasters, {horizon} ahead", took, "us", cpu))
        found.append(("  state", held / 1000, "KB", size))
    return found


def drifts() -> list[Row]:
    """Values of noise .2 in 0 to 1: how many samples after a shift it is called, and how often without one."""
    found: list[Row] = []
    for shift, target in ((0.1, "-"), (0.2, "<= 55"), (0.4, "-"), (0.0, "<= 3")):
        called = {"drift": (first_calls(own_drift(400), 400, shift), target)}
        for name, make in peers_of_drift().items():
            called[name] = (first_calls(each_alone(make, 60), 60, shift), "-")
        for name, (first, wanted) in called.items():
            if shift:
                found.append(
                    (f"{name}, shift of {shift} of the range: called after", float(np.median(first)) - 599, "samples", wanted)
                )
            else:
                found.append((f"{name}, no shift: called within 1,200 samples", 100 * float((first < 1200).mean()), "%", wanted))
    return found


def first_calls(step: Callable[[np.ndarray], np.ndarray], series: int, shift: float) -> np.ndarray:
    """When each of the series is first called, from the shift at 600 on if there is one; 1,200 for never."""
    rng, first = np.random.default_rng(0), np.full(series, 1200)
    for t in range(1200):
        mean = 0.4 + (shift if t >= 600 else 0.0)
        changed = step(np.clip(mean + 0.2 * rng.normal(size=series), 0, 1))
        first = np.where(changed & (first == 1200) & ((t >= 600) | (shift == 0)), t, first)
    return first


def own_drift(series: int) -> Callable[[np.ndarray], np.ndarray]:
    state = drift.start(series, bound=1.0)

    def step(value: np.ndarray) -> np.ndarray:
        nonlocal state
        state, changed = drift.learn(state, value)
        return changed

    return step


def peers_of_drift() -> dict[str, Callable[[], Any]]:
    """river's, where it is installed."""
    if not importlib.util.find_spec("river"):
        return {}
    from river.drift import ADWIN, PageHinkley  # noqa: PLC0415 - a peer that need not be there

    return {"river ADWIN": ADWIN, "river Page-Hinkley (10)": lambda: PageHinkley(threshold=10)}


def each_alone(make: Callable[[], Any], series: int) -> Callable[[np.ndarray], np.ndarray]:
    """river's detectors, one a series."""
    detectors = [make() for _ in range(series)]

    def step(value: np.ndarray) -> np.ndarray:
        for detector, one in zip(detectors, value.tolist(), strict=True):
            detector.update(one)
        return np.array([detector.drift_detected for detector in detectors])

    return step


def paths() -> list[Row]:
    """Eight unequal paths: the highest utilisation over that of the best split after 6 steps, and after one lost 80 %."""
    capacity, found = np.array([1.0, 2.0, 4.0, 1.0, 2.0, 4.0, 1.0, 1.0]), []
    state = weights.start(np.ones(8))
    found.append(("even shares of 8 unequal paths: highest utilisation over the best", float(capacity.sum() / 8), "", "-"))
    for what, steps in (("weights, after 6 steps", 6), ("weights, 4 steps after a path lost 80 %", 4)):
        for _ in range(steps):
            state = weights.learn(state, [weights.shares(state)[0] / capacity])
        found.append((what, float((weights.shares(state)[0] / capacity).max() * capacity.sum()), "", "-"))
        capacity[2] *= 0.2
    return found
