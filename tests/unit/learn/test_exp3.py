"""EXP3: one step by hand, the best arm of fixed rewards, a floor under every arm, draws that depend on seed and number alone."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.learn import exp3


def played(rewards: list[list[float]], *, explore: float = 0.2, seed: int = 0) -> tuple[exp3.Exp3State, list[int]]:
    """The state after each round's arm was rewarded, and the arms."""
    state, arms = exp3.start(len(rewards[0]), explore=explore), []
    for number, row in enumerate(rewards):
        arm, propensity = exp3.bandit_choose(state, seed=seed, number=number)
        state = exp3.bandit_step(state, arm, row[arm], propensity)
        arms.append(arm)
    return state, arms


def test_it_begins_even_and_one_step_is_what_a_hand_computes() -> None:
    state = exp3.start(4, explore=0.2)
    assert exp3.chances(state).tolist() == [0.25] * 4
    after = exp3.bandit_step(state, 2, 0.5, 0.25)
    assert after.log_weight == pytest.approx([-0.1, -0.1, 0.0, -0.1])  # .2 / 4 x .5 / .25, less the highest
    weight = np.exp([0.0, 0.0, 0.1, 0.0])
    assert exp3.chances(after) == pytest.approx(0.8 * weight / weight.sum() + 0.05)
    assert state.steps == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_best_arm_of_fixed_rewards_is_found(seed: int) -> None:
    state, arms = played([[0.3, 0.2, 0.9, 0.3]] * 1500, seed=seed)
    chance = exp3.chances(state)
    assert chance.argmax() == 2
    assert chance[2] > 0.8
    assert np.mean(np.array(arms[-500:]) == 2) > 0.7


def test_chances_sum_to_1_and_no_arm_falls_below_its_part_of_what_is_explored() -> None:
    rng = np.random.default_rng(0)
    state = exp3.start(5, explore=0.1)
    for number in range(3000):
        arm, propensity = exp3.bandit_choose(state, seed=1, number=number)
        state = exp3.bandit_step(state, arm, float(arm == 4 or rng.random() < 0.1), propensity)
        chance = exp3.chances(state)
        assert chance.sum() == pytest.approx(1)
        assert chance.min() >= 0.1 / 5
        assert propensity >= 0.1 / 5
    assert state.log_weight.min() >= exp3.LOWEST


def test_another_arm_that_becomes_the_best_is_found_again() -> None:
    state, _ = played([[0.9, 0.1]] * 2000 + [[0.1, 0.9]] * 1000)
    assert exp3.chances(state)[1] > 0.8


def test_a_draw_is_a_function_of_seed_and_number_and_follows_the_chances() -> None:
    state = exp3.bandit_step(exp3.start(3, explore=0.3), 1, 1.0, 0.1)
    drawn = [exp3.bandit_choose(state, seed=3, number=number) for number in range(4000)]
    assert drawn == [exp3.bandit_choose(state, seed=3, number=number) for number in range(4000)]
    other = [exp3.bandit_choose(state, seed=4, number=number) for number in range(4000)]
    assert drawn != other
    chance = exp3.chances(state)
    assert all(propensity == chance[arm] for arm, propensity in drawn)
    assert np.bincount([arm for arm, _ in drawn]) / 4000 == pytest.approx(chance, abs=0.03)
