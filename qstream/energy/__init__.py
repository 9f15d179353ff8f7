"""Energy: the operating points, budgets, schedules and active counts of a cluster's GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.energy.allocate import Allocation as Allocation
    from qstream.energy.allocate import allocate as allocate
    from qstream.energy.bundled import default_prior as default_prior
    from qstream.energy.caps import best_cap as best_cap
    from qstream.energy.caps import next_cap as next_cap
    from qstream.energy.caps import predict_levels as predict_levels
    from qstream.energy.curves import allot as allot
    from qstream.energy.curves import value_curve as value_curve
    from qstream.energy.options import EnergyOptions as EnergyOptions
    from qstream.energy.plan import plan_energy as plan_energy
    from qstream.energy.prior import CapPrior as CapPrior
    from qstream.energy.prior import fit_prior as fit_prior
    from qstream.energy.sweeps import Sweep as Sweep

__all__ = [
    "Allocation",
    "CapPrior",
    "EnergyOptions",
    "Sweep",
    "allocate",
    "allot",
    "best_cap",
    "default_prior",
    "fit_prior",
    "next_cap",
    "plan_energy",
    "predict_levels",
    "value_curve",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Allocation": ".allocate",
        "CapPrior": ".prior",
        "EnergyOptions": ".options",
        "plan_energy": ".plan",
        "Sweep": ".sweeps",
        "allocate": ".allocate",
        "allot": ".curves",
        "best_cap": ".caps",
        "default_prior": ".bundled",
        "fit_prior": ".prior",
        "next_cap": ".caps",
        "predict_levels": ".caps",
        "value_curve": ".curves",
    },
)
