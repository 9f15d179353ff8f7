"""Adjacency lists for schedulers: from each expert to the queue of tokens that it serves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import compiled
from qstream.routing.problem import check_ids
from schemas.wording import Shown, must_be


def expert_queues(assignment: NDArray[np.int32], token_id: NDArray[np.uint64], experts: int) -> dict[str, list[int]]:
    """Queue of token ids of each expert, in the order of the batch; ``json.dumps`` takes it as it is.

    Parameters and errors as those of `queue_columns`.

    >>> expert_queues(np.array([1, 0, 1], np.int32), np.array([7, 8, 9], np.uint64), 3)
    {'0': [8], '1': [7, 9], '2': []}
    """
    token, end = queue_columns(assignment, token_id, experts)
    queued, ends = token.tolist(), end.tolist()
    return {str(e): queued[begin:end] for e, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))}


def queue_columns(
    assignment: NDArray[np.int32], token_id: NDArray[np.uint64], experts: int
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """The queues of all experts one after the other, each in the order of the batch.

    Parameters
    ----------
    assignment : int32 [T] or [T, K]
        Experts of each token; a token stands in the queue of each of them.
    token_id : uint64 [T]
    experts : int
        E; an expert without tokens has an empty queue.

    Returns
    -------
    queue_token : uint64 [N]
        N = T or T * K token ids.
    queue_end : int32 [E]
        Where the queue of each expert ends; the next one begins there.

    Raises
    ------
    ProblemError
        Lengths differ, or an expert is not in 0..E-1.
    """
    if experts < 1:
        raise ProblemError(must_be("experts", ">= 1", experts))
    ids = array("token_id", token_id, np.uint64, "T")
    given = np.asarray(assignment)
    chosen = array("assignment", given[:, None] if given.ndim == 1 else given, np.int32, "T K")
    if len(chosen) != len(ids):
        raise ProblemError(must_be("assignment", f"one row for each of {len(ids)} tokens", Shown(f"{len(chosen)} rows")))
    check_ids("assignment", chosen, experts)
    queue_token, queue_end = np.empty(chosen.size, np.uint64), np.zeros(experts, np.int32)
    _group(chosen, ids, queue_token, queue_end)
    return queue_token, queue_end


@compiled
def _group(chosen: Any, token_id: Any, queue_token: Any, queue_end: Any) -> None:
    """Sort by counting: `queue_end` comes as 0, holds where each queue begins, and at last where it ends."""
    tokens, width = chosen.shape
    for t in range(tokens):
        for k in range(width):
            if chosen[t, k] + 1 < len(queue_end):
                queue_end[chosen[t, k] + 1] += 1
    for e in range(1, len(queue_end)):
        queue_end[e] += queue_end[e - 1]
    for t in range(tokens):
        for k in range(width):
            e = chosen[t, k]
            queue_token[queue_end[e]] = token_id[t]
            queue_end[e] += 1
