"""Train contention: a support vector machine on outcomes of layouts, from logs or from recorded topics; scikit-learn trains.

Its twin is the part of layouts that were slow among the older ones, which is what the agent has without a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import LearnError
from qstream.learn.model import Model
from qstream.learn.report import HELD_OUT, Report, report
from qstream.nvlink.blocks import blocks_of
from qstream.nvlink.contention import ContentionModel
from qstream.nvlink.ground import Ground, Traffic, ground_of, traffic_of
from qstream.nvlink.outcomes import Outcomes, with_outcome
from schemas.fabric import FabricPlan, FabricReport, FabricTopology, JobProfile
from schemas.frame import Frame
from schemas.wording import Shown, must_be

Floats = NDArray[np.float64]
LEAST: Final = 80  # outcomes
_BLOCK: Final = 8


def train_contention(frames: Iterable[Frame], *, seed: int, deadline_s: float) -> tuple[Model, Report]:
    """Train on `Outcomes`, or on recorded topologies, jobs, plans and reports; a loss is a squared error of the probability.

    A layout counts as contended if it took longer for its bound than the median of all. The time of training is that of
    some thousand rows, so `deadline_s` is never near.

    Raises
    ------
    LearnError
        There are fewer than 80 outcomes, or too few of either kind.
    """
    known = outcomes_of(frames)
    if known is None or len(known.slowdown) < LEAST:
        got = Shown("none" if known is None else str(len(known.slowdown)))
        raise LearnError(must_be("outcomes of layouts", f"{LEAST} or more, from reports or a log", got))
    x, slowdown = known.feature.astype(np.float64), known.slowdown.astype(np.float64)
    slow = slowdown > np.median(slowdown)
    until = int(len(x) * (1 - HELD_OUT))
    older = ContentionModel.fit(x[:until], slow[:until], seed=seed)
    own = (older.probability(x[until:]) - slow[until:]) ** 2
    twin = (slow[:until].mean() - slow[until:]) ** 2
    compared = report("squared error of the probability of contention", "how often layouts were slow", own, twin, block=_BLOCK)
    whole = ContentionModel.fit(x, slow, seed=seed).model
    return replace(whole, metrics=compared.metrics), compared


def outcomes_of(frames: Iterable[Frame]) -> Outcomes | None:
    """All outcomes of frames, those of logs first, then those of reports in the order of their time."""
    given = list(frames)
    logs = [frame for frame in given if isinstance(frame, Outcomes)]
    replay = _Replay()
    for frame in sorted((frame for frame in given if not isinstance(frame, Outcomes)), key=_time_ns):
        replay.take(frame)
    every = [*logs, *(found for found in replay.found.values() if found is not None)]
    if not every:
        return None
    feature, slowdown = (np.concatenate([getattr(each, name) for each in every]) for name in ("feature", "slowdown"))
    return Outcomes(seen=len(slowdown), feature=feature, slowdown=slowdown)


class _Replay:
    """What reports say of the layouts that were in force, fabric by fabric."""

    def __init__(self) -> None:
        self.found: dict[str, Outcomes | None] = {}
        self._ground: dict[str, Ground | None] = {}
        self._traffic: dict[str, dict[str, Traffic]] = {}
        self._plans: dict[tuple[str, str, int], NDArray[np.int32]] = {}
        self._placed: dict[str, dict[str, NDArray[np.int32]]] = {}

    def take(self, frame: Frame) -> None:
        if isinstance(frame, FabricTopology):
            self._ground[frame.fabric] = ground_of(frame, blocks_of(frame))
            self._traffic.setdefault(frame.fabric, {})
            self._placed[frame.fabric] = {}
        elif isinstance(frame, JobProfile):
            jobs = self._traffic.setdefault(frame.fabric, {})
            jobs[frame.job] = traffic_of(frame)
            if frame.ended:
                del jobs[frame.job]
                self._placed.get(frame.fabric, {}).pop(frame.job, None)
        elif isinstance(frame, FabricPlan) and frame.gpu_of_rank is not None:
            self._plans[frame.fabric, frame.job, frame.version] = frame.gpu_of_rank
        elif isinstance(frame, FabricReport):
            self._report(frame)

    def _report(self, told: FabricReport) -> None:
        ground, traffic = self._ground.get(told.fabric), self._traffic.get(told.fabric, {})
        gpus = self._plans.get((told.fabric, told.job, told.applied_version or 0))
        if ground is None or gpus is None or told.job not in traffic:
            return
        placed = self._placed[told.fabric]
        placed[told.job] = gpus
        layout = ground.layout((traffic[name], at) for name, at in sorted(placed.items()) if name in traffic)
        self.found[told.fabric] = with_outcome(self.found.get(told.fabric), layout, told.comm_us)


def _time_ns(frame: Frame) -> int:
    found: int | None = getattr(frame, "t1_ns", None)
    return int(getattr(frame, "ts_ns", 0)) if found is None else found
