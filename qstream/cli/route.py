"""`qstream route`: tokens from a file and a model graph in, the assignment of each token out, without a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from qstream.cli.options import AsJson, new_app
from qstream.cli.output import print_json, print_table
from qstream.cli.sources import BatchHeader, read_items
from qstream.errors import ConfigError, ProblemError
from qstream.routing.adjacency import expert_queues
from qstream.routing.capacity import assign_candidates, even_capacity
from qstream.routing.formats.files import bounded
from qstream.routing.formats.read import read_map
from qstream.routing.memory import contiguous
from qstream.routing.options import RoutingOptions
from qstream.routing.plan import plan_route
from schemas.experts import ExpertTopology
from schemas.frame import MAX_MESSAGE_BYTES, body_type
from schemas.tokens import TokenBatch
from schemas.topics import TOKENS_BATCH

app = new_app()


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One batch: `assignment` [T] or [T, K] of experts, `slot_ids` [T, K] where the gate chose, and figures by name."""

    batch: TokenBatch
    solver: str
    assignment: NDArray[np.int32]
    slot_ids: NDArray[np.int32] | None
    figures: dict[str, float]


@app.command()
def route(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".json, .jsonl, .csv, .safetensors, or - for stdin.")],
    model_graph: Annotated[Path, typer.Option(metavar="FILE", help="ExpertTopology frame, JSON or safetensors.")],
    placement: Annotated[Path | None, typer.Option(metavar="FILE", help="Placement in force; else the contiguous one.")] = None,
    layer: Annotated[int | None, typer.Option(min=0, max=4095, help="Layer of the gate choices of a table.")] = None,
    capacity: Annotated[
        float | None, typer.Option(min=1.0, help="Limit experts to this times their even share; changes the gate's choice.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the hash.")] = 0,
    adjacency: Annotated[bool, typer.Option("--adjacency", help="List the tokens of each expert.")] = False,
    as_json: AsJson = False,
) -> None:
    """Route tokens to experts, or where the gate has chosen, to the slots that serve its choice.

    FILE holds tokens {"id", "metadata", "complexity"}, a table with a column id and optional topk_id_0, topk_weight_0 and
    so on, or TokenBatch frames. Without a gate a token goes to an expert by bounded-load hash; with one to a replica of each
    chosen expert. With --capacity tokens of full experts go where the gate loses least.

    \b
    Example:
      qstream route tokens.json --model-graph topology.json --adjacency
      qstream route tokens.csv --model-graph topology.json --layer 0 --capacity 1.25 --json
    """
    topology = read_topology(model_graph)
    shape = topology.num_layers, topology.num_slots, topology.num_logical_experts
    slots = contiguous(topology) if placement is None else read_map(placement, *shape)
    items = read_items(file, TOKENS_BATCH, BatchHeader(topology.model, layer, file.stem, 0))
    options = RoutingOptions(seed=seed)
    answers = [answer(item.frame, topology, slots, options, capacity) for item in items if isinstance(item.frame, TokenBatch)]
    if as_json:
        print_json([as_data(found, topology, adjacency) for found in answers])
        return
    names = list(dict.fromkeys(name for found in answers for name in found.figures))
    rows = [
        (
            found.batch.batch_id,
            found.solver,
            len(found.batch.token_id),
            *(f"{found.figures.get(name, np.nan):.4g}" for name in names),
        )
        for found in answers
    ]
    print_table(("batch", "solver", "tokens", *(name.replace("_", " ") for name in names)), rows)
    if adjacency:
        for found in answers:
            listed = queues(found, topology)
            print_table(("expert", "tokens"), [(expert, " ".join(map(str, ids))) for expert, ids in listed.items() if ids])


def read_topology(path: Path) -> ExpertTopology:
    """The model graph of a file; `FrameError` names its first fault, `ConfigError` says that there is none."""
    if not path.is_file():
        raise ConfigError(f"--model-graph is {str(path)!r}, allowed is a file with an ExpertTopology frame")
    body = bounded(path, MAX_MESSAGE_BYTES)
    return ExpertTopology.decode(body, body_type(body.lstrip()))


def answer(
    batch: TokenBatch,
    topology: ExpertTopology,
    placement: NDArray[np.int32],
    options: RoutingOptions,
    capacity: float | None,
) -> Answer:
    """Route one batch; with `capacity` by the gate mass that the experts have room for.

    Raises
    ------
    ProblemError
        The batch contradicts the topology, or has no gate choices for `capacity`.
    """
    if batch.layer is not None and batch.layer >= topology.num_layers:
        raise ProblemError(f"layer is {batch.layer}, allowed are 0 to {topology.num_layers - 1} by the model graph")
    if batch.topk_ids is not None and batch.topk_ids.max() >= topology.num_logical_experts:
        highest = topology.num_logical_experts - 1
        raise ProblemError(f"topk_ids has expert {batch.topk_ids.max()}, allowed are 0 to {highest} by the model graph")
    if capacity is not None:
        return _within(batch, topology, capacity)
    found = plan_route(batch, placement, topology, options)
    figures = {name: value for name, value in found.metrics.model_dump().items() if value is not None}
    if found.slot_ids is None or batch.topk_ids is None:
        return Answer(batch, "hash, bounded", _present(found.assignment), None, figures)
    return Answer(batch, "hash of replicas", batch.topk_ids, found.slot_ids, figures)


def _within(batch: TokenBatch, topology: ExpertTopology, factor: float) -> Answer:
    """Experts of each token under a capacity of `factor` times the even share, as many as the gate chose."""
    if batch.topk_ids is None:
        raise ProblemError("topk_ids is missing, allowed for --capacity are tokens with gate choices")
    tokens, k = batch.topk_ids.shape
    experts = topology.num_logical_experts
    weights = np.ones((tokens, k), np.float32) if batch.topk_weights is None else batch.topk_weights
    room = even_capacity(tokens, experts, factor, k)
    found = assign_candidates(batch.topk_ids, weights, room, k=k)
    figures = {"max_over_mean": found.max_over_mean, "gate_kept": found.gate_kept, "off_candidate": found.off_candidate}
    return Answer(batch, "auction", found.assignment, None, figures)


def queues(found: Answer, topology: ExpertTopology) -> dict[str, list[Any]]:
    """The tokens of each expert, by name where they have one."""
    listed = expert_queues(found.assignment, found.batch.token_id, topology.num_logical_experts)
    if found.batch.token_names is None:
        return dict(listed)
    name = dict(zip(found.batch.token_id.tolist(), found.batch.token_names, strict=True))
    return {expert: [name[token] for token in ids] for expert, ids in listed.items()}


def as_data(found: Answer, topology: ExpertTopology, adjacency: bool) -> dict[str, Any]:
    """The answer for machines; with `adjacency` the queue of each expert."""
    told: dict[str, Any] = {
        "batch_id": found.batch.batch_id,
        "model": topology.model,
        "layer": found.batch.layer,
        "solver": found.solver,
        "assignment": found.assignment.tolist(),
        "slot_ids": None if found.slot_ids is None else found.slot_ids.tolist(),
        "metrics": found.figures,
    }
    return told | ({"adjacency": queues(found, topology)} if adjacency else {})


def _present(assignment: NDArray[np.int32] | None) -> NDArray[np.int32]:
    if assignment is None:
        raise ProblemError("the router gave neither an assignment nor slots")
    return assignment
