"""Where the ranks of a plan are, in the words of schedulers: hosts, and slices of ranks by NVLink domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from schemas.fabric import GPU, FabricPlan, FabricTopology
from schemas.wording import Shown, must_be


@dataclass(frozen=True, slots=True)
class Slice:
    """Ranks in one domain, and the hosts of them, in order of ranks."""

    domain: str
    ranks: tuple[int, ...]
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """The host, the domain and the GPU of each rank, the index of that GPU in its host, and the slices in order of ranks."""

    host: tuple[str, ...]
    domain: tuple[str, ...]
    gpu: tuple[str, ...]
    slot: tuple[int, ...]
    slices: tuple[Slice, ...]

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts, in order of ranks, each once."""
        return tuple(dict.fromkeys(self.host))

    @property
    def hosts_of_slice(self) -> int | None:
        """Hosts of each slice, None where slices differ."""
        sizes = {len(part.hosts) for part in self.slices}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def ranks_of_host(self) -> int | None:
        """Ranks of each host, None where hosts differ."""
        _, counts = np.unique(self.host, return_counts=True)
        return int(counts[0]) if len(set(counts.tolist())) == 1 else None


def placed(gpu_of_rank: NDArray[np.int32], topology: FabricTopology) -> Placed:
    """Where ranks are. A GPU without a domain is in that of its host.

    Raises
    ------
    ProblemError
        A GPU that is none of the topology's, or whose host is not known.
    """
    gpus = np.asarray(gpu_of_rank)
    if not gpus.size or gpus.min() < 0 or gpus.max() >= len(topology.node_type) or (topology.node_type[gpus] != GPU).any():
        raise ProblemError(must_be("gpu_of_rank", "GPUs of the topology", Shown(str(gpus.tolist()[:8]))))
    on = topology.node_host[gpus]
    if (on < 0).any():
        raise ProblemError(must_be("host", "known of each GPU", Shown(f"none of {topology.node_name[int(gpus[on < 0][0])]}")))
    hosts = [topology.node_name[at] for at in on.tolist()]
    domains = [
        topology.domain_name[at] if at >= 0 else host for at, host in zip(topology.node_domain[gpus].tolist(), hosts, strict=True)
    ]
    order: dict[int, int] = {}
    seen: dict[int, int] = {}
    for gpu in np.flatnonzero(topology.node_type == GPU).tolist():
        host = int(topology.node_host[gpu])
        order[gpu] = seen.get(host, 0)
        seen[host] = order[gpu] + 1
    ranks: dict[str, list[int]] = {}
    for rank, domain in enumerate(domains):
        ranks.setdefault(domain, []).append(rank)
    slices = [
        Slice(domain, tuple(inside), tuple(dict.fromkeys(hosts[rank] for rank in inside))) for domain, inside in ranks.items()
    ]
    names = tuple(topology.node_name[gpu] for gpu in gpus.tolist())
    return Placed(tuple(hosts), tuple(domains), names, tuple(order[gpu] for gpu in gpus.tolist()), tuple(slices))


def placed_plan(plan: FabricPlan, topology: FabricTopology) -> Placed:
    """Where the ranks of a plan are; `ProblemError` if it has no placement, or is of another topology."""
    if plan.gpu_of_rank is None:
        raise ProblemError(must_be("a plan to export", "one with a placement", Shown(f"none: {plan.skip_reason}")))
    if plan.topology_digest != topology.digest():
        raise ProblemError(must_be("topology", f"that of the plan, {plan.topology_digest}", topology.digest()))
    return placed(plan.gpu_of_rank, topology)
