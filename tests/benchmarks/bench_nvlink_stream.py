"""Plans of fabrics through the agent: CPU from a job to its plan and from a window to shares, and bytes of a full state."""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from qstream.nvlink import generate, job_profile
from qstream.nvlink.examples import demands, telemetry, topology
from qstream.nvlink.memory import FabricState
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.processor import NvlinkProcessor
from qstream.state.fields import pack
from qstream.testing.feed import Feed
from schemas.fabric import JobProfile

Row = tuple[str, float, str, str]
WINDOWS: Final = 400
JOBS: Final = 64
GB: Final = {"tp": 4e9, "dp": 1e9, "pp": 0.25e9}


def rows() -> list[Row]:
    """What was measured, its value, unit and target; one thread, kernels loaded before."""
    with threadpool_limits(1):
        return [*plans(), *windows(), *state()]


def _feed(**options: Any) -> Feed[FabricState]:
    feed: Feed[FabricState] = Feed(NvlinkProcessor(NvlinkOptions(plan_ms=0, **options)))
    feed.processor.warm()
    return feed


def _job(fabric: str, name: str, **sizes: int) -> JobProfile:
    return job_profile(
        sizes, volumes={each: size for each, size in GB.items() if sizes.get(each, 1) > 1}, fabric=fabric, job=name
    )


def plans() -> list[Row]:
    """The second job of its size: the first one loads kernels."""
    found: list[Row] = []
    cases: tuple[tuple[int, float, dict[str, Any], dict[str, int]], ...] = (
        (72, 0.1, {"system": "hgx-h100", "hosts": 9}, {"tp": 8, "pp": 3, "dp": 3}),
        (576, 1.0, {"system": "gb200-nvl72", "racks": 8}, {"tp": 8, "pp": 8, "dp": 9}),
    )
    for ranks, target, drawn, sizes in cases:
        fabric, feed = generate(**drawn), _feed()
        feed.send(fabric, at_ms=0)
        feed.send(_job(fabric.fabric, "first", **sizes), at_ms=1000)
        feed.send(_job(fabric.fabric, "first", **sizes).model_copy(update={"ended": True}), at_ms=2000)
        began = time.process_time()
        feed.send(_job(fabric.fabric, "second", **sizes), at_ms=3000)
        found.append((f"a job of {ranks} ranks to its plan", time.process_time() - began, "s CPU", f"<= {target:g}"))
    return found


def windows() -> list[Row]:
    """Telemetry of a window to the shares that serve the next, 4 leaves x 3 spines."""
    feed, took = _feed(), []
    feed.send(topology(), at_ms=0)
    for window, offered in enumerate(demands(WINDOWS)):
        record = telemetry(window, offered)
        began = time.process_time()
        feed.send(record, at_ms=window * 250)
        took.append(time.process_time() - began)
    return [("a window to shares, p99", 1e3 * float(np.quantile(took, 0.99)), "ms CPU", "<= 50")]


def state() -> list[Row]:
    """Bytes in the store of 64 jobs of 8 ranks on 8 racks with rails."""
    fabric, feed = generate("gb200-nvl72", racks=8), _feed(placement="fast")
    feed.send(fabric, at_ms=0)
    for number in range(JOBS):
        feed.send(_job(fabric.fabric, f"job-{number}", tp=8), at_ms=1000 + number)
    held = feed.state(fabric.fabric)
    assert held is not None
    assert len(held.jobs) == JOBS
    nbytes = sum(len(value) for value in pack(held).values())
    return [("state of 64 jobs", nbytes / 2**20, "MiB", "<= 4")]
