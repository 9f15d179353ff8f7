"""Hyperparameter search as a stream: how soon a result is answered, what an ask costs the store, and what a study weighs.

The study has six parameters, the mix of the design's figures: floats on two scales, whole numbers and choices.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, Final

import numpy as np
import redis
from confluent_kafka import Consumer, Producer

from qstream.contract import Batch, Record
from qstream.hpo.memory import HpoState
from qstream.hpo.processor import HpoProcessor
from qstream.state.fields import pack
from qstream.stream.client import PlanSubscriber, Publisher
from schemas.hpo import StudySpec, TrialReport, TrialSuggestion
from schemas.space import Parameter
from schemas.topics import HPO_STUDY, HPO_SUGGESTION, HPO_TRIAL, TOPICS
from tests.benchmarks.bench_latency import ASKED, ECHOED, echo_of
from tests.benchmarks.worker import Servers, Worker, count_events, program, servers, worker

Row = tuple[str, float, str, str]

PARAMETERS: Final = (
    Parameter(name="lr", type="float", low=1e-5, high=1.0, scale="log"),
    Parameter(name="decay", type="float", low=1e-6, high=0.1, scale="log"),
    Parameter(name="momentum", type="float", low=0.0, high=0.99),
    Parameter(name="width", type="int", low=16, high=1024, scale="log"),
    Parameter(name="depth", type="ordinal", choices=(1, 2, 3, 4, 6, 8)),
    Parameter(name="optimizer", type="categorical", choices=("adam", "sgd", "lion")),
)
OPTIONS: Final[Mapping[str, Any]] = {"optimizer": "gp"}  # from the 10th trial on what hybrid is from the 20th on
WORKERS: Final = 4  # of the study whose answers are timed: as many trials run
BEFORE: Final = 100  # results that it has at first
TIMED: Final = 200  # so that n is 200 on average
RATE: Final = 5.0  # results a second
WARM_UP: Final = 20
STUDIES: Final = 1_000
ASKS: Final = 100  # whose round trips are counted
SIZES: Final = (10, 50, 100, 150, 200)  # results of the studies whose throughput is measured
EACH: Final = 8  # workers of each
STORE_CALLS: Final = ("evalsha", "eval", "hgetall")
PATIENCE_S: Final = 120.0


def rows() -> list[Row]:
    """What, value, unit and target of each measurement."""
    return [*latency_rows(), *throughput_rows(), *state_rows()]


def loss(params: Mapping[str, Any]) -> float:
    """A smooth loss with a best learning rate, decay and width."""
    width = math.log2(float(params["width"])) - 8
    lr, decay = math.log10(float(params["lr"])) + 3, math.log10(float(params["decay"])) + 4
    kind = {"adam": 0.0, "sgd": 0.3, "lion": 0.1}[str(params["optimizer"])]
    return (
        lr * lr + 0.2 * decay * decay + 0.1 * width * width + 0.5 * float(params["momentum"]) + 0.05 * int(params["depth"]) + kind
    )


def spec(study: str, **changes: Any) -> StudySpec:
    return StudySpec(**{"study": study, "ts_ns": time.time_ns(), "parameters": PARAMETERS, "max_trials": 10_000, **changes})


def brought(study: str, count: int) -> Iterator[TrialReport]:
    """Results that were not asked for, at random points."""
    rng = np.random.default_rng(1)
    for number in range(count):
        params = {
            "lr": float(10 ** rng.uniform(-5, 0)),
            "decay": float(10 ** rng.uniform(-6, -1)),
            "momentum": float(rng.uniform(0, 0.99)),
            "width": int(rng.integers(16, 1025)),
            "depth": int(rng.choice([1, 2, 3, 4, 6, 8])),
            "optimizer": str(rng.choice(["adam", "sgd", "lion"])),
        }
        metrics = {"loss": loss(params)}
        yield TrialReport(study=study, worker="past", ts_ns=number, ask=False, state="complete", params=params, metrics=metrics)


def latency_rows() -> list[Row]:
    """From the call that publishes a result to its suggestion in the worker's hand, next to an echo of the same bytes; and the
    store's round trips, alone and among a thousand studies."""
    with (
        servers([*TOPICS, ASKED, ECHOED]) as at,
        worker("agents.hpo:AGENT", at, options=dict(OPTIONS), max_batch_records=16) as running,
        program([sys.executable, "-m", "tests.benchmarks.echo", json.dumps(echo_of(at))]),
        Publisher(at.kafka) as publisher,
        PlanSubscriber(HPO_SUGGESTION, TrialSuggestion, at.kafka, key="timed") as answers,
        closing(Consumer({"bootstrap.servers": at.kafka, "group.id": "bench.ear", "auto.offset.reset": "earliest"})) as ear,
    ):
        running.await_ready()
        ear.subscribe([ECHOED.name])
        publisher.publish(HPO_STUDY, spec("timed"))
        for report in brought("timed", BEFORE):
            publisher.publish(HPO_TRIAL, report)
        asked = _Asked(at, publisher, answers, ear)
        taken, echoed, share = asked.timed(running)
        found = _quantiles(taken, echoed, share)
        late, ready = (running.metric(f'qstream_hpo_fits_total{{outcome="{outcome}"}}') for outcome in ("late", "ready"))
        found.append(("  fits that were late", 100 * late / max(1.0, late + ready), "%", "-"))
        found.append(("store round trips an ask, one study", asked.round_trips(), "", "<= 1"))
        before = count_events(at, HPO_SUGGESTION)
        for number in range(STUDIES):
            publisher.publish(HPO_STUDY, spec(f"other-{number}"))
            publisher.publish(HPO_TRIAL, TrialReport(study=f"other-{number}", worker="w", ts_ns=number))
        publisher.flush()
        running.wait(lambda: count_events(at, HPO_SUGGESTION) >= before + STUDIES, 0.5)
        found.append((f"  the same among {STUDIES:,} studies", asked.round_trips(), "", "<= 1"))
    return found


