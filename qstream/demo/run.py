"""Run the demo: servers, the routing agent, a model that trains and streams its routing, and the figures of it."""

from __future__ import annotations

import json
import math
import os
import platform
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from agents.registry import partitions_of_topics
from qstream import __version__
from qstream.config import load_settings
from qstream.demo.agent import AgentProcess
from qstream.demo.findings import findings
from qstream.demo.frames import in_words, model_topology, token_batch
from qstream.demo.model import MoELanguageModel, Shape, train
from qstream.demo.score import Score, Summary
from qstream.demo.text import batches, load_corpus
from qstream.demo.twin import Twin
from qstream.demo.view import View, gains_table, run_table
from qstream.embedded.kafka import PROMPT, EmbeddedKafka
from qstream.embedded.redis import EmbeddedRedis
from qstream.routing.warm import warm
from qstream.stream.client import PlanSubscriber, Publisher
from schemas.control import Control, Scalar
from schemas.experts import ExpertTopology
from schemas.frame import Frame
from schemas.topics import (
    CONTROL,
    DISPATCH_SHARES,
    EXPERTS_TOPOLOGY,
    PLACEMENT_PLAN,
    ROUTING_DLQ,
    ROUTING_PLAN,
    TOKENS_BATCH,
)

SHAPE = Shape()
SEQUENCES = 8  # a step
WINDOW_TOKENS = 8192
STRETCH_TOKENS = 2048  # between two dispatch shares
OPTIONS: dict[str, Scalar] = {
    "window_tokens": WINDOW_TOKENS,
    "windows": 16,
    "shares_tokens": STRETCH_TOKENS,
    "min_gain": 0.02,
    "move_cost": 0.01,
    "plan_ms": 100.0,
    "plan_every_s": 0.0,
}
SWITCH: dict[str, Scalar] = {"colocate": True}
# The broker ends before its last clients are gone, and an interrupted producer drops what it holds: both would be logged.
QUIET = {"log.connection.close": "false", "log_level": "0"}
READY_S = 180.0
DRAIN_S = 15.0
# An embedded partition keeps 5 MiB, about 110 of these batches: a producer further ahead would overwrite unread ones.
MAX_WAITING = 64
SAYINGS = {
    "starting": "starting the routing agent",
    "compiling": "compiling kernels (first start only)",
    "joining": "the routing agent joins its consumer group",
}
NEXT = """next
  your model     copy `recorded_routing` from qstream/demo/model.py, publish with `Publisher`, read plans with
                 `PlanSubscriber`: README.md, "Publish" and "Consume plans"
  a cluster      qstream run routing --bootstrap-servers HOST:PORT --redis URL;  qstream watch placement
  the switches   qstream control routing --set colocate=true;  qstream/routing/README.md says what each costs
  a recording    qstream routing place FILE --gpus G --slots P --nodes N: the same plans from a file, next to EPLB's
  the dashboard  deploy/README.md: docker compose up, with Prometheus, alerts and Grafana"""
PACKAGES = ("torch", "numpy", "numba", "confluent-kafka", "faust-streaming", "redis")

Arrivals = queue.SimpleQueue[tuple[float, Frame]]


@dataclass(slots=True)
class Run:
    """What the phases of a run share. `seconds` of streaming, from the first batch to the last."""

    agent: AgentProcess
    publisher: Publisher
    subscribers: Sequence[PlanSubscriber[Any]]
    arrivals: Arrivals
    score: Score
    view: View
    topology: ExpertTopology
    signals: list[int]
    seconds: float = 0.0

    @property
    def goes_on(self) -> bool:
        return self.agent.alive and not self.signals

    def collect(self, wait_s: float = 0.0) -> None:
        """Score what has arrived; wait up to `wait_s` for the first."""
        with suppress(queue.Empty):
            at_s, frame = self.arrivals.get(timeout=wait_s)
            while True:
                self.score.received(frame, at_s)
                at_s, frame = self.arrivals.get_nowait()

    def summary(self) -> Summary:
        return self.score.summary(self.seconds, sum(subscriber.repeated for subscriber in self.subscribers))


def main(seconds: float, json_path: Path | None, seed: int, plain: bool, colocate: bool = True) -> int:
    """Stream for `seconds` from the first batch, print the figures and write them as JSON; returns the exit code.

    With `colocate` the agent is told to plan for traffic too in the second half.

    0; 1 if the agent ended or a token batch got no plan; 128 + signal after Ctrl-C or SIGTERM.
    """
    console = Console()
    # The demo's servers are its own: settings for a real cluster must reach neither its clients nor its agent.
    for name in [name for name in os.environ if name.startswith("QSTREAM_")]:
        del os.environ[name]
    with caught_signals() as signals:
        try:
            with View(console, plain) as view, started(view, signals) as run:
                ready = wait_ready(run)
                if ready:
                    stream(run, seconds, seed, seconds / 2 if colocate else math.inf)
                    drain(run)
                summary, faults, log_tail = run.summary(), find_faults(run, ready), run.agent.log_tail()
                view.say("stopping the agent and the servers")
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    tell(console, summary)
    if summary.tokens and json_path is not None:
        json_path.write_text(json.dumps(asdict(summary) | {"seed": seed} | machine(), indent=2) + "\n")
    if signals:
        return 128 + signals[0]
    for fault in faults:
        console.print(fault, style="red", soft_wrap=True)
    if faults:
        console.print(f"The end of its log:\n{log_tail}", soft_wrap=True, markup=False, highlight=False)
    return 1 if faults else 0


