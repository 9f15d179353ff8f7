"""Levels: the caps of each GPU that may be measured, its power limits, and how fast it is expected to be under each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.energy.caps import predict_levels
from qstream.energy.memory import LEVELS
from schemas.power import PowerTopology

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
LIMITS: Final = 24  # power limits of a GPU among which budgets choose
LOWEST_CLOCK: Final = 0.4  # of the highest: lower ones never save
MARGIN: Final = 1.1  # of the greatest recent power: a limit above it slows nothing
GRID: Final = 50  # parts of a GPU's highest limit by which curves are kept


@dataclass(frozen=True, slots=True, eq=False)
class Knobs:
    """What may be capped: `levels` float64 [gpus, LEVELS] ascending, the default last, in MHz where `by_clock`, else in W;
    `known`, whether the limits are; `targetable`, whether a target may be set at all."""

    levels: Floats
    by_clock: Bools
    known: Bools
    targetable: Bools


def knobs_of(topology: PowerTopology) -> Knobs:
    """The SM clock where the topology has the supported ones of the GPU's model, else the power limit."""
    gpus = len(topology.uuid)
    least, default = (array.astype(np.float64) for array in (topology.limit_min_w, topology.limit_default_w))
    known = (least > 0) & (default >= least) & (topology.limit_max_w > 0)
    opted = np.zeros(gpus, bool) if topology.opt_in is None else topology.opt_in == 1
    shared = np.zeros(gpus, bool) if topology.mig is None else topology.mig == 1
    levels = np.linspace(np.where(known, least, 1.0), np.where(known, default, 2.0), LEVELS, axis=1)
    by_clock = np.zeros(gpus, bool)
    if topology.sm_clock_mhz is not None and topology.model_of_gpu is not None:
        for model in range(len(topology.model)):
            clocks = _clocks(topology.sm_clock_mhz[model])
            if len(clocks) == LEVELS:
                by_clock |= (mine := topology.model_of_gpu == model)
                levels[mine] = clocks
    return Knobs(levels, by_clock, known, known & opted & ~shared)


def _clocks(supported: NDArray[np.float32]) -> Floats:
    """At most LEVELS of the supported clocks, evenly spread over those that may save; fewer are spread between them."""
    clocks: Floats = np.unique(supported[supported > 0]).astype(np.float64)
    clocks = clocks[clocks >= LOWEST_CLOCK * clocks.max(initial=0)]
    if len(clocks) < 2:
        return np.empty(0)
    if len(clocks) < LEVELS:
        return np.linspace(clocks[0], clocks[-1], LEVELS, dtype=np.float64)
    chosen: Floats = clocks[np.linspace(0, len(clocks) - 1, LEVELS).round().astype(int)]
    return chosen


def limits_of(topology: PowerTopology, knobs: Knobs) -> Floats:
    """Power limits of each GPU, whole watts from the lowest to the default: float64 [gpus, LIMITS]."""
    least = np.where(knobs.known, np.ceil(topology.limit_min_w), 1.0)
    default = np.where(knobs.known, topology.limit_default_w, 1.0)
    grid: Floats = np.round(np.linspace(least, np.maximum(default, least), LIMITS, axis=1))
    grid[:, -1] = np.maximum(default, least)
    return np.maximum.accumulate(grid, axis=1)


def speeds(limits_w: Floats, want_w: Floats) -> Floats:
    """Expected speed under each limit, 1 at the default: float64 [gpus, LIMITS], not falling.

    A limit that is above what the GPU draws by a tenth slows nothing; lower ones as the curves of past sweeps say.
    `want_w` is the greatest recent power of a GPU without a limit, -1 unknown: then as if it drew its default.
    """
    most = limits_w[:, -1]
    want = np.where(want_w > 0, np.minimum(want_w, most), most)
    parts = np.clip(np.ceil(GRID * want / most), 1, GRID).astype(int)
    out: Floats = np.empty_like(limits_w)
    for part in np.unique(parts):
        at, curve = _curve(int(part))
        rows = parts == part
        out[rows] = np.interp(limits_w[rows] / most[rows, None], at, curve)
    out[limits_w >= MARGIN * want[:, None]] = 1.0
    out[:, -1] = 1.0
    return np.maximum.accumulate(out, axis=1)


def between(at: Floats, known: Floats, values: Floats) -> Floats:
    """What each row's values [N, K] are at `at` [N], linear between its known places [N, K], which ascend; constant beyond."""
    rows = np.arange(len(at))
    right = np.clip((known <= at[:, None]).sum(1), 1, known.shape[1] - 1)
    left, here = right - 1, np.clip(at, known[:, 0], known[:, -1])
    length = known[rows, right] - known[rows, left]
    part = np.where(length > 0, (here - known[rows, left]) / np.where(length > 0, length, 1.0), 1.0)
    found: Floats = values[rows, left] + part * (values[rows, right] - values[rows, left])
    return found


@lru_cache(maxsize=GRID + 1)
def _curve(part: int) -> tuple[Floats, Floats]:
    """Speed over limit, both relative to the default, of a GPU that draws `part` / GRID of its default limit."""
    at = np.linspace(0.1, 1.0, 46)
    time, _, _ = predict_levels(at, [len(at) - 1], [1.0], [part / GRID])
    return at, np.minimum(1.0, 1.0 / time)
