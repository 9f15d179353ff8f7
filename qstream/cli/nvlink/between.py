"""Input of `rails` and `schedule`: bytes between GPUs of servers, from a matrix, or from a job on a fabric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.nvlink.blocks import blocks_of
from qstream.nvlink.crossing import MAX_RANKS, Crossing, crossing
from qstream.nvlink.job_plan import place_job
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.profile import job_traffic
from schemas.fabric import FabricTopology, JobProfile
from schemas.wording import Shown, must_be

PLACING: Final = NvlinkOptions(rails=False, schedule="off")


@dataclass(frozen=True, slots=True, eq=False)
class Between:
    """Bytes between GPUs of different servers, and the names of the GPUs; `left_out` bytes stay within a server.

    crossing : bytes between servers; None if there are none, or if the rails are unknown: `why` gives the reason
    """

    crossing: Crossing | None
    left_out: float
    names: tuple[str, ...]
    why: str = ""


def of_job(profile: JobProfile, topology: FabricTopology) -> Between:
    """A job on the GPUs where it runs, or where it would be placed."""
    src, dst, nbytes = job_traffic(profile)
    gpus = profile.gpu_of_rank
    if gpus is None:
        gpus = place_job(profile, topology, options=PLACING).gpu_of_rank
    if gpus is None:
        raise ProblemError(must_be("ranks", "at most the free GPUs of the fabric", profile.num_ranks))
    blocks = blocks_of(topology)
    if blocks.skip_reason is not None:
        return Between(None, float(nbytes.sum()), (), str(blocks.skip_reason))
    found = crossing(topology, blocks, gpus, src, dst, nbytes)
    if found is None:
        rule = f"nothing between servers, servers with other GPUs of the job, GPUs without a NIC, or above {MAX_RANKS} ranks"
        return Between(None, float(nbytes.sum()), (), rule)
    names = tuple(topology.node_name[gpu] for gpu in found.gpu.ravel().tolist())
    return Between(found, float(nbytes.sum() - found.sent.sum()), names)


def of_matrix(matrix: NDArray[np.float64], gpus_per_host: int, nic_gb_s: float, nvlink_gb_s: float) -> Between:
    """A matrix of bytes between ranks that fill servers of so many GPUs in their order."""
    n = len(matrix)
    if n % gpus_per_host:
        raise ProblemError(must_be("ranks", f"a multiple of --gpus-per-host, {gpus_per_host}", n))
    shape = (n // gpus_per_host, gpus_per_host)
    sent: Any = matrix.reshape(*shape, *shape) * ~np.eye(shape[0], dtype=np.bool_)[:, None, :, None]
    if not sent.any():
        return Between(None, float(matrix.sum()), (), "nothing goes between servers")
    gpu = np.arange(n, dtype=np.int32).reshape(shape)
    found = Crossing(gpu, np.arange(gpus_per_host, dtype=np.int32), sent, nic_gb_s, nvlink_gb_s)
    names = tuple(f"h{server}g{index}" for server in range(shape[0]) for index in range(gpus_per_host))
    return Between(found, float(matrix.sum() - sent.sum()), names)


def without_diagonal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix less what ports send themselves; `ProblemError` where nothing is left."""
    found = matrix * ~np.eye(len(matrix), dtype=np.bool_)
    if not found.any():
        raise ProblemError(must_be("bytes", "above 0 between at least two ends", Shown("none")))
    return found