def tell(console: Console, summary: Summary) -> None:
    """What was measured, what that says, and where to go from here."""
    if not summary.tokens:
        console.print("nothing was streamed")
        return
    console.print(run_table(summary, in_words(model_topology(SHAPE))))
    console.print(gains_table(summary))
    for sentence in findings(summary):
        console.print(sentence, soft_wrap=True, highlight=False)
    console.print(NEXT, soft_wrap=True, highlight=False, markup=False)


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Ctrl-C or SIGTERM ends the stream, not the program: the first is noted in the list, a second one interrupts."""
    caught: list[int] = []

    def note(signum: int, _frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(signum)

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def started(view: View, signals: list[int]) -> Iterator[Run]:
    """Broker, store, agent and subscribers; all gone on exit."""
    topology = model_topology(SHAPE)
    arrivals: Arrivals = queue.SimpleQueue()
    view.say("starting the embedded Kafka and Redis")
    with (
        tempfile.TemporaryDirectory(prefix="qstream-demo-") as folder,
        EmbeddedKafka(partitions_of_topics()) as kafka,
        EmbeddedRedis() as redis,
        Publisher(kafka.bootstrap_servers, "demo", load_settings(kafka=QUIET)) as publisher,
    ):
        publisher.publish(EXPERTS_TOPOLOGY, topology)
        publisher.flush()
        with (
            AgentProcess(Path(folder), kafka.bootstrap_servers, redis.url, PROMPT, OPTIONS) as agent,
            followed(kafka.bootstrap_servers, arrivals) as subscribers,
        ):
            score = Score(topology, WINDOW_TOKENS, STRETCH_TOKENS, Twin(topology, OPTIONS))
            yield Run(agent, publisher, subscribers, arrivals, score, view, topology, signals)


@contextmanager
def followed(bootstrap_servers: str, arrivals: Arrivals) -> Iterator[Sequence[PlanSubscriber[Any]]]:
    """Put all plans and dead letters on the queue, with the time of arrival, each topic from a thread of its own."""
    topics = (ROUTING_PLAN, PLACEMENT_PLAN, DISPATCH_SHARES, ROUTING_DLQ)
    settings = load_settings(kafka=PROMPT | QUIET)
    subscribers = [PlanSubscriber(topic, topic.frame, bootstrap_servers, from_start=True, settings=settings) for topic in topics]
    closed = threading.Event()

    def follow(subscriber: PlanSubscriber[Any]) -> None:
        with subscriber:
            while not closed.is_set():
                plan = subscriber.poll(0.1)
                if plan is not None:
                    arrivals.put((time.monotonic(), plan))

    threads = [threading.Thread(target=follow, args=(subscriber,), name=subscriber.topic.name) for subscriber in subscribers]
    for thread in threads:
        thread.start()
    try:
        yield subscribers
    finally:
        closed.set()
        for thread in threads:
            thread.join()


def wait_ready(run: Run) -> bool:
    """Wait for the agent, then load in this process the kernels that it has compiled."""
    deadline_s = time.monotonic() + READY_S
    while run.goes_on and time.monotonic() < deadline_s:
        state = run.agent.state()
        if state == "ready":
            run.view.say("loading the model")
            warm()
            return run.goes_on
        run.view.say(SAYINGS.get(state, f"the routing agent is {state}"))
        time.sleep(0.1)
    return False


def stream(run: Run, seconds: float, seed: int, switch_s: float) -> None:
    """Train, publish each layer's routing of each step, score the plans that come back; throw the switch after `switch_s`."""
    text = batches(load_corpus(), SEQUENCES, SHAPE.context, np.random.default_rng(seed))
    started_s = None
    for step in train(MoELanguageModel(SHAPE, seed=seed), text):
        run.collect()
        started_s = started_s or time.monotonic()
        for routing in step.routing:
            batch = token_batch(step, routing, run.topology.num_gpus)
            run.score.published(batch, time.monotonic())
            run.publisher.publish(TOKENS_BATCH, batch)
        run.score.trained(len(step.token_id), step.loss)
        run.seconds = time.monotonic() - started_s
        if run.seconds >= switch_s:
            throw_switch(run)
            switch_s = math.inf
        if run.seconds >= 1.0 and run.view.due():
            run.view.show(run.summary(), run.score, step.step, run.agent.state())
        while len(run.score.waiting) > MAX_WAITING and run.goes_on:
            run.collect(0.1)
        if run.seconds >= seconds or not run.goes_on:
            return


def throw_switch(run: Run) -> None:
    """Tell the running agent, as `qstream control routing --set` does."""
    options = " ".join(f"--set {name}={json.dumps(value)}" for name, value in SWITCH.items())
    run.view.say(f"now as by: qstream control routing {options}")
    run.publisher.publish(CONTROL, Control.build(agent="routing", ts_ns=time.time_ns(), options=SWITCH, reason="the demo"))
    run.score.switched = True


def drain(run: Run) -> None:
    """Wait for the plans that are under way."""
    run.view.say("waiting for the last plans")
    run.publisher.flush()
    deadline_s = time.monotonic() + DRAIN_S
    while run.score.waiting and run.agent.alive and time.monotonic() < deadline_s:
        run.collect(0.1)


def find_faults(run: Run, ready: bool) -> list[str]:
    """Why the run is no success, in sentences."""
    faults = []
    if not run.agent.alive:
        faults.append("The routing agent ended.")
    elif not ready:
        faults.append(f"The routing agent was not ready within {READY_S:.0f} s.")
    if run.score.waiting:
        faults.append(f"{len(run.score.waiting)} token batches got no plan from the routing agent.")
    return faults


def machine() -> dict[str, Any]:
    """Where and with what the figures were measured."""
    return {
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "versions": {"qstream": __version__} | {package: version(package) for package in PACKAGES},
        "options": OPTIONS,
        "switch": SWITCH,
    }
