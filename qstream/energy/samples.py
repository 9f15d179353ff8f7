"""Samples: the readings of frames that follow each other, as columns by the topology's rows; what contradicts it has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import read_only
from qstream.energy import guard
from qstream.energy.memory import EnergyState
from qstream.errors import ProblemError
from schemas.power import MAX_GPUS, GpuTelemetry, PowerTopology
from schemas.wording import Shown, must_be

METRICS: Final = (
    "power_w", "power_instant_w", "sm_clock_mhz", "sm_active", "gpu_util", "power_limit_enforced_w", "power_limit_w",
)  # fmt: skip
LIMITS: Final = 5  # the first metric that is a limit
COUNTERS: Final = ("energy_mj", "progress", "clock_event_reasons")
NO_JOB: Final = -1  # the frame says nothing of jobs
Int64s = NDArray[np.int64]
Float32s = NDArray[np.float32]
Uint64s = NDArray[np.uint64]
_UNREPORTED: Final = 2**64 - 1
_NONE: Final[Int64s] = read_only(np.empty(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Readings of F frames, N samples in all; those of frame f are `first[f]` to `first[f + 1]`, none where it is a fault.

    `row` int64 [N] of the topology; `at_ns` int64 [F]; `power_w`, `limit_w`, `clock_mhz`, `active` float32 [N], -1 not reported;
    `energy_mj`, `progress` uint64 [N]; `fit` and `hot` bool [N], whether the power can be a measurement, and whether heat slows
    the GPU. `job` [N] and `boot` [F] are places in `names`, as are `job_of_gpu` and `boot_of_node`, which are those known so far
    and change as frames are folded.
    """

    at_ns: Int64s
    first: Int64s
    row: Int64s
    power_w: Float32s
    limit_w: Float32s
    clock_mhz: Float32s
    active: Float32s
    energy_mj: Uint64s
    progress: Uint64s
    fit: NDArray[np.bool_]
    hot: NDArray[np.bool_]
    job: Int64s
    boot: Int64s
    job_of_gpu: Int64s
    boot_of_node: Int64s
    names: tuple[str, ...]
    faults: dict[int, ProblemError]


def gather(frames: Sequence[GpuTelemetry], at_ns: Sequence[int], now: EnergyState, *, senders: bool = True) -> Samples:
    """The readings of frames that came at `at_ns`, for a domain as it is now.

    A frame with a GPU that is not in the topology, or not on the node that sends, is a fault, and so is one with limits in
    another unit than W. Without `senders` the nodes of the frames say nothing: recordings need not name them.
    """
    topology, faults = now.topology, dict[int, ProblemError]()
    rows = _rows(frames, topology, faults)
    if senders:
        _find_other_nodes(frames, rows, topology, faults)
    row, value = _joined(rows), _values(frames, rows)
    if guard.in_milliwatts(value[LIMITS:], topology.limit_max_w[row]):
        _find_other_units(frames, rows, topology, faults)
        row, value = _joined(rows), _values(frames, rows)
    count = _counts(frames, rows)
    power, instant, clock, active, percent, enforced, limit = value
    power = np.where(power == -1, instant, power)
    place = _Places({"": 0})
    return Samples(
        at_ns=np.array(at_ns, np.int64),
        first=np.array([0, *accumulate(map(len, rows))], np.int64),
        row=row,
        power_w=power,
        limit_w=np.where(enforced < 0, limit, enforced),
        clock_mhz=clock,
        active=_active(active, percent),
        energy_mj=count[0],
        progress=count[1],
        fit=guard.plausible(power, topology.limit_max_w[row]),
        hot=guard.too_hot(count[2]),
        job=_jobs(frames, rows, place),
        boot=_numbered([frame.boot_id for frame in frames], place),
        job_of_gpu=_numbered(now.job, place),
        boot_of_node=_numbered(now.boot, place),
        names=tuple(place),
        faults=faults,
    )


def _active(sm_active: Float32s, percent: Float32s) -> Float32s:
    """How much of the time in which a GPU works its multiprocessors do, 0 to 1; -1 where it is not reported."""
    busy = np.where(percent > 0, np.minimum(percent, 100) / 100, 1.0)
    return np.where(sm_active >= 0, np.clip(sm_active / busy, 0.0, 1.0), -1.0).astype(np.float32)


def _rows(frames: Sequence[GpuTelemetry], topology: PowerTopology, faults: dict[int, ProblemError]) -> list[Int64s]:
    """Rows of the GPUs of each frame; none, and a fault, where one is not in the topology."""
    rows_of, rows = _finder(topology.uuid), list[Int64s]()
    for at, frame in enumerate(frames):
        try:
            rows.append(rows_of(frame.uuid))
        except KeyError as exc:
            faults[at] = ProblemError(must_be("uuid", f"a GPU of the topology of {topology.domain}", exc.args[0]))
            rows.append(_NONE)
    return rows


def _joined(rows: Sequence[Int64s]) -> Int64s:
    return np.concatenate((_NONE, *rows))


