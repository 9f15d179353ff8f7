"""The report of learners counts each step of a key once: through many keys, states that are read again, and commands."""

import pytest
from prometheus_client import REGISTRY

from qstream.learn import hedge
from qstream.state.write import Stored
from qstream.stream.cache import Entry
from qstream.stream.learning import MOST_OPEN, LearnReport
from tests.scales import Scales, ScalesState

SCALES = Scales()


def updates(agent: str) -> float:
    return REGISTRY.get_sample_value("qstream_learn_updates_total", {"agent": agent, "learner": "shares"}) or 0


def held(state: ScalesState | None) -> Entry[ScalesState]:
    return Entry(Stored(), state)


def learnt(state: ScalesState | None) -> ScalesState:
    shares = hedge.start(2) if state is None else state.shares
    return ScalesState(shares=hedge.learn(shares, [[1.0, 2.0]]), commands=0 if state is None else state.commands)


@pytest.fixture
def report(request: pytest.FixtureRequest) -> LearnReport:
    return LearnReport(request.node.name)


def step(report: LearnReport, key: str, before: ScalesState | None) -> ScalesState:
    after = learnt(before)
    report.note(SCALES, key, held(before), after)
    return after


def test_each_step_of_each_key_is_counted_once(report: LearnReport):
    for n in range(MOST_OPEN + 10):
        step(report, f"k{n}", step(report, f"k{n}", None))
    report.report(SCALES)
    assert updates(report.agent) == 2 * (MOST_OPEN + 10)


def test_what_was_learnt_before_this_worker_or_after_another_one_wrote_is_not_counted(report: LearnReport):
    early = learnt(learnt(None))
    mine = step(report, "k", early)
    theirs = learnt(learnt(mine))
    step(report, "k", theirs)
    report.note(SCALES, "gone", None, theirs)  # nothing is held of it
    report.report(SCALES)
    assert updates(report.agent) == 1


def test_what_a_command_restores_is_not_learnt_but_steps_before_and_after_it_are(report: LearnReport):
    one = step(report, "k", None)
    restored = learnt(learnt(learnt(None))).model_copy(update={"commands": 1})
    report.note(SCALES, "k", held(one), restored)
    step(report, "k", restored)
    report.report(SCALES)
    assert updates(report.agent) == 2