class _Asked:
    """Four workers of one study, in turn: each reports its result and waits for the next trial."""

    def __init__(self, at: Servers, publisher: Publisher, answers: PlanSubscriber[TrialSuggestion], ear: Consumer) -> None:
        self._publisher, self._answers, self._ear = publisher, answers, ear
        self._producer = Producer({"bootstrap.servers": at.kafka, "linger.ms": 2, "compression.type": "lz4"})
        self._store = redis.Redis.from_url(at.redis)
        self._held: dict[str, TrialSuggestion] = {}

    def timed(self, running: Worker) -> tuple[list[float], list[float], float]:
        """Seconds of each answer, of each echo, and the share of a core that the agent used."""
        for number in range(WORKERS):
            self.answer(f"w{number}")
        taken, echoed, cpu_s, began = [], list[float](), 0.0, time.perf_counter()
        for number in range(WARM_UP + TIMED):
            if number == WARM_UP:
                cpu_s, began = running.cpu_s(), time.perf_counter()
            took_s, body = self.answer(f"w{number % WORKERS}")
            taken.append(took_s)
            echoed.append(self.echo(body, str(number)))
            time.sleep(max(0.0, 1 / RATE - took_s - echoed[-1]))
        return taken[WARM_UP:], echoed[WARM_UP:], (running.cpu_s() - cpu_s) / (time.perf_counter() - began)

    def answer(self, name: str) -> tuple[float, bytes]:
        """Report what the worker holds, and ask; seconds until its next trial, and the report's bytes."""
        held = self._held.get(name)
        fields: dict[str, Any] = {}
        if held is not None:
            fields = {"trial": held.trial, "state": "complete", "metrics": {"loss": loss(held.params)}}
        report = TrialReport(study="timed", worker=name, ts_ns=time.time_ns(), **fields)
        began = time.perf_counter()
        self._publisher.publish(HPO_TRIAL, report)
        while time.perf_counter() - began < PATIENCE_S:
            plan = self._answers.poll(0.1)
            if plan is not None and plan.worker == name and plan.status == "run":
                self._held[name] = plan
                return time.perf_counter() - began, report.encode()
        raise RuntimeError("no answer came")

    def echo(self, body: bytes, name: str) -> float:
        """Seconds of the same bytes through a program that only echoes."""
        began = time.perf_counter()
        self._producer.produce(ASKED.name, body, headers=[("id", name)])
        self._producer.poll(0)
        while time.perf_counter() - began < PATIENCE_S:
            message = self._ear.poll(0.1)
            if message is not None and message.error() is None and dict(message.headers() or ())["id"] == name.encode():
                return time.perf_counter() - began
        raise RuntimeError("no echo came")

    def round_trips(self) -> float:
        """Calls of the agent to its store an answer, less those at rest; calls that go together count one by one."""
        rest_s, rest = self._calls(lambda: time.sleep(5.0))
        took_s, calls = self._calls(lambda: [self.answer(f"w{number % WORKERS}") for number in range(ASKS)])
        return (calls - rest / rest_s * took_s) / ASKS

    def _calls(self, work: Callable[[], object]) -> tuple[float, int]:
        before, began = self._counted(), time.perf_counter()
        work()
        return time.perf_counter() - began, self._counted() - before

    def _counted(self) -> int:
        """Calls that write or read a state; what a script does in the server is not counted."""
        found = self._store.info("commandstats")
        return sum(int(found[f"cmdstat_{name}"]["calls"]) for name in STORE_CALLS if f"cmdstat_{name}" in found)


