"""Capacity-limited tokens: the most gate mass when no expert may take more than its room, by prices and regret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.errors import ProblemError
from qstream.routing.kernels import array, compiled
from qstream.routing.problem import check_load

_SAMPLE = 8  # the first sweeps price every 8th token, roughly
_SAMPLE_SWEEPS = 30
_EXTRA = 5  # the next ones all tokens, each with its k + 5 best experts at these prices
_SWEEPS = 20
_CHAINS = 400  # most improvements
_LINKS = 5  # most moves of a chain
_LEAST_GAIN = 1e-5  # of the gate mass: a chain that gains less ends the search


@dataclass(frozen=True, slots=True, eq=False)
class CapacityPlan:
    """Experts of tokens under capacities, and what that costs.

    Attributes
    ----------
    assignment : int32 [T, k]
        Distinct experts of each token, most gate mass first.
    gate_mass, bound : float
        Gate mass kept, and a proven upper bound on what any assignment can keep (Lagrangian dual).
    gate_kept : float
        Part of the mass that the k best experts of each token have together; 1 where there is none.
    off_candidate : float
        Part of the choices that have no gate mass.
    max_over_mean : float
        Load of the fullest expert over the mean load; 1 without load.
    over_capacity : float
        Load above the capacities, summed; 0 unless token costs do not fit.
    """

    assignment: NDArray[np.int32]
    gate_mass: float
    bound: float
    gate_kept: float
    off_candidate: float
    max_over_mean: float
    over_capacity: float


def assign_capacity(
    gate: NDArray[np.float32], capacity: NDArray[np.float64], *, k: int = 1, cost: NDArray[np.float32] | None = None
) -> CapacityPlan:
    """Give each token k distinct experts with the most gate mass, within the capacities. This changes a model's output.

    Maximises sum of gate[t, e] over the choices; an expert's chosen tokens cost at most capacity[e]. Prices of the experts
    descend the Lagrangian dual (projected subgradient, falling steps), then tokens choose at these prices, the one with the
    most to lose first. Deterministic. With `cost` the packing may be infeasible: a token that fits nowhere takes the expert
    with the most room, and `over_capacity` tells it; without, the capacities are kept. Source: dual prices as in BASE
    layers (Lewis et al. 2021) and generalised assignment by regret (Martello, Toth 1990).

    Parameters
    ----------
    gate : float32 [T, E]
        Gate mass, finite and >= 0; 0 where an expert is no candidate (`dense_gate` makes it from top-k columns).
    capacity : float64 [E]
        Token-equivalents, finite and >= 0. `even_capacity` gives the usual ones.
    k : int
        Experts a token, 1..E.
    cost : float32 [T], optional
        Token-equivalents a token, finite and > 0; 1 by default.

    Raises
    ------
    ProblemError
        An argument breaks a rule above, or the experts have less room than the tokens cost.
    """
    mass = array("gate", gate, np.float32, "T E")
    check_load("gate", mass)
    tokens, experts = mass.shape
    room = array("capacity", capacity, np.float64, "E")
    check_load("capacity", room)
    weight = array("cost", np.ones(tokens, np.float32) if cost is None else cost, np.float32, "T")
    if len(room) != experts:
        raise ProblemError(f"capacity: {len(room)} values, must be {experts}, one an expert")
    if len(weight) != tokens:
        raise ProblemError(f"cost: {len(weight)} values, must be {tokens}, one a token")
    if tokens and not 0.0 < weight.min() <= weight.max() < np.inf:  # a NaN fails both
        raise ProblemError(f"cost: from {weight.min()} to {weight.max()}, must be finite and > 0")
    if not 1 <= k <= experts:
        raise ProblemError(f"k: {k}, must be in 1..{experts} experts")
    room = np.minimum(np.floor(room + 1e-9) if cost is None else room, weight.sum(dtype=np.float64))
    needed = k * float(weight.sum(dtype=np.float64))
    if room.sum() < needed * (1.0 - 1e-6):
        raise ProblemError(f"capacity: {room.sum():g} in all for a token at most once an expert, must be >= {needed:g}")
    price = np.zeros(experts)
    typical = float(mass.max(initial=0.0)) / float(weight.mean()) if tokens else 0.0
    some, some_weight = mass[::_SAMPLE], weight[::_SAMPLE]
    some_room = room * (some_weight.sum() / weight.sum()) if tokens else room
    everyone = np.broadcast_to(np.arange(experts, dtype=np.int32), some.shape).copy()
    _price(everyone, some, some_weight, some_room, k, _SAMPLE_SWEEPS, 0.05 * typical, price)
    ids = np.empty((tokens, min(experts, k + _EXTRA)), np.int32)
    listed = np.empty(ids.shape, np.float32)
    _shortlist(mass, weight, room, price, k, ids, listed)
    _price(ids, listed, weight, room, k, _SWEEPS, 0.01 * typical, price)
    bound = _shortlist(mass, weight, room, price, k, ids, listed)
    out = np.full((tokens, k), -1, np.int32)
    load = _choose(mass, weight, room, price, _regret_order(listed, ids, weight, price, k), out)
    _improve(mass, weight, room, load, out, _CHAINS // k, _LEAST_GAIN * float(bound))
    return _described(mass, room, k, out, load, float(bound))


def even_capacity(tokens: int, experts: int, factor: float, k: int = 1) -> NDArray[np.float64]:
    """ceil(factor * k * T / E) tokens for each expert, float64 [E]; ProblemError unless factor is finite and >= 1."""
    if experts < 1 or tokens < 0:
        raise ProblemError(f"experts: {experts} for {tokens} tokens, must be >= 1 and >= 0")
    if not 1.0 <= factor < np.inf:
        raise ProblemError(f"factor: {factor}, must be finite and >= 1")
    return np.full(experts, np.ceil(factor * k * tokens / experts))


def dense_gate(topk_ids: NDArray[np.int32], topk_weights: NDArray[np.float32], experts: int) -> NDArray[np.float32]:
    """Gate mass float32 [T, E] of top-k columns [T, K]; ProblemError if shapes differ or an expert is not in 0..E-1."""
    ids = array("topk_ids", topk_ids, np.int32, "T K")
    weights = array("topk_weights", topk_weights, np.float32, "T K")
    if ids.shape != weights.shape:
        raise ProblemError(f"topk_weights: shape {weights.shape}, must be {ids.shape}")
    if ids.size and not 0 <= ids.min() <= ids.max() < experts:
        raise ProblemError(f"topk_ids: experts {ids.min()}..{ids.max()}, must be in 0..{experts - 1}")
    gate = np.zeros((len(ids), experts), np.float32)
    gate[np.arange(len(ids))[:, None], ids] = weights
    return gate


def _described(
    gate: NDArray[np.float32], room: NDArray[np.float64], k: int, out: NDArray[np.int32], load: NDArray[np.float64], bound: float
) -> CapacityPlan:
    kept = np.take_along_axis(gate, out, 1)
    best = (
        float(np.partition(gate, gate.shape[1] - k, axis=1)[:, gate.shape[1] - k :].sum(dtype=np.float64)) if len(gate) else 0.0
    )
    mass, mean = float(kept.sum(dtype=np.float64)), float(load.mean())
    order = np.argsort(-kept, axis=1, kind="stable")
    return CapacityPlan(
        assignment=np.take_along_axis(out, order, 1),
        gate_mass=mass,
        bound=min(bound, best),
        gate_kept=mass / best if best > 0.0 else 1.0,
        off_candidate=float((kept <= 0.0).mean()) if kept.size else 0.0,
        max_over_mean=float(load.max()) / mean if mean > 0.0 else 1.0,
        over_capacity=float(np.maximum(load - room, 0.0).sum()),
    )


@compiled
def _price(ids: Any, mass: Any, cost: Any, room: Any, k: int, sweeps: int, first_step: float, price: Any) -> None:
    """Descend the dual in place, for tokens [T] that choose k of their candidates [T, C]; end at the best prices seen.

    Each expert has its own step: half as long after a change of sign, a little longer else (Rprop, Riedmiller, Braun 1993).
    """
    experts = len(room)
    load, step, was_over = np.empty(experts), np.full(experts, first_step), np.zeros(experts)
    kept, best = price.copy(), np.inf
    picked, values = np.empty(k, np.int64), np.empty(k, np.float32)
    for _ in range(sweeps):
        load[:] = 0.0
        dual = (price * room).sum()
        reduced = price.astype(np.float32)
        for t in range(len(ids)):
            _best(ids[t], mass[t], reduced, cost[t], picked, values)
            for i in range(k):
                dual += values[i]
                load[ids[t, picked[i]]] += cost[t]
        if dual < best:
            best = dual
            kept[:] = price
        for e in range(experts):
            over = np.sign(load[e] - room[e])
            step[e] *= 0.5 if over * was_over[e] < 0.0 else 1.1
            price[e] = max(0.0, price[e] + step[e] * over)
            was_over[e] = over
    price[:] = kept


@compiled
def _shortlist(gate: Any, cost: Any, room: Any, price: Any, k: int, ids: Any, mass: Any) -> Any:
    """Fill each token's best candidates at these prices, best first; return the dual value, an upper bound."""
    everyone = np.arange(len(room))
    reduced = price.astype(np.float32)
    values = np.empty(ids.shape[1], np.float32)
    dual = (price * room).sum()
    for t in range(len(gate)):
        _best(everyone, gate[t], reduced, cost[t], ids[t], values)
        for i in range(ids.shape[1]):
            mass[t, i] = gate[t, ids[t, i]]
            if i < k:
                dual += values[i]
    return dual


