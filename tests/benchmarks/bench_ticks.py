"""A tick of many keys on a real broker and a real store: all events leave together, with one wait for their delivery."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

from prometheus_client import REGISTRY

from agents.app import tune_interpreter
from qstream.contract import Result, Tick
from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping, Sample, SampleOptions, Tally
from tests.benchmarks.worker import servers

Row = tuple[str, float, str, str]

KEYS = 1000
ROUNDS = 20


class Pinged(Sample):
    """The sample on one input, so that no other worker feeds its keys; with `saving`, each tick writes each state.

    `begun` are the CPU seconds of the loop's thread at the first tick of each round.
    """

    def __init__(self, name: str, saving: bool) -> None:
        super().__init__(name, options=SampleOptions(tick_s=0.3))
        self.inputs = (self.pings,)
        self.saving = saving
        self.begun: dict[int, float] = {}

    def on_tick(self, tick: Tick, state: Tally) -> Result[Tally]:
        self.begun.setdefault(tick.now_ns, time.thread_time())
        result = super().on_tick(tick, state)
        return Result(result.events, state=state.model_copy()) if self.saving else result


def rows() -> list[Row]:
    """Medians of rounds, the first left out, which finds the keys."""
    (wall, cpu), (wall_saving, cpu_saving) = _round_s("ticks", saving=False), _round_s("writes", saving=True)
    return [
        (f"a tick over {KEYS} keys with one event each", 1e3 * wall, "ms", "<= 60"),
        ("  CPU of the loop's thread", 1e3 * cpu, "ms", "-"),
        ("  and a state written for each", 1e3 * wall_saving, "ms", "-"),
        ("  CPU of the loop's thread", 1e3 * cpu_saving, "ms", "-"),
    ]


def _round_s(name: str, saving: bool) -> tuple[float, float]:
    """Wall and CPU seconds of a round; the CPU is that from one round to the next, in which nothing else is to do."""
    module = Pinged(name, saving)
    tune_interpreter()  # as in a worker
    with servers([]) as at, Rig(at.kafka, at.redis, name) as rig:
        rig.publish([Ping.of(f"name-{number}", number) for number in range(KEYS)])
        with rig.loop(module):
            wait_until(lambda: rig.committed_records() == KEYS)
            times = [_next_s(name) for _ in range(ROUNDS + 2)]
    begun = list(module.begun.values())[2:]
    return statistics.median(times[2:]), statistics.median(later - first for first, later in pairwise(begun))


def _next_s(name: str) -> float:
    """The time of the next round, from the metric that the loop itself keeps."""
    before, sum_before = _seen(name)
    deadline = time.monotonic() + 60
    while (seen := _seen(name))[0] == before:
        if time.monotonic() > deadline:
            raise RuntimeError("no tick in a minute")
        time.sleep(0.01)
    return (seen[1] - sum_before) / (seen[0] - before)


def _seen(name: str) -> tuple[float, float]:
    """Rounds so far, and their seconds."""
    count, total = (REGISTRY.get_sample_value(f"qstream_tick_seconds_{part}", {"agent": name}) for part in ("count", "sum"))
    return count or 0.0, total or 0.0
