"""The stage of every scene: servers, agents as processes, the stream, and what is shown and kept of it."""

from __future__ import annotations

import json
import math
import os
import platform
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from agents.registry import Agent, find_agent, partitions_of_topics
from qstream import __version__
from qstream.config import load_settings
from qstream.demo.agent import AgentProcess
from qstream.demo.in_step import InStep
from qstream.demo.scene import Frames, Scene
from qstream.demo.view import View
from qstream.embedded.kafka import PROMPT, EmbeddedKafka
from qstream.embedded.redis import EmbeddedRedis
from qstream.stream.client import PlanSubscriber, Publisher, time_of
from schemas.control import Control
from schemas.deadletter import DeadLetter
from schemas.frame import Frame
from schemas.topics import CONTROL, Topic

# The broker ends before its last clients are gone, and an interrupted producer drops what it holds: both would be logged.
QUIET: Final = {"log.connection.close": "false", "log_level": "0"}
READY_S: Final = 900.0  # compiling the kernels takes a minute of a core, which a busy machine may not have
DRAIN_S: Final = 120.0
EVERY_PLAN_NS: Final = 1  # a time at which no plan is over
STEP_POLL_S: Final = 0.003  # between two questions whether a step is answered
SAYINGS: Final = {
    "starting": "starting the {} agent",
    "compiling": "compiling kernels (first start only)",
    "joining": "the {} agent joins its consumer group",
}
PACKAGES: Final = ("numpy", "confluent-kafka", "faust-streaming", "redis")

Arrivals = queue.SimpleQueue[tuple[float, Frame]]


@dataclass(slots=True)
class Run:
    """What the phases of a run share. `seconds` of streaming, from the first frame to the last; `published` records of the
    agent's inputs; `plans` and `letters` that arrived. The first of `agents` is the one that the scene is about."""

    scene: Scene
    agents: Sequence[AgentProcess]
    publisher: Publisher
    subscribers: Sequence[PlanSubscriber[Any]]
    arrivals: Arrivals
    view: View
    signals: list[int]
    in_step: InStep | None
    published: int
    seconds: float = 0.0
    gave_up: bool = False
    plans: int = 0
    letters: int = 0

    @property
    def alive(self) -> bool:
        return all(agent.alive for agent in self.agents)

    @property
    def goes_on(self) -> bool:
        return self.alive and not self.signals and not self.gave_up

    def state(self) -> tuple[str, str]:
        """The first agent that is not ready, else the first, and its state."""
        states = [(agent.name, agent.state()) for agent in self.agents]
        return next((each for each in states if each[1] != "ready"), states[0])

    def collect(self, wait_s: float = 0.0) -> None:
        """Give the scene what has arrived; wait up to `wait_s` for the first."""
        with suppress(queue.Empty):
            at_s, frame = self.arrivals.get(timeout=wait_s)
            while True:
                self.letters += isinstance(frame, DeadLetter)
                self.plans += not isinstance(frame, DeadLetter)
                self.publish(self.scene.received(frame, at_s))
                at_s, frame = self.arrivals.get_nowait()

    def publish(self, frames: Frames) -> None:
        """Publish frames, of which the scene is told; those of a scene in step at the times that they have."""
        for topic, frame in frames:
            self.scene.published(frame, time.monotonic())
            publish(self.publisher, self.scene, topic, frame)
        self.published += len(frames)

    def figures(self) -> Mapping[str, Any]:
        return self.scene.figures(self.seconds, sum(subscriber.repeated for subscriber in self.subscribers))


def run_scene(scene: Scene, seconds: float, json_path: Path | None, seed: int, plain: bool, switch: bool = True) -> int:
    """Stream for `seconds` from the first frame, print the figures and write them as JSON; returns the exit code.

    JSON for the path ``-`` goes to stdout, and all else to stderr. With `switch` the scene's options are changed half-way. 0; 1
    if the agent ended or a frame got no answer; 128 + signal after Ctrl-C or SIGTERM.
    """
    to_stdout = json_path is not None and str(json_path) == "-"
    console = Console(stderr=to_stdout)
    # The demo's servers are its own: settings for a real cluster must reach neither its clients nor its agent.
    for name in [name for name in os.environ if name.startswith("QSTREAM_")]:
        del os.environ[name]
    with caught_signals() as signals:
        try:
            with View(console, plain) as view, started(scene, view, signals) as run:
                ready = wait_ready(run)
                if ready:
                    stream(run, seconds, seconds / 2 if switch and scene.switch else math.inf)
                    drain(run)
                figures, faults, log_tail = run.figures(), find_faults(run, ready), end_of_log(run)
                view.say("stopping the agent and the servers")
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    report(console, scene, figures)
    if figures and json_path is not None:
        text = json.dumps({**figures, "seed": seed, **circumstances(scene)}, indent=2) + "\n"
        if to_stdout:
            sys.stdout.write(text)
        else:
            json_path.write_text(text)
    if signals:
        return 128 + signals[0]
    for fault in faults:
        console.print(fault, style="red", soft_wrap=True)
    if faults:
        console.print(f"The end of its log:\n{log_tail}", soft_wrap=True, markup=False, highlight=False)
    return 1 if faults else 0