@compiled
def _best(ids: Any, mass: Any, price: Any, cost: Any, picked: Any, values: Any) -> None:
    """Columns of the largest mass - cost * price, largest first, the lowest column first among equals."""
    last = len(picked) - 1
    values[:] = -np.inf
    for c in range(len(ids)):
        value = mass[c] - cost * price[ids[c]]
        if value > values[last]:
            i = last
            while i > 0 and value > values[i - 1]:
                values[i] = values[i - 1]
                picked[i] = picked[i - 1]
                i -= 1
            values[i] = value
            picked[i] = c


@compiled
def _regret_order(mass: Any, ids: Any, cost: Any, price: Any, k: int) -> Any:
    """Choices (token * k + rank) by falling loss between the candidate of that rank and the first refused, a unit of cost."""
    tokens, columns = ids.shape
    regret = np.zeros(tokens * k)
    last = min(k, columns - 1)
    for t in range(tokens):
        refused = mass[t, last] / cost[t] - price[ids[t, last]]
        for i in range(k):
            regret[t * k + i] = mass[t, i] / cost[t] - price[ids[t, i]] - refused
    return np.argsort(-regret, kind="mergesort")


@compiled
def _choose(gate: Any, cost: Any, room: Any, price: Any, order: Any, out: Any) -> Any:
    """Fill `out` in that order, each token with its best experts that have room; return the loads."""
    load = np.zeros(len(room))
    for place in range(len(order)):
        t, i = order[place] // out.shape[1], order[place] % out.shape[1]
        at, most = -1, -np.inf
        for e in range(len(room)):
            value = gate[t, e] - cost[t] * price[e]
            if value > most and load[e] + cost[t] <= room[e] and not _has(out[t], e):
                at, most = e, value
        if at < 0:
            at = _make_room(gate, cost, room, load, out, t)
        out[t, i] = at
        load[at] += cost[t]
    return load