def _find_other_nodes(
    frames: Sequence[GpuTelemetry], rows: list[Int64s], topology: PowerTopology, faults: dict[int, ProblemError]
) -> None:
    """Take out the frames of GPUs that are on another node; a rack, or the domain, may send those of several nodes."""
    known = _index(topology.node)
    node = topology.node_of_gpu[_joined(rows)]
    frame_of = np.repeat(np.arange(len(frames)), [len(mine) for mine in rows])
    sender = np.array([known.get(frame.node, -1) for frame in frames], np.int64)
    for at in np.unique(frame_of[node != sender[frame_of]]).tolist():
        nodes, name = np.unique(node[frame_of == at]), frames[at].node
        if sender[at] >= 0 or (len(nodes) == 1 and name not in (topology.domain, *topology.inner)):
            shown = topology.node[int(nodes[nodes != sender[at]][0])]
            faults[at] = ProblemError(must_be("node", f"{shown!r}, where the topology has these GPUs", name))
            rows[at] = _NONE


@lru_cache(maxsize=256)
def _index(names: tuple[str, ...]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


@lru_cache(maxsize=256)
def _finder(uuids: tuple[str, ...]) -> Callable[[tuple[str, ...]], Int64s]:
    """What gives the rows of named GPUs, which a sender names in each of its frames; `KeyError` for one that is not there."""
    known = _index(uuids)

    @lru_cache(maxsize=MAX_GPUS)
    def rows_of(named: tuple[str, ...]) -> Int64s:
        return read_only(np.array([known[uuid] for uuid in named], np.int64))

    return rows_of


def _values(frames: Sequence[GpuTelemetry], rows: Sequence[Int64s]) -> Float32s:
    """The metrics of all samples: float32 [METRICS, N]."""
    return _picked(METRICS, -1, np.float32, [(frame.metric, frame.value) for frame in _with_rows(frames, rows)])


def _counts(frames: Sequence[GpuTelemetry], rows: Sequence[Int64s]) -> Uint64s:
    """The counters of all samples: uint64 [COUNTERS, N]."""
    blocks = [
        (("",), np.full((1, len(frame.uuid)), _UNREPORTED, np.uint64)) if frame.count is None else (frame.counter, frame.count)
        for frame in _with_rows(frames, rows)
    ]
    return _picked(COUNTERS, _UNREPORTED, np.uint64, blocks)


def _with_rows(frames: Sequence[GpuTelemetry], rows: Sequence[Int64s]) -> Iterable[GpuTelemetry]:
    return (frame for frame, mine in zip(frames, rows, strict=True) if len(mine))


def _picked(
    wanted: tuple[str, ...], unreported: int, dtype: type[Any], blocks: Iterable[tuple[tuple[str, ...], NDArray[Any]]]
) -> NDArray[Any]:
    """The wanted rows of blocks [names, gpus] side by side, in their order; `unreported` where a block has none of that name."""
    found = [np.empty((len(wanted), 0), dtype)]
    for names, alike in groupby(blocks, itemgetter(0)):
        at, absent = _where(wanted, names)
        rows = np.concatenate([block for _, block in alike], axis=1)[at]
        rows[absent] = unreported
        found.append(rows)
    return np.concatenate(found, axis=1) if len(found) > 2 else found[-1]


@lru_cache(maxsize=256)
def _where(wanted: tuple[str, ...], names: tuple[str, ...]) -> tuple[NDArray[np.intp], list[int]]:
    """Where each of the wanted names is, and which of them are nowhere."""
    at = [names.index(name) if name in names else -1 for name in wanted]
    return np.array(at, np.intp), [row for row, place in enumerate(at) if place < 0]


def _find_other_units(
    frames: Sequence[GpuTelemetry], rows: list[Int64s], topology: PowerTopology, faults: dict[int, ProblemError]
) -> None:
    """Take out the frames whose limits are in another unit than W."""
    for at, frame in enumerate(frames):
        for name in METRICS[LIMITS:]:
            limit = frame.value[frame.metric.index(name)] if name in frame.metric else np.empty(0)
            if len(rows[at]) and len(limit) and guard.in_milliwatts(limit, topology.limit_max_w[rows[at]]):
                shown = Shown(f"{float(limit.max()):g}")
                faults[at] = ProblemError(must_be(name, "in watts, at most ten times limit_max_w", shown))
                rows[at] = _NONE


class _Places(dict[str, int]):
    """Names, numbered as they are asked for."""

    def __missing__(self, name: str) -> int:
        self[name] = place = len(self)
        return place


def _jobs(frames: Sequence[GpuTelemetry], rows: Sequence[Int64s], place: _Places) -> Int64s:
    """The place of each sample's job."""
    known, found = dict[tuple[str, ...], list[int]](), list[int]()
    for frame in _with_rows(frames, rows):
        jobs = known.get(frame.job)
        if jobs is None:
            jobs = known[frame.job] = [place[name] for name in frame.job]
        found += jobs or [NO_JOB] * len(frame.uuid)
    return np.array(found, np.int64)


def _numbered(names: Iterable[str], place: _Places) -> Int64s:
    return np.array([place[name] for name in names], np.int64)
