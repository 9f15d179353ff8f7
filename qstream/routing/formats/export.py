"""A placement plan as the files that engines load: SGLang, vLLM, TensorRT-LLM, Ascend, ExFlow, NumPy, and the plan itself."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import named
from qstream.errors import ProblemError
from schemas.frame import JSON
from schemas.placement import PlacementPlan
from schemas.wording import Shown, must_be

Exporter = Callable[[PlacementPlan, Sequence[int]], bytes]


def export(plan: PlacementPlan, name: str, layer_ids: Sequence[int] | None = None) -> bytes:
    """The bytes of a file of that format; `layer_ids` are the model's numbers of the layers, by default 0, 1, ...

    Raises
    ------
    ConfigError
        The format is unknown.
    ProblemError
        The plan has no map, or the format cannot say it.
    """
    exporter = named("export", EXPORTERS, name)
    layers = len(_map(plan))
    ids = range(layers) if layer_ids is None else layer_ids
    if len(ids) != layers:
        raise ProblemError(must_be("layer_ids", f"{layers} numbers, one for each layer of the plan", Shown(f"{len(ids)}")))
    return exporter(plan, ids)


def _sglang(plan: PlacementPlan, _: Sequence[int]) -> bytes:
    """For ``--init-expert-location FILE``: one row a layer of the model, dense ones too."""
    return _json({"physical_to_logical_map": _map(plan).tolist()})


def _vllm(plan: PlacementPlan, _: Sequence[int]) -> bytes:
    """For vLLM's initial map: the bare rows, one a MoE layer."""
    return _json(_map(plan).tolist())


def _tensorrt_llm(plan: PlacementPlan, layer_ids: Sequence[int]) -> bytes:
    """For ``moe_config.load_balancer``: a static placement, which no layer updates."""
    rows = [f"  {layer}: [{', '.join(map(str, row))}]\n" for layer, row in zip(layer_ids, _map(plan).tolist(), strict=True)]
    slots = plan.num_gpus * plan.slots_per_gpu
    return f"num_slots: {slots}\ninitial_global_assignments:\n{''.join(rows)}layer_updates_per_iter: 0\n".encode()


def _ascend(plan: PlacementPlan, _: Sequence[int]) -> bytes:
    """For ``expert_map_path`` of the older model runner; V2 does not read it. Readers take the MoE layers by position."""
    by_gpu = _map(plan).reshape(-1, plan.num_gpus, plan.slots_per_gpu).tolist()
    layers = [
        {
            "layer_id": number,
            "device_count": plan.num_gpus,
            "device_list": [{"device_id": gpu, "device_expert": experts} for gpu, experts in enumerate(layer)],
        }
        for number, layer in enumerate(by_gpu)
    ]
    return _json({"moe_layer_count": len(layers), "layer_list": layers})


def _exflow(plan: PlacementPlan, _: Sequence[int]) -> bytes:
    """Rows ``Expert,Node``: experts are numbered on through the layers, a node is a GPU; it knows no replicas."""
    slots = _map(plan)
    experts = int(slots.max()) + 1
    if slots.shape[1] != experts or not np.array_equal(np.sort(slots, axis=1), np.tile(np.arange(experts), (len(slots), 1))):
        found = Shown(f"{slots.shape[1]} slots for {experts} experts")
        raise ProblemError(must_be("the plan", "one that holds each expert once, for exflow", found))
    gpu = np.argsort(slots, axis=1, kind="stable") // plan.slots_per_gpu
    rows = [f"{number},{at}\n" for number, at in enumerate(gpu.ravel().tolist())]
    return f"Expert,Node\n{''.join(rows)}".encode()


def _numpy(plan: PlacementPlan, layer_ids: Sequence[int]) -> bytes:
    """An npz of the plan's maps: physical_to_logical_map, logical_replica_count, replica_shares, layer_ids."""
    names = ("physical_to_logical_map", "logical_to_physical_map", "logical_replica_count", "replica_shares")
    arrays = {name: getattr(plan, name) for name in names if getattr(plan, name) is not None}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays, layer_ids=np.array(layer_ids, np.int32))
    return buffer.getvalue()


def _plan(plan: PlacementPlan, _: Sequence[int]) -> bytes:
    """The frame itself as JSON, for ``qstream publish`` and for readers of plans."""
    return plan.encode(JSON)


EXPORTERS: Final[Mapping[str, Exporter]] = {
    "sglang": _sglang,
    "vllm": _vllm,
    "tensorrt-llm": _tensorrt_llm,
    "ascend": _ascend,
    "exflow": _exflow,
    "numpy": _numpy,
    "plan": _plan,
}
FILE_NAMES: Final[Mapping[str, str]] = {
    "sglang": "placement.json",
    "vllm": "physical_to_logical_map.json",
    "tensorrt-llm": "moe_load_balancer.yaml",
    "ascend": "expert_map.json",
    "exflow": "placement.csv",
    "numpy": "placement.npz",
    "plan": "plan.json",
}


def _map(plan: PlacementPlan) -> NDArray[np.int32]:
    if plan.physical_to_logical_map is None:
        found = Shown(f"none with the skip_reason {plan.skip_reason!r}")
        raise ProblemError(must_be("the plan", "one with a map", found))
    return plan.physical_to_logical_map


def _json(value: object) -> bytes:
    return (json.dumps(value, separators=(",", ":")) + "\n").encode()
