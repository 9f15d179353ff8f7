"""The routing agent's worker: from its start to ready with warm caches, and the memory that it holds."""

from __future__ import annotations

import statistics
import time

from schemas.topics import ROUTING_PLAN, TOPICS
from tests.benchmarks.bench_loop import publish_batches
from tests.benchmarks.worker import follow, servers, worker

Row = tuple[str, float, str, str]

STARTS = 5
IDLE_S = 3
BATCHES = 4000


def rows() -> list[Row]:
    """Medians over several starts; the first of all, which may compile kernels, does not count."""
    ready_s, cpu_s = [], []
    with servers(TOPICS) as at:
        for _ in range(STARTS + 1):
            with worker("agents.routing:AGENT", at) as running:
                ready_s.append(running.await_ready())
                cpu_s.append(running.cpu_s())
        with worker("agents.routing:AGENT", at) as running:
            running.await_ready()
            time.sleep(IDLE_S)
            before = running.cpu_s()
            time.sleep(IDLE_S)
            idle_cpu = (running.cpu_s() - before) / IDLE_S
            idle = running.resident_mib()
            publish_batches(at, BATCHES)
            follow(running, at, ROUTING_PLAN, BATCHES)
            loaded = running.resident_mib()
    return [
        ("start of the process to /readyz 200", statistics.median(ready_s[1:]), "s", "<= 5"),
        ("  CPU time until then", statistics.median(cpu_s[1:]), "s", "-"),
        ("resident memory, idle", idle, "MiB", "<= 300"),
        (f"resident memory after {BATCHES} batches of tokens", loaded, "MiB", "<= 300"),
        ("CPU while idle", 100 * idle_cpu, "% of a core", "-"),
    ]
