"""Ten thousand asks through a real broker and store while workers die and the agent is killed: who holds what, what counts.

One result in twenty is sent twice, one in twenty comes after its lease, one worker in a hundred dies with its trial.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from qstream.stream.client import PlanSubscriber, Publisher
from schemas.hpo import TrialRecord, TrialReport, TrialSuggestion
from schemas.topics import HPO_DLQ, HPO_HISTORY, HPO_STUDY, HPO_SUGGESTION, HPO_TRIAL, TOPICS
from tests.benchmarks.bench_hpo_stream import loss, spec
from tests.benchmarks.worker import servers, worker

Row = tuple[str, float, str, str]

STUDIES: Final = 20
WORKERS: Final = 8  # of a study
TRIALS: Final = 480  # of a study: ten thousand asks with those that are repeated
TWICE, LATE, DIES = 0.05, 0.05, 0.01
KILLS: Final = 3
LEASE_S: Final = 5.0
LATER_S: Final = 1.5 * LEASE_S  # a late result comes so long after its trial was handed out
PATIENCE_S: Final = 10.0  # after which a worker asks again
QUIET_S: Final = 300.0  # without an answer the run is over
OPTIONS: Final[dict[str, Any]] = {"optimizer": "sobol"}  # what is suggested does not matter here
COUNTED: Final = ("complete", "failed", "infeasible", "pruned")


@dataclass
class Fleet:
    """Workers that ask, report and die. `due` holds reports by the time at which they are sent."""

    publisher: Publisher
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    asks: int = 0
    named: int = 0
    waiting: dict[tuple[str, str], tuple[float, TrialReport]] = field(default_factory=dict)  # when a worker asked last, and how
    due: list[tuple[float, TrialReport]] = field(default_factory=list)
    last: dict[tuple[str, str], tuple[int | None, int]] = field(default_factory=dict)  # trial and attempt of a worker

    def join(self, study: str) -> None:
        """A worker with a name that nobody had."""
        self.named += 1
        self.ask(TrialReport(study=study, worker=f"w{self.named}", ts_ns=time.time_ns()))

    def ask(self, report: TrialReport) -> None:
        self.asks += report.ask
        if report.ask:
            self.waiting[report.study, report.worker] = time.monotonic(), report
        self.publisher.publish(HPO_TRIAL, report)

    def answered(self, plan: TrialSuggestion) -> None:
        """What a worker makes of an answer: it reports at once, twice, late, or never. One to an ask that was sent twice may name
        what it has reported already."""
        slot, key = (plan.study, plan.worker), (plan.trial, plan.attempt)
        if slot not in self.waiting or (plan.status == "run" and self.last.get(slot) == key):
            return
        del self.waiting[slot]
        self.last[slot] = key
        if plan.status == "wait":
            again = TrialReport(study=plan.study, worker=plan.worker, ts_ns=time.time_ns())
            self.due.append((time.monotonic() + (plan.retry_after_s or 1.0), again))
        if plan.status != "run":
            return
        chance = self.rng.random()
        if chance < DIES:
            self.join(plan.study)
            return
        metrics = {"loss": loss(plan.params)}
        report = TrialReport(
            study=plan.study,
            worker=plan.worker,
            ts_ns=time.time_ns(),
            trial=plan.trial,
            attempt=plan.attempt,
            state="complete",
            metrics=metrics,
        )
        if chance < DIES + LATE:
            self.due.append((time.monotonic() + LATER_S, report))
            return
        self.ask(report)
        if chance < DIES + LATE + TWICE:
            self.ask(report)

    def turn(self) -> None:
        """Send the late results whose time has come, and again what was not answered: answers end with their lease."""
        now_s = time.monotonic()
        for asked_s, report in list(self.waiting.values()):
            if now_s - asked_s > PATIENCE_S:
                self.ask(report)
        ready = [report for at_s, report in self.due if at_s <= now_s]
        self.due = [(at_s, report) for at_s, report in self.due if at_s > now_s]
        for report in ready:
            self.ask(report)


def rows() -> list[Row]:
    """What, value, unit and target of each measurement."""
    with (
        servers(TOPICS) as at,
        Publisher(at.kafka) as publisher,
        PlanSubscriber(HPO_SUGGESTION, TrialSuggestion, at.kafka, from_start=True) as answers,
        PlanSubscriber(HPO_HISTORY, TrialRecord, at.kafka, from_start=True) as history,
        PlanSubscriber(HPO_DLQ, HPO_DLQ.frame, at.kafka, from_start=True) as letters,
        ExitStack() as stack,
    ):
        running = stack.enter_context(worker("agents.hpo:AGENT", at, options=OPTIONS))
        running.await_ready()
        fleet = Fleet(publisher)
        for number in range(STUDIES):
            publisher.publish(HPO_STUDY, spec(f"s{number}", lease_s=LEASE_S, retries=10, max_running=256, max_trials=TRIALS))
            for _ in range(WORKERS):
                fleet.join(f"s{number}")
        handed: list[TrialSuggestion] = []
        began_s, quiet_s, kills = time.monotonic(), time.monotonic(), 0
        while (fleet.waiting or fleet.due) and time.monotonic() - quiet_s < QUIET_S:
            if kills < KILLS and fleet.asks > (kills + 1) * STUDIES * TRIALS / (KILLS + 1):
                running.kill()
                running = stack.enter_context(worker("agents.hpo:AGENT", at, options=OPTIONS))
                kills += 1
            fleet.turn()
            plan = answers.poll(0.05)
            while plan is not None:
                quiet_s = time.monotonic()
                handed.append(plan)
                fleet.answered(plan)
                plan = answers.poll(0.0)
        wall_s = time.monotonic() - began_s
        outcomes = drained(history)
        dead = len(drained(letters))
    return judged(fleet, handed, outcomes, dead, wall_s, kills)


def drained(plans: PlanSubscriber[Any]) -> list[Any]:
    """All that is on a topic."""
    found, quiet_s = [], time.monotonic()
    while time.monotonic() - quiet_s < 3.0:
        if (plan := plans.poll(0.1)) is not None:
            found.append(plan)
            quiet_s = time.monotonic()
    return found


def judged(
    fleet: Fleet, handed: list[TrialSuggestion], outcomes: list[TrialRecord], dead: int, wall_s: float, kills: int
) -> list[Row]:
    """What the topics say, whatever the agent believes."""
    holders: defaultdict[tuple[str, int, int], set[str]] = defaultdict(set)
    for plan in handed:
        if plan.status == "run" and plan.trial is not None:
            holders[plan.study, plan.trial, plan.attempt].add(plan.worker)
    ended = Counter((each.study, each.trial) for each in outcomes if each.outcome in COUNTED)
    kinds = Counter(each.outcome for each in outcomes)
    late = sum(each.late for each in outcomes if each.outcome in COUNTED)
    return [
        (f"asks of {STUDIES * WORKERS} workers, {kills} kills of the agent", fleet.asks, "", "-"),
        ("  trials handed out again with a further attempt", sum(attempt > 0 for _, _, attempt in holders), "", "-"),
        ("  second results that were named as such", kinds["duplicate"] + kinds["superseded"], "", "-"),
        ("  late results that counted", late, "", "-"),
        ("  attempts of a trial with two holders", sum(len(each) > 1 for each in holders.values()), "", "0"),
        ("  results counted twice", sum(count > 1 for count in ended.values()), "", "0"),
        ("  trials without a result", STUDIES * TRIALS - len(ended), "", "0"),
        ("  trials lost", kinds["lost"], "", "0"),
        ("  asks without an answer", len(fleet.waiting), "", "0"),
        ("  dead letters", dead, "", "0"),
        ("  answers a second of wall time, kills included", len(handed) / wall_s, "/s", "-"),
    ]
