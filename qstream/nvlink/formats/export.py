"""Plans as files that users have a use for, by name of the format: `EXPORTERS`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from qstream.errors import ProblemError
from qstream.nvlink.blocks import blocks_of
from qstream.nvlink.formats.placed import placed_plan
from qstream.nvlink.formats.schedulers import kai, kueue, slurm
from qstream.nvlink.graph import to_networkx
from schemas.fabric import FabricPlan, FabricTopology
from schemas.frame import JSON
from schemas.wording import must_be

Exporter = Callable[[FabricPlan, FabricTopology], dict[str, str]]

MAX_COST_RANKS: Final = 2_048
TUNED: Final = ("broadcast", "reduce", "allgather", "reducescatter", "allreduce")  # all-to-all cannot be tuned
TUNER_COLUMNS: Final = (
    "collective_type", "min_bytes", "max_bytes", "algorithm", "protocol", "channels", "nNodes", "nRanks", "numPipeOps", "regBuff",
)  # fmt: skip
RING_FROM_BYTES: Final = 64 << 20
MOST_BYTES: Final = 2**63 - 1


def rankfile(plan: FabricPlan, topology: FabricTopology) -> dict[str, str]:
    """Open MPI's rank file: the host of each rank, and the index of its GPU there as the slot."""
    where = placed_plan(plan, topology)
    rows = [f"rank {rank}={host} slot={slot}" for rank, (host, slot) in enumerate(zip(where.host, where.slot, strict=True))]
    return {"rankfile": "\n".join(rows) + "\n"}


def rank_cost(plan: FabricPlan, topology: FabricTopology) -> dict[str, str]:
    """us/KB between all pairs of ranks as a JSON matrix, diagonal 0: modelled, 1 over GB/s of the narrowest link on the way.

    Expert placement takes it as `rank_cost`. `ProblemError` above 2,048 ranks.
    """
    placed_plan(plan, topology)
    assert plan.gpu_of_rank is not None
    ranks = len(plan.gpu_of_rank)
    if ranks > MAX_COST_RANKS:
        raise ProblemError(must_be("ranks of a matrix of costs", f"at most {MAX_COST_RANKS}", ranks))
    blocks = blocks_of(topology)
    block = blocks.block_of_gpu[np.searchsorted(blocks.gpu, plan.gpu_of_rank)]
    if (block < 0).any():
        raise ProblemError(must_be("GPUs of the plan", "working", topology.node_name[int(plan.gpu_of_rank[block < 0][0])]))
    cost = blocks.distance[np.ix_(block, block)].round(9)
    np.fill_diagonal(cost, 0.0)
    return {"rank_cost.json": json.dumps(cost.tolist()) + "\n"}


def nccl_tuner(plan: FabricPlan, topology: FabricTopology) -> dict[str, str]:
    """The configuration of NCCL's tuner plugin by CSV, for a job over several domains: rings for large messages.

    Neighbours in a ring are near in such a plan, and a tree's are not. Channels, and whatever has no row, stay NCCL's choice: -1.
    Within one domain there is nothing to say, so there are no rows. Modelled, and not measured on any hardware.
    """
    where = placed_plan(plan, topology)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(TUNER_COLUMNS)
    if len(where.slices) > 1:
        for collective in TUNED:
            rows.writerow(
                (collective, RING_FROM_BYTES, MOST_BYTES, "ring", "simple", -1, len(where.hosts), len(where.host), -1, -1)
            )
    return {"nccl_tuner.csv": text.getvalue()}


def networkx(plan: FabricPlan, topology: FabricTopology) -> dict[str, str]:
    """Node-link JSON of the fabric, with the `rank` and the `job` on each GPU that has one."""
    import networkx as nx  # noqa: PLC0415 takes longer to import than most calls take

    placed_plan(plan, topology)
    graph = to_networkx(topology)
    assert plan.gpu_of_rank is not None
    for rank, gpu in enumerate(plan.gpu_of_rank.tolist()):
        graph.nodes[topology.node_name[gpu]].update(rank=rank, job=plan.job)
    return {"fabric.json": json.dumps(nx.node_link_data(graph, edges="edges")) + "\n"}


def table(plan: FabricPlan, topology: FabricTopology) -> dict[str, str]:
    """A row a rank: its GPU, the index of that in its host, the host and the domain."""
    where = placed_plan(plan, topology)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("rank", "gpu", "slot", "host", "domain"))
    rows.writerows((rank, *row) for rank, row in enumerate(zip(where.gpu, where.slot, where.host, where.domain, strict=True)))
    return {"placement.csv": text.getvalue()}


def frame(plan: FabricPlan, topology: FabricTopology) -> dict[str, str]:
    """The plan itself as JSON."""
    del topology
    return {"plan.json": plan.encode(JSON).decode() + "\n"}


# Each gives files by name; the first is what the format is about.
EXPORTERS: Final[Mapping[str, Exporter]] = {
    "slurm": slurm,
    "kueue": kueue,
    "kai": kai,
    "nccl-tuner": nccl_tuner,
    "rankfile": rankfile,
    "rank-cost": rank_cost,
    "networkx": networkx,
    "csv": table,
    "json": frame,
}
