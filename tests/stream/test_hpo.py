"""Studies through the real agent, broker and store: no trial is lost, none counts twice, and one round trip to Redis an ask."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from agents import hpo
from agents.app import build_loop
from qstream.config import Settings
from qstream.embedded.redis import EmbeddedRedis
from qstream.hpo.examples import STUDY, spec
from qstream.hpo.memory import HpoState
from qstream.state.store import StateStore
from qstream.stream.client import Publisher
from qstream.testing.rig import LoopThread, Program, Tail, header, reading, wait_until
from qstream.testing.verify import Run, fault_free, verify
from schemas.deadletter import DeadLetter
from schemas.hpo import StudyBest, TrialRecord, TrialReport, TrialSuggestion
from schemas.topics import HPO_BEST, HPO_DLQ, HPO_HISTORY, HPO_STUDY, HPO_SUGGESTION, HPO_TRIAL, Topic
from tests.stream.seen import environment, produced, records

OPTIONS = {"optimizer": "gp", "initial": 5, "candidates": 64, "starts": 2}
QUICK: dict[str, Any] = {
    "port": 0,
    "session_timeout_ms": 6000,
    "retry_max_s": 0.5,
    "worker_id": "worker-0",
    "static_membership": True,
    "options": OPTIONS,
}
LEASE_S = 1.5
TRIALS = 40
ANSWER_S = 0.2  # between two asks of a worker that waits


@dataclass
class Slots:
    """Workers that run trials of no length: some report twice, some too late, and some die and are replaced."""

    publisher: Publisher
    answers: Tail
    rng: random.Random
    seen: set[str] = field(default_factory=set)
    due: list[tuple[float, TrialReport]] = field(default_factory=list)
    working: set[str] = field(default_factory=set)
    born: int = 0

    def start(self) -> None:
        worker = f"node-{self.born}"
        self.born += 1
        self.working.add(worker)
        self.send(TrialReport(study=STUDY, worker=worker, ts_ns=self.born))

    def send(self, report: TrialReport, later_s: float = 0.0) -> None:
        self.due.append((time.monotonic() + later_s, report))

    def turn(self) -> bool:
        """Publish what is due and act on new answers; whether every worker is done."""
        now = time.monotonic()
        for _, report in [each for each in self.due if each[0] <= now]:
            self.publisher.publish(HPO_TRIAL, report)
        self.due = [each for each in self.due if each[0] > now]
        self.publisher.flush()
        for message in self.answers.read():
            if header(message, "ce_id") not in self.seen:
                self.seen.add(header(message, "ce_id"))
                self.act(TrialSuggestion.decode(message.value(), "application/json"))
        return not self.working and not self.due

    def act(self, answer: TrialSuggestion) -> None:
        worker = answer.worker
        if worker not in self.working:
            return
        if answer.status == "done":
            self.working.remove(worker)
        elif answer.status == "wait":
            self.send(TrialReport(study=STUDY, worker=worker, ts_ns=0), ANSWER_S)
        elif self.rng.random() < 0.1:
            self.working.remove(worker)  # dead: its trial must go out again
            self.start()
        else:
            loss = float(abs(answer.params["lr"] - 0.003))
            told: dict[str, Any] = {"trial": answer.trial, "attempt": answer.attempt, "state": "complete"}
            told["metrics"] = {"loss": loss, "step_ms": 1.0}
            report = TrialReport(study=STUDY, worker=worker, ts_ns=0, **told)
            self.send(report, LEASE_S + 0.3 if self.rng.random() < 0.1 else 0.0)
            if self.rng.random() < 0.1:
                self.send(report)


def test_with_workers_and_agents_that_die_no_trial_is_lost_and_none_counts_twice(
    registry_kafka: str, redis_server: EmbeddedRedis, topic_prefix: str, tmp_path: Path
) -> None:
    given = QUICK | {"bootstrap_servers": registry_kafka, "group_prefix": topic_prefix}
    settings = Settings(redis_url=SecretStr(redis_server.url), **given)
    topics = (HPO_SUGGESTION, HPO_HISTORY, HPO_BEST, HPO_STUDY, HPO_TRIAL)
    with reading(registry_kafka, *topics) as tails, Publisher(registry_kafka) as publisher:
        answers, history, best, studies, reports = tails
        slots = Slots(publisher, answers, random.Random(7))
        publisher.publish(HPO_STUDY, spec(max_trials=TRIALS, lease_s=LEASE_S, retries=10, limits=()))
        with Program(["-m", "qstream.cli", "run", "hpo"], environment(redis_server.url, given), tmp_path / "worker.log") as agent:
            with StateStore(redis_server.url, "hpo", HpoState) as known:  # topics have no order: an ask that overtakes it waits
                wait_until(lambda: known.load(STUDY).state is not None, saying=agent.log_tail)
            for _ in range(5):
                slots.start()
            wait_until(lambda: slots.turn() or len(history.read()) >= TRIALS // 2, saying=agent.log_tail)
            agent.kill()
        with LoopThread(build_loop(hpo.AGENT, settings)) as thread:
            store: Any = thread.loop.ledger.store
            save_all, saves = store.save_all, []
            store.save_all = lambda writes: (saves.append(len(writes)), save_all(writes))[1]
            before = len(reports.read())
            wait_until(slots.turn, saying=lambda: (len(history.read()), slots.working))
            wait_until(lambda: StudyBest.decode(best.read()[-1].value(), "application/json").ended)
            assert len(saves) <= len(reports.read()) - before  # one round trip an ask, or less
        found = produced(dict(zip(topics[:3], tails[:3], strict=True)))
        given_records = [*records(HPO_STUDY, studies.read()), *records(HPO_TRIAL, reports.read())]
    with StateStore(redis_server.url, "hpo", HpoState) as left:
        state = left.load(STUDY).state
    assert state is not None
    expected = fault_free(hpo.AGENT.processor(settings), given_records, ())
    verdict = verify(expected, Run(found, (), {STUDY: state.encode()}))
    assert verdict.ok, str(verdict)
    once = {each.id: each for each in found}.values()
    outcomes = [TrialRecord.decode(each.value, "application/json") for each in once if each.topic == HPO_HISTORY.name]
    counted = Counter(record.trial for record in outcomes if record.outcome == "complete")
    assert counted == dict.fromkeys(range(TRIALS), 1)
    handed = [TrialSuggestion.decode(each.value, "application/json") for each in once if each.topic == HPO_SUGGESTION.name]
    holders = {(answer.trial, answer.attempt, answer.worker) for answer in handed if answer.status == "run"}
    assert len(holders) == len({(trial, attempt) for trial, attempt, _ in holders})
    assert any(answer.source == "retry" for answer in handed)
    assert {"duplicate"} <= {record.outcome for record in outcomes}


def test_hostile_records_are_dead_letters_and_the_next_ask_is_answered(
    registry_kafka: str, redis_server: EmbeddedRedis, topic_prefix: str
) -> None:
    given = QUICK | {"bootstrap_servers": registry_kafka, "group_prefix": topic_prefix}
    settings = Settings(redis_url=SecretStr(redis_server.url), **given)
    report = json.loads(TrialReport(study=STUDY, worker="a", ts_ns=0).encode("application/json"))
    body = json.loads(spec().encode("application/json"))
    x = {"name": "x", "type": "float", "low": 0.0, "high": 1.0}
    hostile: list[tuple[Topic, Any, str]] = [
        (HPO_STUDY, body | {"parameters": [x | {"low": 2.0}]}, "x"),
        (HPO_STUDY, body | {"parameters": [x | {"scale": "log"}]}, "x"),
        (HPO_STUDY, body | {"parameters": [x, x]}, "x"),
        (HPO_STUDY, body | {"parameters": [x | {"when": {"parameter": "x", "values": [1.0]}}]}, "x"),
        (HPO_STUDY, body | {"parameters": [x | {"name": f"p{n}"} for n in range(65)]}, "parameters"),
        (HPO_STUDY, body | {"direction": "maximize"}, "direction"),
        (HPO_TRIAL, report | {"trial": 0, "state": "complete", "metrics": {"loss": "NaN"}}, "metrics"),
        (HPO_TRIAL, report | {"trial": 0, "state": "complete", "metrics": {"accuracy": 1.0}}, "objective"),
        (HPO_TRIAL, report | {"trial": 7, "state": "complete", "metrics": {"loss": 1.0}}, "trial"),
        (HPO_TRIAL, report | {"trial": 0, "attempt": 4, "state": "failed"}, "attempt"),
        (HPO_TRIAL, report | {"state": "complete", "params": {"lr": 5.0}, "metrics": {"loss": 1.0}}, "lr"),
        (HPO_TRIAL, b"\x80\x02}q\x00.", ""),
    ]
    with (
        reading(registry_kafka, HPO_SUGGESTION, HPO_DLQ) as (answers, letters),
        Publisher(registry_kafka) as publisher,
        LoopThread(build_loop(hpo.AGENT, settings)),
    ):

        def has_trial() -> bool:
            """Ask, until the study has come by its own topic."""
            publisher.publish(HPO_TRIAL, TrialReport(study=STUDY, worker="a", ts_ns=0))
            publisher.flush()
            return any(b'"run"' in message.value() for message in answers.read())

        publisher.publish(HPO_STUDY, spec())
        wait_until(has_trial)
        for topic, bad, _ in hostile:
            value = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
            publisher.publish_raw(topic.name, STUDY.encode(), value)
        publisher.publish(HPO_TRIAL, TrialReport(study=STUDY, worker="b", ts_ns=1))
        publisher.flush()
        wait_until(lambda: len(letters.read()) >= len(hostile), saying=lambda: len(letters.read()))
        wait_until(lambda: any(b'"worker":"b"' in message.value() for message in answers.read()))
        said = [DeadLetter.from_headers(message.headers()).error_message for message in letters.read()]
    assert len(said) == len(hostile)
    assert not [why for _, _, why in hostile if not any(why in text for text in said)]
