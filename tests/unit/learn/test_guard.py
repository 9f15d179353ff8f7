"""Guard: bets are a martingale, a candidate that is no better stays out, a worse one goes, and every verdict has its reason."""

import itertools

import numpy as np
import pytest

from qstream.learn import LearnError, guard
from qstream.learn.guard import BETS, bet


def promoted(**options):
    state, verdict = guard.start("m", bound=1.0, block=1, **options), "wait"
    while verdict == "wait":
        state, verdict = guard.compare(state, 1.0, 0.0)
    assert verdict == "promote"
    return state


@pytest.mark.parametrize("chance", [0.5, 0.2])
def test_wealth_is_a_martingale_on_two_valued_losses(chance):
    up, down = 1 - chance, -chance  # gains of mean 0
    expected = np.zeros(len(BETS))
    for path in itertools.product((True, False), repeat=8):
        wealth = np.ones(len(BETS))
        for won in path:
            bet(wealth, up if won else down)
        expected += wealth * np.prod([chance if won else 1 - chance for won in path])
    np.testing.assert_allclose(expected, 1, rtol=1e-12)


def test_the_mean_wealth_of_a_sure_gain_is_what_the_bets_pay():
    state = guard.start("m", bound=2.0, block=1)
    for _ in range(3):
        state, verdict = guard.compare(state, 1.0, 0.0)
        assert verdict == "wait"
    np.testing.assert_allclose(state.wealth, (1 + BETS / 2) ** 3)
    assert state.answers == "incumbent"


def test_a_better_candidate_is_promoted_and_rolled_back_once_it_is_worse():
    state = promoted()
    assert (state.answers, state.promotions) == ("candidate", 1)
    for _ in range(200):
        state, verdict = guard.compare(state, 0.0, 1.0)
        if verdict != "wait":
            break
    assert (verdict, state.answers, state.rollbacks, state.retired) == ("rollback", "incumbent", 1, True)
    after, verdict = guard.compare(state, 1.0, 0.0)
    assert (after, verdict) == (state, "wait")
    assert guard.offer(state, "m") is state
    other = guard.offer(state, "m2")
    assert (other.candidate, other.answers, other.retired, other.rollbacks) == ("m2", "incumbent", False, 1)
    np.testing.assert_array_equal(other.wealth, 1)


def test_of_candidates_that_are_no_better_hardly_one_is_promoted():
    count = 0
    for seed in range(40):
        state = guard.start("m", bound=1.0, block=1)
        for loss in 0.5 + np.clip(0.3 * np.random.default_rng(seed).normal(size=300), -1, 1):
            state, verdict = guard.compare(state, 0.5, loss)
            count += verdict == "promote"
    assert count <= 4  # at most 2 are expected; more than 4 come by chance in 5 % of all runs


def test_losses_of_a_block_count_as_one():
    state = guard.start("m", bound=1.0, block=4)
    for loss in (0.5, 0.5, 0.25):
        state, _ = guard.compare(state, 0.5, loss)
        np.testing.assert_array_equal(state.wealth, 1)
    state, _ = guard.compare(state, 0.5, 0.25)
    np.testing.assert_allclose(state.wealth, 1 + BETS * 0.25)


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
def test_a_loss_of_the_candidate_that_is_not_finite_trips_the_guard_at_once(loss):
    state, verdict = guard.compare(promoted(), 0.5, loss)
    assert (verdict, state.answers, state.trips, state.retired) == ("trip", "incumbent", 1, True)
    assert guard.trip(state) is state


def test_after_bad_windows_the_incumbent_answers_for_a_while():
    state = promoted(window=3, hold=2)
    answers = []
    for loss in (0.6, 0.9, 0.9, 0.3, 0.1, 0.1, 0.1):
        state, _ = guard.compare(state, 0.5, loss)
        answers.append(state.answers)
    assert answers == ["candidate"] * 2 + ["incumbent"] * 3 + ["candidate"] * 2


def test_without_a_candidate_nothing_is_compared():
    state = guard.start("", bound=1.0)
    assert guard.compare(state, 1.0, 0.0) == (state, "wait")


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: guard.start("m", bound=0.0), "bound"),
        (lambda: guard.start("m", bound=1.0, alpha=0.0), "alpha"),
        (lambda: guard.start("m", bound=1.0, alarm=1.0), "alarm"),
        (lambda: guard.start("m", bound=1.0, block=0), "block"),
        (lambda: guard.start("m" * 201, bound=1.0), "candidate"),
        (lambda: guard.compare(guard.start("m", bound=1.0), np.nan, 0.0), "incumbent_loss"),
        (lambda: guard.compare(guard.start("m", bound=1.0), 0.0, "low"), "candidate_loss"),
    ],
)
def test_a_bad_argument_is_named(call, named):
    with pytest.raises(LearnError, match=rf"^{named} must be "):
        call()
