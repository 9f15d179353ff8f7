"""Tier 0: stateless spread of tokens over experts and of gate choices over replicas; always computed, always returnable."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import GOLDEN, below, compiled, mix64
from schemas.wording import Shown, must_be

_TRIES = 64
_ONE = np.uint64(1)


def assign(token_id: NDArray[np.uint64], experts: int, seed: int = 0) -> NDArray[np.int32]:
    """Spread tokens evenly over experts by their id alone.

    Consistent: going from E to E + 1 experts moves 1 / (E + 1) of the tokens, all of them to the new expert.
    Source: BinomialHash (Coluzzi, Brocco, Leidi, Dazzi 2024) on SplitMix64; O(1) a token.

    Parameters
    ----------
    token_id : uint64 [T]
    experts : int
        E, from 1 to 2**31 - 1.
    seed : int
        Another seed is another, independent spread.

    Returns
    -------
    expert : int32 [T]

    Raises
    ------
    ProblemError
        `experts` out of range, `token_id` not a vector of integers.
    """
    _check_experts(experts)
    tokens = array("token_id", token_id, np.uint64, "T")
    out = np.empty(len(tokens), np.int32)
    _assign(tokens, experts, _salt(seed), out)
    return out


def assign_bounded(
    token_id: NDArray[np.uint64],
    experts: int,
    slack: float = 0.05,
    cost: NDArray[np.float32] | None = None,
    capacity: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> NDArray[np.int32]:
    """Spread tokens by hash, in their order, and pass the overflow of a full expert on.

    Expert e is full when its load has reached C_e = (1 + slack) * (total cost) * capacity_e / (sum of capacity). A token
    takes the first expert that is not full, beginning at ``assign(token_id)`` and going on by double hashing over all
    experts, so the walk always ends. Loads: at most ceil(C_e) tokens without `cost`; below C_e + (largest cost of a
    token) with it. An expert of capacity 0 gets nothing. Source: consistent hashing with bounded loads (Mirrokni, Thorup,
    Zadimoghaddam 2018).

    Parameters
    ----------
    token_id : uint64 [T]
    experts : int
        E, from 1 to 2**31 - 1.
    slack : float
        Room above the proportional share, finite and >= 0.
    cost : float32 [T], optional
        Token-equivalents, finite and >= 0; 1 each by default.
    capacity : float64 [E], optional
        Relative capacity, finite, >= 0, not all 0; equal by default.
    seed : int

    Returns
    -------
    expert : int32 [T]

    Raises
    ------
    ProblemError
        An argument breaks a rule above.
    """
    _check_experts(experts)
    if not 0.0 <= slack < np.inf:
        raise ProblemError(must_be("slack", "finite and >= 0", slack))
    tokens = array("token_id", token_id, np.uint64, "T")
    weight = array("cost", np.ones(len(tokens), np.float32) if cost is None else cost, np.float32, "T")
    share = array("capacity", np.ones(experts) if capacity is None else capacity, np.float64, "E")
    _check_weights("cost", weight, len(tokens))
    _check_weights("capacity", share, experts)
    if share.sum() == 0.0:
        raise ProblemError(must_be("capacity", "above 0 for at least one expert", Shown("0 for all")))
    limit = (1.0 + slack) * weight.sum(dtype=np.float64) * (share / share.sum())
    out = np.empty(len(tokens), np.int32)
    _assign_bounded(tokens, weight, limit, share, _prime_from(experts), _salt(seed), out)
    return out


def choose_replica(
    token_id: NDArray[np.uint64],
    topk_ids: NDArray[np.int32],
    logical_to_physical: NDArray[np.int32],
    replica_count: NDArray[np.int32],
    seed: int = 0,
) -> NDArray[np.int32]:
    """Choose the physical slot that serves each gate choice, evenly over the replicas of an expert in one layer.

    Parameters
    ----------
    token_id : uint64 [T]
    topk_ids : int32 [T, K]
        The gate's experts, 0..E-1, or -1 for no choice.
    logical_to_physical : int32 [E, X]
        Slots of each expert, padded with -1.
    replica_count : int32 [E]
        How many of them are in use, 1..X.
    seed : int
        Give each layer its own, so that a token's replicas are independent across layers.

    Returns
    -------
    slot : int32 [T, K]
        -1 where there is no choice.

    Raises
    ------
    ProblemError
        Shapes disagree, or an expert, a count or a slot is out of range.
    """
    tokens = array("token_id", token_id, np.uint64, "T")
    chosen = array("topk_ids", topk_ids, np.int32, "T K")
    slots = array("logical_to_physical", logical_to_physical, np.int32, "E X")
    counts = array("replica_count", replica_count, np.int32, "E")
    if len(chosen) != len(tokens):
        raise ProblemError(must_be("topk_ids", f"one row for each of {len(tokens)} tokens", Shown(f"{len(chosen)} rows")))
    if len(counts) != len(slots):
        allowed = f"{len(slots)} values, one for each expert of logical_to_physical"
        raise ProblemError(must_be("replica_count", allowed, Shown(f"{len(counts)} values")))
    out = np.empty(chosen.shape, np.int32)
    bad = _choose_replica(tokens, chosen, slots, counts, _salt(seed), out)
    if bad >= 0:
        token, k = divmod(bad, chosen.shape[1])
        raise _bad_choice(token, k, chosen, slots, counts)
    return out


def _bad_choice(
    token: int, k: int, chosen: NDArray[np.int32], slots: NDArray[np.int32], counts: NDArray[np.int32]
) -> ProblemError:
    expert = chosen[token, k]
    if not 0 <= expert < len(slots):
        return ProblemError(must_be("topk_ids", f"experts 0 to {len(slots) - 1}", Shown(f"{expert} at [{token}, {k}]")))
    if not 1 <= counts[expert] <= slots.shape[1]:
        found = Shown(f"{counts[expert]} for expert {expert}")
        return ProblemError(must_be("replica_count", f"1 to {slots.shape[1]}", found))
    allowed = "a slot in the first replica_count entries of an expert"
    return ProblemError(must_be("logical_to_physical", allowed, Shown(f"-1 for expert {expert}")))


def _check_experts(experts: int) -> None:
    if not 1 <= experts < 2**31:
        raise ProblemError(must_be("experts", f"1 to {2**31 - 1}", experts))


def _check_weights(field: str, weight: NDArray[Any], length: int) -> None:
    if len(weight) != length:
        raise ProblemError(must_be(field, f"{length} values", Shown(f"{len(weight)}")))
    if length and not (weight.min() >= 0 and weight.max() < np.inf):  # a NaN fails both
        raise ProblemError(must_be(field, "finite and >= 0", Shown(f"values from {weight.min()} to {weight.max()}")))


@lru_cache(maxsize=4096)
def _salt(seed: int) -> np.uint64:
    # A kernel's uint64 comes back as a Python int, which the next kernel would take for int64.
    return np.uint64(mix64(np.uint64(seed % 2**64) + GOLDEN))


def _prime_from(n: int) -> int:
    """Smallest prime >= n, n >= 1."""
    candidate = max(n, 2)
    while any(candidate % d == 0 for d in range(2, int(candidate**0.5) + 1)):
        candidate += 1
    return candidate


@compiled
def _within_level(x: Any, level: Any) -> Any:
    """A random bucket of level..2*level-1; level is a power of two."""
    return level + (mix64(x ^ (level * GOLDEN)) & (level - _ONE))


@compiled
def _bucket(x: Any, n: Any, half: Any) -> Any:
    """Consistent bucket of the random word x among n; half is the largest power of two below n (1 for n <= 2)."""
    low = x & (half - _ONE)
    word = x
    for _ in range(_TRIES):
        if word & half == 0:
            break
        bucket = _within_level(word, half)
        if bucket < n:
            return np.int64(bucket)
        word = mix64(word + GOLDEN)
    if low < 2:
        return np.int64(low)
    level = low
    for shift in (1, 2, 4, 8, 16):
        level |= level >> np.uint64(shift)
    return np.int64(_within_level(x, level - (level >> _ONE)))


@compiled
def _half(experts: int) -> Any:
    half = np.uint64(1)
    while half + half < np.uint64(experts):
        half += half
    return half


@compiled
def _assign(token_id: Any, experts: int, salt: Any, out: Any) -> None:
    n, half = np.uint64(experts), _half(experts)
    for t in range(len(token_id)):
        out[t] = _bucket(mix64(token_id[t] ^ salt), n, half) if experts > 1 else 0


@compiled
def _assign_bounded(token_id: Any, cost: Any, limit: Any, share: Any, prime: int, salt: Any, out: Any) -> None:
    experts = len(limit)
    n, half = np.uint64(experts), _half(experts)
    load = np.zeros(experts)
    for t in range(len(token_id)):
        word = mix64(token_id[t] ^ salt)
        e = _bucket(word, n, half) if experts > 1 else 0
        if load[e] >= limit[e]:
            e = _next_free(word, e, load, limit, share, prime)
        load[e] += cost[t]
        out[t] = e


@compiled
def _next_free(word: Any, home: int, load: Any, limit: Any, share: Any, prime: int) -> Any:
    """First expert with room on the double-hashing walk from `home`; a prime modulus makes the walk a permutation."""
    step = 1 + below(mix64(word + GOLDEN), prime - 1)
    place = home
    for _ in range(prime - 1):
        place += step
        if place >= prime:
            place -= prime
        if place < len(load) and load[place] < limit[place]:
            return place
    # All full: only with slack 0, by rounding or by tokens of cost 0 at the very end.
    while place >= len(load) or share[place] == 0.0:
        place += step
        if place >= prime:
            place -= prime
    return place


@compiled
def _choose_replica(token_id: Any, topk_ids: Any, slots: Any, counts: Any, salt: Any, out: Any) -> Any:
    """Fill `out`; return the flat position of the first choice that no slot can serve, or -1."""
    width, most = topk_ids.shape[1], slots.shape[1]
    for t in range(len(token_id)):
        word = mix64(token_id[t] ^ salt)
        for k in range(width):
            e = topk_ids[t, k]
            if e == -1:
                out[t, k] = -1
                continue
            if e < 0 or e >= len(slots) or counts[e] < 1 or counts[e] > most:
                return t * width + k
            replica = below(mix64(word + np.uint64(e) * GOLDEN), counts[e]) if counts[e] > 1 else 0
            out[t, k] = slots[e, replica]
            if out[t, k] < 0:
                return t * width + k
    return -1
