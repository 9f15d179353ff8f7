"""Commands: a key's learners are reset, restored, frozen and thawed in the order of its records, by one piece for all modules."""

import numpy as np
import pytest

from qstream.contract import Record
from qstream.learn import bandit, calibration, conformal, decision, drift, forecast, guard, hedge, version, weights
from qstream.learn.fresh import fresh
from qstream.learn.hedge import HedgeState
from qstream.testing.checks import check_processor
from qstream.testing.feed import Feed
from qstream.testing.sample import Ping
from schemas.frame import Frame
from schemas.learning import LearnCommand
from schemas.topics import LEARN_COMMAND
from tests.scales import PINGS, Scales, ScalesState


def command(name: str, learner: str = "", module: str = "scales", state: Frame | None = None) -> LearnCommand:
    body = None if state is None else np.frombuffer(state.encode(), np.uint8)
    return LearnCommand(module=module, key="k", command=name, learner=learner, state=body)


@pytest.fixture
def feed() -> Feed[ScalesState]:
    fed = Feed(Scales())
    for at in range(5):
        fed.send(Ping.of("k", 1, 2), at)
    return fed


def shares(feed: Feed[ScalesState]) -> HedgeState:
    state = feed.state("k")
    assert state is not None
    return state.shares


def test_a_learner_is_reset_to_what_it_began_with(feed: Feed[ScalesState]):
    feed.send(command("reset", "shares"), 9)
    assert shares(feed) == hedge.start(2)
    assert feed.dead == []


def test_a_frozen_learner_stands_still_until_it_is_thawed(feed: Feed[ScalesState]):
    feed.send(command("freeze"), 9)
    feed.send(Ping.of("k", 1, 2), 10)
    assert shares(feed).steps == 5
    feed.send(command("thaw", "shares"), 11)
    feed.send(Ping.of("k", 1, 2), 12)
    assert shares(feed).steps == 6
    assert (feed.state("k").frozen, feed.state("k").commands) == (("late",), 2)  # type: ignore[union-attr]


def test_an_exported_learner_is_restored_bit_by_bit_also_where_none_has_begun(feed: Feed[ScalesState]):
    kept = shares(feed)
    feed.send(command("reset"), 9)
    feed.send(command("restore", "shares", state=kept), 10)
    feed.send(command("restore", "late", state=kept), 11)
    state = feed.state("k")
    assert state is not None
    assert state.shares == state.late == kept


def test_what_is_addressed_to_another_module_is_passed_over(feed: Feed[ScalesState]):
    before = feed.state("k")
    sent = feed.send(command("melt", "none.such", module="routing"), 9)
    assert (sent.dead, feed.state("k")) == ([], before)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (command("melt"), "command must be one of reset, restore, freeze, thaw, got 'melt'"),
        (command("reset", "none.such"), "learner must be one of shares, late, got 'none.such'"),
        (command("restore", "shares"), "restore must be given a learner and its state, got 'shares'"),
        (command("restore", "shares", state=drift.start(1, bound=1.0)), "must be HedgeState.v1"),
        (command("reset").model_copy(update={"key": "new"}), "key must be one that scales has a state of, got 'new'"),
    ],
    ids=lambda value: value.command if isinstance(value, LearnCommand) else "",
)
def test_what_cannot_be_obeyed_is_a_dead_letter_that_says_why(feed: Feed[ScalesState], asked: LearnCommand, said: str):
    before = feed.state("k")
    (letter,) = feed.send(asked, 9).dead
    assert said in letter.error_message
    assert feed.state("k") == before


def test_commands_keep_the_contract_wherever_batches_are_cut():
    frames = [
        (PINGS, Ping.of("k", 1, 2)),
        (LEARN_COMMAND, command("freeze", "shares")),
        (PINGS, Ping.of("k", 3, 2)),
        (LEARN_COMMAND, command("melt")),
        (LEARN_COMMAND, command("reset")),
        (LEARN_COMMAND, command("thaw")),
        (PINGS, Ping.of("k", 5, 2)),
    ]
    records = [Record(topic.name, 0, n, "k", frame, n) for n, (topic, frame) in enumerate(frames)]
    check_processor(Scales(), records)


@pytest.mark.parametrize(
    "begun",
    [
        hedge.start(("a", "b"), series=2, discounts=(1.0, 0.9)),
        bandit.start(("a", "b"), 3, rule="thompson", floor=0.1, pending=5),
        decision.start(2, 1),
        conformal.start(2, coverage=0.9, window=20),
        calibration.start(coverage=0.8, rate=0.1, first=0.2, window=20),
        drift.start(2, bound=3.0),
        guard.start("m@1", bound=2.0, block=8, window=5),
        forecast.start(2, horizon=5, analogs=(), extra=1),
        forecast.start(1, horizon=3, season=7, extra=("lstm",)),
        weights.start([[1.0, 1.0]]),
        version.start("forecast", bound=2.0, hold=3),
    ],
    ids=lambda state: type(state).__name__,
)
def test_each_learner_begins_again_as_it_began(begun: Frame):
    assert fresh(begun) == begun
