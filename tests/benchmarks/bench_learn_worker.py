"""What learning costs a worker: publish to plan with routing's learners on and off, and the start of one that reads 20 models."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

import numpy as np

from qstream.learn.model import parts
from qstream.stream.client import PlanSubscriber, Publisher
from qstream.testing.meter import AGENT, MODEL
from schemas.control import Control
from schemas.routing import RoutingPlan
from schemas.topics import CONTROL, EXPERTS_TOPOLOGY, MODELS, ROUTING_PLAN, TOKENS_BATCH, TOPICS
from tests.benchmarks.bench_latency import latency_ms
from tests.benchmarks.bench_learn_model import network
from tests.benchmarks.bench_loop import token_batch, topology
from tests.benchmarks.worker import servers, worker

Row = tuple[str, float, str, str]

TURNS = 8  # of each
SECONDS = 4
WARM_UP_S = 10
RATE, TOKENS = 200, 64
SWITCH_S = 1.0  # the control topic is followed between two batches
OPTIONS = {"shares_tokens": 256, "window_tokens": 1024}  # shares twice a second, and two placements in every turn
MODEL_COUNT = 20
STARTS = 5


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    return [*publish_to_plan(), *start_with_models()]


def publish_to_plan() -> list[Row]:
    """One worker whose kill switch is turned between turns of a few seconds; the turns of each kind count together."""
    kinds = [token_batch(number, TOKENS) for number in range(26 * 8)]
    taken: dict[str, list[float]] = {"off": [], "on": []}
    cpu_s = dict.fromkeys(taken, 0.0)
    order = np.random.default_rng(0).permutation(["off", "on"] * TURNS).tolist()
    with (
        servers(TOPICS) as at,
        worker("agents.routing:AGENT", at, options=OPTIONS) as running,
        Publisher(at.kafka) as publisher,
        ExitStack() as opened,
    ):
        running.await_ready()  # by then every topic has a leader
        publisher.publish(EXPERTS_TOPOLOGY, topology())
        plans = opened.enter_context(PlanSubscriber(ROUTING_PLAN, RoutingPlan, at.kafka))

        def receive() -> str | None:
            plan = plans.poll(0.1)
            return None if plan is None else plan.batch_id

        for turn, learn in enumerate(["on", *order]):
            publisher.publish(CONTROL, Control(agent="routing", ts_ns=time.time_ns(), options={"learn": learn}))
            publisher.flush()
            time.sleep(SWITCH_S)
            count = RATE * (SECONDS if turn else WARM_UP_S)
            batches = [kinds[n % len(kinds)].model_copy(update={"batch_id": f"{turn}-{n}"}) for n in range(count)]
            before = running.cpu_s()
            answered = latency_ms(batches, RATE, lambda batch: publisher.publish(TOKENS_BATCH, batch), receive)
            if turn:
                taken[learn] += answered
                cpu_s[learn] += running.cpu_s() - before
    p50, p99 = ({learn: float(np.percentile(each, q)) for learn, each in taken.items()} for q in (50, 99))
    label = f"publish to plan, {RATE} batches of {TOKENS} tokens a second"
    return [
        (f"{label}, learning on: p99", p99["on"], "ms", "-"),
        ("  off: p99", p99["off"], "ms", "-"),
        ("  on over off: p99", p99["on"] / p99["off"], "x", "<= 1.05"),
        ("  on over off: p50", p50["on"] / p50["off"], "x", "-"),
        ("  on over off: the worker's CPU", cpu_s["on"] / cpu_s["off"], "x", "-"),
        ("  batches without a plan", 2 * RATE * SECONDS * TURNS - sum(map(len, taken.values())), "", "0"),
    ]


def start_with_models() -> list[Row]:
    """The meter's worker, which reads the model topic whole before it is ready; without models, then with twenty."""
    found = []
    with servers(list(dict.fromkeys([*TOPICS, *AGENT.topics, AGENT.dead_letters]))) as at:
        for count in (0, MODEL_COUNT):
            with Publisher(at.kafka) as publisher:
                for version in range(count):
                    for part in parts(network("meter", MODEL, version, seed=version)):
                        publisher.publish(MODELS, part)
            ready_s, cpu_s = [], []
            for _ in range(STARTS + 1):  # the first may compile kernels
                with worker("qstream.testing.meter:AGENT", at) as running:
                    ready_s.append(running.await_ready())
                    cpu_s.append(running.cpu_s())
            found.append((statistics.median(ready_s[1:]), statistics.median(cpu_s[1:])))
    (without_s, without_cpu_s), (with_s, with_cpu_s) = found
    return [
        (f"start of the process to ready, {MODEL_COUNT} models on the topic", with_s, "s", "<= 5"),
        ("  CPU time until then", with_cpu_s, "s", "-"),
        ("  none on the topic", without_s, "s", "-"),
        ("  CPU time until then", without_cpu_s, "s", "-"),
    ]
