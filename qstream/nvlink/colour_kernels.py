"""Kernels of colouring: saturation order, cliques, branch and bound, and tabu search. Axes: n vertices, k colours.

Graphs are symmetric and in compressed rows: `first` [n + 1], and of each entry its `neighbour` and `weight`, above 0. What a
vertex feels in a colour is the weight of its edges to vertices of that colour. `small` is what sums of weights may differ by.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qstream.kernels import GOLDEN, below, compiled, mix64


@compiled
def dsatur(first: Any, neighbour: Any, weight: Any, k: Any, colour: Any, order: Any) -> Any:
    """Colour vertices, those that feel most colours first, by the first that costs least; how many colours that takes.

    Of equally saturated ones the first with most neighbours. Brelaz, "New methods to color the vertices of a graph", 1979.
    """
    n = len(colour)
    felt, seen, used = np.zeros((n, k)), np.zeros(n, np.int64), 0
    for v in range(n):
        colour[v] = -1
    for at in range(n):
        chosen, most, degree = -1, -1, -1
        for v in range(n):
            if colour[v] < 0 and (seen[v] > most or (seen[v] == most and first[v + 1] - first[v] > degree)):
                chosen, most, degree = v, seen[v], first[v + 1] - first[v]
        taken = 0
        for c in range(1, min(used + 1, k)):
            if felt[chosen, c] < felt[chosen, taken]:
                taken = c
        colour[chosen], order[at], used = taken, chosen, max(used, taken + 1)
        for e in range(first[chosen], first[chosen + 1]):
            u = neighbour[e]
            if felt[u, taken] == 0:
                seen[u] += 1
            felt[u, taken] += weight[e]
    return used


@compiled
def clique(first: Any, neighbour: Any, starts: Any, clique_of: Any) -> Any:
    """The largest clique that grows from the starts, each time by the candidate with most neighbours among them; its size.

    Fills `clique_of` [n] with its vertices.
    """
    n, largest = len(first) - 1, 0
    inside, mine = np.zeros(n, np.bool_), np.empty(n, np.int64)
    for start in starts:
        for v in range(n):
            inside[v] = False
        for e in range(first[start], first[start + 1]):
            inside[neighbour[e]] = True
        mine[0], size = start, 1
        while True:
            chosen, most = -1, -1
            for v in range(n):
                if inside[v]:
                    among = 0
                    for e in range(first[v], first[v + 1]):
                        if inside[neighbour[e]]:
                            among += 1
                    if among > most:
                        chosen, most = v, among
            if chosen < 0:
                break
            mine[size] = chosen
            size += 1
            for v in range(n):
                if inside[v]:
                    inside[v] = False
                    for e in range(first[v], first[v + 1]):
                        if neighbour[e] == chosen:
                            inside[v] = True
                            break
        if size > largest:
            largest = size
            for i in range(size):
                clique_of[i] = mine[i]
    return largest


@compiled
def branch(first: Any, neighbour: Any, weight: Any, order: Any, k: Any, limit: Any, small: Any, lowest: Any, best: Any) -> Any:
    """Look for a colouring below `lowest`, vertices in their order, colours that differ only by their number once.

    Fills `best` with the cheapest that it finds. Returns its weight, or `lowest` where there is none, and whether all were
    looked at within `limit` steps.
    """
    n = len(order)
    felt, colour, used, cost = np.zeros((n, k)), np.full(n, -1), np.zeros(n + 1, np.int64), np.zeros(n + 1)
    at = 0
    for _ in range(limit):
        v = order[at]
        old = colour[v]
        if old >= 0:
            for e in range(first[v], first[v + 1]):
                felt[neighbour[e], old] -= weight[e]
        new = old + 1
        open_to = min(used[at] + 1, k)
        while new < open_to and cost[at] + felt[v, new] >= lowest - small:
            new += 1
        if new >= open_to:
            colour[v] = -1
            at -= 1
            if at < 0:
                return lowest, True
            continue
        colour[v] = new
        for e in range(first[v], first[v + 1]):
            felt[neighbour[e], new] += weight[e]
        cost[at + 1], used[at + 1] = cost[at] + felt[v, new], max(used[at], new + 1)
        if at + 1 < n:
            at += 1
            continue
        lowest = cost[n]
        for u in range(n):
            best[u] = colour[u]
        if lowest <= small:
            return lowest, True
    return lowest, False


@compiled
def tabu(
    first: Any, neighbour: Any, weight: Any, colour: Any, until: Any, best: Any, lowest: Any, small: Any, step: Any, steps: Any,
    seed: Any,
) -> Any:  # fmt: skip
    """Recolour conflicting vertices, each time the one that lowers the weight most, for `steps` moves or until none is left.

    Works on `colour` [n] in place, keeps the cheapest in `best`; what left a colour may not return before `until` [n, k], unless
    that is cheaper than all before. Returns the lowest weight. Hertz, de Werra, "Using tabu search techniques for graph
    coloring", 1987; tenure by Galinier, Hao, 1999.
    """
    n, k = until.shape
    felt, clash, place, count, cost = np.zeros((n, k)), np.empty(n, np.int64), np.full(n, -1), 0, 0.0
    for v in range(n):
        for e in range(first[v], first[v + 1]):
            felt[v, colour[neighbour[e]]] += weight[e]
    for v in range(n):
        cost += felt[v, colour[v]] / 2
        if felt[v, colour[v]] > small:
            clash[count], place[v] = v, count
            count += 1
    state = np.uint64(seed)
    if cost < lowest - small:
        lowest = cost
        for v in range(n):
            best[v] = colour[v]
    for now in range(step, step + steps):
        if count == 0:
            break
        least, ties, chosen, to = np.inf, 0, -1, -1
        for i in range(count):
            v = clash[i]
            here = felt[v, colour[v]]
            for c in range(k):
                change = felt[v, c] - here
                if change > least or c == colour[v] or (until[v, c] > now and cost + change >= lowest - small):
                    continue
                if change < least:
                    least, ties, chosen, to = change, 1, v, c
                else:
                    ties += 1
                    state += GOLDEN
                    if below(mix64(state), ties) == 0:
                        chosen, to = v, c
        state += GOLDEN
        drawn = mix64(state)
        if chosen < 0:  # all are forbidden
            chosen = clash[below(drawn, count)]
            to = (colour[chosen] + 1) % k
        old = colour[chosen]
        cost += felt[chosen, to] - felt[chosen, old]
        colour[chosen] = to
        for i in range(first[chosen], first[chosen + 1] + 1):
            if i < first[chosen + 1]:
                u = neighbour[i]
                felt[u, old] -= weight[i]
                felt[u, to] += weight[i]
            else:
                u = chosen
            clashes = felt[u, colour[u]] > small
            if clashes and place[u] < 0:
                clash[count], place[u] = u, count
                count += 1
            elif not clashes and place[u] >= 0:
                count -= 1
                clash[place[u]] = clash[count]
                place[clash[count]] = place[u]
                place[u] = -1
        until[chosen, old] = now + 1 + below(drawn, 10) + np.int64(0.6 * count)
        if cost < lowest - small:
            lowest = cost
            for v in range(n):
                best[v] = colour[v]
    return lowest
