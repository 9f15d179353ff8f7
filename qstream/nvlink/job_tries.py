"""Layouts of one job tried on a fabric: one that is clearly faster is taken, none that costs more than the placement before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.nvlink.contention import ContentionModel
from qstream.nvlink.ground import Ground, Traffic
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.placing import RankPlacement
from qstream.nvlink.tries import draw, tried

Ints = NDArray[np.int32]


class Fastest(NamedTuple):
    """The placement that is taken, the times of those simulated, and what it saves over the placement in force."""

    found: RankPlacement
    time_us: NDArray[np.float32]
    gain: float


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A job and where it may go: `room` of each block, those `fixed` by pins, what a layout of blocks costs, which GPUs it takes,
    what a moved rank costs a period, and the placement in force as blocks, `before`, and GPUs, `now`, if there is one."""

    ground: Ground
    traffic: Traffic
    room: NDArray[np.int64]
    fixed: Sequence[int]
    cost: Callable[[Ints], float]
    gpus: Callable[[Ints], Ints]
    move_us: float
    before: Ints
    now: Ints | None

    def fastest(
        self,
        found: RankPlacement,
        others: Sequence[tuple[Traffic, ArrayLike]],
        model: ContentionModel | None,
        options: NvlinkOptions,
        seed: int,
    ) -> Fastest:
        """Try layouts drawn from the placement found, next to what other jobs send; one must save `min_gain` of its time."""
        most = max(self.cost(self.before), self.cost(found.block_of_rank)) * (1 + 1e-9)
        drawn = draw(found.block_of_rank, self.room, self.fixed, options.layouts, seed)
        kept = [block for block in drawn if self.cost(block) <= most]
        gpus = [self.gpus(block) for block in kept]
        always = [0]
        if self.now is not None:
            always.append(len(kept))
            kept.append(self.before)
            gpus.append(self.now)
        layouts = [self.ground.layout([*others, (self.traffic, each)]) for each in gpus]
        done = tried(layouts, model, options.simulate_top, always=always, extra_us=[self._moves_us(each) for each in gpus])
        at = done.worth(always, options.min_gain)
        best = replace(found, block_of_rank=kept[at])
        finite = done.time_us[np.isfinite(done.time_us)]  # no spine may be left between two leaves
        return Fastest(best, finite.astype(np.float32), 0.0 if self.now is None else done.gain(at, always[-1]))

    def _moves_us(self, gpus: Ints) -> float:
        return 0.0 if self.now is None else self.move_us * int((gpus != self.now).sum())
