"""Adjacency lists for schedulers: from each expert to the queue of tokens that it serves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.routing.kernels import array


def expert_queues(assignment: NDArray[np.int32], token_id: NDArray[np.uint64], experts: int) -> dict[str, list[int]]:
    """Queue of token ids of each expert, in the order of the batch; ``json.dumps`` takes it as it is.

    Parameters
    ----------
    assignment : int32 [T] or [T, K]
        Experts of each token; a token stands in the queue of each of them.
    token_id : uint64 [T]
    experts : int
        E; an expert without tokens has an empty queue.

    Raises
    ------
    ProblemError
        Lengths differ, or an expert is not in 0..E-1.

    >>> expert_queues(np.array([1, 0, 1], np.int32), np.array([7, 8, 9], np.uint64), 3)
    {'0': [8], '1': [7, 9], '2': []}
    """
    if experts < 1:
        raise ProblemError(f"experts: {experts}, must be >= 1")
    ids = array("token_id", token_id, np.uint64, "T")
    given = np.asarray(assignment)
    chosen = array("assignment", given[:, None] if given.ndim == 1 else given, np.int32, "T K")
    if len(chosen) != len(ids):
        raise ProblemError(f"assignment: {len(chosen)} rows, must be one a token ({len(ids)})")
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < experts:
        raise ProblemError(f"assignment: experts {chosen.min()}..{chosen.max()}, must be in 0..{experts - 1}")
    order = np.argsort(chosen, axis=None, kind="stable")
    queued = ids[order // chosen.shape[1]].tolist() if chosen.size else []
    ends = np.cumsum(np.bincount(chosen.ravel(), minlength=experts)).tolist()
    return {str(e): queued[begin:end] for e, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))}
