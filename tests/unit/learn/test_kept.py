"""Kept: a set of arms or features that changes costs nothing of what was learnt of those that stay."""

import numpy as np
import pytest

from qstream.learn import bandit, decision, hedge
from qstream.learn.bandit import BanditState
from qstream.learn.hedge import HedgeState
from qstream.learn.kept import bandit_over, hedge_over
from qstream.state.fields import pack, unpack

FEATURES = ("one", "size")


def taught(arms, features=FEATURES, allowed=None, rounds=30, left=3):
    """A bandit after some rounds, of which the last decisions wait; a feature without a number of its own is 0."""
    rng = np.random.default_rng(0)
    state = bandit.start(arms, features, pending=8)
    for number in range(rounds):
        x = {"one": 1.0, "size": float(rng.normal()), "load": 0.0}
        state, choice = bandit.choose(state, [x[name] for name in features], str(number), number, allowed=allowed)
        if number < rounds - left:
            earned = 0.3 * x["size"] if state.arm_names[choice.arm] == "exact" else 0.5
            state, _ = bandit.reward(state, str(number), earned, number + 1)
    return state


def same(one: BanditState, other: BanditState, but=("value",)) -> bool:
    return one.model_copy(update={name: getattr(other, name) for name in but}) == other


def test_a_new_arm_is_as_one_that_was_never_allowed_and_does_not_pass_for_the_best():
    before = taught(("fast", "exact"))
    after = bandit_over(before, ("new", "fast", "exact"), FEATURES)
    assert same(after, taught(("new", "fast", "exact"), allowed=np.array([False, True, True])))
    assert after.value.tolist() == [before.reward_sum, *before.value.tolist()]
    assert unpack(BanditState, pack(after)) == after
    after, choice = bandit.choose(after, [1.0, 0.0], "next", 99)
    assert choice.propensity.min() > 0
    after, outcome = bandit.reward(after, "29", 0.5, 100)
    assert outcome is not None
    assert outcome.propensity[0] == 0


@pytest.mark.parametrize("wide", [("one", "size", "load"), ("size", "load", "one")])
def test_a_new_feature_is_as_one_that_was_0_so_far_wherever_it_stands(wide):
    after, always = bandit_over(taught(("fast", "exact")), ("fast", "exact"), wide), taught(("fast", "exact"), wide)
    assert after.chosen.tolist() == always.chosen.tolist()
    assert after.waiting_id == always.waiting_id
    for name in ("gram", "target", "waiting", "waiting_at", "memory", "value"):  # sums in another order differ by rounding
        assert getattr(after, name) == pytest.approx(getattr(always, name), rel=1e-9, abs=1e-12)


def test_what_is_gone_comes_back_unknown_and_the_others_as_they_were():
    before = taught(("fast", "exact"))
    less = bandit_over(before, ("exact",), FEATURES)
    waited = [name for name, at in zip(before.waiting_id, before.waiting_at, strict=True) if name and at[2] == 0]
    assert less.expired == before.expired + len(waited)
    again = bandit_over(less, ("fast", "exact"), FEATURES)
    assert (again.gram[1] == before.gram[1]).all()
    assert (again.target[1] == before.target[1]).all()
    assert (again.gram[0] == bandit.start(2, 2).gram[0]).all()
    assert again.chosen.tolist() == [0, before.chosen[1]]


def test_a_decision_over_other_arms_keeps_its_early_rewards_and_over_the_same_ones_is_the_same():
    state = decision.start(("fast", "exact"), FEATURES)
    state, _ = decision.reward(state, "a", 0.5, 1, learn="on")
    assert decision.over(state, ("fast", "exact"), FEATURES) is state
    state = decision.over(state, ("fast", "exact", "new"), FEATURES)
    _, _, lines = decision.choose(state, [1.0, 0.0], "a", 2, learn="on", explore=0.02)
    assert lines[0].outcome.reward == pytest.approx(0.5)


def test_a_new_arm_of_a_hedge_is_as_one_that_slept_so_far_and_what_is_gone_comes_back_unknown():
    rng, before, always = np.random.default_rng(0), hedge.start(("a", "b"), series=2), hedge.start(("b", "new", "a"), series=2)
    awake = np.array([[True, False, True]] * 2)
    for _ in range(40):
        loss = rng.random((2, 2)) + np.array([0.0, 0.3])
        before = hedge.learn(before, loss)
        always = hedge.learn(always, np.c_[loss[:, 1], [9.0, 9.0], loss[:, 0]], awake=awake)
    after = hedge_over(before, ("b", "new", "a"))
    for name in HedgeState.model_fields.keys() - {"frame", "arms", "steps"}:  # sums in another order differ by rounding
        assert getattr(after, name) == pytest.approx(getattr(always, name), rel=1e-9, abs=1e-12), name
    assert unpack(HedgeState, pack(after)) == after
    assert hedge_over(before, ("a", "b")) is before
    back = hedge_over(hedge_over(before, ("a",)), ("a", "b"))
    assert (back.regret[:, :, 0] == before.regret[:, :, 0]).all()
    assert (back.regret[:, :, 1] == 0).all()
    assert hedge_over(hedge.start(2), ("0", "1", "2")) == hedge.start(3)
