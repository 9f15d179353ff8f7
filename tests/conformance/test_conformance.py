"""Every frame of the registry and every agent keeps its contract; and each check fails on a twin that does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from agents.registry import agent_names, find_agent
from qstream.config import Settings
from qstream.contract import Batch, Event, Record, Result, Tick
from qstream.routing import examples
from qstream.testing.agents import check_agent
from qstream.testing.checks import check_frame, check_processor
from qstream.testing.feed import Feed
from qstream.testing.sample import Act, Ping, Sample, Tally
from schemas import ExpertTopology, PlacementPlan
from schemas.control import Control
from schemas.frame import Name
from schemas.plan import Plan
from schemas.solver import SolverRecord
from schemas.topics import CONTROL, TOPICS, Topic

FRAMES = sorted({topic.frame for topic in TOPICS}, key=lambda frame: frame.__name__)
AGENTS = agent_names()


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
def test_each_frame_of_the_registry(frame):
    check_frame(frame)


@pytest.mark.parametrize("name", AGENTS)
def test_each_agent_s_processor(name):
    check_agent(find_agent(name))


def test_the_records_for_routing_try_all_that_it_does():
    agent = find_agent("routing")
    feed = Feed(agent.processor(Settings(options=dict(agent.example_options))))
    records = examples.records()
    feed.send_batch(records)
    placements = feed.frames(PlacementPlan)
    assert {plan.skip_reason is None for plan in placements} == {True, False}
    assert len(feed.dead) >= 3
    state = feed.state(records[0].key)
    assert state.label_names[-1] == "other"
    assert state.label_count.any()
    assert state.sample.any()
    assert min(state.commands, state.shares.steps, state.calibration.miss.steps) >= 3
    assert {("swap-annealing", "colocation"), ("swap-annealing", None)} <= {
        (plan.solver.solver, plan.solver.variant) for plan in placements
    }


def pings(*acts: Act) -> list[Record]:
    """Twelve records, of which the middle ones do what is asked."""
    asked = {6 + n: act for n, act in enumerate(acts)}
    sent = [Ping.of("a", n, act=asked.get(n, "count")) for n in range(12)]
    return [Record(Sample("twin", 1).pings.name, 0, n, "a", ping, n) for n, ping in enumerate(sent)]


class Twin(Sample):
    """A sample that breaks one rule."""

    def process(self, batch: Batch, state: Any, now_ns: int) -> Result[Any]:
        return self.broken(batch, super().process(batch, state, now_ns), state)

    def broken(self, batch: Batch, result: Result[Any], state: Any) -> Result[Any]:
        return result


def renamed(event: Event, event_id: str) -> Event:
    return Event(event.topic, event.key, event_id, event.frame, event.cause)


class Random(Twin):
    calls = 0

    def broken(self, batch, result, state):
        Random.calls += 1
        return Result(result.events[: len(result.events) - Random.calls % 2], result.dead, result.state)


class SplitDependent(Twin):
    def broken(self, batch: Batch, result: Result[Any], state: Any) -> Result[Any]:
        return Result(result.events[:1], result.dead, result.state)


class Mutating(Twin):
    def broken(self, batch, result, state):
        if state is not None:
            object.__setattr__(state, "count", state.count + 1)
        return result


class SameId(Twin):
    def broken(self, batch, result, state):
        events: Sequence[Event] = result.events
        return Result([renamed(event, event.cause.id + "/0") for event in events for _ in range(2)], result.dead, result.state)


class ForeignId(Twin):
    def broken(self, batch, result, state):
        return Result([renamed(event, f"mine/{n}") for n, event in enumerate(result.events)], result.dead, result.state)


class OtherKey(Twin):
    def broken(self, batch, result, state):
        return Result([replace(event, key="other") for event in result.events], result.dead, result.state)


class Answer(Plan):
    name: Name

    @classmethod
    def example(cls):
        return cls(plan_id="a", ts_ns=0, solver=SolverRecord(solver="kept"), name="a")


ANSWERS = Topic("twin.answer.v1", Answer, "name", "plan", "plans of the twin")


class SamePlanId(Twin):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.outputs = (ANSWERS,)

    def broken(self, batch, result, state):
        plans = [replace(event, topic=ANSWERS, frame=Answer.example()) for event in result.events]
        return Result(plans, result.dead, result.state)


class Restless(Twin):
    tick_s = 0.0


@pytest.mark.parametrize(
    ("twin", "reason"),
    [
        (Random, "the same input gave other bytes"),
        (SplitDependent, "the events differ from those of one batch"),
        (Mutating, "changed its state in place"),
        (SameId, "an event id occurs twice"),
        (ForeignId, "does not begin with its cause's"),
        (SamePlanId, "plan_id must be the id of its event, twin.ping.v1/0/0/0, got 'a'"),
        (OtherKey, "has the key 'other', its .* is 'a'"),
        (Restless, "tick_s must be None or a finite number of seconds above 0, got 0.0"),
    ],
)
def test_a_check_fails_on_a_processor_that_breaks_the_rule(twin, reason):
    check_processor(Sample("twin", 1), pings())
    with pytest.raises(AssertionError, match=reason):
        check_processor(twin("twin", 1), pings())


class Tabled(Sample):
    """Counts with what its table says; the loop gives it the table before the first record, also one without rows."""

    tables = (CONTROL,)

    def with_tables(self, rows):
        made = type(self)(self.name, self.partitions, self.options)
        made.rows = rows[CONTROL.name]
        return made

    def process(self, batch, state, now_ns):
        result = super().process(batch, state, now_ns)
        row = self.rows.get("twin")
        factor = 1 if row is None else row.options["factor"]
        return Result(result.events, result.dead, result.state.model_copy(update={"total": result.state.total * factor}))


def test_a_processor_with_tables_is_checked_with_those_that_the_loop_gives_it():
    check_processor(Tabled("twin", 1), pings())
    doubling = {CONTROL.name: {"twin": Control(agent="twin", ts_ns=0, options={"factor": 2})}}
    with pytest.raises(AssertionError, match="split into batches"):  # it multiplies once a batch
        check_processor(Tabled("twin", 1), pings(), rows=doubling)


class TickTwin(Sample):
    """A sample that ticks and breaks one rule of ticks or options."""

    tick_s = 1.0

    def on_tick(self, tick: Tick, state: Tally) -> Result[Tally]:
        return self.broken(tick, super().on_tick(tick, state), state)

    def broken(self, tick: Tick, result: Result[Tally], state: Tally) -> Result[Tally]:
        return result


class Remembering(TickTwin):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.versions: dict[str, int] = {}

    def process(self, batch, state, now_ns):
        self.versions[batch.key] = len(self.versions)
        return super().process(batch, state, now_ns)

    def broken(self, tick, result, state):
        return result if tick.key in self.versions else Result()


class TickMutating(TickTwin):
    def broken(self, tick, result, state):
        object.__setattr__(state, "count", state.count + 1)
        return result


class TickNaming(TickTwin):
    def broken(self, tick, result, state):
        return Result([renamed(event, f"tick/{tick.key}/mine") for event in result.events])


class TickRepeating(TickTwin):
    def broken(self, tick, result, state):
        return Result([*result.events, *result.events])


class Careless(TickTwin):
    def configure(self, options):
        return self


@pytest.mark.parametrize(
    ("twin", "reason"),
    [
        (Remembering, "a tick depends on what the processor remembers"),
        (TickMutating, "on_tick changed its state in place"),
        (TickNaming, "is not made by tick.event_id"),
        (TickRepeating, "a tick gave an event id twice"),
        (Careless, "configure took an option that does not exist"),
    ],
)
def test_a_check_fails_on_a_processor_that_breaks_a_rule_of_ticks_or_options(twin, reason):
    check_processor(TickTwin("twin", 1), pings("end"))
    with pytest.raises(AssertionError, match=reason):
        check_processor(twin("twin", 1), pings())


def test_a_check_fails_on_a_frame_without_a_faithful_form():
    class Lossy(ExpertTopology):
        def encode(self, content_type=None):
            return self.model_copy(update={"num_gpus": self.num_gpus + 1}).model_dump_json(exclude_none=True).encode()

    with pytest.raises((AssertionError, ValueError)):
        check_frame(Lossy)