@compiled
def _improve(gate: Any, cost: Any, room: Any, load: Any, out: Any, chains: int, least_gain: float) -> None:
    """Pass tokens on along the chain of experts that gains most and ends where there is room, until none gains."""
    experts = len(room)
    gain, mover = np.full((experts, experts), -np.inf), np.full((experts, experts), -1)
    for e in range(experts):
        _movers(e, gate, out, gain[e], mover[e])
    for _ in range(chains):
        chain, total = _best_chain(gain, mover, cost, room, load)
        if total <= least_gain:
            break
        blocked = _first_misfit(chain, mover, cost, room, load)
        if blocked >= 0:
            gain[chain[blocked + 1], chain[blocked]] = -np.inf
            continue
        tokens = [mover[chain[step + 1], chain[step]] for step in range(len(chain) - 1)]
        for step, u in enumerate(tokens):
            f, e = chain[step], chain[step + 1]
            for i in range(out.shape[1]):
                if out[u, i] == e:
                    out[u, i] = f
                    break
            load[f] += cost[u]
            load[e] -= cost[u]
        stale = np.zeros(experts, np.bool_)
        stale[chain] = True
        for u in tokens:
            stale[out[u]] = True
        for expert in np.flatnonzero(stale):
            _movers(expert, gate, out, gain[expert], mover[expert])