def report(console: Console, scene: Scene, figures: Mapping[str, Any]) -> None:
    """What was measured, what that says, and where to go from here."""
    if not figures:
        console.print("nothing was streamed")
        return
    for part in scene.report():
        console.print(part, soft_wrap=True, highlight=False)
    console.print(scene.next_steps, soft_wrap=True, highlight=False, markup=False)


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
def started(scene: Scene, view: View, signals: list[int]) -> Iterator[Run]:
    """Broker, store, agents and subscribers; all gone on exit."""
    agents = [find_agent(name) for name in (scene.agent, *scene.others)]
    inputs = {topic for agent in agents for topic in agent.topics}
    topics = inputs | {agent.dead_letters for agent in agents}
    arrivals: Arrivals = queue.SimpleQueue()
    view.say("starting the embedded Kafka and Redis")
    with (
        tempfile.TemporaryDirectory(prefix="qstream-demo-") as folder,
        EmbeddedKafka(partitions_of_topics() | {topic.name: topic.partitions for topic in topics}) as kafka,
        EmbeddedRedis() as redis,
        Publisher(kafka.bootstrap_servers, "demo", load_settings(kafka=QUIET)) as publisher,
    ):
        published = 0
        scene.connected(kafka.bootstrap_servers)
        for topic, frame in scene.first():
            publish(publisher, scene, topic, frame)
            published += topic in inputs
        publisher.flush()
        with ExitStack() as stack:
            processes = []
            for agent in agents:
                options = scene.options if agent.name == scene.agent else {}
                process = AgentProcess(agent.name, Path(folder), kafka.bootstrap_servers, redis.url, PROMPT, options)
                processes.append(stack.enter_context(process))
            now_ns = EVERY_PLAN_NS if scene.step_keys else None
            subscribers = stack.enter_context(followed(agents, kafka.bootstrap_servers, arrivals, now_ns))
            in_step = stack.enter_context(following(agents[0], kafka.bootstrap_servers, scene.step_keys))
            yield Run(scene, processes, publisher, subscribers, arrivals, view, signals, in_step, published)


@contextmanager
def following(agent: Agent, bootstrap_servers: str, keys: Sequence[str]) -> Iterator[InStep | None]:
    """How far the agent has come, for a scene in step."""
    if not keys:
        yield None
        return
    with InStep(agent, load_settings(bootstrap_servers=bootstrap_servers, kafka=PROMPT | QUIET), keys) as in_step:
        yield in_step


def publish(publisher: Publisher, scene: Scene, topic: Topic, frame: Frame) -> None:
    """Publish a frame; of a scene in step, at the time of the frame."""
    publisher.publish(topic, frame, timestamp_ms=time_of(frame) if scene.step_keys else None)


@contextmanager
def followed(
    agents: Sequence[Agent], bootstrap_servers: str, arrivals: Arrivals, now_ns: int | None
) -> Iterator[Sequence[PlanSubscriber[Any]]]:
    """Put all plans and dead letters on the queue, with the time of arrival, each topic from a thread of its own.

    Plans that are over at `now_ns`, by default at the time of arrival, are left out.
    """
    plans = [topic for agent in agents for topic in agent.topics if topic.role == "plan"]
    topics = list(dict.fromkeys([*plans, *(agent.dead_letters for agent in agents)]))
    settings = load_settings(kafka=PROMPT | QUIET)
    subscribers = [PlanSubscriber(topic, topic.frame, bootstrap_servers, from_start=True, settings=settings) for topic in topics]
    closed = threading.Event()

    def follow(subscriber: PlanSubscriber[Any]) -> None:
        with subscriber:
            while not closed.is_set():
                plan = subscriber.poll(0.1, now_ns)
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
    """Wait for the agents, then let the scene load what it needs."""
    deadline_s = time.monotonic() + READY_S
    while run.goes_on and time.monotonic() < deadline_s:
        name, state = run.state()
        if state == "ready":
            run.view.say("loading the scene")
            run.scene.warm()
            return run.goes_on
        run.view.say(SAYINGS.get(state, f"the {{}} agent is {state}").format(name))
        time.sleep(0.1)
    return False


