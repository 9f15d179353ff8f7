"""Training: what is trained beats its twin where there is something to learn, and says so honestly where there is not."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from qstream.learn import LearnError, policy, recurrent, train
from qstream.learn.report import report

HORIZON = 5


def node(count=420):
    """A node that works for 20 s and rests for 10, with noise."""
    at = np.arange(count)
    return np.where(at % 30 < 20, 400.0, 100.0) + np.random.default_rng(0).normal(0, 5, count)


@pytest.fixture(scope="module")
def trained():
    made, compared = train.lstm([node()], module="meter", horizon=HORIZON, rounds=60, deadline_s=600)
    return dataclasses.replace(made, version=7), compared


def test_a_forecaster_is_trained_on_the_older_part_and_compared_on_the_newest_quarter(trained):
    made, compared = trained
    assert made.feature_names == recurrent.FEATURES
    assert policy.outputs(made) == recurrent.WANT.outputs
    assert sum(array.size for array in made.arrays.values()) < 4300
    assert compared.held_out == 420 // 4 - HORIZON
    assert compared.loss.low <= compared.loss.value <= compared.loss.high
    assert made.metrics["loss_twin"] == compared.loss_twin.value
    assert compared.gain.value == pytest.approx(compared.loss_twin.value - compared.loss.value)


def test_equal_arguments_give_equal_models(trained):
    short = [train.lstm([node()], module="meter", horizon=HORIZON, rounds=3, deadline_s=600)[0] for _ in range(2)]
    assert all((short[0].arrays[name] == short[1].arrays[name]).all() for name in short[0].arrays)


def test_training_ends_at_its_deadline():
    ticks = iter(range(1000))
    train.lstm([node()], module="meter", horizon=HORIZON, rounds=100_000, deadline_s=2, clock=lambda: float(next(ticks)))
    assert next(ticks) < 10


def test_a_network_s_forecasts_are_the_same_however_its_state_was_stored(trained):
    made, _ = trained
    kept = stored = recurrent.start(horizon=HORIZON)
    for value in node(60):
        kept, said = recurrent.step(kept, value, made)
        stored, again = recurrent.step(recurrent.RecurrentState.decode(stored.encode()), value, made)
        assert said == again
    assert kept.encode() == stored.encode()


def test_another_version_begins_with_an_empty_memory_and_one_for_another_horizon_does_not_answer(trained):
    made, _ = trained
    state = recurrent.start(horizon=HORIZON)
    for value in node(40):
        state, _ = recurrent.step(state, value, made)
    other, said = recurrent.step(state, 100.0, dataclasses.replace(made, version=8))
    assert other.carried == 8
    fresh = state.model_copy(update={"carry": np.zeros_like(state.carry)})
    assert said == recurrent.step(fresh, 100.0, made)[1]
    assert recurrent.step(recurrent.start(horizon=HORIZON + 1), 100.0, made)[1] is None
    assert recurrent.step(state, 100.0)[1] is None


@pytest.mark.parametrize("values", [[1e30, -1e30, 5e-324, 0.0] * 20, [7.0] * 80, [0.0] * 80])
def test_no_value_leaves_a_state_that_cannot_be_stored(trained, values):
    state = recurrent.start(horizon=HORIZON)
    for value in values:
        state, said = recurrent.step(state, value, trained[0])
        assert np.isfinite(said)
    assert recurrent.RecurrentState.decode(state.encode()).encode() == state.encode()
    with pytest.raises(LearnError, match="value"):
        recurrent.step(state, float("nan"), trained[0])


def test_series_that_are_too_short_are_named():
    with pytest.raises(LearnError, match="series 1 must be at least"):
        train.lstm([node(), node(100)], module="meter", horizon=HORIZON)
    with pytest.raises(LearnError, match="at least one"):
        train.lstm([], module="meter")


def logged(gain, n=800):
    """Two arms; which one is better depends on the sign of the second feature, by `gain`."""
    rng = np.random.default_rng(1)
    context = np.c_[np.ones(n), rng.normal(size=n)]
    mean = 0.5 + gain * np.c_[np.sign(context[:, 1]), -np.sign(context[:, 1])]
    arm = rng.integers(2, size=n)
    reward = mean[np.arange(n), arm] + 0.1 * rng.normal(size=n)
    return arm, reward, np.full((n, 2), 0.5), np.full((n, 2), 0.5), context


FIT = {"arm_names": ("left", "right"), "feature_names": ("one", "x"), "module": "m", "rounds": 60, "deadline_s": 600.0}


def test_a_policy_learns_from_logged_decisions_what_the_context_says():
    made, compared = train.policy(*logged(0.3), **FIT)
    assert compared.beats_twin
    assert -compared.loss.value > 0.7
    score = policy.mlp(made, [[1.0, 1.0], [1.0, -1.0]])
    assert (score.argmax(1) == [0, 1]).all()
    assert made.config["arms"] == "left,right"


def test_a_policy_that_has_nothing_to_learn_does_not_beat_its_twin():
    assert not train.policy(*logged(0.0), **FIT)[1].beats_twin
    with pytest.raises(LearnError, match="arm must be at least 40"):
        train.policy(*(part[:30] for part in logged(0.3)), **FIT)


def test_the_interval_of_a_mean_holds_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    for seed in range(100):
        loss = np.convolve(rng.normal(size=420), np.ones(5) / 5, "valid")
        found = report("loss", "nothing", loss, loss + 1.0, block=20, seed=seed)
        held += found.loss.low <= 0 <= found.loss.high
        assert found.gain.low == pytest.approx(1.0)
    assert held >= 85


def test_nothing_but_training_loads_torch():
    code = "import sys, qstream.learn.train, qstream.learn.recurrent; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
