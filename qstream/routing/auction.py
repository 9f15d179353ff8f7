"""Auction: tokens bid for experts of limited room, until no bid is outbid any more."""

from __future__ import annotations

from typing import Any

import numpy as np

from qstream.kernels import compiled

_TURN = 4  # bids a choice until the least raise is doubled, so that equal tokens do not outbid each other for long


@compiled
def surplus(ids: Any, mass: Any, cost: Any, price: Any, k: int) -> Any:
    """Sum over the tokens of the k largest mass - cost * price, where these are positive.

    With the prices of the experts' room it bounds the mass of any assignment (Lagrangian dual).
    """
    total, values = 0.0, np.empty(k)
    for t in range(len(ids)):
        values[:] = 0.0
        for c in range(ids.shape[1]):
            value = mass[t, c] - cost[t] * price[ids[t, c]] if ids[t, c] >= 0 else 0.0
            if value > values[k - 1]:
                i = k - 1
                while i > 0 and value > values[i - 1]:
                    values[i] = values[i - 1]
                    i -= 1
                values[i] = value
        total += values.sum()
    return total


@compiled
def auction(ids: Any, mass: Any, cost: Any, room: Any, least_raise: float, price: Any, load: Any, chosen: Any) -> None:
    """Let tokens [T] bid for k of their candidates [T, C], each expert at most once, at prices that rise from 0.

    A bid is what its expert is worth more than the best that the token goes without, and `least_raise` on top, but no more
    than it is worth. An expert [E] without room gives up its lowest bid and asks for the next one. `chosen` [T, k] comes as
    -1 and stays so where nothing is worth its price any more; `price` and `load` come as 0. The bids of an expert form a
    pairing heap, the lowest on top (Fredman, Sedgewick, Sleator, Tarjan 1986).
    """
    tokens, k = chosen.shape
    bids, turn = 0, _TURN * chosen.size
    bid, lowest = np.empty(chosen.size), np.full(len(room), -1, np.int32)
    child, sibling = np.full(chosen.size, -1, np.int32), np.full(chosen.size, -1, np.int32)
    outbid, waiting, waits = np.empty(tokens, np.int32), 0, np.zeros(tokens, np.bool_)
    wanted, worth = np.empty(k + 1, np.int32), np.empty(k + 1)
    new = 0
    while new < tokens or waiting > 0:
        if waiting > 0:
            waiting -= 1
            t = outbid[waiting]
            waits[t] = False
        else:
            t = new
            new += 1
        least = _want(ids, mass, cost[t], room, price, chosen, t, wanted, worth)
        rank = -1
        for i in range(k):
            rank += chosen[t, i] < 0
            if chosen[t, i] >= 0 or wanted[rank] < 0:
                continue
            choice, e = t * k + i, wanted[rank]
            bids += 1
            if bids > turn:
                turn *= 2
                least_raise *= 2.0
            bid[choice] = price[e] + min(worth[rank], worth[rank] - least + least_raise * cost[t]) / cost[t]
            chosen[t, i] = e
            lowest[e] = choice if lowest[e] < 0 else _link(lowest[e], choice, bid, child, sibling)
            load[e] += cost[t]
            while load[e] > room[e]:
                loser = lowest[e]
                u = loser // k
                lowest[e] = _without_top(loser, bid, child, sibling)
                load[e] -= cost[u]
                chosen[u, loser - u * k] = -1
                price[e] = max(price[e], bid[lowest[e]] if lowest[e] >= 0 else bid[loser])
                if not waits[u]:
                    waits[u] = True
                    outbid[waiting] = u
                    waiting += 1


@compiled
def _want(ids: Any, mass: Any, cost: Any, room: Any, price: Any, chosen: Any, t: int, wanted: Any, worth: Any) -> Any:
    """List the experts worth most above their price, as many as the token lacks, then -1; return the worth of the next best."""
    lacks = 0
    for i in range(chosen.shape[1]):
        lacks += chosen[t, i] < 0
    wanted[: lacks + 1] = -1
    worth[: lacks + 1] = 0.0
    for c in range(ids.shape[1]):
        e = ids[t, c]
        value = mass[t, c] - cost * price[e] if e >= 0 else 0.0
        if value > worth[lacks] and cost <= room[e] and not has(chosen, t, e):
            at = lacks
            while at > 0 and value > worth[at - 1]:
                wanted[at], worth[at] = wanted[at - 1], worth[at - 1]
                at -= 1
            wanted[at], worth[at] = e, value
    return worth[lacks]


@compiled
def _link(a: Any, b: Any, bid: Any, child: Any, sibling: Any) -> Any:
    """Join two heaps; the top of the result."""
    if bid[b] <= bid[a]:  # of equal bids the later one goes
        a, b = b, a
    sibling[b] = child[a]
    child[a] = b
    return a


@compiled
def _without_top(top: Any, bid: Any, child: Any, sibling: Any) -> Any:
    """Take the top off a heap: link its children in pairs, then the pairs from last to first; the new top, or -1."""
    first, pairs, rest = child[top], -1, -1
    child[top] = -1
    while first >= 0:
        second = sibling[first]
        if second < 0:
            pair, following = first, second
        else:
            following = sibling[second]
            pair = _link(first, second, bid, child, sibling)
        sibling[pair] = pairs
        pairs, first = pair, following
    while pairs >= 0:
        following = sibling[pairs]
        sibling[pairs] = -1
        rest = pairs if rest < 0 else _link(rest, pairs, bid, child, sibling)
        pairs = following
    return rest


@compiled
def has(chosen: Any, token: int, expert: int) -> bool:
    found = False
    for i in range(chosen.shape[1]):
        found |= chosen[token, i] == expert
    return found
