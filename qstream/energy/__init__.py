"""Energy: the operating points, budgets, schedules and active counts of a cluster's GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.energy.active import plan_active as plan_active
    from qstream.energy.allocation import Allocation as Allocation
    from qstream.energy.allocation import allocate as allocate
    from qstream.energy.bundled import default_prior as default_prior
    from qstream.energy.caps import best_cap as best_cap
    from qstream.energy.caps import next_cap as next_cap
    from qstream.energy.caps import predict_levels as predict_levels
    from qstream.energy.curves import allot as allot
    from qstream.energy.curves import value_curve as value_curve
    from qstream.energy.forecasting import forecast_series as forecast_series
    from qstream.energy.graph_offline import schedule_graph as schedule_graph
    from qstream.energy.nodes import NodeSelection as NodeSelection
    from qstream.energy.nodes import select_nodes as select_nodes
    from qstream.energy.offline import plan_energy as plan_energy
    from qstream.energy.options import EnergyOptions as EnergyOptions
    from qstream.energy.prior import CapPrior as CapPrior
    from qstream.energy.prior import fit_prior as fit_prior
    from qstream.energy.scheduling import WindowPlan as WindowPlan
    from qstream.energy.scheduling import schedule as schedule
    from qstream.energy.sweeps import Sweep as Sweep
    from qstream.energy.window import TaskWindow as TaskWindow

__all__ = [
    "Allocation",
    "CapPrior",
    "EnergyOptions",
    "NodeSelection",
    "Sweep",
    "TaskWindow",
    "WindowPlan",
    "allocate",
    "allot",
    "best_cap",
    "default_prior",
    "fit_prior",
    "forecast_series",
    "next_cap",
    "plan_active",
    "plan_energy",
    "predict_levels",
    "schedule",
    "schedule_graph",
    "select_nodes",
    "value_curve",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Allocation": ".allocation",
        "CapPrior": ".prior",
        "EnergyOptions": ".options",
        "NodeSelection": ".nodes",
        "Sweep": ".sweeps",
        "TaskWindow": ".window",
        "WindowPlan": ".scheduling",
        "allocate": ".allocation",
        "allot": ".curves",
        "best_cap": ".caps",
        "default_prior": ".bundled",
        "fit_prior": ".prior",
        "forecast_series": ".forecasting",
        "next_cap": ".caps",
        "plan_active": ".active",
        "plan_energy": ".offline",
        "predict_levels": ".caps",
        "schedule": ".scheduling",
        "schedule_graph": ".graph_offline",
        "select_nodes": ".nodes",
        "value_curve": ".curves",
    },
)
