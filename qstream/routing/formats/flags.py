"""Flags: what an engine must be started with, so that it serves an exported plan as it was planned."""

from __future__ import annotations

import json
from pathlib import Path

from qstream.routing.options import Dispatch
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan

_MAPPED = "SGLang 0.5.23 serves a given map from the nearest replica whenever --moe-a2a-backend is set, with 'dynamic' too"


def engine_flags(plan: PlacementPlan, name: str, topology: ExpertTopology, dispatch: Dispatch, file: Path) -> tuple[str, ...]:
    """Lines with the flags and settings that the export `name` of this plan in `file` needs; none for formats of no engine.

    Looked up in SGLang 0.5.23, vLLM 0.33, and the documentation of vLLM-Ascend and TensorRT-LLM 1.4.
    """
    slots = plan.num_gpus * plan.slots_per_gpu
    spare = slots - topology.num_logical_experts
    if name == "sglang":
        algorithm = "static" if dispatch == "nearest" else "dynamic"
        nodes = f" --nnodes {topology.num_nodes}" if topology.num_nodes > 1 else ""
        flags = (
            f"--init-expert-location {file} --ep-size {plan.num_gpus}{nodes} --ep-num-redundant-experts {spare}"
            f" --ep-dispatch-algorithm {algorithm}"
        )
        if dispatch == "nearest":
            return (f"{flags}, with a --moe-a2a-backend (without one SGLang serves evenly, and refuses 'static')",)
        if topology.num_nodes > 1 and spare:
            return (flags, f"no --moe-a2a-backend, or a plan made with --dispatch nearest: {_MAPPED}")
        return (flags,)
    if name == "vllm":
        config = json.dumps({"num_redundant_experts": spare})
        needs = f"--enable-expert-parallel --enable-eplb --eplb-config '{config}', {plan.num_gpus} GPUs of expert parallelism"
        evenly = "vLLM spreads tokens evenly over replicas: plan with --dispatch even"
        return (needs, evenly) if dispatch == "nearest" else (needs,)
    if name == "tensorrt-llm":
        return (f"moe_config: {{load_balancer: {file}}} and moe_expert_parallel_size: {plan.num_gpus} in the file of --config",)
    if name == "ascend":
        config = json.dumps({"eplb_config": {"expert_map_path": str(file), "num_redundant_experts": spare}})
        return (f"--enable-expert-parallel --additional-config '{config}'",)
    return ()
