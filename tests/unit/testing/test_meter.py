"""The meter: what it learns does not depend on batches, nor on being stored, and stands under the module's options."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.contract import Batch
from qstream.learn import recurrent
from qstream.learn.model import Model, parts
from qstream.testing.agents import check_agent
from qstream.testing.feed import Feed
from qstream.testing.meter import AGENT, LEARNERS, MODEL, Meter, MeterState
from qstream.testing.readings import NAME, SECOND, Outlook, Reading
from schemas.learning import Decisions, LearnCommand


def constant(said: float, version: int, scale: float = 0.0) -> Model:
    """A network of the right shape that answers with the middle of the range plus `said` of it."""
    units, outputs = recurrent.UNITS, recurrent.WANT.outputs
    arrays = {
        "weight_ih": np.full((4 * units, len(recurrent.FEATURES)), scale),
        "weight_hh": np.zeros((4 * units, units)),
        "bias": np.zeros(4 * units),
        "head.weight": np.full((outputs, units), scale),
        "head.bias": np.r_[np.zeros(outputs - 2), 50.0, said],  # all weight on the mean of 30
    }
    config, names = {"horizon": SECOND}, recurrent.FEATURES
    return Model(module=NAME, name=MODEL, version=version, kind="lstm", arrays=arrays, feature_names=names, config=config)


class Host:
    """One host whose load jumps up and down at each reading, so that the last value is a bad forecast."""

    def __init__(self) -> None:
        self.feed = Feed(Meter())
        self.number = 0

    def read(self, count: int) -> Outlook:
        for _ in range(count):
            load = 0.2 + 0.6 * (self.number % 2)
            self.feed.send(Reading.of("h", self.number, load, {self.number - 3: 1.0} if self.number > 3 else {}), self.number)
            self.number += 1
        assert self.feed.dead == []
        return self.feed.frames(Outlook)[-1]

    def publish(self, model: Model, **changes: object) -> None:
        for part in parts(model):
            self.feed.send(type(part).build(**dict(part) | changes), self.number)

    def ask(self, command: str, learner: str = "") -> None:
        self.feed.send(LearnCommand(module=NAME, key="h", command=command, learner=learner), self.number)

    @property
    def state(self) -> MeterState:
        state = self.feed.state("h")
        assert state is not None
        return state


def test_the_meter_keeps_what_agents_promise() -> None:
    check_agent(AGENT)


def test_readings_that_come_twice_or_never_show_in_the_counters() -> None:
    feed = Feed(Meter())
    for number in (*range(10), 9, *range(12, 20)):
        feed.send(Reading.of("h", number, 0.5), number)
    state = feed.state("h")
    assert state is not None
    assert (state.repeated, state.missed, state.forecast.steps) == (1, 2, 19)


def test_rewards_count_once_however_often_and_whenever_they_come_and_are_logged() -> None:
    feed = Feed(Meter())
    for number, earned in enumerate([{1: 1.0}, {0: 1.0}, {0: 0.0}, {2: 1.0, 1: 0.0}]):
        feed.send(Reading.of("h", number, 0.5, earned), number)
    newest = feed.frames(Outlook)[-1]
    assert (newest.matched, newest.unmatched) == (3, 2)
    logged = [(name, value) for log in feed.frames(Decisions) for name, value in zip(log.decision_id, log.reward, strict=True)]
    assert logged == [("h/0", 1.0), ("h/1", 1.0), ("h/2", 1.0)]
    assert {log.learner for log in feed.frames(Decisions)} == {"guess"}


def test_switched_off_it_answers_with_the_last_value_and_nothing_that_learns_changes() -> None:
    host = Host()
    assert host.read(40).mean == pytest.approx(0.5, abs=0.1)
    before = host.state
    host.feed.configure(learn="off")
    newest = host.read(5)
    assert (newest.mean, newest.guess) == (newest.load, "falls")
    assert all(getattr(host.state, name) == getattr(before, name) for name in LEARNERS)
    host.feed.configure(learn="shadow")
    newest = host.read(5)
    assert newest.mean == newest.load
    assert host.state.forecast.steps == before.forecast.steps + 5


def test_a_model_is_promoted_over_a_frozen_forecaster_and_rolled_back_once_it_is_worse() -> None:
    host = Host()
    host.read(30)
    host.publish(constant(-0.1, 7))
    assert (host.read(60).offered_by, host.state.pinned.guard.promotions) == (7, 0), "it is worse than the forecasters"
    host.ask("freeze", "forecast")
    host.ask("reset", "pinned")
    newest = host.read(150)
    assert (newest.model_version, newest.promotions) == (7, 1), "it is better than the last value"
    host.ask("thaw")
    newest = host.read(150)
    assert (newest.model_version, newest.rollbacks) == (-1, 1)
    assert host.state.turn[: host.state.turns, 1:3].tolist() == [[0, -1], [0, 7], [2, 7], [3, 7], [3, -1]]


def test_a_pinned_model_that_is_retired_no_longer_answers_and_the_option_names_another() -> None:
    host = Host()
    host.publish(constant(0.0, 7))
    host.publish(constant(0.1, 8))
    assert host.read(20).offered_by == 8
    host.publish(constant(0.1, 8), retired=True, data=np.zeros(0, np.uint8))
    assert host.read(1).offered_by == 7
    host.feed.configure(model_forecast=7)
    newest = host.read(1)
    assert (newest.model_version, newest.mean) == (7, newest.offered)
    host.feed.configure(model_forecast="none")
    assert host.read(1).model_version == -1
    host.feed.configure(model_forecast="auto")
    host.publish(constant(0.0, 7), retired=True, data=np.zeros(0, np.uint8))
    newest = host.read(1)
    assert (newest.offered_by, newest.mean, newest.fallback_reason) == (-1, newest.incumbent, "model_missing")


def test_a_model_whose_answer_is_not_finite_is_retired_and_costs_no_reading() -> None:
    host = Host()
    host.publish(constant(0.0, 7, scale=1e308))
    assert host.read(20).offered_by == -1
    assert host.state.pinned.guard.trips == 1


def test_a_worker_with_arms_of_an_older_release_goes_on_with_what_they_learnt() -> None:
    host = Host()
    host.read(30)
    older = host.state.guess.bandit.model_copy(update={"arm_names": ("rises", "falls")})
    state = host.state.model_copy(update={"guess": host.state.guess.model_copy(update={"bandit": older})})
    record = host.feed.record(Reading.of("h", host.number, 0.5), host.number)
    result = Meter().process(Batch("h", [record]), state, 0)
    assert result.state is not None
    after = result.state.guess.bandit
    assert after.arm_names == ("falls", "rises")
    assert after.chosen.sum() == older.chosen.sum() + 1
