"""A job simulated on a fabric: when each of its collectives has drained, where nothing but the place of ranks is planned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.nvlink.fluid import drain
from qstream.nvlink.profile import job_traffic
from qstream.nvlink.ways import Flows, flows_of
from schemas.fabric import GPU, GROUP_KINDS, FabricTopology, JobProfile
from schemas.wording import Shown, must_be

MERGE: Final = 0.005
PAIRS: Final = "pairs"
ALL: Final = "all"

Part = tuple[str, int | None, int | None]  # kind, members, group_bytes


@dataclass(frozen=True, slots=True)
class Drained:
    """A part of a job's traffic, modelled.

    `kind` is that of its collectives, ``pairs`` of entries of traffic, or ``all`` at once; `members` ranks of a group and
    `group_bytes` of one of them, None where there are no groups; `nbytes` all ranks together; `time_us` until the last byte has
    arrived, None where some pair has no way; `bound_us` the fullest link alone, below which no order of transfers comes; `pairs`
    of ranks.
    """

    kind: str
    members: int | None
    group_bytes: int | None
    nbytes: float
    time_us: float | None
    bound_us: float
    pairs: int


def simulate_job(profile: JobProfile, topology: FabricTopology, gpu_of_rank: ArrayLike) -> tuple[Drained, ...]:
    """Return how long each collective of a job takes alone, and all of them at once, last. Modelled, not measured.

    All bytes of a part start together and share links max-min fairly, on the ways of `flows_of`. Collectives of one kind, size
    and number of bytes are one part. Latency and computation are not modelled.

    Raises
    ------
    ProblemError
        A rank has no GPU of its own, or there are more than 400,000 pairs of ranks.
    """
    gpus = np.asarray(gpu_of_rank)
    nodes = len(topology.node_type)
    rule = f"a GPU of its own for each of {profile.num_ranks} ranks"
    if gpus.shape != (profile.num_ranks,) or gpus.dtype.kind not in "iu" or len(np.unique(gpus)) < len(gpus):
        raise ProblemError(must_be("gpu_of_rank", rule, Shown(f"{gpus.dtype} of shape {gpus.shape}")))
    if gpus.min() < 0 or gpus.max() >= nodes or (topology.node_type[gpus] != GPU).any():
        raise ProblemError(must_be("gpu_of_rank", "GPUs of the topology", Shown(str(gpus.tolist()[:8]))))
    src, dst, nbytes = job_traffic(profile)
    flows = flows_of(topology, gpus[src], gpus[dst])
    key = src.astype(np.int64) * profile.num_ranks + dst
    found = []
    for part, alone in _parts(profile):
        a, b, size = job_traffic(alone)
        at = np.searchsorted(key, a.astype(np.int64) * profile.num_ranks + b)
        of_pair = np.zeros(len(key))
        of_pair[at] = size
        found.append(_drained(part, flows, of_pair))
    if len(found) == 1 and np.isclose(found[0].nbytes, nbytes.sum()):
        return tuple(found)
    return (*found, _drained((ALL, None, None), flows, nbytes))


def _drained(part: Part, flows: Flows, nbytes: NDArray[np.float64]) -> Drained:
    """Bytes [pairs] on their flows."""
    pairs = int(np.count_nonzero(nbytes))
    size = nbytes[flows.pair] * flows.part
    load = np.bincount(flows.link, np.repeat(size, np.diff(flows.first_link)), len(flows.gb_s))
    bound = float((load / flows.gb_s).max(initial=0.0)) / 1e3
    if nbytes[flows.lost].any():
        return Drained(*part, float(nbytes.sum()), None, bound, pairs)
    end = drain(flows.first_link, flows.link, size, flows.gb_s, merge=MERGE)
    return Drained(*part, float(nbytes.sum()), max(float(end.max(initial=0.0)), bound), bound, pairs)


def _parts(profile: JobProfile) -> Iterator[tuple[Part, JobProfile]]:
    """The collectives of a job that are alike, as jobs of their own, and its pairs."""
    nothing: dict[str, Any] = dict.fromkeys(("group_kind", "group_bytes", "group_first", "group_rank"))
    if profile.traffic_src is not None and len(profile.traffic_src):
        yield (PAIRS, None, None), profile.model_copy(update=nothing)
    kind, nbytes, first, rank = profile.group_kind, profile.group_bytes, profile.group_first, profile.group_rank
    if kind is None or nbytes is None or first is None or rank is None:
        return
    size = np.diff(first).astype(np.int64)
    pairs: dict[str, Any] = dict.fromkeys(("traffic_src", "traffic_dst", "traffic_bytes"))
    for which, members, each in sorted(set(zip(kind.tolist(), size.tolist(), nbytes.tolist(), strict=True))):
        if members < 2 or not each:
            continue
        chosen = np.flatnonzero((kind == which) & (size == members) & (nbytes == each))
        groups: dict[str, Any] = {
            "group_kind": kind[chosen],
            "group_bytes": nbytes[chosen],
            "group_first": (np.arange(len(chosen) + 1) * members).astype(np.int32),
            "group_rank": rank[(first[chosen][:, None] + np.arange(members)).ravel()],
        }
        yield (GROUP_KINDS[which], members, each), profile.model_copy(update=pairs | groups)
