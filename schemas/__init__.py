"""What travels: the frames on qstream's topics. Needs pydantic, numpy and safetensors only, so that a producer can embed it."""

from schemas.control import Control
from schemas.deadletter import DeadLetter
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.frame import JSON, SAFETENSORS, Frame, FrameError
from schemas.placement import PlacementAck, PlacementPlan
from schemas.routing import RoutingPlan
from schemas.shares import DispatchShares
from schemas.tokens import TokenBatch
from schemas.topics import TOPICS, Topic

__all__ = [
    "JSON",
    "SAFETENSORS",
    "TOPICS",
    "Control",
    "DeadLetter",
    "DispatchShares",
    "ExpertLoad",
    "ExpertTopology",
    "Frame",
    "FrameError",
    "PlacementAck",
    "PlacementPlan",
    "RoutingPlan",
    "TokenBatch",
    "Topic",
]
