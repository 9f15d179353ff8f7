"""Progress: how much work each GPU has done, from files that jobs write, one a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args

import numpy as np

from qstream.node.telemetry import Source
from qstream.node.trouble import Troubles
from schemas.power import GpuTelemetry, Workload

UNREPORTED: Final = 2**64 - 1
MOST_BYTES: Final = 1000
MAX_NAME: Final = 200
WORKLOADS: Final = get_args(Workload)


def with_progress(source: Source, folder: Path, troubles: Troubles) -> Source:
    """The same readings with what jobs say of their GPUs: the file ``<folder>/<uuid>`` has ``COUNT [JOB [WORKLOAD]]``.

    COUNT is the work done so far, such as tokens or steps, and only rises; JOB is one word; WORKLOAD is prefill, decode, train or
    other. A GPU without a file has no progress. A file that says something else is counted, and left out.
    """

    def read(now_ns: int) -> Sequence[GpuTelemetry]:
        return [_joined(frame, [_said(folder / uuid, troubles) for uuid in frame.uuid]) for frame in source(now_ns)]

    return read


def _said(path: Path, troubles: Troubles) -> tuple[int, str, str]:
    """Count, job and workload of one GPU; what is not said is unreported, or empty."""
    nothing = UNREPORTED, "", ""
    try:
        with path.open("rb") as file:
            words = file.read(MOST_BYTES).decode().split()
    except FileNotFoundError:
        return nothing
    except (OSError, ValueError) as exc:
        troubles.note("progress", f"{path} cannot be read: {exc}")
        return nothing
    count, job, workload, *more = [*words, "", "", ""]
    fits = count.isdecimal() and int(count) < UNREPORTED and len(job) <= MAX_NAME and workload in WORKLOADS and not any(more)
    if not fits:
        troubles.note("progress", f"{path} must have a count, and perhaps a job and a workload, got {' '.join(words)[:80]!r}")
        return nothing
    return int(count), job, workload


def _joined(frame: GpuTelemetry, said: list[tuple[int, str, str]]) -> GpuTelemetry:
    counts, jobs, workloads = (tuple(column) for column in zip(*said, strict=True))
    if all(count == UNREPORTED for count in counts):
        return frame
    kept = [row for row, name in enumerate(frame.counter) if name != "progress"]
    count = np.array([counts], np.uint64)
    if frame.count is not None and kept:
        count = np.concatenate((frame.count[kept], count))
    more = {"job": jobs} if any(jobs) else {}
    more |= {"workload": workloads} if any(workloads) else {}
    counter = (*(frame.counter[row] for row in kept), "progress")
    return frame.model_copy(update={"counter": counter, "count": count, **more})
