"""Logged: decisions joined, policies in question, and DSJSON that reads back equal."""

import json

import numpy as np
import pytest

from qstream.errors import LearnError
from qstream.learn import decision
from qstream.learn.evaluate import evaluate
from qstream.learn.logged import Logged, from_dsjson, join, policy_of, since, to_dsjson


@pytest.fixture(scope="module")
def log() -> Logged:
    """400 decisions of which the second arm earns 1 and the first 0."""
    state, frames = decision.start(("fast", "exact"), ("one", "size"), rule="thompson"), []
    for number in range(400):
        name, size = str(number), number % 7 / 7
        state, decided, _ = decision.choose(state, [1.0, size], name, number, learn="on", explore=0.2)
        state, lines = decision.reward(state, name, float(decided.arm), number + 1, learn="on")
        frames.append(decision.log(state, lines, module="m", key="k", learner="c", reward_name="r", learn="on"))
    return join(frames)


@pytest.mark.parametrize(("policy", "worth"), [("arm:fast", 0.0), ("arm:exact", 1.0), ("uniform", 0.5)])
def test_the_worth_of_a_policy_that_was_not_followed_is_found(log: Logged, policy: str, worth: float):
    found = evaluate(log.arm, log.reward, log.propensity, log.expected, policy_of(log, policy)).doubly_robust
    assert found.low <= worth <= found.high


def test_what_was_done_is_worth_what_it_earned(log: Logged):
    found = evaluate(log.arm, log.reward, log.propensity, log.expected, policy_of(log, "logged"))
    assert found.ips.value == pytest.approx(found.logged)


def test_a_policy_that_does_not_exist_is_refused_by_name(log: Logged):
    with pytest.raises(LearnError, match=r"^policy must be one of arm:fast, arm:exact, uniform, logged, got 'arm:none'$"):
        policy_of(log, "arm:none")


def test_dsjson_reads_back_equal(log: Logged):
    again = from_dsjson(to_dsjson(log))
    for name in ("arm", "reward", "propensity", "context", "ts_ns"):
        assert np.array_equal(getattr(again, name), getattr(log, name)), name
    assert (again.id, again.arm_names, again.feature_names) == (log.id, log.arm_names, log.feature_names)
    assert not again.expected.any()


def test_a_line_of_dsjson_counts_from_1_and_has_the_chosen_action_first(log: Logged):
    row = int(np.flatnonzero(log.arm == 1)[0])
    line = json.loads(list(to_dsjson(log))[row])
    assert (line["_label_Action"], line["_labelIndex"], line["a"]) == (2, 1, [2, 1])
    assert line["_label_cost"] == -1
    assert line["p"] == [log.propensity[row, 1], log.propensity[row, 0]]
    assert line["_label_probability"] == line["p"][0]


def test_a_line_that_is_no_decision_is_named(log: Logged):
    with pytest.raises(LearnError, match=r"^line 2 must be a decision in DSJSON, got KeyError"):
        from_dsjson([next(to_dsjson(log)), '{"a": [1]}'])


def test_decisions_before_a_time_are_left_out(log: Logged):
    assert len(since(log, 390).id) == 10
    with pytest.raises(LearnError, match=r"^log must be of a decision since"):
        since(log, 1000)
