"""Sweeps: what a job took and drew under each level of a knob, and the curves that all sweeps share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from qstream.arguments import array
from qstream.energy.fleet import Floats
from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

Knob = Literal["power_limit_w", "sm_clock_mhz"]
KNOBS: Final[tuple[Knob, ...]] = get_args(Knob)
# Where curves are kept: of a level over the default's watts, or over the default clock.
GRIDS: Final[dict[Knob, Floats]] = {
    "power_limit_w": np.concatenate((np.linspace(0.4, 1.0, 25), np.linspace(1.05, 2.0, 20))),
    "sm_clock_mhz": np.linspace(0.4, 1.0, 31),
}
MAX_LEVELS: Final = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """One job measured under levels of a knob.

    Parameters
    ----------
    gpu
        Model of the GPU.
    levels : float64 [K]
        Power limits in W or SM clocks in MHz, ascending; the last is the default.
    time_s, power_w : float64 [K]
        Seconds for a unit of work, such as an epoch, and mean watts meanwhile.
    knob
        ``power_limit_w`` or ``sm_clock_mhz``.

    Raises
    ------
    ProblemError
        Fewer than 2 levels, levels that do not ascend, or a number that is not above 0.
    """

    gpu: str
    levels: Floats
    time_s: Floats
    power_w: Floats
    knob: Knob = "power_limit_w"

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", ascending_levels(self.levels, least=2))
        for name in ("time_s", "power_w"):
            object.__setattr__(self, name, positive(name, getattr(self, name), len(self.levels)))
        checked_knob(self.knob)

    def place(self) -> Floats:
        """Where the levels stand on the axis of `GRIDS`: float64 [K]."""
        return axis(self.levels, float(self.power_w[-1]), self.knob)


def checked_knob(knob: str) -> Knob:
    """The knob; `ProblemError` for an unknown one."""
    if knob not in KNOBS:
        raise ProblemError(must_be("knob", f"one of {', '.join(KNOBS)}", knob))
    return knob


def ascending_levels(levels: ArrayLike, *, least: int = 1) -> Floats:
    """Levels [K] of a knob, `least` or more, checked."""
    found: Floats = array("levels", levels, np.float64, "K")
    if not least <= len(found) <= MAX_LEVELS:
        raise ProblemError(
            must_be("levels", f"of {least} to {MAX_LEVELS} levels, the default last", Shown(f"{len(found)} levels"))
        )
    if not (np.isfinite(found).all() and found[0] > 0 and (np.diff(found) > 0).all()):
        raise ProblemError(must_be("levels", "finite, above 0 and ascending", found.tolist()))
    return found


def positive(name: str, given: ArrayLike, length: int) -> Floats:
    """Measured numbers [length], finite and above 0."""
    found: Floats = array(name, given, np.float64, "K")
    if len(found) != length:
        raise ProblemError(must_be(name, f"of {length} numbers, one for each level", Shown(f"{len(found)} numbers")))
    if not (np.isfinite(found) & (found > 0)).all():
        raise ProblemError(must_be(name, "finite and above 0", found.tolist()))
    return found


def axis(levels: Floats, default_w: Floats | float, knob: Knob) -> Floats:
    """Levels [..., K] over the watts that the job draws by default, [..., 1], or clocks over the default clock."""
    found: Floats = levels / (default_w if knob == "power_limit_w" else levels[..., -1:])
    return found


def on_grid(sweep: Sweep) -> Floats:
    """Logarithms of time and of power over those at the default, on the knob's grid: float64 [2, grid].

    Linear between levels; below the lowest, linear in the logarithm of the level; above the default, 0.
    """
    at, grid = sweep.place(), GRIDS[sweep.knob]
    curves = np.log(np.stack((sweep.time_s / sweep.time_s[-1], sweep.power_w / sweep.power_w[-1])))
    found = np.stack([np.interp(grid, at, curve) for curve in curves])
    below = grid < at[0]
    slope = (curves[:, 1] - curves[:, 0]) / np.log(at[1] / at[0])
    found[:, below] = curves[:, :1] + slope[:, None] * np.log(grid[below] / at[0])
    return found


def same_knob(sweeps: Sequence[Sweep]) -> Knob:
    """The one knob of all sweeps; `ProblemError` if there are none, or several knobs."""
    knobs = sorted({sweep.knob for sweep in sweeps})
    if len(knobs) != 1:
        raise ProblemError(must_be("sweeps", "1 or more sweeps of one knob", Shown(f"{len(sweeps)} sweeps of {knobs}")))
    return knobs[0]
