"""Evaluate: the identities of the four estimates, intervals that hold, and a log that says when it cannot answer."""

import numpy as np
import pytest

from qstream.learn import LearnError
from qstream.learn.evaluate import evaluate

ARMS = 3


def log(n, seed=0, noise=0.3):
    """A log of random propensities, and the true mean rewards [n, arms]."""
    rng = np.random.default_rng(seed)
    propensity = 0.1 / ARMS + 0.9 * rng.dirichlet(np.ones(ARMS), n)
    arm = (rng.random(n)[:, None] > propensity.cumsum(1)).sum(1).clip(0, ARMS - 1)
    truth = rng.normal(size=(n, ARMS)) + np.arange(ARMS)
    reward = truth[np.arange(n), arm] + noise * rng.normal(size=n)
    return arm, reward, propensity, truth


def always(arm, n):
    return np.eye(ARMS)[np.full(n, arm)]


def test_doubly_robust_equals_ips_where_nothing_was_expected():
    arm, reward, propensity, truth = log(200)
    found = evaluate(arm, reward, propensity, np.zeros_like(truth), always(1, 200))
    assert found.doubly_robust == found.ips
    assert found.direct == (0, 0, 0)


def test_doubly_robust_is_the_truth_where_the_expectations_are_true():
    arm, reward, propensity, truth = log(200, noise=0.0)
    policy = np.random.default_rng(1).dirichlet(np.ones(ARMS), 200)
    found = evaluate(arm, reward, propensity, truth, policy)
    assert found.doubly_robust.value == pytest.approx((policy * truth).sum(1).mean(), abs=1e-12)
    assert found.doubly_robust == pytest.approx(found.direct, abs=1e-12)


def test_the_policy_that_was_logged_earns_what_was_earned():
    arm, reward, propensity, truth = log(200)
    found = evaluate(arm, reward, propensity, truth, propensity)
    assert found.ips.value == pytest.approx(found.logged)
    assert found.snips.value == pytest.approx(reward.mean())
    assert (found.decisions, found.effective) == (200, pytest.approx(200))
    assert found.warnings == ()


def test_estimates_are_those_of_their_definitions():
    arm, reward, propensity, truth = log(50, seed=3)
    policy, rows = always(2, 50), np.arange(50)
    weight = policy[rows, arm] / propensity[rows, arm]
    found = evaluate(arm, reward, propensity, truth, policy)
    each = weight * reward
    half = 1.959964 * each.std(ddof=1) / np.sqrt(50)
    assert found.ips == pytest.approx((each.mean(), each.mean() - half, each.mean() + half), rel=1e-6)
    assert found.snips.value == pytest.approx(each.sum() / weight.sum())
    assert found.effective == pytest.approx(weight.sum() ** 2 / (weight**2).sum())


@pytest.mark.parametrize("name", ["ips", "snips", "doubly_robust"])
def test_intervals_hold_as_often_as_they_say(name):
    held = 0
    for seed in range(200):
        arm, reward, propensity, _ = log(400, seed)
        guess = np.tile(np.arange(ARMS, dtype=float), (400, 1))
        estimate = getattr(evaluate(arm, reward, propensity, guess, always(1, 400)), name)
        held += estimate.low <= 1.0 <= estimate.high
    assert held >= 180  # of 200, where 190 are expected with a deviation of 3


def test_a_log_says_where_it_cannot_answer():
    propensity = np.tile([0.995, 0.005, 0.0], (100, 1))
    zeros = np.zeros((100, 3))
    found = evaluate(np.zeros(100, int), np.ones(100), propensity, zeros, np.tile([0.2, 0.3, 0.5], (100, 1)))
    assert [warning.split(",")[0] for warning in found.warnings] == [
        "50 % of what the policy would do had propensity 0 and is unknown",
        "the least propensity of what the policy would do is 0.005",
    ]
    none = evaluate(np.zeros(100, int), np.ones(100), propensity, zeros, always(1, 100))
    assert none.effective == 0
    assert np.isnan(none.snips.value)
    assert "worth 0 decisions" in none.warnings[-1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"arm": [0, 3]}, "arm"),
        ({"arm": [0.0, 1.0]}, "arm"),
        ({"reward": [0.0, np.nan]}, "reward"),
        ({"expected": np.zeros((2, 2))}, "expected"),
        ({"propensity": np.full((2, 3), 0.5)}, "propensity"),
        ({"propensity": [[0, 1, 0], [0, 1, 0]]}, "propensity"),
        ({"policy": [[2, -1, 0], [1, 0, 0]]}, "policy"),
        ({"policy": []}, "policy"),
        ({"reward": [1e308, -1e308]}, "reward, expected and propensity"),
        ({"propensity": [[1e-300, 1, 0], [0, 1, 0]], "reward": [1e200, 1.0]}, "reward, expected and propensity"),
    ],
)
def test_a_bad_argument_is_named(change, named):
    given = {"arm": [0, 1], "reward": [0.0, 1.0], "propensity": np.full((2, 3), 1 / 3), "expected": np.zeros((2, 3))}
    with pytest.raises(LearnError, match=rf"^{named} must be "):
        evaluate(**({**given, "policy": np.full((2, 3), 1 / 3)} | change))
