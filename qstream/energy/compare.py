"""Compare: default limits, uniform ones and a plan's side by side, on one recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.energy.measure import next_levels, units_of
from qstream.energy.offline import Offline
from qstream.energy.options import EnergyOptions
from schemas.energy import PARKED, RELEASED

CHANGED_W: Final = 0.5  # a limit that is closer to the default is the default
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One way to set the limits of a domain, and what it is worth.

    Attributes
    ----------
    name : str
        ``default``; ``uniform``, where each GPU has the same part of its default in each budget; or ``planned``.
    limit_w : float64 [gpus]
        What each GPU may draw at most; of those that the plan does not limit, what they are charged.
    at_most_w, over_w : float
        Watts that the domain cannot pass, overheads included; by how much some budget may be passed.
    expected_w : float
        Watts to expect, of mean draws.
    saved_w : float
        Watts saved at equal work; below 0 where a slowdown costs more than the limits save.
    speed : float
        Mean speed of the GPUs that may be limited, 1 at the default; parked ones have none.
    slowdown : float
        Of the slowest of them: .05 takes 5 % longer.
    capped, parked : int
        GPUs whose limit or clock is below the default; GPUs without watts to run.
    """

    name: str
    limit_w: Floats
    at_most_w: float
    over_w: float
    expected_w: float
    saved_w: float
    speed: float
    slowdown: float
    capped: int
    parked: int

    def scores(self) -> dict[str, Any]:
        """The numbers of the domain, for machines."""
        names = ("at_most_w", "over_w", "expected_w", "saved_w", "speed", "slowdown", "capped", "parked")
        return {"limits": self.name} | {name: getattr(self, name) for name in names}


def compare(offline: Offline) -> list[Row]:
    """The rows default, uniform and planned; GPUs that may not be limited are charged and drawn alike in all three."""
    choice = offline.choice
    view, may = choice.view, choice.named & (choice.state != RELEASED)
    parked = choice.state == PARKED
    default = np.where(may, view.limits[:, -1], choice.upper_w)
    uniform = np.where(may, choice.simple_w, choice.upper_w)
    slow = np.maximum(1 / np.maximum(view.speed_at(view.even_w), 1e-6) - 1, 0.0)  # ranks of a job wait for the slowest
    still = np.zeros(len(default), bool)
    clocked = may & (choice.clock_mhz > 0)
    return [
        _row("default", offline, may, default, choice.free_w, np.zeros(len(default)), still, still),
        _row("uniform", offline, may, uniform, np.minimum(choice.free_w, uniform), slow, still, still),
        _row("planned", offline, may, choice.upper_w, choice.predicted_w, choice.slowdown, parked, clocked),
    ]


def _row(
    name: str,
    offline: Offline,
    may: NDArray[np.bool_],
    limit: Floats,
    draw: Floats,
    slow: Floats,
    parked: NDArray[np.bool_],
    clocked: NDArray[np.bool_],
) -> Row:
    view = offline.choice.view
    tree, default = view.tree, view.limits[:, -1]
    runs, slowed = may & ~parked, np.maximum(slow, 0.0)
    drawn = np.where(parked, limit, np.minimum(draw, limit))
    other = np.where(offline.memory.now.power_w >= 0, offline.memory.now.power_w, limit)
    charged = tree.charged_w(limit)
    return Row(
        name=name,
        limit_w=limit,
        at_most_w=float(charged[0]),
        over_w=float(np.maximum(charged - tree.budget_w, 0.0).max()),
        expected_w=float(tree.charged_w(np.where(may, drawn, other))[0]),
        saved_w=float((offline.choice.free_w - drawn * (1 + slowed))[runs].sum()),
        speed=float((1 / (1 + slowed))[runs].sum() / may.sum()) if may.any() else 1.0,
        slowdown=float(slowed[runs].max(initial=0.0)),
        capped=int((runs & ((limit < default - CHANGED_W) | clocked)).sum()),
        parked=int(parked.sum()),
    )


def probes_wanted(offline: Offline, options: EnergyOptions) -> dict[str, float]:
    """The cap, MHz or W, that each GPU should be measured under next, by uuid; of a job all its GPUs.

    Only where the recording has the GPU's progress, measured at its default, and the prior of past sweeps expects to save.
    """
    now, knobs = offline.memory.now, offline.choice.view.knobs
    ready = knobs.targetable & (now.accepted < 0) & (now.time_s[:, -1] > 0) & (now.hot == 0)
    units = units_of(now.job, ready)
    times, draws = (array[units.lead].astype(np.float64) for array in (now.time_s, now.draw_w))
    level = next_levels(now, knobs, options, units.lead, times, draws)
    asked = level >= 0
    rows, caps = units.rows(asked), units.each(asked, knobs.levels[units.lead, level])
    return {now.topology.uuid[row]: cap for row, cap in zip(rows.tolist(), caps.tolist(), strict=True)}
