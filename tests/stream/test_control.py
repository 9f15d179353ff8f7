"""The control topic and a processor's tables in the loop: known before the first batch, followed between batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import pytest

from qstream.errors import ProblemError
from qstream.state.store import StateStore
from qstream.stream.client import Publisher
from qstream.stream.loop import BatchLoop
from qstream.testing.rig import LoopThread, Rig, wait_until
from qstream.testing.sample import Ping, Sample, Tally
from schemas.control import Control
from schemas.frame import Frame, Name
from schemas.topics import Topic


class Factor(Frame):
    name: Name
    value: int


class Priced(Sample):
    """The sample, whose factor comes from a table."""

    @property
    def tables(self) -> tuple[Topic, ...]:
        return (Topic(f"{self.name}.factor.v1", Factor, "name", "input", "factors", 2, compacted=True),)

    def with_tables(self, rows: Mapping[str, Mapping[str, Frame]]) -> Self:
        row = rows[self.tables[0].name].get("factor")
        if row is None:
            return self
        if row.value == 0:
            raise KeyError("a table's row that the module did not expect")
        if row.value < 0:  # type: ignore[attr-defined]
            raise ProblemError(f"factor must be >= 0, got {row.value}")  # type: ignore[attr-defined]
        if row.value * self.options.pause_s > 1:
            raise ProblemError(f"factor times pause_s must be <= 1, got {row.value * self.options.pause_s}")
        return self.configure({"factor": row.value})  # type: ignore[attr-defined]

    def configure(self, options: Mapping[str, Any]) -> Self:
        return super().configure(options | {name: float(options[name]) for name in options.keys() & {"pause_s"}})


class Stage:
    """One rig with a control topic of its own and a processor with a table."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.priced = Priced(rig.sample.name, rig.sample.partitions)
        self.control = Topic(f"{rig.sample.name}.control.v1", Control, "agent", "control", "control", 1, compacted=True)
        self.table = self.priced.tables[0]
        rig.create_topic(self.control)
        rig.create_topic(self.table)
        self.sent = 0

    def loop(self) -> LoopThread:
        settings = self.rig.settings
        store = StateStore(settings.redis_url.get_secret_value(), self.priced.name, Tally, settings.redis_timeout_ms)
        return LoopThread(BatchLoop(self.priced, settings, store, control=self.control))

    def put(self, topic: Topic, frame: Frame) -> None:
        with Publisher(self.rig.bootstrap_servers) as publisher:
            publisher.publish(topic, frame)

    def ask(self, agent: str = "", **fields: Any) -> None:
        self.put(self.control, Control(agent=agent or self.priced.name, ts_ns=1, **fields))

    def factor(self, value: int) -> None:
        self.put(self.table, Factor(name="factor", value=value))

    def total(self) -> int:
        """What one more ping of the value 1 adds, which is the factor."""
        before = self.rig.tally("a")
        self.rig.publish([Ping.of("a", 1)])
        self.sent += 1
        after: list[Tally] = wait_until(lambda: [t for t in [self.rig.tally("a")] if t is not None and t.count == self.sent])
        return after[0].total - (before.total if before else 0)


@pytest.fixture
def stage(make_rig: Callable[..., Rig]) -> Stage:
    return Stage(make_rig())


def in_force(thread: LoopThread) -> int:
    processor: Any = thread.loop.controlled.processor
    return int(processor.options.factor)


def test_the_first_record_is_processed_with_the_rows_and_options_that_are_there_and_the_next_with_newer_ones(stage: Stage):
    stage.factor(3)
    stage.factor(5)
    with stage.loop() as thread:
        assert stage.total() == 5
        stage.factor(7)
        wait_until(lambda: in_force(thread) == 7)
        assert stage.total() == 7


def test_rows_hold_together_with_options_whichever_comes_last(stage: Stage):
    stage.ask(options={"pause_s": 0.001})
    stage.factor(4)
    with stage.loop() as thread:
        assert stage.total() == 4
        assert thread.loop.controlled.processor.options.pause_s == 0.001  # type: ignore[attr-defined]
        stage.ask(options={"pause_s": 0.002})
        wait_until(lambda: thread.loop.controlled.processor.options.pause_s == 0.002)  # type: ignore[attr-defined]
        assert stage.total() == 4


def test_rows_that_the_processor_refuses_leave_it_as_it_was(stage: Stage, caplog: pytest.LogCaptureFixture):
    stage.factor(2)
    with stage.loop() as thread:
        assert stage.total() == 2
        stage.factor(-1)
        wait_until(lambda: any("factor must be >= 0, got -1" in message for message in caplog.messages))
        assert in_force(thread) == 2
        assert stage.total() == 2


