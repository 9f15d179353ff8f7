"""How many replicas each expert gets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import compiled
from qstream.routing.problem import check_load, check_slots, slots_per_gpu
from schemas.wording import Shown, must_be


def replica_counts(
    load: NDArray[np.float64], slots: int, num_gpus: int, least: NDArray[np.int32] | None = None, most: int | None = None
) -> NDArray[np.int32]:
    """Replicate experts so that the heaviest replica is as light as possible, with at most one replica on each GPU.

    Minimises max(load / counts) exactly, O((P - E) E) a layer. Source: DeepSeek EPLB (2025), replicate_experts; the cap
    of G replicas is ours.

    Parameters
    ----------
    load : float64 [L, E]
        Tokens of each expert, finite and >= 0.
    slots : int
        P, a multiple of `num_gpus` with E <= P <= E * G.
    num_gpus : int
        G, the most replicas that an expert may have.
    least : int32 [L, E], optional
        The fewest replicas that each expert may have, in 1..G, sum <= P in each layer; 1 by default.

    most : int, optional
        The most replicas of an expert, at least those of `least` and P / E; G by default.

    Returns
    -------
    counts : int32 [L, E]
        In least..most, sum P in each layer; ties go to the lowest index.

    Raises
    ------
    ProblemError
        An argument breaks a rule above.

    >>> replica_counts(np.array([[90.0, 30.0, 10.0]]), slots=6, num_gpus=3)
    array([[3, 2, 1]], dtype=int32)
    """
    tokens = array("load", load, np.float64, "L E")
    check_load("load", tokens)
    check_slots(tokens.shape[1], num_gpus, slots_per_gpu(slots, num_gpus))
    counts = np.ones(tokens.shape, np.int32) if least is None else _at_least(least, tokens.shape, slots, num_gpus)
    limit = num_gpus if most is None else most
    if not max(int(counts.max(initial=1)), -(-slots // tokens.shape[1])) <= limit <= num_gpus:
        raise ProblemError(must_be("most", f"enough for `least` and {slots} slots, at most {num_gpus}", limit))
    _replicate(tokens, slots, limit, counts)
    return counts


def _at_least(least: NDArray[np.int32], shape: tuple[int, ...], slots: int, num_gpus: int) -> NDArray[np.int32]:
    counts: NDArray[np.int32] = array("least", least, np.int32, "L E").copy()
    if counts.shape != shape:
        raise ProblemError(must_be("least", f"{shape}", Shown(f"shape {counts.shape}")))
    if counts.size and not 1 <= counts.min() <= counts.max() <= num_gpus:
        raise ProblemError(must_be("least", f"1 to {num_gpus} GPUs", Shown(f"values from {counts.min()} to {counts.max()}")))
    if counts.sum(1).max(initial=0) > slots:
        found = Shown(f"{counts.sum(1).max()}")
        raise ProblemError(must_be("least", f"at most {slots} replicas in a layer, the number of slots", found))
    return counts


@compiled
def _replicate(load: Any, slots: int, num_gpus: int, counts: Any) -> None:
    layers, experts = load.shape
    replica = np.empty(experts)
    for layer in range(layers):
        left = slots
        for e in range(experts):
            left -= counts[layer, e]
            replica[e] = load[layer, e] / counts[layer, e] if counts[layer, e] < num_gpus else -1.0
        for _ in range(left):
            best = 0
            for e in range(1, experts):
                if replica[e] > replica[best]:
                    best = e
            counts[layer, best] += 1
            replica[best] = load[layer, best] / counts[layer, best] if counts[layer, best] < num_gpus else -1.0
