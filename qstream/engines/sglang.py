"""SGLang: our planner in place of `eplb_algorithms.rebalance_experts`, in every process, near the placement in force."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.engines.plugin import EPLB
from qstream.errors import ConfigError
from qstream.routing.eplb import rebalance_experts
from qstream.routing.problem import logical_maps
from qstream.routing.rebalance import next_map
from schemas.wording import must_be

PLANNER: Final = "planner"
_EPLB: Final = "sglang.srt.eplb"


def register(plans: str) -> None:
    """Register the replacement with SGLang, and what compiles our kernels before it serves; `plans` is ``planner``.

    Raises
    ------
    ConfigError
        `plans` is something else.
    """
    if plans != PLANNER:
        raise ConfigError(must_be(EPLB, f"{PLANNER} for SGLang", plans))
    hooks = importlib.import_module("sglang.srt.plugins.hook_registry")
    algorithms = importlib.import_module(f"{_EPLB}.eplb_algorithms")
    replacement = _replacement(algorithms.rebalance_experts)
    hooks.HookRegistry.register(f"{_EPLB}.eplb_algorithms.rebalance_experts", replacement, hooks.HookType.REPLACE)
    hooks.HookRegistry.register(f"{_EPLB}.eplb_manager.EPLBManager.__init__", _warmed, hooks.HookType.AFTER)


def _warmed(*_: Any, **__: Any) -> None:
    """Compile the planner while the engine starts, and not in its first rebalance."""
    load, slots = np.ones((1, 4)), np.arange(4)[None]
    planned(load, None, 4, 1, 1, 2)
    planned(load, slots, 4, 1, 1, 2)


def _replacement(theirs: Callable[..., Any]) -> Callable[..., Any]:
    def ours(
        tokens_per_expert: Any,
        num_physical_experts: int,
        num_local_physical_experts: int,
        num_groups: int | None,
        num_nodes: int,
        algorithm: Any,
    ) -> Any:
        """The slots' experts int64 [L, P], the experts' slots int64 [L, E, X] and their numbers int64 [L, E], on the CPU.

        The same on every rank for the same counts and placement. Where ranks may be down, SGLang's own function answers,
        which knows them.
        """
        if algorithm.name.startswith("elasticity_aware"):
            return theirs(
                tokens_per_expert=tokens_per_expert,
                num_physical_experts=num_physical_experts,
                num_local_physical_experts=num_local_physical_experts,
                num_groups=num_groups,
                num_nodes=num_nodes,
                algorithm=algorithm,
            )
        groups = num_groups or 1 if algorithm.name.endswith("_hierarchical") else 1
        gpus = num_physical_experts // num_local_physical_experts
        load = tokens_per_expert.sum(dim=0).double().cpu().numpy()
        slots = planned(load, _in_force(), num_physical_experts, groups, num_nodes, gpus)
        torch = importlib.import_module("torch")
        logical, counts = logical_maps(slots.astype(np.int32), load.shape[1])
        return tuple(torch.from_numpy(map_.astype(np.int64)) for map_ in (slots, logical, counts))

    return ours


def planned(
    load: NDArray[np.float64], old: NDArray[np.int64] | None, slots: int, groups: int, nodes: int, gpus: int
) -> NDArray[np.int64]:
    """The next map int64 [L, slots] for load [L, E], near the map in force [L, P] if there is one that can be kept."""
    near = None if old is None else next_map(load, old, slots, groups, nodes, gpus)
    return np.asarray(rebalance_experts(load, slots, groups, nodes, gpus)[0], np.int64) if near is None else near


def _in_force() -> NDArray[np.int64] | None:
    """The placement that this engine has now; None while it starts."""
    known = importlib.import_module(f"{_EPLB}.expert_location").get_global_expert_location_metadata()
    return None if known is None else known.physical_to_logical_map_cpu.numpy().astype(np.int64)