def test_a_fault_at_rows_or_options_leaves_the_processor_as_it_was_over_restarts(stage: Stage, caplog: pytest.LogCaptureFixture):
    stage.factor(0)
    stage.ask(options={"pause_s": "long"})
    with stage.loop() as thread:
        assert stage.total() == 1
        assert thread.loop.status().control_error == "ValueError: could not convert string to float: 'long'"
        assert any("failed to take the rows of its tables" in message for message in caplog.messages)
        stage.factor(2)
        wait_until(lambda: in_force(thread) == 2)
        stage.factor(0)
        stage.ask(options={"pause_s": "longer"})
        wait_until(lambda: "longer" in thread.loop.status().control_error)
        assert stage.total() == 2


def test_an_agent_that_was_paused_stays_paused_over_a_restart_until_its_row_ends(stage: Stage):
    stage.ask(paused=True)
    stage.ask("another", paused=False)
    stage.rig.publish([Ping.of("a", 1)])
    with stage.loop() as thread:
        wait_until(lambda: thread.loop.status().ready)
        assert thread.loop.status().paused
        assert thread.loop.status().uncommitted == 0
    assert stage.rig.committed_records() == 0
    with stage.loop() as thread:
        wait_until(lambda: thread.loop.status().ready)
        assert thread.loop.status().paused
        with Publisher(stage.rig.bootstrap_servers) as publisher:
            publisher.publish_raw(stage.control.name, stage.priced.name.encode(), None)
        wait_until(lambda: not thread.loop.status().paused)
        wait_until(lambda: stage.rig.tally("a") == Tally.of(Ping.of("a", 1)))


def test_options_that_are_refused_are_shown_and_the_next_ones_are_taken(stage: Stage):
    stage.ask(options={"nothing": 1})
    with stage.loop() as thread:
        wait_until(lambda: "nothing" in thread.loop.status().control_error)
        stage.ask(options={"factor": 9})
        wait_until(lambda: in_force(thread) == 9)
        assert thread.loop.status().control_error == ""
        assert stage.total() == 9


def test_options_that_the_rows_contradict_are_said_not_to_be_in_force_until_the_rows_change(stage: Stage):
    stage.factor(4)
    with stage.loop() as thread:
        assert stage.total() == 4
        stage.ask(options={"pause_s": 0.5})
        wait_until(lambda: "options are not in force" in thread.loop.status().control_error)
        assert "factor times pause_s must be <= 1, got 2.0" in thread.loop.status().control_error
        assert thread.loop.controlled.processor.options.pause_s == 0.0  # type: ignore[attr-defined]
        stage.factor(-1)
        wait_until(lambda: "factor must be >= 0" in thread.loop.status().control_error)
        stage.factor(2)
        wait_until(lambda: in_force(thread) == 2)
        assert thread.loop.status().control_error == ""
        assert thread.loop.controlled.processor.options.pause_s == 0.5  # type: ignore[attr-defined]


def test_new_rows_do_not_hide_that_the_newest_options_were_refused(stage: Stage):
    stage.factor(4)
    with stage.loop() as thread:
        stage.ask(options={"nothing": 1})
        wait_until(lambda: "nothing" in thread.loop.status().control_error)
        stage.factor(5)
        wait_until(lambda: in_force(thread) == 5)
        assert "nothing" in thread.loop.status().control_error


@pytest.mark.parametrize("tick_s", [0, "soon"])
def test_a_period_that_no_clock_can_keep_is_refused_and_the_worker_goes_on(stage: Stage, tick_s: object):
    with stage.loop() as thread:
        stage.ask(options={"tick_s": tick_s})
        wait_until(lambda: "tick_s must be None or a finite number" in thread.loop.status().control_error)
        assert stage.total() == 1


def test_ticks_that_are_switched_on_while_the_worker_runs_reach_the_keys_that_came_before(stage: Stage):
    """Some of these came to this worker and some to one before it; none of them sends anything more."""
    names = [f"name-{number}" for number in range(20)]
    for part in (names[:10], names[10:]):
        with stage.loop() as thread:
            stage.rig.publish([Ping.of(name, 1) for name in part])
            wait_until(lambda: all(stage.rig.tally(name) for name in part))  # noqa: B023
            if part[0] == names[0]:
                continue
            stage.ask(options={"tick_s": 0.2})
            wait_until(lambda: thread.loop.controlled.tick_s == 0.2)
            wait_until(lambda: {i.split("/")[1] for i, _ in stage.rig.pongs() if i.startswith("tick/")} == set(names))


def test_a_fault_in_the_metrics_of_a_module_costs_no_record(stage: Stage, caplog: pytest.LogCaptureFixture):
    def broken(event: object) -> None:
        raise KeyError("a label that the metric does not have")

    with stage.loop() as thread:
        thread.loop.observe = broken
        assert [stage.total() for _ in range(3)] == [1, 1, 1]
    assert any("its own metrics failed" in message for message in caplog.messages)
