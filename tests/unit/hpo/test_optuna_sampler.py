"""QStreamSampler in real studies of Optuna: any process gives the same, running trials count, and failed ones teach."""

from __future__ import annotations

import pickle

import pytest

from qstream.hpo import HpoOptions

optuna = pytest.importorskip("optuna")

from qstream.hpo.formats.optuna_sampler import QStreamSampler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
optuna.logging.set_verbosity(optuna.logging.WARNING)
FAST = HpoOptions(optimizer="gp", candidates=64, starts=2, initial=4)


def bowl(trial) -> float:
    x, n = trial.suggest_float("x", -1, 1), trial.suggest_int("n", 1, 8)
    kind = trial.suggest_categorical("kind", [None, "a", (1, 2)])  # Optuna takes choices of any kind
    trial.suggest_float("one", 2, 2)
    return (x - 0.3) ** 2 + (n - 4) ** 2 / 10 + (kind is not None)


def study(direction="minimize", seed=0, options=FAST):
    return optuna.create_study(sampler=QStreamSampler(options, seed), direction=direction)


def test_a_study_finds_a_minimum_and_another_process_finds_the_same():
    first, again = study(), optuna.create_study(sampler=pickle.loads(pickle.dumps(QStreamSampler(FAST))))
    first.optimize(bowl, n_trials=12)
    again.optimize(bowl, n_trials=12)
    assert [trial.params for trial in first.trials] == [trial.params for trial in again.trials]
    assert first.best_value < 0.5
    turned = study("maximize")
    turned.optimize(lambda trial: -bowl(trial), n_trials=12)
    assert [trial.params for trial in first.trials] == [trial.params for trial in turned.trials]


def test_trials_that_run_are_known_before_they_use_what_they_were_given():
    found = study()
    for _ in range(5):
        found.optimize(bowl, n_trials=1)
    asked = [found.ask() for _ in range(4)]
    values = {trial.suggest_float("x", -1, 1) for trial in asked}
    assert len(values) == 4


def test_a_discrete_space_is_tried_once_each_and_then_the_study_stops():
    found = study()
    found.optimize(lambda trial: trial.suggest_int("n", 1, 3) + trial.suggest_categorical("b", [0, 1]), n_trials=50)
    assert len(found.trials) == 6
    assert len({(trial.params["n"], trial.params["b"]) for trial in found.trials}) == 6


def test_limits_that_a_trial_sets_are_kept_and_failures_are_no_results():
    def limited(trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        if x > 0.9:
            raise ValueError
        trial.set_constraint("c", 0.5 - x)
        return x

    found = study()
    found.optimize(limited, n_trials=14, catch=ValueError)
    assert 0.5 <= found.best_value < 0.6
    assert all(trial.value < 0.9 for trial in found.trials if trial.value is not None)


def test_a_place_where_trials_are_pruned_is_left():
    def pruned(trial) -> float:
        x, n = trial.suggest_float("x", -1, 1), trial.suggest_int("n", 1, 8)
        if n > 6:
            raise optuna.TrialPruned
        return x**2 - n

    found = study()
    found.optimize(pruned, n_trials=24)
    assert sum(trial.state == optuna.trial.TrialState.PRUNED for trial in found.trials) <= 12
    assert found.best_params["n"] == 6


def test_several_objectives_are_refused():
    found = optuna.create_study(sampler=QStreamSampler(), directions=["minimize", "minimize"])
    with pytest.raises(ValueError, match="multi-objective"):
        found.ask()
