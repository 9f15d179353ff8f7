"""Every frame of the registry and every agent keeps its contract; and each check fails on a twin that does not."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import agents
from qstream.config import Settings
from qstream.contract import Batch, Event, Record, Result
from qstream.testing.checks import check_frame, check_processor
from qstream.testing.sample import Ping, Sample
from schemas import ExpertLoad, ExpertTopology, Frame, TokenBatch
from schemas.topics import EXPERTS_LOAD, EXPERTS_TOPOLOGY, TOKENS_BATCH, TOPICS

FRAMES = sorted({topic.frame for topic in TOPICS}, key=lambda frame: frame.__name__)
AGENTS = [name for _, name, _ in pkgutil.iter_modules(agents.__path__) if name != "app"]


def routing_records() -> list[Record]:
    """A model, a GPU of which dies; batches of two layers with and without gate and labels, loads, some repeated, and poison."""
    rng = np.random.default_rng(5)
    shape = {"num_layers": 2, "num_logical_experts": 8, "top_k": 2, "num_nodes": 2, "num_gpus": 4, "slots_per_gpu": 3}
    frames: list[tuple[Any, Frame]] = [(EXPERTS_TOPOLOGY, ExpertTopology(model="m", **shape))]
    for n in range(60):
        layer = int(rng.integers(0, 3)) if n % 13 == 0 else n % 2
        tokens = int(rng.integers(100, 900))
        topk_ids = np.minimum(rng.geometric(0.4, (tokens, 2)) - 1, 7 + (n % 17 == 5))
        gate: dict[str, Any] = {} if n % 11 == 3 else {"layer": layer, "topk_ids": topk_ids}
        if n % 3:
            names = tuple(f"tenant-{k}" for k in rng.permutation(9)[:4])
            gate |= {"label_names": names, "label": rng.integers(-1, 4, tokens).astype(np.int32)}
        frames.append(
            (
                TOKENS_BATCH,
                TokenBatch(
                    batch_id=f"b{n}", ts_ns=n, model="m", token_id=np.arange(tokens, dtype=np.uint64) + 10_000 * n, **gate
                ),
            )
        )
        if n % 9 == 0:
            count = rng.integers(0, 900, (2, 8 if n != 27 else 9))
            queued = {f"tenant-{k}": int(rng.integers(0, 5000)) for k in range(12)} if n % 2 else None
            frames.append(
                (
                    EXPERTS_LOAD,
                    ExpertLoad(
                        model="m",
                        window_id=str(n // 18),
                        t0_ns=0,
                        t1_ns=1,
                        num_tokens=3000,
                        logical_count=count,
                        queued_by_label=queued,
                    ),
                )
            )
    dead = np.array([1, 1, 0, 1], np.float32)
    frames.insert(50, (EXPERTS_TOPOLOGY, ExpertTopology(model="m", **shape, gpu_capacity=dead)))
    offsets = dict.fromkeys((topic.name for topic, _ in frames), -1)
    records = []
    for n, (topic, frame) in enumerate(frames):
        offsets[topic.name] += 1
        records.append(Record(topic.name, 0, offsets[topic.name], "m", frame, 1000 + n))
    return records


RECORDS = {"routing": routing_records}
OPTIONS = {
    "routing": {
        "window_tokens": 2048,
        "windows": 4,
        "steps": 200,
        "min_gain": 0.005,
        "labels": 6,
        "colocate": True,
        "plan_ms": 2,
        "plan_every_s": 0.001,
    }
}


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.__name__)
def test_each_frame_of_the_registry(frame):
    check_frame(frame)


@pytest.mark.parametrize("name", AGENTS)
def test_each_agent_s_processor(name):
    agent = importlib.import_module(f"agents.{name}").AGENT
    processor = agent.processor(Settings(options=OPTIONS[name]))
    records = RECORDS[name]()
    check_processor(processor, records)
    assert processor.name == name


def test_the_records_for_routing_try_all_that_it_does():
    agent = importlib.import_module("agents.routing").AGENT
    processor = agent.processor(Settings(options=OPTIONS["routing"]))
    result = processor.process(Batch("m", routing_records()), None, 0)
    placements = [event.frame for event in result.events if event.topic.name == "qstream.placement.plan.v1"]
    assert {plan.skip_reason is None for plan in placements} == {True, False}
    assert len(result.dead) >= 3
    state = result.state
    assert state.label_names[-1] == "other"
    assert state.label_count.any()
    assert state.sample.any()
    assert {"colocation, swap-annealing", "swap-annealing"} <= {plan.solver.name for plan in placements}


def pings() -> list[Record]:
    return [Record(Sample("twin", 1).pings.name, 0, n, "a", Ping.of("a", n), n) for n in range(12)]


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


@pytest.mark.parametrize(
    ("twin", "reason"),
    [
        (Random, "the same input gave other bytes"),
        (SplitDependent, "the events differ from those of one batch"),
        (Mutating, "changed its state in place"),
        (SameId, "an event id occurs twice"),
        (ForeignId, "does not begin with its cause's"),
    ],
)
def test_a_check_fails_on_a_processor_that_breaks_the_rule(twin, reason):
    check_processor(Sample("twin", 1), pings())
    with pytest.raises(AssertionError, match=reason):
        check_processor(twin("twin", 1), pings())


def test_a_check_fails_on_a_frame_without_a_faithful_form():
    class Lossy(ExpertTopology):
        def encode(self, content_type=None):
            return self.model_copy(update={"num_gpus": self.num_gpus + 1}).model_dump_json(exclude_none=True).encode()

    with pytest.raises((AssertionError, ValueError)):
        check_frame(Lossy)
