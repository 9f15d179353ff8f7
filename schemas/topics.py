"""The one table of topics; documents, cluster resources and the README's table are generated from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from schemas.control import Control
from schemas.deadletter import DeadLetter
from schemas.energy import EnergyAck, EnergyPlan
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.fabric import FabricPlan, FabricReport, FabricTopology, JobProfile, LinkTelemetry, RouteShares
from schemas.frame import JSON, SAFETENSORS, ContentType, Frame
from schemas.hpo import StudyBest, StudySpec, TrialRecord, TrialReport, TrialSuggestion
from schemas.learning import Decisions, LearnCommand
from schemas.model import ModelPart
from schemas.placement import PlacementAck, PlacementPlan
from schemas.power import GpuTelemetry, PowerBudget, PowerDemand, PowerTopology, ServingLoad
from schemas.routing import RoutingPlan
from schemas.shares import DispatchShares
from schemas.tasks import EnergySchedule, TaskGraph
from schemas.tensors import CompressedBlock, RestoredBlock, TensorBlock, TensorCodebook, TensorManifest
from schemas.tokens import TokenBatch
from schemas.wording import must_be

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


@dataclass(frozen=True)
class Topic:
    """A topic: its name, the frame on it, and how the cluster keeps it.

    `key` is the frame's field that is the record key: the unit of order. `role` says who writes it: producers (input),
    agents (plan), operators (control), or agents about records that failed (dead-letter). `compression` is how clients
    compress its records on the wire, None as they are set (lz4 by default); "none" is for payloads that are compressed
    already. With `broker_time` the broker stamps each record when it is appended, where clocks of producers must not count;
    the embedded broker cannot, and keeps the producer's time. `ValueError` if the frame has no such key.
    """

    name: str
    frame: type[Frame]
    key: str
    role: Literal["input", "plan", "control", "dead-letter"]
    purpose: str
    partitions: int = 8
    retention_ms: int = DAY_MS
    compacted: bool = False
    compression: Compression | None = None
    broker_time: bool = False

    def __post_init__(self) -> None:
        if self.key not in self.frame.model_fields:
            fields = ", ".join(name for name in self.frame.model_fields if name not in self.frame.arrays)
            raise ValueError(must_be(f"key of topic {self.name}", f"a field of {self.frame.__name__} ({fields})", self.key))

    @property
    def max_bytes(self) -> int:
        """Largest record; a dead letter is a whole record with the headers of its error."""
        return self.frame.MAX_BYTES * (2 if self.role == "dead-letter" else 1)

    @property
    def content_type(self) -> ContentType:
        """How agents write events to it: frames without arrays go as JSON, which is shorter then, and any reader knows it."""
        return SAFETENSORS if self.frame.arrays else JSON

    def config(self) -> dict[str, str]:
        """The topic's configuration on the cluster, in Kafka's names."""
        config = {
            "cleanup.policy": "compact" if self.compacted else "delete",
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.max_bytes + 48_576),
        }
        # Else a broker that is set to compress would do so with records that are meant to travel as they are.
        config |= {"compression.type": "producer"} if self.compression == "none" else {}
        return config | ({"message.timestamp.type": "LogAppendTime"} if self.broker_time else {})


TOKENS_BATCH = Topic("qstream.tokens.batch.v1", TokenBatch, "model", "input", "tokens and the gate's choices")
EXPERTS_LOAD = Topic("qstream.experts.load.v1", ExpertLoad, "model", "input", "token counts of experts by window")
EXPERTS_TOPOLOGY = Topic(
    "qstream.experts.topology.v1",
    ExpertTopology,
    "model",
    "input",
    "layers, experts, GPUs and nodes of a model",
    compacted=True,
)
PLACEMENT_ACK = Topic("qstream.placement.ack.v1", PlacementAck, "model", "input", "placements that consumers have applied")
ROUTING_PLAN = Topic("qstream.routing.plan.v1", RoutingPlan, "model", "plan", "where each token of a batch goes")
PLACEMENT_PLAN = Topic("qstream.placement.plan.v1", PlacementPlan, "model", "plan", "where experts and replicas live")
DISPATCH_SHARES = Topic(
    "qstream.dispatch.shares.v1", DispatchShares, "model", "plan", "how tokens of an expert spread over its replicas"
)
GPU_TELEMETRY = Topic("qstream.gpu.telemetry.v1", GpuTelemetry, "domain", "input", "power, clocks and progress of GPUs")
POWER_TOPOLOGY = Topic(
    "qstream.power.topology.v1",
    PowerTopology,
    "domain",
    "input",
    "GPUs of a power domain, their limits and the budgets above them",
    compacted=True,
)
POWER_BUDGET = Topic("qstream.power.budget.v1", PowerBudget, "domain", "input", "watts that a domain may draw, and for how long")
TASK_GRAPH = Topic("qstream.tasks.graph.v1", TaskGraph, "domain", "input", "tasks that depend on one another")
SERVING_LOAD = Topic("qstream.serving.load.v1", ServingLoad, "domain", "input", "demand on served models by window")
ENERGY_ACK = Topic("qstream.energy.ack.v1", EnergyAck, "domain", "input", "what actuators made of energy plans")
ENERGY_PLAN = Topic("qstream.energy.plan.v1", EnergyPlan, "domain", "plan", "power limit and clock cap of each GPU")
TASK_SCHEDULE = Topic("qstream.tasks.schedule.v1", EnergySchedule, "domain", "plan", "when and where tasks run")
POWER_DEMAND = Topic("qstream.power.demand.v1", PowerDemand, "domain", "plan", "what watts are worth to a domain, for its parent")
TENSOR_BLOCK = Topic(
    "qstream.tensor.block.v1",
    TensorBlock,
    "tensor_id",
    "input",
    "values of tensors, to be coded",
    retention_ms=HOUR_MS,
    compression="none",
)
TENSOR_CODEBOOK = Topic(
    "qstream.tensor.codebook.v1",
    TensorCodebook,
    "tensor_id",
    "input",
    "bases and nets that were trained for tensors",
    compacted=True,
    compression="none",
)
TENSOR_COMPRESSED = Topic(
    "qstream.tensor.compressed.v1", CompressedBlock, "tensor_id", "plan", "coded blocks of tensors", compression="none"
)
TENSOR_RESTORED = Topic(
    "qstream.tensor.restored.v1",
    RestoredBlock,
    "tensor_id",
    "plan",
    "blocks of tensors as they came back",
    retention_ms=HOUR_MS,
    compression="none",
)
TENSOR_MANIFEST = Topic(
    "qstream.tensor.manifest.v1",
    TensorManifest,
    "series",
    "input",
    "which tensors make one step of a series, and where they are",
    compacted=True,
)
HPO_STUDY = Topic("qstream.hpo.study.v1", StudySpec, "study", "input", "studies: spaces, objectives and budgets", compacted=True)
HPO_TRIAL = Topic(
    "qstream.hpo.trial.v1",
    TrialReport,
    "study",
    "input",
    "asks, heartbeats and results of workers, in one order",
    retention_ms=7 * DAY_MS,
    broker_time=True,
)
HPO_SUGGESTION = Topic("qstream.hpo.suggestion.v1", TrialSuggestion, "study", "plan", "the one answer to each ask")
HPO_HISTORY = Topic("qstream.hpo.history.v1", TrialRecord, "study", "plan", "what became of each trial", retention_ms=30 * DAY_MS)
HPO_BEST = Topic("qstream.hpo.best.v1", StudyBest, "study", "plan", "recommended configurations of studies", compacted=True)
FABRIC_TOPOLOGY = Topic(
    "qstream.fabric.topology.v1", FabricTopology, "fabric", "input", "GPUs, switches and links of a fabric", compacted=True
)
FABRIC_JOB = Topic("qstream.fabric.job.v1", JobProfile, "fabric", "input", "jobs: their ranks and what these send")
FABRIC_TELEMETRY = Topic(
    "qstream.fabric.telemetry.v1", LinkTelemetry, "fabric", "input", "what links carried and leaves offered, by window"
)
FABRIC_REPORT = Topic("qstream.fabric.report.v1", FabricReport, "fabric", "input", "steps of jobs: bytes, time, applied plan")
FABRIC_PLAN = Topic("qstream.fabric.plan.v1", FabricPlan, "fabric", "plan", "which GPU holds which rank, and how bytes go")
FABRIC_ROUTES = Topic(
    "qstream.fabric.routes.v1", RouteShares, "fabric", "plan", "shares of leaf-to-leaf traffic over spines, by window"
)
LEARN_DECISION = Topic(
    "qstream.learn.decision.v1",
    Decisions,
    "key",
    "plan",
    "what learners chose and what it earned",
    retention_ms=14 * DAY_MS,
)
LEARN_COMMAND = Topic(
    "qstream.learn.command.v1", LearnCommand, "key", "input", "reset, restore, freeze and thaw of a key's learners"
)
CONTROL = Topic(
    "qstream.control.v1", Control, "agent", "control", "toggles, pause and resume of agents", partitions=1, compacted=True
)

MODELS = Topic(
    "qstream.learn.model.v1",
    ModelPart,
    "part_key",
    "control",
    "trained models, in parts, which every worker of a learning agent reads whole",
    partitions=1,
    compacted=True,
)


@cache
def dead_letter_topic(agent: str) -> Topic:
    """The dead-letter topic of an agent."""
    return Topic(
        dead_letter_name(agent),
        DeadLetter,
        "topic",
        "dead-letter",
        f"records that the {agent} agent could not process",
        partitions=1,
        retention_ms=14 * DAY_MS,
    )


def dead_letter_name(agent: str) -> str:
    """The name of an agent's dead-letter topic."""
    return f"qstream.{agent}.dlq.v1"


