"""What Slurm, Kueue and KAI take: topologies in blocks, lists of hosts, and annotations of pods."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Final

import numpy as np
import yaml
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.nvlink.formats.hostlist import compress
from qstream.nvlink.formats.placed import Placed, placed, placed_plan
from schemas.fabric import GPU, FabricPlan, FabricTopology
from schemas.wording import Shown, must_be

CLIQUE: Final = "nvidia.com/gpu.clique"
HOSTNAME: Final = "kubernetes.io/hostname"
KUEUE: Final = "kueue.x-k8s.io"
KAI: Final = "kai.scheduler"


def slurm(plan: FabricPlan, topology: FabricTopology) -> dict[str, str]:
    """``topology.yaml`` of the fabric in blocks, arguments of ``sbatch``, and ``SLURM_HOSTFILE``, a host a rank.

    With ``--distribution=arbitrary`` the order of ranks is that of the host file, whatever order Slurm likes; the ranks of one
    host get its GPUs in order of ranks.
    """
    where = placed_plan(plan, topology)
    found = slurm_directives(where)
    arguments = [f"--nodes={len(where.hosts)}", f"--ntasks={len(where.host)}", f"--nodelist={found['slurm.nodes']}"]
    arguments += [f"--segment={found['slurm.segment']}"] if "slurm.segment" in found else []
    return {
        "topology.yaml": slurm_topology(topology),
        "sbatch.args": "\n".join([*arguments, "--distribution=arbitrary"]) + "\n",
        "hostfile": "\n".join(where.host) + "\n",
    }


def slurm_topology(topology: FabricTopology) -> str:
    """``topology.yaml`` with each domain a block. Block sizes are powers of two times the base, in hosts.

    The base is the smallest domain. Domains with less than half the hosts of the most usual size are left out, as a comment
    says: they would make every block as small.
    """
    hosts: dict[str, list[str]] = {}
    seen: set[str] = set()
    for gpu in np.flatnonzero(topology.node_type == GPU).tolist():
        on, domain = int(topology.node_host[gpu]), int(topology.node_domain[gpu])
        if on < 0:
            raise ProblemError(must_be("host", "known of each GPU", Shown(f"none of {topology.node_name[gpu]}")))
        name = topology.node_name[on]
        if name not in seen:  # a host of several domains is in one block: Slurm takes it once
            seen.add(name)
            hosts.setdefault(topology.domain_name[domain] if domain >= 0 else name, []).append(name)
    usual = Counter(len(inside) for inside in hosts.values()).most_common(1)[0][0]
    kept = {name: inside for name, inside in hosts.items() if 2 * len(inside) >= usual}
    base = min(len(inside) for inside in kept.values())
    sizes = [base << power for power in range(len(kept).bit_length()) if 1 << power <= len(kept)]
    blocks = [{"block": name, "nodes": compress(inside)} for name, inside in kept.items()]
    body = [{"topology": topology.fabric, "cluster_default": True, "block": {"block_sizes": sizes, "blocks": blocks}}]
    out = [f"# left out, with {len(hosts[name])} of {usual} hosts: {name}\n" for name in hosts if name not in kept]
    return "".join(out) + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=1_000_000)


def slurm_directives(where: Placed) -> dict[str, str]:
    """``slurm.nodes``, and ``slurm.segment`` where all slices have as many hosts."""
    segment = where.hosts_of_slice
    return {"slurm.nodes": compress(where.hosts)} | ({"slurm.segment": str(segment)} if segment is not None else {})


def kueue(plan: FabricPlan, topology: FabricTopology) -> dict[str, str]:
    """Annotations of the pod template, where a pod is a host's share of the job."""
    return {"kueue.yaml": _annotations(kueue_annotations(placed_plan(plan, topology)))}


def kueue_annotations(
    where: Placed, *, domain_label: str = CLIQUE, host_label: str = HOSTNAME, pod_is_rank: bool = False
) -> dict[str, str]:
    """The topology that Kueue must keep to.

    A job in one domain asks for one domain. Equal slices ask for a domain each, with their size in pods; where a pod is one
    rank and hosts have equal numbers of them, for a host within the domain too, by constraints for several levels (Kueue 0.17
    and later). Slices that differ can only be preferred.

    Parameters
    ----------
    domain_label, host_label
        Node labels; topograph's are ``accelerator.topograph.run/domain`` and ``fabric.topograph.run/tier-N``.
    pod_is_rank
        Whether each rank is a pod, else each host.
    """
    if len(where.slices) == 1:
        return {f"{KUEUE}/podset-required-topology": domain_label}
    hosts, ranks = where.hosts_of_slice, where.ranks_of_host
    sizes = {len(part.ranks) for part in where.slices}
    if (len(sizes) > 1) if pod_is_rank else hosts is None:
        return {f"{KUEUE}/podset-preferred-topology": domain_label}
    size = sizes.pop() if pod_is_rank else hosts
    assert size is not None
    if pod_is_rank and ranks is not None and ranks > 1 and size % ranks == 0 and size > ranks:
        levels = [{"topology": domain_label, "size": size}, {"topology": host_label, "size": ranks}]
        return {f"{KUEUE}/podset-slice-required-topology-constraints": json.dumps(levels)}
    return {f"{KUEUE}/podset-slice-required-topology": domain_label, f"{KUEUE}/podset-slice-size": str(size)}


def kai(plan: FabricPlan, topology: FabricTopology) -> dict[str, str]:
    """Annotations of the workload: one domain is required where the job fits in one, else preferred."""
    where = placed_plan(plan, topology)
    placement = "required" if len(where.slices) == 1 else "preferred"
    return {
        "kai.yaml": _annotations(
            {f"{KAI}/topology": topology.fabric, f"{KAI}/topology-{placement}-placement": CLIQUE},
        )
    }


def directives(gpu_of_rank: NDArray[np.int32], topology: FabricTopology) -> dict[str, str]:
    """What a plan says to schedulers, by name: Slurm's, and the annotations of Kueue; empty where hosts are not known."""
    if (topology.node_host[np.asarray(gpu_of_rank)] < 0).any():
        return {}
    where = placed(gpu_of_rank, topology)
    return {name: text for name, text in (slurm_directives(where) | kueue_annotations(where)).items() if len(text) <= 20_000}


def _annotations(found: Mapping[str, str]) -> str:
    text: str = yaml.safe_dump({"metadata": {"annotations": dict(found)}}, sort_keys=False, width=1_000_000)
    return text
