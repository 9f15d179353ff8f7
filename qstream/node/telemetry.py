"""Telemetry: readings of the GPUs of a node to Kafka, again and again; what fails is counted and said once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from qstream.errors import DeliveryFailed, QstreamError
from qstream.node.trouble import Troubles
from qstream.stream.client import Publisher
from schemas.power import GpuTelemetry
from schemas.topics import GPU_TELEMETRY

POWER: Final = ("power_w", "power_instant_w")
CONFIRM_S: Final = 2.0  # for which a round waits for the broker, before that is a trouble
Source = Callable[[int], Sequence[GpuTelemetry]]
"""Reads GPUs at a time in ns since 1970: one frame a node. It may raise `SourceFault`."""


class SourceFault(QstreamError):
    """The source of readings does not answer, or not with readings."""


def run_telemetry(
    source: Source,
    publisher: Publisher,
    troubles: Troubles,
    *,
    interval_s: float,
    stop: threading.Event,
    clock_ns: Callable[[], int] = time.time_ns,
    count: int | None = None,
) -> int:
    """Publish what the source reads, every `interval_s`, until `stop` is set or `count` records are sent; their number.

    A source that fails and a broker that is away are troubles, and the loop goes on. Pass a source that may hang as
    `within` it.
    """
    published, due_s = 0, time.monotonic()
    while not stop.is_set() and (count is None or published < count):
        published += publish_readings(source, publisher, troubles, clock_ns())
        confirm(publisher, troubles, CONFIRM_S)
        due_s = max(due_s + interval_s, time.monotonic() - interval_s)  # rounds that were missed are not made up for
        stop.wait(max(0.0, due_s - time.monotonic()))
    return published


def publish_readings(source: Source, publisher: Publisher, troubles: Troubles, now_ns: int) -> int:
    """Queue what the source reads now; the number of records. GPUs without power are left out."""
    try:
        frames = source(now_ns)
    except SourceFault as exc:
        troubles.note("source", str(exc))
        return 0
    troubles.over("source", "the source answers")
    published = 0
    for frame in frames:
        kept = with_power(frame)
        left_out = len(frame.uuid) - (0 if kept is None else len(kept.uuid))
        if left_out:
            troubles.note("power", f"{frame.node}: {left_out} of {len(frame.uuid)} GPUs report no power", left_out)
        else:
            troubles.over("power", f"{frame.node}: every GPU reports its power")
        if kept is not None:
            publisher.publish(GPU_TELEMETRY, kept, timestamp_ms=max(1, kept.ts_ns // 1_000_000))
            published += 1
    return published


def with_power(frame: GpuTelemetry) -> GpuTelemetry | None:
    """The frame of the GPUs whose power is reported; None if there are none."""
    known = np.zeros(len(frame.uuid), bool)
    for name in POWER:
        if name in frame.metric:
            known |= frame.value[frame.metric.index(name)] >= 0
    if known.all():
        return frame
    if not known.any():
        return None
    rows = np.flatnonzero(known).tolist()
    kept = {
        name: tuple(getattr(frame, name)[row] for row in rows) for name in ("uuid", "job", "workload") if getattr(frame, name)
    }
    count = None if frame.count is None else frame.count[:, rows]
    return frame.model_copy(update={**kept, "value": frame.value[:, rows], "count": count})


def confirm(publisher: Publisher, troubles: Troubles, timeout_s: float) -> None:
    """Wait for the broker; a round that it does not confirm in time is a trouble, and may still be delivered."""
    try:
        publisher.flush(timeout_s)
    except DeliveryFailed as exc:
        troubles.note("kafka", str(exc))
    else:
        troubles.over("kafka", "the broker confirms records")


def within(source: Source, timeout_s: float) -> Source:
    """The same source, which fails with `SourceFault` when it does not answer in time.

    A call that hangs cannot be ended: it keeps its thread, and the source is not asked before it has come back.
    """
    running: list[threading.Thread] = []

    def read(now_ns: int) -> Sequence[GpuTelemetry]:
        if running and running[0].is_alive():
            raise SourceFault(f"the source hangs: no answer for more than {timeout_s:g} s")
        answers: queue.SimpleQueue[Sequence[GpuTelemetry] | Exception] = queue.SimpleQueue()
        running[:] = [threading.Thread(target=_answer, args=(source, now_ns, answers), name="source", daemon=True)]
        running[0].start()
        try:
            answer = answers.get(timeout=timeout_s)
        except queue.Empty:
            raise SourceFault(f"the source hangs: no answer for more than {timeout_s:g} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    return read


def _answer(source: Source, now_ns: int, answers: queue.SimpleQueue[Sequence[GpuTelemetry] | Exception]) -> None:
    try:
        answers.put(source(now_ns))
    except Exception as exc:  # noqa: BLE001 - raised again by the thread that asks
        answers.put(exc)
