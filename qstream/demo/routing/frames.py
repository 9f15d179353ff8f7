"""What the demo publishes: its model and the cluster that it pretends to run on, and what its routers chose."""

from __future__ import annotations

import time

import numpy as np

from qstream.demo.model import LayerRouting, Shape, TrainStep
from schemas.experts import ExpertTopology
from schemas.tokens import TokenBatch

MODEL = "demo-moe"
BYTES_A_NUMBER = 4  # float32


def model_topology(shape: Shape) -> ExpertTopology:
    """The model on 4 GPUs of 2 nodes, with 5 slots each: its hottest experts exceed a fair share and need replicas."""
    token_bytes = shape.width * BYTES_A_NUMBER
    return ExpertTopology(
        model=MODEL,
        num_layers=shape.layers,
        num_logical_experts=shape.experts,
        top_k=shape.top_k,
        num_nodes=2,
        num_gpus=4,
        slots_per_gpu=5,
        expert_bytes=2 * shape.hidden * token_bytes,
        bytes_dispatch=token_bytes,
        bytes_combine=token_bytes,
    )


def in_words(topology: ExpertTopology) -> str:
    """The model and its cluster."""
    experts = f"{topology.num_layers} layers of {topology.num_logical_experts} experts"
    return f"{experts} on {topology.num_gpus} GPUs of {topology.num_nodes} nodes"


def token_batch(step: TrainStep, routing: LayerRouting, gpus: int) -> TokenBatch:
    """What one layer's router chose in one step; the requests lie on the GPUs in turn."""
    return TokenBatch(
        batch_id=f"step-{step.step}/layer-{routing.layer}",
        ts_ns=time.time_ns(),
        model=MODEL,
        layer=routing.layer,
        label_names=step.label_names,
        token_id=step.token_id,
        request_id=step.request_id,
        position=step.position,
        label=step.label,
        src_rank=(step.request_id % np.uint64(gpus)).astype(np.int32),
        topk_ids=routing.topk_ids,
        topk_weights=routing.topk_weights,
    )
