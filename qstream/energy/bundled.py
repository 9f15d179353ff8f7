"""The priors that come with the package: power limits from measured sweeps, clocks from modelled ones."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np

from qstream.energy.prior import CapPrior
from qstream.energy.sweeps import checked_knob


@lru_cache(maxsize=2)
def default_prior(knob: str) -> CapPrior:
    """Return the bundled prior of a knob.

    ``power_limit_w``: 164 measured sweeps of training jobs on P100, V100 and RTX 6000. ``sm_clock_mhz``: 200 modelled ones, as
    no measurements of clocks with a free licence were found. `ProblemError` for an unknown knob.
    """
    name = checked_knob(knob)
    with resources.files("qstream.energy.priors").joinpath(f"{name}.npz").open("rb") as file, np.load(file) as stored:
        curves = stored["curves"].astype(np.float64)
        return CapPrior(name, tuple(stored["gpu"].tolist()), stored["draw"].astype(np.float64), curves)
