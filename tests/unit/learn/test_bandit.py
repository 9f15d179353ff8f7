"""Bandit: what it must equal, what it never does, and how it learns from rewards that come late, twice or never."""

import numpy as np
import pytest

from qstream.learn import LearnError, bandit
from qstream.learn.best import best_chances
from qstream.state.fields import pack


def contexts(rounds, features, seed=0):
    return np.c_[np.ones(rounds), np.random.default_rng(seed).normal(size=(rounds, features - 1))]


def run(state, x, seed=0, late=3, rewards=lambda t, arm, x: x[1] * arm):
    """States after each step, and what was chosen, when rewards come `late` decisions after their decision."""
    states, choices = [state], []
    for t, row in enumerate(x):
        state, choice = bandit.choose(state, row, f"d{t}", t, seed=seed)
        states.append(state)
        choices.append(choice)
        if t >= late:
            state, outcome = bandit.reward(state, f"d{t - late}", rewards(t - late, choices[t - late].arm, x[t - late]), t)
            assert outcome is not None
            states.append(state)
    return states, choices


@pytest.mark.parametrize("seed", range(2))
def test_thompsons_probabilities_are_those_of_a_million_draws(seed):
    rng = np.random.default_rng(seed)
    mean, spread = rng.normal(size=6), 10 ** rng.uniform(-2, 1, 6)
    allowed = np.array([True, True, False, True, True, True])
    chance = np.empty(6)
    best_chances(mean, spread, 1.0, allowed, chance)
    drawn = np.where(allowed, mean + spread * rng.normal(size=(1_000_000, 6)), -np.inf).argmax(1)
    np.testing.assert_allclose(chance, np.bincount(drawn, minlength=6) / 1e6, rtol=0, atol=0.003)
    assert chance[2] == 0
    assert chance.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("mean", "spread", "expected"),
    [([0, 0, 0], [0, 0, 0], [1 / 3] * 3), ([0, 1], [0, 0], [0, 1]), ([1e100, -1e100], [1e150, 0], [0.5, 0.5])],
)
def test_thompsons_probabilities_are_right_where_arms_are_certain(mean, spread, expected):
    chance = np.empty(len(mean))
    best_chances(np.array(mean, float), np.array(spread, float), 1.0, np.ones(len(mean), bool), chance)
    np.testing.assert_allclose(chance, expected, atol=1e-6)


def test_a_bandit_that_forgets_nothing_equals_ridge_regressions_refitted_from_the_whole_history():
    x = contexts(60, 4)
    state, seen = bandit.start(3, 4, memories=[1.0], ridge=0.5), []
    for t, row in enumerate(x):
        state, choice = bandit.choose(state, row, f"d{t}", t)
        expected = []
        for arm in range(3):
            own = np.array([x[i] for i, taken, _ in seen if taken == arm]).reshape(-1, 4)
            earned = np.array([value for _, taken, value in seen if taken == arm])
            expected.append(row @ np.linalg.solve(0.5 * np.eye(4) + own.T @ own, own.T @ earned))
        np.testing.assert_allclose(choice.expected, expected, rtol=1e-9, atol=1e-12)
        value = float(np.sin(t) + choice.arm * row[1])
        state, _ = bandit.reward(state, f"d{t}", value, t)
        seen.append((t, choice.arm, value))


def test_a_linear_rule_takes_the_arm_with_the_greatest_upper_bound_and_spreads_the_floor():
    state = bandit.start(2, 1, memories=[1.0], floor=0.1)
    for t, value in enumerate((1.0, 0.0, 1.0, 0.0, 1.0)):
        only = np.array([value == 1.0, value == 0.0])
        state, _ = bandit.choose(state, [1.0], f"d{t}", t, allowed=only)
        state, _ = bandit.reward(state, f"d{t}", value, t)
    _, choice = bandit.choose(state, [1.0], "next", 9)
    np.testing.assert_allclose(choice.expected, [3 / 4, 0])
    np.testing.assert_allclose(choice.propensity, [0.95, 0.05])


@pytest.mark.parametrize("rule", ["linucb", "thompson"])
def test_the_best_arm_of_each_context_is_found_and_found_again_after_a_change(rule):
    x = contexts(700, 2, 1)
    _, choices = run(bandit.start(3, 2, rule=rule), x, rewards=lambda t, arm, x: x[1] * (arm - 1) * (1 if t < 350 else -1))
    best = np.where((x[:, 1] > 0) == (np.arange(700) < 350), 2, 0)
    taken = np.array([choice.arm for choice in choices])
    assert (taken == best)[200:350].mean() > 0.85
    assert (taken == best)[550:].mean() > 0.85


