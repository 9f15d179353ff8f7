"""`qstream routing route`: tokens from a file and a model graph in, the assignment of each token out, without a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from qstream.array_files import bounded
from qstream.cli.options import AsJson
from qstream.cli.output import print_json, print_table, solver_text
from qstream.cli.sources import BatchHeader, read_items
from qstream.errors import ConfigError, ProblemError
from qstream.routing.adjacency import expert_queues
from qstream.routing.formats.read import read_map
from qstream.routing.options import RoutingOptions
from qstream.routing.problem import contiguous
from qstream.routing.tokens import route_tokens
from schemas.experts import ExpertTopology
from schemas.frame import MAX_MESSAGE_BYTES, body_type
from schemas.routing import RoutingPlan
from schemas.tokens import TokenBatch
from schemas.topics import TOKENS_BATCH
from schemas.wording import must_be


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One batch, its plan, and the experts that serve it: `assignment` [T], or [T, K] where the gate chose."""

    batch: TokenBatch
    plan: RoutingPlan
    assignment: NDArray[np.int32]

    @property
    def figures(self) -> dict[str, float]:
        """What the plan's metrics say, by name."""
        return {name: value for name, value in self.plan.metrics.model_dump().items() if value is not None}


def route(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".json, .jsonl, .csv, .safetensors, or - for stdin.")],
    model_graph: Annotated[Path, typer.Option(metavar="FILE", help="ExpertTopology frame, JSON or safetensors.")],
    placement: Annotated[Path | None, typer.Option(metavar="FILE", help="Placement in force; else the contiguous one.")] = None,
    layer: Annotated[int | None, typer.Option(min=0, max=4095, help="Layer of the gate choices of a table.")] = None,
    capacity: Annotated[
        float | None,
        typer.Option(min=1.0, max=1000.0, help="Limit experts to this times their even share; changes the gate's choice."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the hash.")] = 0,
    adjacency: Annotated[bool, typer.Option("--adjacency", help="List the tokens of each expert.")] = False,
    as_json: AsJson = False,
) -> None:
    """Route tokens to experts, or to the slots that serve them.

    To experts where no gate has chosen, else to slots of the experts that it chose.
    FILE holds tokens {"id", "metadata", "complexity"}, a table with a column id and optional topk_id_0, topk_weight_0 and
    so on, or TokenBatch frames. Without a gate a token goes to an expert by bounded-load hash; with one to a replica of each
    chosen expert. With --capacity tokens of full experts go where the gate loses least.

    \b
    Example:
      qstream routing route tokens.json --model-graph topology.json --adjacency
      qstream routing route tokens.csv --model-graph topology.json --layer 0 --capacity 1.25 --json
    """
    topology = read_topology(model_graph)
    shape = topology.num_layers, topology.num_slots, topology.num_logical_experts
    slots = contiguous(topology) if placement is None else read_map(placement, *shape)
    items = read_items(file, TOKENS_BATCH, BatchHeader(topology.model, layer, file.stem, 0))
    options = RoutingOptions(seed=seed, capacity_factor=capacity)
    answers = [answer(item.frame, topology, slots, options) for item in items if isinstance(item.frame, TokenBatch)]
    if as_json:
        print_json([as_data(found, topology, adjacency) for found in answers])
        return
    names = list(dict.fromkeys(name for found in answers for name in found.figures))
    rows = [
        (
            found.batch.batch_id,
            solver_text(found.plan.solver),
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
        raise ConfigError(must_be("--model-graph", "a file with an ExpertTopology frame", str(path)))
    body = bounded(path, MAX_MESSAGE_BYTES)
    return ExpertTopology.decode(body, body_type(body))


def answer(batch: TokenBatch, topology: ExpertTopology, placement: NDArray[np.int32], options: RoutingOptions) -> Answer:
    """Route one batch; `ProblemError` if it contradicts the topology, or has no gate choices for a capacity."""
    if options.capacity_factor is not None and batch.topk_ids is None:
        raise ProblemError(must_be("topk_ids", "present with --capacity: tokens with gate choices", None))
    plan = route_tokens(batch, topology, options, placement=placement)
    if plan.assignment is not None:
        return Answer(batch, plan, plan.assignment)
    if plan.expert_ids is not None:
        return Answer(batch, plan, plan.expert_ids)
    if batch.topk_ids is None:
        raise AssertionError("slots are given to gate choices alone")
    return Answer(batch, plan, batch.topk_ids)


def queues(found: Answer, topology: ExpertTopology) -> dict[str, list[Any]]:
    """The tokens of each expert, by name where they have one."""
    listed = expert_queues(found.assignment, found.batch.token_id, topology.num_logical_experts)
    if found.batch.token_names is None:
        return dict(listed)
    name = dict(zip(found.batch.token_id.tolist(), found.batch.token_names, strict=True))
    return {expert: [name[token] for token in ids] for expert, ids in listed.items()}


def as_data(found: Answer, topology: ExpertTopology, adjacency: bool) -> dict[str, Any]:
    """The answer for machines; with `adjacency` the queue of each expert."""
    plan = found.plan
    data: dict[str, Any] = {
        "batch_id": found.batch.batch_id,
        "model": topology.model,
        "layer": found.batch.layer,
        "solver": found.plan.solver.model_dump(mode="json", exclude_none=True),
        "assignment": found.assignment.tolist(),
        "slot_ids": None if plan.slot_ids is None else plan.slot_ids.tolist(),
        "expert_ids": None if plan.expert_ids is None else plan.expert_ids.tolist(),
        "metrics": found.figures,
    }
    return data | ({"adjacency": queues(found, topology)} if adjacency else {})
