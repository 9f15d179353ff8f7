"""Metrics of learners: what they did between two states is counted once, how they stand is the mean of keys, without a key."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from prometheus_client import REGISTRY

from qstream.learn import bandit, conformal, decision, guard, hedge, version
from qstream.learn.describe import describe
from qstream.learn.metrics import count, show, show_models
from qstream.learn.model import Model
from qstream.learn.registry import Models
from qstream.learn.tally import Tally, since, tally

ARRAYS = {"x": np.zeros(1)}


def value(name: str, agent: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"qstream_learn_{name}", {"agent": agent, "learner": "it", **labels})


def shown(agent, *states, frozen=(), models=None):
    show(agent, "it", [describe(state) | {"frozen": n in frozen} for n, state in enumerate(states)], models)


def in_use(*versions):
    made = (Model(module="it", name="forecast", version=n, kind="mlp", arrays=ARRAYS, feature_names=("x",)) for n in versions)
    return Models({"forecast": {model.version: model for model in made}}, {"forecast/8": "parts are missing"})


@pytest.fixture
def decided():
    """A decision of which one reward matched, one expired, one was unknown, and one waits for its decision."""
    state = decision.start(("fast", "exact"), 1, pending=1)
    for name in ("a", "b"):
        state, *_ = decision.choose(state, [1], name, 1, learn="on", explore=0.1)
    state, _ = decision.reward(state, "b", 1.0, 2, learn="on")
    for name, earned in (("b", math.nan), ("late", 1.0)):
        state, _ = decision.reward(state, name, earned, 3, learn="on")
    return state


def test_rewards_are_counted_by_what_became_of_them(decided):
    count("m1", "it", since(Tally(0), tally(decided)))
    rewards = {outcome: value("rewards_total", "m1", outcome=outcome) for outcome in ("matched", "expired", "unmatched")}
    assert rewards == {"matched": 1, "expired": 1, "unmatched": 1}  # the one that waits is none of them yet
    assert value("updates_total", "m1") == 1
    assert sum(value("decisions_total", "m1", arm=arm) or 0 for arm in ("fast", "exact")) == 2


def test_only_what_came_since_is_counted_and_a_reset_takes_nothing_away(decided):
    begun = decision.start(("fast", "exact"), 1, pending=1)
    assert since(tally(decided), tally(decided)) == Tally(0)
    assert since(tally(decided), tally(begun)) == Tally(0)


def test_verdicts_of_guards_are_counted():
    state = version.start("forecast", bound=1.0)
    state, _ = version.choose(state, in_use(7))
    tripped, verdict = version.compare(state, "forecast@7", 0.1, math.inf)
    count("m2", "it", since(tally(state), tally(tripped)))
    assert verdict == "trip"
    assert [value("guard_total", "m2", verdict=word) for word in ("trip", "promote")] == [1, 0]


def test_regret_is_a_part_of_the_loss_of_the_best_fixed_arm():
    state = hedge.learn(hedge.start(("good", "bad")), [[1.0, 3.0]])  # even weights: 2, one more than the best
    shown("m3", state, state, frozen=(1,))
    assert value("regret_ratio", "m3") == pytest.approx(1)
    assert value("arm_share", "m3", arm="good") == pytest.approx(describe(state)["arms"]["good"]["share"])
    assert value("frozen_ratio", "m3") == 0.5


def test_the_regret_of_a_bandit_is_a_part_of_what_the_best_arm_would_have_earned():
    state, choice = bandit.choose(bandit.start(2, 1, floor=1.0), [1], "a", 1)
    state, _ = bandit.reward(state, choice.id, 2.0, 2)
    shown("m4", state)
    facts = describe(state)
    assert value("regret_ratio", "m4") == pytest.approx(facts["regret"] / (facts["reward"] + facts["regret"]))


def test_a_loss_of_nothing_has_no_part():
    shown("m5", hedge.learn(hedge.start(2), [[0.0, 1.0]]))
    assert value("regret_ratio", "m5") is None


def test_coverage_stands_next_to_its_target():
    state = conformal.start(coverage=0.9)
    for score in (0.5, 1.5):
        state = conformal.learn(state, [score], [1.0])
    shown("m6", state)
    assert (value("coverage_ratio", "m6"), value("coverage_target_ratio", "m6")) == (0.5, 0.9)


def test_versions_are_those_in_use_and_a_missing_one_is_seen():
    state = version.start("forecast", bound=1.0)
    watched, _ = version.choose(state, models := in_use(7, 9))
    promoted, _ = version.choose(state, in_use(7))
    promoted = promoted.model_copy(update={"guard": promoted.guard.model_copy(update={"promoted": True})})
    shown("m7", watched, promoted, models=models)
    assert (value("model_version", "m7", use="watched"), value("model_version", "m7", use="answers")) == (9, 7)
    assert (value("promoted_ratio", "m7"), value("model_missing_ratio", "m7")) == (0.5, 0)
    shown("m7", watched, promoted, models=in_use(9))
    assert (value("model_missing_ratio", "m7"), value("model_version", "m7", use="answers")) == (0.5, 0)
    shown("m7", watched, promoted, models=dataclasses.replace(in_use(9), retired={("forecast", 7)}))
    assert value("model_missing_ratio", "m7") == 0
    show_models("m7", models)
    known = [REGISTRY.get_sample_value("qstream_learn_models", {"agent": "m7", "use": use}) for use in ("used", "refused")]
    assert known == [2, 1]


def test_arms_beyond_those_that_a_label_may_have_count_as_other(monkeypatch):
    monkeypatch.setattr("qstream.metrics._given", {})
    names = [f"arm {n}" for n in range(150)]
    for at in range(0, 150, 50):
        shown("m8", hedge.start(names[at : at + 50]))
    assert value("arm_share", "m8", arm="arm 140") is None
    assert value("arm_share", "m8", arm="other") == pytest.approx(1)


def test_a_guard_of_its_own_is_counted_and_shown():
    state = guard.start("new", bound=1.0)
    while not state.promoted:
        state, _ = guard.compare(state, 1.0, 0.0)
    count("m9", "it", since(Tally(0), tally(state)))
    shown("m9", state)
    assert (value("guard_total", "m9", verdict="promote"), value("promoted_ratio", "m9")) == (1, 1)