def _quantiles(taken: list[float], echoed: list[float], share: float) -> list[Row]:
    (p50, p99), (bare50, bare99) = (1e3 * np.percentile(each, [50, 99]) for each in (taken, echoed))
    label = f"result to suggestion, n = {BEFORE} to {BEFORE + TIMED + WARM_UP}, {WORKERS} workers, {RATE:.0f} a second"
    return [
        (f"{label}: p50", p50, "ms", "-"),
        (f"{label}: p99", p99, "ms", "-"),
        ("  a record through a bare echo meanwhile: p50", bare50, "ms", "-"),
        ("  a record through a bare echo meanwhile: p99", bare99, "ms", "-"),
        ("  over the bare echo: p50", p50 - bare50, "ms", "<= 35"),
        ("  over the bare echo: p99", p99 - bare99, "ms", "<= 120"),
        ("  the agent's CPU, fits included", 100 * share, "% of a core", "-"),
    ]


def throughput_rows() -> list[Row]:
    """CPU of a result with its ask, from bytes to bytes, fits included, in studies of up to 200 results and eight workers."""
    found: list[Row] = []
    costs = []
    for size in SIZES:
        state = _with_workers(size)
        costs.append(_cost_s(state, size))
        found.append((f"  CPU of a result and its ask, n = {size}, {EACH} workers", 1e3 * costs[-1], "ms", "-"))
    mean = f"results a core and second, {EACH} workers, mean over n = {SIZES[0]} to {SIZES[-1]}"
    return [(mean, 1 / float(np.mean(costs)), "/s", ">= 30"), *found]


def _with_workers(size: int) -> tuple[HpoProcessor, HpoState, dict[str, TrialSuggestion]]:
    """A study with `size` results, and eight workers that hold a trial each."""
    processor = HpoProcessor()
    processor.warm()
    held: dict[str, TrialSuggestion] = {}
    records = [Record(HPO_STUDY.name, 0, 0, "s", spec("s"), 1)]
    records += [Record(HPO_TRIAL.name, 0, n, "s", each, n + 1) for n, each in enumerate(brought("s", size))]
    state = processor.process(Batch("s", records), None, 0).state
    for number in range(EACH):
        ask = Record(
            HPO_TRIAL.name, 0, size + number, "s", TrialReport(study="s", worker=f"w{number}", ts_ns=1), size + number + 1
        )
        result = processor.process(Batch("s", [ask]), state, 0)
        state = result.state
        held |= {event.frame.worker: event.frame for event in result.events if isinstance(event.frame, TrialSuggestion)}
    assert state is not None
    return processor, state, held


def _cost_s(study: tuple[HpoProcessor, HpoState, dict[str, TrialSuggestion]], size: int) -> float:
    """CPU seconds a result, over two rounds of the workers."""
    processor, state, held = study
    began, count = time.process_time(), 2 * EACH
    for number in range(count):
        trial = held[f"w{number % EACH}"]
        report = TrialReport(
            study="s", worker=trial.worker, ts_ns=1, trial=trial.trial, state="complete", metrics={"loss": loss(trial.params)}
        )
        body = report.encode()
        record = Record(HPO_TRIAL.name, 0, 10_000 + number, "s", TrialReport.decode(body), 10_000 + number)
        result = processor.process(Batch("s", [record]), state, 0)
        assert result.state is not None
        state = result.state
        pack(state)
        for event in result.events:
            event.frame.encode()
            if isinstance(event.frame, TrialSuggestion):
                held[event.frame.worker] = event.frame
    return (time.process_time() - began) / count


def state_rows() -> list[Row]:
    """Bytes of a study, of its largest field, and of what one result changes."""
    found: list[Row] = []
    for size in (200, 1_000):
        processor, state, held = _with_workers(size)
        before, trial = pack(state), held["w0"]
        report = TrialReport(study="s", worker="w0", ts_ns=1, trial=trial.trial, state="complete", metrics={"loss": 1.0})
        record = Record(HPO_TRIAL.name, 0, 10_000, "s", report, 10_000)
        result = processor.process(Batch("s", [record]), state, 0)
        assert result.state is not None
        after = pack(result.state)
        changed = sum(len(value) for name, value in after.items() if before.get(name) != value)
        asked = ("<= 80", "<= 64", "<= 64") if size == 1_000 else ("-", "-", "-")
        found += [
            (f"state of {size:,} trials of 6 parameters", sum(map(len, after.values())) / 1e3, "kB", asked[0]),
            ("  its largest field", max(map(len, after.values())) / 1024, "KiB", asked[1]),
            ("  bytes that a result rewrites", changed / 1024, "KiB", asked[2]),
        ]
    return found
