"""Fabrics: GPUs and the links between them, jobs and what their ranks send, what links carried, and the plans made of it.

Speeds are GB/s, 1e9 bytes/s, of one direction. Where a number names a GPU, it is the index of its node in the topology.
"""

from __future__ import annotations

from schemas.fabric.jobs import GROUP_KINDS as GROUP_KINDS
from schemas.fabric.jobs import MAX_RANKS as MAX_RANKS
from schemas.fabric.jobs import PARALLEL as PARALLEL
from schemas.fabric.jobs import JobProfile as JobProfile
from schemas.fabric.jobs import ParallelSizes as ParallelSizes
from schemas.fabric.plans import FabricPlan as FabricPlan
from schemas.fabric.plans import FabricScore as FabricScore
from schemas.fabric.plans import RouteScore as RouteScore
from schemas.fabric.plans import RouteShares as RouteShares
from schemas.fabric.telemetry import FabricReport as FabricReport
from schemas.fabric.telemetry import LinkTelemetry as LinkTelemetry
from schemas.fabric.topology import CPU as CPU
from schemas.fabric.topology import DOWN as DOWN
from schemas.fabric.topology import GPU as GPU
from schemas.fabric.topology import HEALTH as HEALTH
from schemas.fabric.topology import HOST as HOST
from schemas.fabric.topology import LEAF as LEAF
from schemas.fabric.topology import LINK_KINDS as LINK_KINDS
from schemas.fabric.topology import MAX_GB_S as MAX_GB_S
from schemas.fabric.topology import NIC as NIC
from schemas.fabric.topology import NODE_TYPES as NODE_TYPES
from schemas.fabric.topology import NVSWITCH as NVSWITCH
from schemas.fabric.topology import PCIE as PCIE
from schemas.fabric.topology import SPINE as SPINE
from schemas.fabric.topology import FabricTopology as FabricTopology
from schemas.fabric.topology import words as words
