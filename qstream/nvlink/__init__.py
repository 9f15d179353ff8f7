"""Fabrics: which GPU holds which rank, which link carries which bytes, and when; all of it modelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.nvlink.blocks import blocks_of as blocks_of
    from qstream.nvlink.colouring import Colouring as Colouring
    from qstream.nvlink.colouring import colour_graph as colour_graph
    from qstream.nvlink.contention import ContentionModel as ContentionModel
    from qstream.nvlink.contention import rank_layouts as rank_layouts
    from qstream.nvlink.fluid import drain as drain
    from qstream.nvlink.formats.export import EXPORTERS as EXPORTERS
    from qstream.nvlink.formats.jobs import read_job as read_job
    from qstream.nvlink.formats.read import read_topology as read_topology
    from qstream.nvlink.graph import from_networkx as from_networkx
    from qstream.nvlink.graph import to_networkx as to_networkx
    from qstream.nvlink.job_plan import place_job as place_job
    from qstream.nvlink.layouts import layout_features as layout_features
    from qstream.nvlink.options import NvlinkOptions as NvlinkOptions
    from qstream.nvlink.placing import RankPlacement as RankPlacement
    from qstream.nvlink.placing import place_ranks as place_ranks
    from qstream.nvlink.profile import job_profile as job_profile
    from qstream.nvlink.profile import job_traffic as job_traffic
    from qstream.nvlink.rails import Rails as Rails
    from qstream.nvlink.rails import balance_rails as balance_rails
    from qstream.nvlink.routes import Routes as Routes
    from qstream.nvlink.routes import route_demand as route_demand
    from qstream.nvlink.schedule import Schedule as Schedule
    from qstream.nvlink.schedule import schedule_transfers as schedule_transfers
    from qstream.nvlink.similarity import kernel_matrix as kernel_matrix
    from qstream.nvlink.simulate import simulate_job as simulate_job
    from qstream.nvlink.splits import plan_splits as plan_splits
    from qstream.nvlink.survey import survey as survey
    from qstream.nvlink.systems import generate as generate

__all__ = [
    "EXPORTERS",
    "Colouring",
    "ContentionModel",
    "NvlinkOptions",
    "Rails",
    "RankPlacement",
    "Routes",
    "Schedule",
    "balance_rails",
    "blocks_of",
    "colour_graph",
    "drain",
    "from_networkx",
    "generate",
    "job_profile",
    "job_traffic",
    "kernel_matrix",
    "layout_features",
    "place_job",
    "place_ranks",
    "plan_splits",
    "rank_layouts",
    "read_job",
    "read_topology",
    "route_demand",
    "schedule_transfers",
    "simulate_job",
    "survey",
    "to_networkx",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Colouring": ".colouring",
        "ContentionModel": ".contention",
        "EXPORTERS": ".formats.export",
        "NvlinkOptions": ".options",
        "Rails": ".rails",
        "RankPlacement": ".placing",
        "Routes": ".routes",
        "Schedule": ".schedule",
        "balance_rails": ".rails",
        "blocks_of": ".blocks",
        "colour_graph": ".colouring",
        "drain": ".fluid",
        "from_networkx": ".graph",
        "generate": ".systems",
        "job_profile": ".profile",
        "job_traffic": ".profile",
        "kernel_matrix": ".similarity",
        "layout_features": ".layouts",
        "place_job": ".job_plan",
        "place_ranks": ".placing",
        "plan_splits": ".splits",
        "rank_layouts": ".contention",
        "read_job": ".formats.jobs",
        "read_topology": ".formats.read",
        "route_demand": ".routes",
        "schedule_transfers": ".schedule",
        "simulate_job": ".simulate",
        "survey": ".survey",
        "to_networkx": ".graph",
    },
)
