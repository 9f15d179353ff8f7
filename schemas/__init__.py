"""What travels: the frames on qstream's topics. Needs pydantic, numpy and safetensors only, so that a producer can embed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from schemas.control import Control as Control
    from schemas.deadletter import DeadLetter as DeadLetter
    from schemas.energy import EnergyAck as EnergyAck
    from schemas.energy import EnergyPlan as EnergyPlan
    from schemas.experts import ExpertLoad as ExpertLoad
    from schemas.experts import ExpertTopology as ExpertTopology
    from schemas.fabric import FabricPlan as FabricPlan
    from schemas.fabric import FabricReport as FabricReport
    from schemas.fabric import FabricTopology as FabricTopology
    from schemas.fabric import JobProfile as JobProfile
    from schemas.fabric import LinkTelemetry as LinkTelemetry
    from schemas.fabric import RouteShares as RouteShares
    from schemas.frame import JSON as JSON
    from schemas.frame import SAFETENSORS as SAFETENSORS
    from schemas.frame import Frame as Frame
    from schemas.frame import FrameError as FrameError
    from schemas.placement import PlacementAck as PlacementAck
    from schemas.placement import PlacementPlan as PlacementPlan
    from schemas.plan import Plan as Plan
    from schemas.plan import VersionedPlan as VersionedPlan
    from schemas.power import GpuTelemetry as GpuTelemetry
    from schemas.power import PowerBudget as PowerBudget
    from schemas.power import PowerDemand as PowerDemand
    from schemas.power import PowerTopology as PowerTopology
    from schemas.power import ServingLoad as ServingLoad
    from schemas.routing import RoutingPlan as RoutingPlan
    from schemas.shares import DispatchShares as DispatchShares
    from schemas.solver import SolverRecord as SolverRecord
    from schemas.tasks import EnergySchedule as EnergySchedule
    from schemas.tasks import TaskGraph as TaskGraph
    from schemas.tensors import CompressedBlock as CompressedBlock
    from schemas.tensors import RestoredBlock as RestoredBlock
    from schemas.tensors import TensorBlock as TensorBlock
    from schemas.tensors import TensorCodebook as TensorCodebook
    from schemas.tensors import TensorManifest as TensorManifest
    from schemas.tokens import TokenBatch as TokenBatch
    from schemas.topics import TOPICS as TOPICS
    from schemas.topics import Topic as Topic

__all__ = [
    "JSON",
    "SAFETENSORS",
    "TOPICS",
    "CompressedBlock",
    "Control",
    "DeadLetter",
    "DispatchShares",
    "EnergyAck",
    "EnergyPlan",
    "EnergySchedule",
    "ExpertLoad",
    "ExpertTopology",
    "FabricPlan",
    "FabricReport",
    "FabricTopology",
    "Frame",
    "FrameError",
    "GpuTelemetry",
    "JobProfile",
    "LinkTelemetry",
    "PlacementAck",
    "PlacementPlan",
    "Plan",
    "PowerBudget",
    "PowerDemand",
    "PowerTopology",
    "RestoredBlock",
    "RouteShares",
    "RoutingPlan",
    "ServingLoad",
    "SolverRecord",
    "TaskGraph",
    "TensorBlock",
    "TensorCodebook",
    "TensorManifest",
    "TokenBatch",
    "Topic",
    "VersionedPlan",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "EnergyAck": ".energy",
        "EnergyPlan": ".energy",
        "GpuTelemetry": ".power",
        "PowerBudget": ".power",
        "PowerDemand": ".power",
        "PowerTopology": ".power",
        "ServingLoad": ".power",
        "EnergySchedule": ".tasks",
        "TaskGraph": ".tasks",
        "FabricPlan": ".fabric",
        "FabricReport": ".fabric",
        "FabricTopology": ".fabric",
        "JobProfile": ".fabric",
        "LinkTelemetry": ".fabric",
        "RouteShares": ".fabric",
        "VersionedPlan": ".plan",
        "SolverRecord": ".solver",
        "Plan": ".plan",
        "JSON": ".frame",
        "SAFETENSORS": ".frame",
        "TOPICS": ".topics",
        "Control": ".control",
        "DeadLetter": ".deadletter",
        "DispatchShares": ".shares",
        "ExpertLoad": ".experts",
        "ExpertTopology": ".experts",
        "Frame": ".frame",
        "FrameError": ".frame",
        "PlacementAck": ".placement",
        "PlacementPlan": ".placement",
        "RoutingPlan": ".routing",
        "CompressedBlock": ".tensors",
        "RestoredBlock": ".tensors",
        "TensorBlock": ".tensors",
        "TensorCodebook": ".tensors",
        "TensorManifest": ".tensors",
        "TokenBatch": ".tokens",
        "Topic": ".topics",
    },
)
