"""Forecasts of watts next to persistence and simple bounds, and active counts next to reactive ones."""

from __future__ import annotations

import time
from types import ModuleType

import numpy as np

from qstream.energy import forecast_series, plan_active
from tests.benchmarks.bench_learn import Row
from tests.benchmarks.stick import load_scores

_ERRORS = {1: "<= 0.76", 5: "<= 0.79", 10: "<= 0.73", 30: "<= 0.62"}
_WIDTHS = {5: "<= 18", 10: "<= 15"}
_REACTIVE = ((1.1, 3), (1.3, 3))


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_scores("energy_stick")
    return [*forecasts(stick), *counts(stick)] if stick else []


def forecasts(stick: ModuleType) -> list[Row]:
    """The mean of three series: one serves under real arrivals, two train and write checkpoints."""
    series, found = stick.power_series(), []
    for h, target in _ERRORS.items():
        begin = time.thread_time()
        scores = [stick.forecast_score(forecast_series, watts, h) for watts in series.values()]
        cost = 1e6 * (time.thread_time() - begin) / sum(1.5 * len(watts) for watts in series.values())
        error = [score["mae"] for score in scores]
        found += [
            (f"{h} s ahead: error over persistence, mean of series", float(np.mean(error)), "", target),
            ("  worst series", max(error), "", "<= 1.0" if h == 1 else "-"),
        ]
        if h in _WIDTHS:
            last = [stick.forecast_score(stick.last, watts, h) for watts in series.values()]
            found += [
                ("  bound of the maximum: coverage, least", 100 * min(score["coverage"] for score in scores), "%", ">= 94"),
                ("  how far it lies above", 100 * float(np.mean([score["width"] for score in scores])), "%", _WIDTHS[h]),
                ("  1.05 x highest of 30: coverage, mean", 100 * float(np.mean([one["coverage"] for one in last])), "%", "-"),
                ("  how far it lies above", 100 * float(np.mean([one["width"] for one in last])), "%", "-"),
            ]
        found.append(("  CPU for a sample: mean and bound", cost, "us", "-"))
    return found


def counts(stick: ModuleType) -> list[Row]:
    asked = stick.demand()
    ours = stick.active_score(plan_active, asked)
    found = [
        ("active counts: energy saved", 100 * ours["saved"], "%", ">= 17"),
        ("  windows over capacity", 100 * ours["over_capacity"], "%", "<= 0.3"),
        ("  changes an hour", ours["switches_h"], "", "<= 30"),
    ]
    for headroom, patience in _REACTIVE:
        score = stick.active_score(stick.reactive(headroom, patience), asked)
        found += [
            (f"  reactive, headroom {headroom}: energy saved", 100 * score["saved"], "%", "-"),
            ("  windows over capacity", 100 * score["over_capacity"], "%", "-"),
            ("  changes an hour", score["switches_h"], "", "-"),
        ]
    return found
