"""Placements side by side: what a recording would have cost under the fixed placement, EPLB's, and ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ConfigError
from qstream.routing.eplb import rebalance_experts
from qstream.routing.formats.recording import Recording
from qstream.routing.hashing import choose_replica
from qstream.routing.nearest import nearest_shares
from qstream.routing.options import Dispatch
from qstream.routing.placement import PlaceOptions, place
from qstream.routing.problem import contiguous, logical_maps
from qstream.routing.score import gpu_loads, holds, pairs_together
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan
from schemas.wording import must_be

Plan = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One placement and its scores on the recording.

    Attributes
    ----------
    name : str
    loads : float64 [L, G]
        Tokens on each GPU: in the last window, planned from those before it; of a single window, or windows in no order, in all.
    by_layer : float64 [L]
        Mean over maximum GPU load of each layer, mean over the windows; 1 where there are no tokens.
    balancedness : float
        Mean over maximum GPU load, layers summed first, mean over the windows: a GPU that waits now is not made good later.
        Replicas serve as the engine dispatches, as in all other scores; `even` and `nearest` are the same for either dispatch.
    even, nearest : float
        What is served where the replicas of an expert serve alike, and where each GPU asks the nearest one.
    worst_layer, max_over_mean : float
        The least of `by_layer`; the fullest GPU over the mean one, mean over layers and windows.
    moved : int
        Experts that GPUs must load, over all layers.
    nodes : float or None
        Nodes that a token touches in a layer; replicas are chosen by the hash of the token.
    together : float or None
        Part of the co-activations whose two experts are on one node, where only pairs are known.
    unseen : float or None
        Balancedness of `loads`, where there is a window that follows those that the plan has seen.
    """

    name: str
    loads: NDArray[np.float64]
    by_layer: NDArray[np.float64]
    balancedness: float
    even: float
    nearest: float
    worst_layer: float
    max_over_mean: float
    moved: int
    nodes: float | None
    together: float | None
    unseen: float | None

    def scores(self) -> dict[str, Any]:
        """The scores alone, for machines."""
        names = (
            "name",
            "balancedness",
            "even",
            "nearest",
            "worst_layer",
            "max_over_mean",
            "moved",
            "nodes",
            "together",
            "unseen",
        )
        return {name: getattr(self, name) for name in names}


