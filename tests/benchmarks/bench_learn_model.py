"""A trained forecaster in the mixture, on the measuring stick's series, and what models cost at a start."""

from __future__ import annotations

import dataclasses
import importlib
import time
from types import ModuleType

import numpy as np

from qstream.learn import recurrent, train
from qstream.learn.model import Model, parts
from qstream.learn.registry import Registry
from tests.benchmarks.bench_learn import load_stick

Row = tuple[str, float, str, str]

_HORIZON = 10
_TARGETS = {"checkpoint-75": "<= 0.40"}


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    stick = load_stick()
    return [*(forecasts(stick) if stick else []), *start_of_a_registry()]


def forecasts(stick: ModuleType) -> list[Row]:
    """Trained on the first halves, scored on the second, 10 s ahead: error over that of the last value."""
    found: list[Row] = []
    walk = 500 + np.cumsum(np.random.default_rng(5).normal(size=1800))
    series = {name: np.asarray(watts, float) for name, watts in stick.energy_stick.power_series().items()}
    trained = {name: fitted(watts[: len(watts) // 2]) for name, watts in series.items()}
    cases = [(name, series[name], model) for name, (model, _) in trained.items()]
    cases += [
        ("a random walk", walk, trained["checkpoint-75"][0]),
        ("checkpoint-75 by a model of another node", series["checkpoint-75"], trained["serving"][0]),
    ]
    for name, watts, model in cases:
        without, with_model = (score(watts, one) for one in (None, model))
        found.append((f"LSTM as extra, 10 s ahead, {name}: error over the last value's", with_model, "", _TARGETS.get(name, "-")))
        found.append(("  more than without it", with_model - without, "", "<= 0.015" if "walk" in name else "<= 0.03"))
    return [*found, ("  training, the most of three: CPU", max(took for _, took in trained.values()), "s", "-")]


def fitted(known: np.ndarray) -> tuple[Model, float]:
    importlib.import_module("torch")  # not part of the training
    started = time.process_time()
    model = train.fit_lstm([known], module="bench", name="forecast", horizon=_HORIZON, seed=0, deadline_s=600.0)
    return dataclasses.replace(model, version=1), time.process_time() - started


def score(watts: np.ndarray, model: Model | None) -> float:
    target, said = train.targets(watts, _HORIZON), train.forecasts(watts, _HORIZON, model)
    held_out = slice(len(watts) // 2, len(watts) - _HORIZON)
    return float(np.abs(said - target)[held_out].mean() / np.abs(watts - target)[held_out].mean())


def start_of_a_registry() -> list[Row]:
    """Twenty names, each with an LSTM."""
    models = [network("bench", f"forecast{number}", 1, seed=number) for number in range(20)]
    sent = {part.part_key: part for model in models for part in parts(model)}
    started = time.perf_counter()
    taken = Registry("bench", {model.name: recurrent.WANT for model in models}).taken(sent)
    took = time.perf_counter() - started
    assert not taken.refused
    return [("registry, 20 models of 24 units assembled and tried", 1000 * took, "ms", "<= 5000")]


def network(module: str, name: str, version: int, seed: int) -> Model:
    """An LSTM of the size that is trained, which knows nothing."""
    rng, features, units = np.random.default_rng(seed), len(recurrent.FEATURES), recurrent.UNITS
    shapes = {"weight_ih": (4 * units, features), "weight_hh": (4 * units, units), "bias": (4 * units,)}
    shapes |= {"head.weight": (recurrent.WANT.outputs, units), "head.bias": (recurrent.WANT.outputs,)}
    return Model(
        module=module,
        name=name,
        version=version,
        kind="lstm",
        arrays={field: rng.normal(size=shape) for field, shape in shapes.items()},
        feature_names=recurrent.FEATURES,
    )
