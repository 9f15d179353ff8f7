"""Energy: the operating points, budgets, schedules and active counts of a cluster's GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.energy.allocate import Allocation as Allocation
    from qstream.energy.allocate import allocate as allocate
    from qstream.energy.curves import allot as allot
    from qstream.energy.curves import value_curve as value_curve

__all__ = ["Allocation", "allocate", "allot", "value_curve"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Allocation": ".allocate",
        "allocate": ".allocate",
        "allot": ".curves",
        "value_curve": ".curves",
    },
)
