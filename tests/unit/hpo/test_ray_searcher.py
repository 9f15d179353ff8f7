"""QStreamSearcher against Ray Tune's own classes, where Ray is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.hpo import HpoOptions, SearchSpace

tune = pytest.importorskip("ray.tune", reason="the extra ray is not installed")

from ray.tune.experiment import Experiment  # noqa: E402
from ray.tune.search import Searcher, SearchGenerator  # noqa: E402

from qstream.hpo.formats.ray_searcher import QStreamSearcher  # noqa: E402

FAST = HpoOptions(optimizer="gp", candidates=64, starts=2, initial=4)


def param_space():
    return {
        "lr": tune.loguniform(1e-5, 1e-1),
        "model": {"layers": tune.randint(1, 9), "width": tune.qrandint(64, 256, 64), "act": tune.choice([None, "relu", (1,)])},
        "drop": tune.quniform(0, 0.5, 0.1),
        "epochs": 10,
    }


def loss(config) -> float:
    return (math.log10(config["lr"]) + 3) ** 2 + abs(config["model"]["layers"] - 4) / 4 + config["drop"]


def run(searcher, names):
    found = []
    for name in names:
        config = searcher.suggest(name)
        found.append(config)
        searcher.on_trial_complete(name, {"loss": loss(config)})
    return found


def test_spaces_of_ray_are_read_as_what_they_draw():
    space = param_space() | {"model": {"layers": tune.randint(1, 9), "act": tune.choice(["a", "b"])}}
    parameters = SearchSpace.load(space).parameters
    assert [(p.name, p.type, p.low, p.high, p.step) for p in parameters] == [
        ("lr", "float", 1e-5, 0.1, None),
        ("model/layers", "int", 1, 8, None),
        ("model/act", "categorical", None, None, None),
        ("drop", "float", 0, 0.5, 0.1),
    ]
    with pytest.raises(ProblemError, match=r"parameter 'x' must be a domain such as tune\.choice, not grid_search"):
        SearchSpace.load({"x": tune.grid_search([1, 2]), "y": tune.uniform(0, 1)})
    with pytest.raises(ProblemError, match="parameter 'x' must be a Float, Integer or Categorical"):
        SearchSpace.load({"x": tune.randn(0, 1)})


def test_trials_are_nested_as_ray_gives_them_and_a_restored_searcher_goes_on(tmp_path):
    first, second = QStreamSearcher(options=FAST), QStreamSearcher(options=FAST)
    for searcher in (first, second):
        assert searcher.set_search_properties("loss", "min", param_space())
    configs = run(first, "abcdefgh")
    assert set(configs[0]["model"]) == {"layers", "width", "act"}
    assert "epochs" not in configs[0]
    first.save(str(tmp_path / "state.json"))
    second.restore(str(tmp_path / "state.json"))
    assert run(first, "ij") == run(second, "ij")
    other = QStreamSearcher({"x": tune.uniform(0, 1)}, "loss", "min")
    with pytest.raises(ProblemError, match="space of the saved searcher must be that of this one"):
        other.restore(str(tmp_path / "state.json"))


def test_a_metric_of_numpy_is_a_result():
    searcher = QStreamSearcher({"n": tune.choice([1, 2, 3])}, "loss", "min", FAST)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"loss": np.float32(0.5)})
    assert [(trial["state"], trial["value"]) for trial in searcher._trials.values()] == [("complete", 0.5)]


def test_errors_teach_and_a_used_up_space_is_finished():
    searcher = QStreamSearcher({"n": tune.choice([1, 2, 3])}, "loss", "max", FAST)
    assert not searcher.set_search_properties("loss", "max", {"n": tune.choice([1])})
    seen = [searcher.suggest(name)["n"] for name in "abc"]
    assert sorted(seen) == [1, 2, 3]
    assert searcher.suggest("d") == Searcher.FINISHED
    searcher.on_trial_complete("a", {"loss": float("nan")})
    searcher.on_trial_complete("b", None, error=True)
    assert searcher.suggest("e") == Searcher.FINISHED
    with pytest.raises(ProblemError, match="metric and mode of a QStreamSearcher must be a metric, and min or max"):
        QStreamSearcher({"n": tune.choice([1, 2, 3])}).suggest("a")


def test_the_generator_of_ray_merges_constants_and_results_of_others_count():
    searcher = QStreamSearcher(options=FAST)
    generator = SearchGenerator(searcher)
    assert generator.set_search_properties("loss", "min", param_space())
    searcher.add_evaluated_point({"lr": 1e-3, "model": {"layers": 4, "width": 64, "act": "relu"}, "drop": 0.1, "epochs": 10}, 0.5)
    generator.add_configurations(Experiment("test", lambda config: None, config=param_space(), num_samples=3))
    trials = []
    while not generator.is_finished():
        trials.append(generator.next_trial())
        generator.on_trial_complete(trials[-1].trial_id, {"loss": loss(trials[-1].config)})
    assert [trial.config["epochs"] for trial in trials] == [10] * 3
    assert len({trial.config["lr"] for trial in trials}) == 3
    assert isinstance(trials[0].config["model"]["layers"], int)
