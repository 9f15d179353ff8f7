"""Which node holds which experts, so that the experts of a token lie on few nodes: swap annealing on co-activation counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import GOLDEN, below, compiled, mix64
from qstream.routing.problem import check_ids, check_load
from schemas.wording import Shown, must_be

_HOT = 8.0  # first and last temperature, in mean co-activations of a pair
_COLD = 0.6
_PRICE = 1.0  # of a token above a limit, in mean co-activations of a token
_HALF = np.uint64(32)
_DRAWS = 1 << 31


def coactivation(topk_ids: NDArray[np.int32], experts: int, *, max_tokens: int = 16384) -> NDArray[np.int64]:
    """How often two experts serve one token: int64 [L, E, E], symmetric; the diagonal counts the tokens of each expert.

    Of more than `max_tokens` tokens, every s-th is counted s times.

    Parameters
    ----------
    topk_ids : int [T, L, K]
        Experts of each token, all different; -1 for no choice.
    experts : int
        E.

    Raises
    ------
    ProblemError
        An expert is out of range, or `max_tokens` < 1.
    """
    if max_tokens < 1:
        raise ProblemError(must_be("max_tokens", ">= 1", max_tokens))
    step = -(-len(topk_ids) // max_tokens) or 1
    ids = array("topk_ids", topk_ids[::step], np.int32, "T L K")
    check_ids("topk_ids", ids, experts, least=-1)
    together = np.zeros((ids.shape[1], experts, experts), np.int32)
    _count_pairs(ids, together)
    return together.astype(np.int64) * step


def colocate(
    together: NDArray[np.int64],
    sizes: NDArray[np.int64],
    *,
    load: NDArray[np.float64] | None = None,
    share: NDArray[np.float64] | None = None,
    eps: float = 0.05,
    steps: int = 40_000,
    seed: int = 0,
) -> NDArray[np.int32]:
    """Give every expert a node, so that experts used together share one.

    Maximises, layer by layer, the co-activations of pairs on one node, with ``sizes[n]`` experts on node n and at most
    (1 + eps) of its share of the load. Where the most even assignment that greedy search finds exceeds limits, the sum of the
    excesses is not larger than its. Pairs stand for the nodes that a token touches (lambda), which
    `score.nodes_per_token` counts. Equal arguments give equal bytes; 40,000 steps of 64 experts take 2 ms.

    Parameters
    ----------
    together : int or float [L, E, E]
        From `coactivation`; symmetric, finite and >= 0. The diagonal is not used but as the load.
    sizes : int [N]
        Experts of each node, >= 0, sum E.
    load : float64 [L, E], optional
        Tokens of each expert; the diagonal of `together` by default.
    share : float64 [N], optional
        Part of the load that each node should carry, > 0 where `sizes` is; by default as `sizes`.
    eps : float
        >= 0; ``inf`` sets no limit.
    steps : int
        Proposed exchanges a layer, >= 0.

    Returns
    -------
    node_of_expert : int32 [L, E]

    Raises
    ------
    ProblemError
        An argument breaks a rule above.
    """
    pairs = array("together", together, np.float64, "L E F")
    layers, experts, width = pairs.shape
    if width != experts or not _is_symmetric(pairs):
        shape = Shown(f"shape {list(pairs.shape)}")
        raise ProblemError(must_be("together", "[L, E, E], symmetric, finite and >= 0", shape))
    room = array("sizes", sizes, np.int64, "N")
    if not len(room) or room.min() < 0 or room.sum() != experts:
        raise ProblemError(must_be("sizes", f">= 0 with the sum {experts}", room.tolist()))
    tokens = array("load", np.einsum("lee->le", pairs) if load is None else load, np.float64, "L E")
    check_load("load", tokens)
    if tokens.shape != (layers, experts):
        raise ProblemError(must_be("load", f"{(layers, experts)}", Shown(f"shape {tokens.shape}")))
    parts = array("share", room if share is None else share, np.float64, "N")
    check_load("share", parts)
    if len(parts) != len(room) or (parts[room > 0] == 0).any():
        raise ProblemError(must_be("share", f"{len(room)} values, > 0 where a node has experts", parts.tolist()))
    if not eps >= 0:
        raise ProblemError(must_be("eps", ">= 0", eps))
    if steps < 0:
        raise ProblemError(must_be("steps", ">= 0", steps))
    target = tokens.sum(1, keepdims=True) * (parts / max(parts.sum(), 1e-300))
    node = np.zeros((layers, experts), np.int32)
    if experts:
        order = np.argsort(-tokens, axis=1, kind="stable")
        limit = np.where(target > 0, (1.0 + eps) * target, np.inf)
        _colocate(pairs, tokens, room, target, limit, order, steps, np.uint64(seed % 2**64), node)
    return node


@compiled
def _count_pairs(ids: Any, together: Any) -> None:
    """Add to int32 [L, E, E] the co-activations of the tokens [T, L, K], whose experts are in range or -1."""
    tokens, layers, k = ids.shape
    for layer in range(layers):
        for t in range(tokens):
            for i in range(k):
                a = ids[t, layer, i]
                if a < 0:
                    continue
                together[layer, a, a] += 1
                for j in range(i):
                    b = ids[t, layer, j]
                    if b >= 0:
                        together[layer, a, b] += 1
                        together[layer, b, a] += 1


@compiled
def _is_symmetric(pairs: Any) -> bool:
    """Whether each layer [E, E] is symmetric, and all is finite and >= 0."""
    for layer in range(len(pairs)):
        for e in range(pairs.shape[1]):
            for f in range(e + 1):
                value = pairs[layer, e, f]
                if not (value == pairs[layer, f, e] and 0.0 <= value < np.inf):
                    return False
    return True


@compiled
def _colocate(pairs: Any, load: Any, room: Any, target: Any, limit: Any, order: Any, steps: int, seed: Any, node: Any) -> None:
    state = np.empty(1, np.uint64)
    for layer in range(len(node)):
        state[0] = mix64(seed * GOLDEN + np.uint64(layer))
        carried = _even_start(load[layer], room, target[layer], order[layer], node[layer])
        bonds = pairs[layer].copy()
        for e in range(len(bonds)):
            bonds[e, e] = 0.0  # an expert has no bond with itself
        _anneal(bonds, load[layer], carried, limit[layer], steps, state, node[layer])


@compiled
def _even_start(load: Any, room: Any, target: Any, order: Any, node: Any) -> Any:
    """Heaviest expert first, to the node with room that it fills least of its share; then exchanges that even out more."""
    nodes = len(room)
    carried, held = np.zeros(nodes), np.zeros(nodes, np.int64)
    for e in order:
        best, level = -1, 0.0
        for n in range(nodes):
            if held[n] < room[n]:
                part = (carried[n] + load[e]) / max(target[n], 1e-300)
                if best < 0 or part < level:
                    best, level = n, part
        node[e] = best
        carried[best] += load[e]
        held[best] += 1
    while _even_out(load, target, node, carried):
        pass
    return carried


@compiled
def _even_out(load: Any, target: Any, node: Any, carried: Any) -> bool:
    """Exchange an expert of the fullest node, if that leaves the fuller of the two nodes emptier; best exchange of all."""
    full, top = -1, 0.0
    for n in range(len(target)):
        if target[n] > 0 and carried[n] / target[n] > top:
            full, top = n, carried[n] / target[n]
    best, out, into = top * (1.0 - 1e-12), -1, -1
    for e in range(len(node)):
        if node[e] != full:
            continue
        for f in range(len(node)):
            n = node[f]
            gap = load[e] - load[f]
            if n != full and gap > 0.0:
                level = max((carried[full] - gap) / target[full], (carried[n] + gap) / max(target[n], 1e-300))
                if level < best:
                    best, out, into = level, e, f
    if out < 0:
        return False
    gap = load[out] - load[into]
    carried[full] -= gap
    carried[node[into]] += gap
    node[out], node[into] = node[into], full
    return True


@compiled
def _anneal(pairs: Any, load: Any, carried: Any, limit: Any, steps: int, state: Any, node: Any) -> None:
    """Exchanges between nodes; what exceeds the limits has a price on the way, and is never more than in the start at the end."""
    experts = len(node)
    bond = np.zeros((len(limit), experts))  # co-activations of each expert with those of each node
    for f in range(experts):
        for e in range(experts):
            bond[node[f], e] += pairs[f, e]
    bonds, tokens = pairs.sum(), load.sum()
    unit = bonds / max(experts * (experts - 1), 1)
    price = _PRICE * bonds / max(tokens, 1e-300)
    excess = 0.0
    for n in range(len(limit)):
        excess += max(carried[n] - limit[n], 0.0)
    allowed = excess + 1e-12 * tokens
    gained, best, kept = 0.0, 0.0, node.copy()
    temperature, cooling = _HOT * unit, (_COLD / _HOT) ** (1.0 / max(steps, 1))
    for _ in range(steps):
        temperature *= cooling
        state[0] += GOLDEN
        word = mix64(state[0])
        e, f = below(word, experts), below(word << _HALF, experts)
        a, b = node[e], node[f]
        if a == b:
            continue
        gap = load[e] - load[f]
        over = max(carried[a] - gap - limit[a], 0.0) + max(carried[b] + gap - limit[b], 0.0)
        over -= max(carried[a] - limit[a], 0.0) + max(carried[b] - limit[b], 0.0)
        gain = bond[b, e] - bond[a, e] + bond[a, f] - bond[b, f] - 2.0 * pairs[e, f]
        worth = gain - price * over
        if worth < 0.0:
            state[0] += GOLDEN
            if worth < temperature * np.log((below(mix64(state[0]), _DRAWS) + 1.0) / _DRAWS):
                continue
        gained += gain
        excess += over
        carried[a] -= gap
        carried[b] += gap
        node[e], node[f] = b, a
        for g in range(experts):
            change = pairs[f, g] - pairs[e, g]
            bond[a, g] += change
            bond[b, g] -= change
        if gained > best + 1e-9 * unit and excess <= allowed:
            best = gained
            for g in range(experts):
                kept[g] = node[g]
    for g in range(experts):
        node[g] = kept[g]