def stream(run: Run, seconds: float, switch_s: float) -> None:
    """Publish the scene's steps, give it the plans that come back, and change its options after `switch_s`."""
    started_s, kill_s = None, run.scene.kill_s
    for frames in run.scene.steps(seconds):
        run.collect()
        started_s = started_s or time.monotonic()
        run.publish(frames)
        if run.in_step is not None:
            wait_answered(run, run.in_step)
        run.seconds = time.monotonic() - started_s
        if run.seconds >= switch_s:
            throw_switch(run)
            switch_s = math.inf
        if run.seconds >= kill_s:
            run.view.say(f"the {run.scene.agent} agent is killed (SIGKILL), another one starts")
            run.agents[0].kill_and_replace()
            run.scene.killed()
            kill_s = math.inf
        if run.seconds >= 1.0 and run.view.due():
            run.figures()
            run.view.show(run.scene, run.state()[1])
        while run.scene.waiting > run.scene.max_waiting and run.goes_on:
            run.collect(0.1)
        if not run.goes_on or (not run.scene.ends and run.seconds >= seconds):
            return


def wait_answered(run: Run, in_step: InStep) -> None:
    """Wait until the agent has processed all that was published, and its plans have come."""
    run.publisher.flush()
    left, deadline_s = -1, time.monotonic() + READY_S
    while run.goes_on and (now_left := unanswered(run, in_step)):
        deadline_s = deadline_s if now_left == left else time.monotonic() + READY_S
        left, run.gave_up = now_left, time.monotonic() > deadline_s
        run.collect(STEP_POLL_S)


def unanswered(run: Run, in_step: InStep) -> int:
    """Records not processed yet, which the scene learns; once all are, plans that have not come."""
    run.scene.behind(run.published - in_step.processed())
    if run.scene.waiting:
        return run.scene.waiting  # without asking for each topic of plans, a thousand times in a scene
    arrived = run.plans + sum(subscriber.repeated for subscriber in run.subscribers)
    return max(0, in_step.plans() - arrived)


def throw_switch(run: Run) -> None:
    """Change the options of the running agent, as `qstream control` does."""
    scene = run.scene
    options = " ".join(f"--set {name}={json.dumps(value)}" for name, value in scene.switch.items())
    run.view.say(f"now as with: qstream control {scene.agent} {options}")
    control = Control.build(agent=scene.agent, ts_ns=time.time_ns(), options=dict(scene.switch), reason="the demo")
    run.publisher.publish(CONTROL, control)
    scene.switched()


def drain(run: Run) -> None:
    """Wait for the plans that are under way."""
    run.view.say("waiting for the last plans")
    run.publisher.flush()
    deadline_s = time.monotonic() + DRAIN_S
    while run.alive and time.monotonic() < deadline_s and left_to_come(run):
        run.collect(0.1)


def left_to_come(run: Run) -> bool:
    """Whether answers are under way."""
    if run.in_step is None:
        return run.scene.waiting > 0
    return unanswered(run, run.in_step) > 0 or run.letters < run.in_step.letters()


def find_faults(run: Run, ready: bool) -> list[str]:
    """Why the run is not a success, in sentences."""
    faults = [f"The {agent.name} agent ended." for agent in run.agents if not agent.alive]
    if not faults and not ready:
        faults.append(f"The {run.state()[0]} agent was not ready within {READY_S:.0f} s.")
    if run.scene.waiting:
        faults.append(f"{run.scene.waiting} frames got no plan from the {run.agents[-1].name} agent.")
    return faults


def end_of_log(run: Run) -> str:
    """Of the agent that ended, else of the one that is not ready, else of the scene's."""
    at_fault = next((agent.name for agent in run.agents if not agent.alive), run.state()[0])
    return next(agent for agent in run.agents if agent.name == at_fault).log_tail()


def circumstances(scene: Scene) -> dict[str, Any]:
    """Where and with what the figures were measured."""
    return {
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "versions": {"qstream": __version__, **{package: version(package) for package in (*PACKAGES, *scene.packages)}},
        "options": dict(scene.options),
        "switch": dict(scene.switch),
    }
