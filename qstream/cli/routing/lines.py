"""The frames of the routing module as lines for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from qstream.cli.output import counted, joined, solver_text
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.frame import Frame
from schemas.placement import PlacementAck, PlacementPlan
from schemas.routing import RoutingPlan
from schemas.shares import DispatchShares
from schemas.tokens import TokenBatch


def line(frame: Frame) -> str | None:
    """What matters of the frame, None for one of another module."""
    text = LINES.get(type(frame))
    return None if text is None else text(frame)


def _routing(plan: RoutingPlan) -> str:
    rows = plan.slot_ids if plan.slot_ids is not None else plan.assignment
    copies = plan.metrics.cross_node_copies_per_token
    return joined(
        plan.model,
        _layer(plan.layer),
        f"batch {plan.batch_id}",
        f"{0 if rows is None else len(rows)} tokens",
        f"placement v{plan.placement_version}",
        f"balancedness {plan.metrics.balancedness:.3f}",
        None if copies is None else f"{copies:.2f} cross-node copies a token",
        solver_text(plan.solver),
    )


def _placement(plan: PlacementPlan) -> str:
    score = plan.expected
    before = None if score is None else f"balancedness {score.balancedness_before:.3f}"
    ahead = None
    if score is not None and score.next_window is not None and score.next_window_low is not None:
        ahead = f"next window about {score.next_window:.3f}, at least {score.next_window_low:.3f}"
    if plan.skip_reason is not None:
        return joined(plan.model, f"v{plan.base_version} stays", before, ahead, plan.skip_reason)
    return joined(
        plan.model,
        f"v{plan.base_version} -> v{plan.version}",
        None if score is None else f"{before} -> {score.balancedness:.3f}",
        ahead,
        None if score is None else f"worst layer {score.worst_layer_balancedness:.3f}",
        None if score is None else f"{score.moved_experts} experts move",
        solver_text(plan.solver),
        plan.reset_reason,
    )


def _tokens(batch: TokenBatch) -> str:
    gate = "no gate" if batch.topk_ids is None else f"top-{batch.topk_ids.shape[1]}"
    return joined(batch.model, _layer(batch.layer), f"batch {batch.batch_id}", f"{len(batch.token_id)} tokens", gate)


def _load(load: ExpertLoad) -> str:
    layers, experts = load.logical_count.shape
    tokens = f"{load.num_tokens} tokens in {(load.t1_ns - load.t0_ns) / 1e9:g} s"
    return joined(load.model, f"window {load.source}/{load.window_id}", tokens, f"{layers} x {experts} experts")


def _topology(topology: ExpertTopology) -> str:
    return joined(
        topology.model,
        f"{topology.num_layers} layers x {topology.num_logical_experts} experts, top-{topology.top_k}",
        f"{counted(topology.num_nodes, 'node')}, {topology.num_gpus} GPUs x {topology.slots_per_gpu} slots",
    )


def _shares(plan: DispatchShares) -> str:
    score = f"balancedness {plan.score.balancedness_even:.3f} -> {plan.score.balancedness:.3f}"
    return joined(
        plan.model, f"placement v{plan.placement_version}", f"{plan.gate_choices} gate choices", score, solver_text(plan.solver)
    )


def _ack(ack: PlacementAck) -> str:
    return joined(ack.model, f"{ack.source} has applied v{ack.applied_version}")


def _layer(layer: int | None) -> str | None:
    return None if layer is None else f"layer {layer}"


LINES: Final[Mapping[type[Frame], Callable[[Any], str]]] = {
    RoutingPlan: _routing,
    PlacementPlan: _placement,
    DispatchShares: _shares,
    PlacementAck: _ack,
    TokenBatch: _tokens,
    ExpertLoad: _load,
    ExpertTopology: _topology,
}