@compiled
def _first_misfit(chain: Any, mover: Any, cost: Any, room: Any, load: Any) -> Any:
    """First link whose token does not fit where the next link makes room, or -1."""
    for step in range(len(chain) - 1):
        f, leaves = chain[step], 0.0
        if step > 0:
            leaves = cost[mover[f, chain[step - 1]]]
        elif f == chain[-1]:
            leaves = cost[mover[f, chain[-2]]]
        if load[f] - leaves + cost[mover[chain[step + 1], f]] > room[f]:
            return step
    return -1


@compiled
def _movers(e: Any, gate: Any, out: Any, gain: Any, mover: Any) -> None:
    """Of the tokens of expert e, which gains most by a move to each other expert."""
    gain[:] = -np.inf
    flat = out.ravel()
    for choice in range(len(flat)):
        if flat[choice] != e:
            continue
        t = choice // out.shape[1]
        for f in range(len(gain)):
            more = gate[t, f] - gate[t, e]
            if more > gain[f] and not _has(out[t], f):
                gain[f], mover[f] = more, t


@compiled
def _best_chain(gain: Any, mover: Any, cost: Any, room: Any, load: Any) -> Any:
    """Experts of the best chain of at most _LINKS moves, the last first, and its gain; equal ends make it a ring."""
    experts = len(room)
    value, came = np.zeros((_LINKS + 1, experts)), np.full((_LINKS + 1, experts), -1)
    best, at, links = 0.0, -1, 0
    for link in range(1, _LINKS + 1):
        for f in range(experts):
            value[link, f] = -np.inf
            for e in range(experts):
                total = value[link - 1, e] + gain[e, f]
                if total > value[link, f]:
                    value[link, f], came[link, f] = total, e
            last = came[link, f]
            if last >= 0 and value[link, f] > best and load[f] + cost[mover[last, f]] <= room[f]:
                best, at, links = value[link, f], f, link
    chain = np.full(links + 1, -1)
    total = 0.0
    for link in range(links + 1):
        if link > 0:
            total += gain[at, chain[link - 1]]
        chain[link] = at
        for first in range(link):
            if chain[first] == at:  # a walk that comes back: the ring alone
                ring = 0.0
                for step in range(first, link):
                    ring += gain[chain[step + 1], chain[step]]
                return (chain[first : link + 1], ring) if ring > total - ring else (chain[: first + 1], total - ring)
        at = came[links - link, at]
    return chain, total


@compiled
def _has(row: Any, expert: int) -> bool:
    found = False
    for e in row:
        found |= e == expert
    return found


@compiled
def _make_room(gate: Any, cost: Any, room: Any, load: Any, out: Any, token: int) -> Any:
    """All experts with room have the token: pass another token's expert on to one of them, at the least loss, and take its place.

    If no token of the same or a larger cost can pass, return the expert with the most room that the token has not.
    """
    best, donor, at, spare = -np.inf, -1, -1, -1
    for f in range(len(room)):
        for u in range(len(out)):
            if cost[u] < cost[token] or load[f] + cost[u] > room[f] or _has(out[u], f):
                continue
            for i in range(out.shape[1]):
                e = out[u, i]
                if e < 0 or _has(out[token], e):
                    continue
                gain = gate[u, f] - gate[u, e] + gate[token, e]
                if gain > best:
                    best, donor, at, spare = gain, u, i, f
    if donor >= 0:
        e = out[donor, at]
        out[donor, at] = spare
        load[spare] += cost[donor]
        load[e] -= cost[donor]
        return e
    fallback = -1
    for e in range(len(room)):
        if not _has(out[token], e) and (fallback < 0 or room[e] - load[e] > room[fallback] - load[fallback]):
            fallback = e
    return fallback
