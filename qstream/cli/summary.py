"""Summary: one frame as one line for people, or as one object for machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from confluent_kafka import Message

from qstream.cli.output import printable, utc
from schemas.control import Control
from schemas.deadletter import DeadLetter
from schemas.experts import ExpertLoad, ExpertTopology
from schemas.frame import Frame
from schemas.placement import PlacementPlan
from schemas.routing import RoutingPlan
from schemas.solver import CLASSICAL, SolverRecord
from schemas.tokens import TokenBatch


def one_line(message: Message, frame: Frame, now_ns: int) -> str:
    """Time, key and what matters of the frame."""
    ttl_s, ts_ns = getattr(frame, "ttl_s", None), getattr(frame, "ts_ns", 0)
    expired = "  (expired)" if ttl_s is not None and now_ns > ts_ns + int(ttl_s * 1e9) else ""
    text = SUMMARIES.get(type(frame), _header)(frame)
    return printable(f"{utc(message.timestamp()[1])}  {text}{expired}").replace("\n", "\\n")


def as_object(message: Message, frame: Frame, full: bool) -> dict[str, Any]:
    """The frame's JSON with a field `record` that says where it lies; its arrays only if `full`.

    `qstream publish` reads it back, since readers pass unknown fields over.
    """
    exclude = set() if full else set(frame.arrays)
    record = {"partition": message.partition(), "offset": message.offset(), "timestamp_ms": message.timestamp()[1]}
    return frame.model_dump(mode="json", exclude=exclude, exclude_none=True) | {"record": record}


def _header(frame: Frame) -> str:
    return frame.model_dump_json(exclude=set(frame.arrays), exclude_none=True)


def _routing(plan: RoutingPlan) -> str:
    rows = plan.slot_ids if plan.slot_ids is not None else plan.assignment
    copies = plan.metrics.cross_node_copies_per_token
    return _joined(
        plan.model,
        _layer(plan.layer),
        f"batch {plan.batch_id}",
        f"{0 if rows is None else len(rows)} tokens",
        f"placement v{plan.placement_version}",
        f"balancedness {plan.metrics.balancedness:.3f}",
        None if copies is None else f"{copies:.2f} cross-node copies a token",
        solver_text(plan.solver),
        plan.fallback_reason,
    )


def _placement(plan: PlacementPlan) -> str:
    score = plan.expected
    before = None if score is None else f"balancedness {score.balancedness_before:.3f}"
    if plan.skip_reason is not None:
        return _joined(plan.model, f"v{plan.base_version} stays", before, plan.skip_reason)
    return _joined(
        plan.model,
        f"v{plan.base_version} -> v{plan.version}",
        None if score is None else f"{before} -> {score.balancedness:.3f}",
        None if score is None else f"worst layer {score.worst_layer_balancedness:.3f}",
        None if score is None else f"{score.moved_experts} experts move",
        solver_text(plan.solver),
        plan.reset_reason,
    )


def _tokens(batch: TokenBatch) -> str:
    gate = "no gate" if batch.topk_ids is None else f"top-{batch.topk_ids.shape[1]}"
    return _joined(batch.model, _layer(batch.layer), f"batch {batch.batch_id}", f"{len(batch.token_id)} tokens", gate)


def _load(load: ExpertLoad) -> str:
    layers, experts = load.logical_count.shape
    tokens = f"{load.num_tokens} tokens in {(load.t1_ns - load.t0_ns) / 1e9:g} s"
    return _joined(load.model, f"window {load.source}/{load.window_id}", tokens, f"{layers} x {experts} experts")


def _topology(topology: ExpertTopology) -> str:
    return _joined(
        topology.model,
        f"{topology.num_layers} layers x {topology.num_logical_experts} experts, top-{topology.top_k}",
        f"{topology.num_nodes} nodes, {topology.num_gpus} GPUs x {topology.slots_per_gpu} slots",
    )


def _control(control: Control) -> str:
    options = " ".join(f"{name}={value}" for name, value in control.options.items())
    return _joined(control.agent, "paused" if control.paused else "running", options or "no options", control.reason or None)


def _dead_letter(letter: DeadLetter) -> str:
    return _joined(letter.id, letter.stage, f"attempt {letter.attempts}", f"{letter.error_class}: {letter.error_message}")


def _layer(layer: int | None) -> str | None:
    return None if layer is None else f"layer {layer}"


def solver_text(record: SolverRecord) -> str:
    """Who answered, as a person reads it: the solver, its variant, how circuits ran, and the parts that were kept."""
    more = [record.variant, None if record.execution == CLASSICAL else record.execution]
    if record.tried is not None:
        more.append(f"{record.kept} of {record.tried} kept")
    told = ", ".join(part for part in more if part)
    return f"{record.solver} ({told})" if told else record.solver


def _joined(*parts: str | None) -> str:
    return "  ".join(part for part in parts if part is not None)


SUMMARIES: Final[Mapping[type[Frame], Callable[[Any], str]]] = {
    RoutingPlan: _routing,
    PlacementPlan: _placement,
    TokenBatch: _tokens,
    ExpertLoad: _load,
    ExpertTopology: _topology,
    Control: _control,
    DeadLetter: _dead_letter,
}