@pytest.mark.parametrize("rule", ["linucb", "thompson"])
def test_draws_follow_the_logged_propensities(rule):
    state = bandit.start(3, 1, rule=rule, floor=0.3)
    state, _ = bandit.choose(state, [1.0], "first", 0)
    state, _ = bandit.reward(state, "first", 0.4, 0)
    first = state
    counts = np.zeros(3)
    for seed in range(2000):
        counts[bandit.choose(first, [1.0], "d", 1, seed=seed)[1].arm] += 1
    np.testing.assert_allclose(counts / 2000, bandit.choose(first, [1.0], "d", 1)[1].propensity, atol=0.04)


def test_a_repeated_decision_is_answered_as_before_and_changes_nothing():
    state, choice = bandit.choose(bandit.start(4, 2, floor=1.0), [1, 2], "d", 5, seed=9)
    again, same = bandit.choose(state, [1, 3], "d", 6, seed=10)
    assert again is state
    assert (same.arm, same.propensity.tolist()) == (choice.arm, choice.propensity.tolist())


@pytest.mark.parametrize(
    ("name", "value"), [("unknown", 1.0), ("done", 1.0), ("gone", 1.0), ("open", np.nan), ("open", np.inf), ("", 1.0)]
)
def test_a_reward_that_belongs_to_no_pending_decision_or_is_not_finite_is_only_counted(name, value):
    state = bandit.start(2, 1, pending=2)
    state, _ = bandit.choose(state, [1.0], "done", 0)
    state, _ = bandit.reward(state, "done", 1.0, 1)
    for t, decision in enumerate(("gone", "open", "another")):
        state, _ = bandit.choose(state, [1.0], decision, t)
    assert state.expired == 1
    after, outcome = bandit.reward(state, name, value, 5)
    assert outcome is None
    assert after == state.model_copy(update={"unmatched": state.unmatched + 1})


def test_an_outcome_tells_what_was_decided_and_how_long_it_took():
    state, choice = bandit.choose(bandit.start(2, 2), [1.0, 0.5], "d", 100)
    state, outcome = bandit.reward(state, "d", 0.25, 350)
    assert outcome[:3] == ("d", choice.arm, 0.25)
    assert outcome.waited_ns == 250
    np.testing.assert_array_equal(outcome.context, [1.0, 0.5])
    np.testing.assert_array_equal(outcome.propensity, choice.propensity)
    np.testing.assert_array_equal(outcome.expected, choice.expected)
    assert (state.rewards, state.reward_sum, state.chosen.tolist()) == (1, 0.25, [choice.arm == 0, choice.arm == 1])


def test_arms_that_are_not_allowed_have_no_propensity_and_no_floor():
    for rule in ("linucb", "thompson"):
        state = bandit.start(3, 1, rule=rule, floor=0.3)
        for t in range(20):
            state, choice = bandit.choose(state, [1.0], f"d{t}", t, allowed=[True, False, True])
            assert choice.propensity[1] == 0
            assert choice.propensity.sum() == pytest.approx(1)
            assert choice.arm != 1


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda s: bandit.start(2, 1, rule="greedy"), "rule"),
        (lambda s: bandit.start(0, 1), "arms"),
        (lambda s: bandit.start(2, 1, floor=1.5), "floor"),
        (lambda s: bandit.start(2, 1, ridge=0), "ridge"),
        (lambda s: bandit.start(2, 1, memories=[0.0]), "memories"),
        (lambda s: bandit.start(2, 1, pending=0), "pending"),
        (lambda s: bandit.choose(s, [np.nan], "d", 0), "context"),
        (lambda s: bandit.choose(s, [1, 2], "d", 0), "context"),
        (lambda s: bandit.choose(s, [1], "", 0), "decision_id"),
        (lambda s: bandit.choose(s, [1], "d", -1), "now_ns"),
        (lambda s: bandit.choose(s, [1], "d", 0, allowed=[False, False]), "allowed"),
        (lambda s: bandit.reward(s, "d", "much", 0), "value"),
    ],
)
def test_a_bad_argument_is_named(call, named):
    with pytest.raises(LearnError, match=rf"^{named} must be "):
        call(bandit.start(2, 1))


def test_a_state_of_five_arms_and_eight_features_is_small():
    state, _ = run(bandit.start(5, 8), contexts(40, 8), late=31)
    assert sum(map(len, pack(state[-1]).values())) <= 22_000