ROUTING_DLQ = dead_letter_topic("routing")
ENERGY_DLQ = dead_letter_topic("energy")
COMPRESSION_DLQ = dead_letter_topic("compression")
DECOMPRESSION_DLQ = dead_letter_topic("decompression")
HPO_DLQ = dead_letter_topic("hpo")
NVLINK_DLQ = dead_letter_topic("nvlink")

TOPICS: tuple[Topic, ...] = (
    TOKENS_BATCH,
    EXPERTS_LOAD,
    EXPERTS_TOPOLOGY,
    PLACEMENT_ACK,
    ROUTING_PLAN,
    PLACEMENT_PLAN,
    DISPATCH_SHARES,
    GPU_TELEMETRY,
    POWER_TOPOLOGY,
    POWER_BUDGET,
    TASK_GRAPH,
    SERVING_LOAD,
    ENERGY_ACK,
    ENERGY_PLAN,
    TASK_SCHEDULE,
    POWER_DEMAND,
    TENSOR_BLOCK,
    TENSOR_CODEBOOK,
    TENSOR_COMPRESSED,
    TENSOR_RESTORED,
    TENSOR_MANIFEST,
    HPO_STUDY,
    HPO_TRIAL,
    HPO_SUGGESTION,
    HPO_HISTORY,
    HPO_BEST,
    FABRIC_TOPOLOGY,
    FABRIC_JOB,
    FABRIC_TELEMETRY,
    FABRIC_REPORT,
    FABRIC_PLAN,
    FABRIC_ROUTES,
    LEARN_DECISION,
    LEARN_COMMAND,
    CONTROL,
    MODELS,
    ROUTING_DLQ,
    ENERGY_DLQ,
    COMPRESSION_DLQ,
    DECOMPRESSION_DLQ,
    HPO_DLQ,
    NVLINK_DLQ,
)
BY_NAME = {topic.name: topic for topic in TOPICS}