def topology_of(given: Recording, model: str, gpus: int, slots: int | None, nodes: int) -> ExpertTopology:
    """The model of a recording on a cluster; without `slots` each GPU has as many as all experts need once.

    Raises
    ------
    ConfigError
        `slots` is not a multiple of `gpus`, too few for all experts, or so many that replicas would share a GPU; or there are
        more nodes than GPUs.
    """
    _, layers, experts = given.history.shape
    total = -(-experts // gpus) * gpus if slots is None else slots
    if total % gpus:
        raise ConfigError(must_be("--slots", f"a multiple of the {gpus} GPUs", total))
    if not experts <= total <= experts * gpus:
        raise ConfigError(must_be("--slots", f"{experts} to {experts * gpus} (each expert once, none twice on a GPU)", total))
    if nodes > gpus:
        raise ConfigError(must_be("--nodes", f"at most the {gpus} GPUs", nodes))
    return ExpertTopology.build(
        model=model, num_layers=layers, num_logical_experts=experts, num_gpus=gpus, num_nodes=nodes, slots_per_gpu=total // gpus
    )


def compare(
    given: Recording,
    topology: ExpertTopology,
    *,
    colocate: bool,
    previous: Plan | None,
    move_cost: float,
    options: PlaceOptions,
    seed: int,
    dispatch: Dispatch = "even",
) -> tuple[PlacementPlan, list[Row]]:
    """Our plan, and the rows of the placement in force (the contiguous one by default), EPLB's plan and ours."""

    def ours(history: NDArray[np.int64]) -> PlacementPlan:
        # Pairs are known of the whole recording alone; they say which experts go together, not how loads will drift.
        pairs = given.coactivation if colocate else None
        terms: dict[str, Any] = {"previous": previous, "move_cost": move_cost, "options": options, "seed": seed}
        return place(history, topology, coactivation=pairs, dispatch=dispatch, **terms)

    def eplb(history: NDArray[np.int64]) -> Plan:
        maps = rebalance_experts(history.sum(0), topology.num_slots, 1, topology.num_nodes, topology.num_gpus, "eplb")
        return maps[0].astype(np.int32)  # type: ignore[no-any-return]

    plan = ours(given.history)
    before = contiguous(topology) if previous is None else previous
    planners: Mapping[str, tuple[Plan, Callable[[NDArray[np.int64]], Plan]]] = {
        "contiguous" if previous is None else "in force": (before, lambda _: before),
        "EPLB": (eplb(given.history), eplb),
        "qstream": (_slots(plan), lambda history: _slots(ours(history))),
    }
    past, last = given.history[:-1], given.history[-1].astype(np.float64)
    following = given.ordered and past.any() and last.any()
    rows = []
    for name, (slots, planner) in planners.items():
        blind = None
        if following:
            unaware = planner(past)
            blind = gpu_loads(unaware, last, topology.num_gpus, _shares(unaware, topology, dispatch))
        rows.append(_row(name, slots, before, given, topology, blind, dispatch))
    return plan, rows


def _slots(plan: PlacementPlan) -> Plan:
    if plan.physical_to_logical_map is None:
        raise ConfigError(f"the planner kept the placement: {plan.skip_reason}")
    return plan.physical_to_logical_map


def _row(
    name: str,
    plan: Plan,
    before: Plan,
    given: Recording,
    topology: ExpertTopology,
    blind: NDArray[np.float64] | None,
    dispatch: Dispatch,
) -> Row:
    gpus, experts = topology.num_gpus, topology.num_logical_experts
    served = {way: _served(plan, given, topology, way) for way in get_args(Dispatch)}
    by_window = served[dispatch]
    mean, fullest = by_window.mean(2), by_window.max(2)
    ratio = np.divide(mean, fullest, out=np.ones_like(mean), where=fullest > 0)
    by_layer = ratio.mean(0)
    several = topology.num_nodes > 1
    pairs = several and given.tokens is None and given.coactivation is not None
    return Row(
        name=name,
        loads=by_window.sum(0) if blind is None else blind,
        by_layer=by_layer,
        balancedness=_mean_balancedness(by_window),
        even=_mean_balancedness(served["even"]),
        nearest=_mean_balancedness(served["nearest"]),
        worst_layer=float(by_layer.min()),
        max_over_mean=float((1.0 / ratio).mean()),
        moved=int((holds(plan, experts, gpus) & ~holds(before, experts, gpus)).sum()),
        nodes=nodes_touched(plan, given.tokens, topology) if several and given.tokens is not None else None,
        together=pairs_together(plan, given.coactivation, topology) if pairs and given.coactivation is not None else None,
        unseen=None if blind is None else _balancedness(blind),
    )


def _served(plan: Plan, given: Recording, topology: ExpertTopology, dispatch: Dispatch) -> NDArray[np.float64]:
    """Tokens on each GPU in each window, float64 [W, L, G]."""
    shares = _shares(plan, topology, dispatch)
    return np.stack([gpu_loads(plan, load, topology.num_gpus, shares) for load in given.history.astype(np.float64)])


def _shares(plan: Plan, topology: ExpertTopology, dispatch: Dispatch) -> NDArray[np.float64] | None:
    return None if dispatch == "even" else nearest_shares(plan, topology.num_logical_experts, topology.nodes())


def _mean_balancedness(by_window: NDArray[np.float64]) -> float:
    return float(np.mean([_balancedness(loads) for loads in by_window if loads.any()]))


def _balancedness(loads: NDArray[np.float64]) -> float:
    return float(loads.mean(1).sum() / loads.max(1).sum())


def nodes_touched(plan: Plan, tokens: NDArray[np.int32], topology: ExpertTopology) -> float:
    """Distinct nodes of a token's experts, mean over the tokens and the layers that serve them; `tokens` [T, L, K], -1 none."""
    slots_of, counts = logical_maps(plan, topology.num_logical_experts)
    node_of_slot = np.repeat(topology.nodes(), topology.slots_per_gpu)
    ids = np.arange(len(tokens), dtype=np.uint64)
    touched = served = 0
    for layer, (slots, count) in enumerate(zip(slots_of, counts, strict=True)):
        chosen = tokens[:, layer]
        slot = choose_replica(ids, np.maximum(chosen, 0), slots, count, layer)
        on = np.zeros((len(tokens), topology.num_nodes + 1), np.bool_)
        np.put_along_axis(on, np.where(chosen >= 0, node_of_slot[slot], topology.num_nodes), True, 1)
        touched += int(on[:, :-1].sum())
        served += int(on[:, :-1].any(1).sum())
    return touched / max(served, 1)
