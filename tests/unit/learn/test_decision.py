"""Decision: what the switch does, rewards in any order, and a log that says by which chances was drawn."""

import numpy as np
import pytest

from qstream.errors import LearnError
from qstream.learn import decision, version
from qstream.learn.decision import DecisionState
from qstream.learn.model import Model
from qstream.learn.options import Learn
from qstream.learn.registry import Models
from qstream.learn.version import Used
from qstream.state.fields import pack, unpack


def start(pending: int = 4) -> DecisionState:
    return decision.start(("fast", "exact"), ("one",), rule="thompson", pending=pending)


def choose(state: DecisionState, name: str, learn: Learn = "on", now_ns: int = 10, explore: float = 0.5):
    return decision.choose(state, [1.0], name, now_ns, learn=learn, explore=explore)


def test_on_the_bandit_chooses_and_the_log_has_its_chances_and_what_came():
    state, decided, lines = choose(start(), "a")
    assert decided.logged
    assert lines == []
    state, lines = decision.reward(state, "a", 0.75, 35, learn="on")
    frame = decision.log(state, lines, module="meter", key="k", learner="choice", reward_name="saved (ms)", learn="on")
    assert (frame.policy, frame.decision_id, frame.rewarded.tolist()) == ("thompson", ("a",), [1])
    assert (frame.arm.tolist(), frame.reward.tolist()) == ([decided.arm], [0.75])
    assert (frame.ts_ns.tolist(), frame.waited_ns.tolist()) == ([10], [25])
    assert frame.propensity.min() >= 0.25  # half of the decisions is spread over two arms
    assert frame.propensity.sum() == pytest.approx(1)
    assert type(frame).decode(frame.encode()) == frame


def test_in_shadow_the_incumbent_answers_with_certainty_and_what_it_earns_is_learnt():
    state = start()
    for number in range(20):
        state, decided, _ = choose(state, str(number), "shadow")
        assert decided.arm == 0
        state, lines = decision.reward(state, str(number), 1.0, 20, learn="shadow")
        assert lines[0].outcome.propensity.tolist() == [1, 0]
    assert (state.bandit.rewards, state.bandit.chosen.tolist()) == (20, [20, 0])
    assert state.bandit.value[0] == pytest.approx(20)


def test_switched_off_or_frozen_everything_stands_still_and_the_incumbent_answers():
    state, _, _ = choose(start(), "a")
    for learn in (decision.mode("off", (), "choice"), decision.mode("on", ("choice",), "choice")):
        after, decided, lines = choose(state, "b", learn)
        assert (after is state, decided.arm, decided.logged, lines) == (True, 0, False, [])
        after, lines = decision.reward(state, "a", 1.0, 20, learn=learn)
        assert (after is state, lines) == (True, [])
    assert decision.mode("shadow", ("other",), "choice") == "shadow"


def test_a_reward_that_overtakes_its_decision_is_learnt_as_one_that_comes_after_it():
    late, _, _ = choose(start(), "a")
    late, told = decision.reward(late, "a", 0.5, 10, learn="on")
    early, lines = decision.reward(start(), "a", 0.5, 5, learn="on")
    assert (lines, early.bandit.unmatched) == ([], 1)
    early = unpack(DecisionState, pack(early))
    early, _, lines = choose(early, "a")
    assert early.bandit == late.bandit
    assert lines[0].outcome.reward == told[0].outcome.reward == 0.5
    assert early.bandit.unmatched == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.5])
def test_a_reward_that_is_repeated_or_no_number_changes_no_more_than_the_count(value: float):
    state, _, _ = choose(start(), "a")
    state, _ = decision.reward(state, "a", 0.5, 20, learn="on")
    after, lines = decision.reward(state, "a", value, 30, learn="on")
    assert lines == []
    assert after.bandit.unmatched == 1
    assert after.bandit.model_copy(update={"unmatched": 0}) == state.bandit


def test_more_early_rewards_than_are_kept_push_out_the_oldest():
    state = start()
    for number in range(decision.MOST_EARLY + 1):
        state, _ = decision.reward(state, str(number), float(number), 1, learn="on")
    state, _, lines = choose(state, "0")
    assert lines == []
    state, _, lines = choose(state, "16")
    assert lines[0].outcome.reward == 16


def test_a_decision_that_gives_way_to_others_is_logged_without_a_reward():
    state, first, _ = choose(start(pending=1), "a")
    state, _, lines = choose(state, "b", now_ns=30)
    frame = decision.log(state, lines, module="meter", key="k", learner="choice", reward_name="r", learn="on")
    assert (frame.decision_id, frame.rewarded.tolist(), frame.waited_ns.tolist()) == (("a",), [0], [20])
    assert frame.arm.tolist() == [first.arm]
    _, _, again = choose(state, "b", now_ns=40)
    assert again == []


def test_the_incumbent_must_be_allowed_where_it_answers():
    with pytest.raises(LearnError, match=r"^incumbent must be an arm that is allowed, got 0$"):
        decision.choose(start(), [1.0], "a", 0, learn="shadow", explore=0.0, allowed=np.array([False, True]))


def test_in_shadow_a_model_is_watched_and_does_not_answer_and_switched_off_it_is_not_computed():
    model = Model(
        module="meter",
        name="next",
        version=7,
        kind="ridge",
        arrays={"weight": np.ones((1, 1)), "bias": np.zeros(1)},
        feature_names=("x",),
    )
    models, state = Models({"next": {7: model}}), version.start("next", bound=1.0, block=1)
    assert decision.use(state, models, learn="off") == (state, Used(None, False))
    state, used = decision.use(state, models, learn="shadow")
    assert (used.model, used.answers) == (model, False)
    assert decision.compare(state, used.candidate, 1.0, 0.0, learn="off") == (state, "wait")
    verdicts = set()
    for _ in range(20):
        state, verdict = decision.compare(state, used.candidate, 1.0, 0.0, learn="shadow")
        verdicts.add(verdict)
    assert "promote" in verdicts
    assert not decision.use(state, models, learn="shadow")[1].answers
    assert not decision.use(state, models, 7, learn="shadow")[1].answers
    assert decision.use(state, models, learn="on")[1].answers


def test_keys_draw_by_seeds_of_their_own():
    assert len({decision.seed_of(key, seed) for key in ("a", "b") for seed in (0, 1)}) == 4
    assert decision.seed_of("a") == decision.seed_of("a", 0)
