"""Which experts recent tokens chose together: a random sample of tokens, bounded in bytes, and the pairs that it counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import GOLDEN, below, compiled, mix64
from qstream.learn.window import COUNT_MAX
from schemas.wording import Shown, must_be

MAX_BYTES = 416 << 10  # of a model's sample
MAX_ROWS = 4096  # tokens of a layer
MAX_PAIRS = 1 << 18  # layers times pairs, of which counts are kept
_ONE_BYTE = 256  # experts that one byte can number


def empty_sample(layers: int, experts: int, k: int) -> NDArray[np.uint8]:
    """Room for tokens with `k` experts each: uint8 [L, M, B], at most 416 KiB, M at most 4096 and 0 where none fits.

    A row is a token: the numbers of its experts, a byte each in a model of at most 256 experts, else two, the low one first.
    """
    width = row_bytes(experts, k)
    return np.zeros((layers, min(MAX_ROWS, MAX_BYTES // max(layers * width, 1)), width), np.uint8)


def row_bytes(experts: int, k: int) -> int:
    """Bytes B of a token with `k` experts."""
    return k * (1 if experts <= _ONE_BYTE else 2)


def sample_tokens(
    topk_ids: NDArray[np.int32], layer: int, horizon: int, sample: NDArray[np.uint8], seen: NDArray[np.int64], experts: int
) -> None:
    """Let tokens of one layer into the sample, each by chance and in the place of a random one.

    The first `horizon` tokens of a layer are sampled evenly; then a token fades by exp(-age / horizon), its age in tokens.
    Whether and where one comes in depends on its number in the layer alone, so any split into batches gives the same sample.
    Source: reservoir sampling (Vitter 1985, algorithm R), biased to the newest (Aggarwal 2006).

    Parameters
    ----------
    topk_ids : int32 [T, K]
        Experts of each token, in range. Of more than the sample has room for, the first are kept; of fewer, the last repeats.
    layer : int
    horizon : int
        Tokens, 1 to 2**32; fewer than M count as M.
    sample, seen : uint8 [L, M, B] and int64 [L]
        From `empty_sample`, and the tokens of each layer so far; both change.
    experts : int
        E, as in `empty_sample`.
    """
    ids = array("topk_ids", topk_ids, np.int32, "T K")
    if sample.size and ids.size:
        _sample(ids, layer, max(horizon, sample.shape[1]), row_bytes(experts, 1), sample[layer], seen)


def add_pairs(counted: NDArray[np.int32] | None, cooccurrence: NDArray[np.int64]) -> NDArray[np.int32] | None:
    """The pair counts so far and those of one more window, int32 [L, E, E], for `sampled_coactivation`.

    A model with more than 2**18 cells keeps none, as a message with so many would be too large. A pair
    may be counted as [e, f], as [f, e] or as both, but each time in the same way: the larger of the two is taken.
    """
    if cooccurrence.size > MAX_PAIRS:
        return counted
    total: NDArray[np.int64] = np.maximum(cooccurrence, cooccurrence.transpose(0, 2, 1))
    if counted is not None:
        total += counted
    return np.minimum(total, COUNT_MAX).astype(np.int32)


def faded_pairs(counted: NDArray[np.int32], windows: int) -> NDArray[np.int32] | None:
    """Counts of pairs a window later, without one in `windows` of them; None where none is left."""
    left: NDArray[np.int32] = (counted.astype(np.int64) * (windows - 1) // windows).astype(np.int32)
    return left if left.any() else None


def sampled_coactivation(
    sample: NDArray[np.uint8],
    seen: NDArray[np.int64],
    experts: int,
    horizon: int,
    counted: NDArray[np.int32] | None = None,
) -> NDArray[np.int64]:
    """How often two experts served one of the last `horizon` tokens of a layer, as the sample says: int64 [L, E, E].

    Symmetric; the diagonal counts the tokens of each expert. Each token of the sample stands for as many of those that it was
    drawn from. What was `counted` by `add_pairs` comes on top.

    Raises
    ------
    ProblemError
        The sample holds an expert out of range.
    """
    rows = array("sample", sample, np.uint8, "L M B")
    tokens = array("seen", seen, np.int64, "L")
    together = np.zeros((len(rows), experts, experts), np.int64) if counted is None else counted.astype(np.int64)
    filled = np.minimum(tokens, rows.shape[1])
    stands_for = np.rint(np.minimum(tokens, horizon) / np.maximum(filled, 1)).clip(1).astype(np.int64)
    if rows.size and not _count(rows, filled, stands_for, row_bytes(experts, 1), together):
        raise ProblemError(must_be("sample", f"of experts 0 to {experts - 1}", Shown("one out of range")))
    return together


@compiled
def _sample(ids: Any, layer: int, horizon: int, bytes_each: int, rows: Any, seen: Any) -> None:
    room, k = len(rows), rows.shape[1] // bytes_each
    stream = mix64(np.uint64(layer) + GOLDEN)
    for t in range(len(ids)):
        n = seen[layer]
        seen[layer] += 1
        row = n if n < room else below(mix64(stream + np.uint64(n) * GOLDEN), min(n + 1, horizon))
        if row >= room:
            continue
        for i in range(k):
            expert = ids[t, min(i, ids.shape[1] - 1)]
            rows[row, i * bytes_each] = expert & 255
            if bytes_each == 2:
                rows[row, 2 * i + 1] = expert >> 8


@compiled
def _count(sample: Any, filled: Any, stands_for: Any, bytes_each: int, together: Any) -> bool:
    k = sample.shape[2] // bytes_each
    experts = together.shape[1]
    chosen = np.empty(k, np.int64)
    for layer in range(len(sample)):
        weight = stands_for[layer]
        for t in range(filled[layer]):
            size = 0
            for i in range(k):
                e = np.int64(sample[layer, t, i * bytes_each])
                if bytes_each == 2:
                    e += np.int64(sample[layer, t, 2 * i + 1]) << 8
                if e >= experts:
                    return False
                new = True
                for j in range(size):
                    new &= chosen[j] != e
                if not new:
                    continue
                chosen[size] = e
                size += 1
                together[layer, e, e] += weight
                for j in range(size - 1):
                    together[layer, e, chosen[j]] += weight
                    together[layer, chosen[j], e] += weight
    return True
