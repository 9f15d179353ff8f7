"""SGLang's own code with our planner: its loader puts it in force, and its dispatch serves each choice by our maps."""

from __future__ import annotations

from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sglang.srt.eplb import eplb_algorithms, expert_location, expert_location_dispatch
from sglang.srt.eplb.expert_location import ExpertLocationMetadata
from sglang.srt.eplb.expert_location_dispatch import ExpertLocationDispatchInfo, topk_ids_logical_to_physical
from sglang.srt.plugins import load_plugins

from qstream.routing.score import balancedness, moved_experts, violations

LAYERS, EXPERTS, SLOTS, GPUS, NODES, GROUPS, TOP_K = 4, 32, 40, 8, 2, 4, 4


def main() -> None:
    """Several rebalances on loads that drift, with groups and without."""
    theirs = eplb_algorithms.rebalance_experts
    load_plugins()
    assert eplb_algorithms.rebalance_experts is not theirs, "the plug-in is not in force"
    rng, known = np.random.default_rng(0), {}
    expert_location.get_global_expert_location_metadata = lambda: known.get("metadata")
    expert_location_dispatch.get_global_expert_location_metadata = lambda: known["metadata"]
    for groups in (None, GROUPS):
        known.clear()
        load, before, their_before, moved = rng.lognormal(5, 1, (LAYERS, EXPERTS)), None, None, np.zeros(2)
        for _ in range(4):
            load *= rng.normal(1, 0.05, load.shape).clip(0.5)
            slots, logical, counts = rebalanced(eplb_algorithms.rebalance_experts, load, groups)
            their_plan = rebalanced(theirs, load, groups)[0].numpy().astype(np.int32)
            plan = slots.numpy().astype(np.int32)
            assert violations(plan, EXPERTS, GPUS) == 0
            assert (torch.count_nonzero(logical >= 0, dim=-1) == counts).all()
            if groups is not None:
                for row in plan.reshape(LAYERS, NODES, -1):
                    assert not set(row[0] // (EXPERTS // GROUPS)) & set(row[1] // (EXPERTS // GROUPS)), "a group on two nodes"
            if before is not None:
                moved += moved_experts(before, plan, GPUS), moved_experts(their_before, their_plan, GPUS)
            for algorithm in ("dynamic", "static"):
                known["metadata"] = dispatched(slots, logical, algorithm)
            before, their_before = plan, their_plan
        even = balancedness(before, load, GPUS), balancedness(their_before, load, GPUS)
        print(
            f"groups {groups}: ours and SGLang's: balancedness {even[0]:.3f} {even[1]:.3f}, moved {moved[0]:.1f} {moved[1]:.1f}"
        )
        assert moved[0] < moved[1], "further from the placement in force than SGLang's own planner"
    print(f"sglang {version('sglang')}: right")


def rebalanced(rebalance_experts: Any, load: np.ndarray, groups: int | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `ExpertLocationMetadata.init_by_eplb` calls it."""
    windows = torch.from_numpy(np.stack([load / 2, load / 2]).round().astype(np.int64))
    algorithm = eplb_algorithms.compute_algorithm("auto", groups, NODES)
    return rebalance_experts(
        tokens_per_expert=windows,
        num_physical_experts=SLOTS,
        num_local_physical_experts=SLOTS // GPUS,
        num_groups=groups,
        num_nodes=NODES,
        algorithm=algorithm,
    )


def dispatched(slots: torch.Tensor, logical: torch.Tensor, algorithm: str) -> ExpertLocationMetadata:
    """The metadata that SGLang builds of the maps on one rank; its dispatch serves every choice from a slot of that expert."""
    moe = SimpleNamespace(ep_dispatch_algorithm=algorithm, moe_a2a_backend="deepep", ep_join_mode=None)
    expert_location.get_exec = expert_location_dispatch.get_exec = lambda: SimpleNamespace(moe=moe)
    expert_location.get_parallel = lambda: SimpleNamespace(ep_size=GPUS, nnodes=NODES)
    expert_location._prefer_same_node_experts = lambda: True
    metadata = ExpertLocationMetadata._init_raw(GPUS, slots, logical, moe_ep_rank=3)
    expert_location_dispatch.get_global_expert_location_metadata = lambda: metadata
    chosen = torch.randint(0, EXPERTS, (64, TOP_K), generator=torch.Generator().manual_seed(0))
    for layer in range(LAYERS):
        served = topk_ids_logical_to_physical(chosen, ExpertLocationDispatchInfo.init_new(layer))
        assert (slots[layer][served] == chosen).all(), "a choice is served by another expert"
    return metadata


if __name__ == "__main__":
    main()
