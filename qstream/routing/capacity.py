"""Capacity-limited tokens: the most gate mass when no expert may take more than its room, by an auction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array, read_only
from qstream.errors import ProblemError
from qstream.kernels import compiled
from qstream.routing.auction import auction, has, surplus
from qstream.routing.problem import check_load
from schemas.wording import Shown, must_be

_LEAST_RAISE = 0.02  # of the mean gate mass of a token's best choices: what a bid adds at least
_ASKED = 256  # tokens that may pass an expert on, where no other way is left


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
    """Give each token k distinct experts with the most gate mass, within the capacities: `assign_candidates` of a dense gate.

    Parameters
    ----------
    gate : float32 [T, E]
        Gate mass, finite and >= 0; 0 where an expert is not a candidate.
    capacity, k, cost
        As in `assign_candidates`.

    Raises
    ------
    ProblemError
        An argument breaks a rule.
    """
    mass = array("gate", gate, np.float32, "T E")
    check_load("gate", mass)
    width = int(np.count_nonzero(mass, axis=1).max(initial=1))
    ids, listed = np.full((len(mass), width), -1, np.int32), np.zeros((len(mass), width), np.float32)
    _list(mass, ids, listed)
    return _assign(ids, listed, _room(capacity, mass.shape[1]), k, cost)


def assign_candidates(
    ids: NDArray[np.int32],
    mass: NDArray[np.float32],
    capacity: NDArray[np.float64],
    *,
    k: int = 1,
    cost: NDArray[np.float32] | None = None,
) -> CapacityPlan:
    """Give each token k distinct experts with the most gate mass, within the capacities. This changes a model's output.

    Maximises the sum of mass over the choices; an expert's chosen tokens cost at most its capacity. Tokens bid for their
    best experts at the current prices, as much as these are worth more to them than the best that they go without; a full
    expert gives up its lowest bid and asks for the next one. What no bid places goes to the emptiest experts. With one
    expert a token and no `cost` the mass falls short of the optimum by at most the least raise a token, 2 % of its mean best
    mass (twice that after 4 bids a token, and so on); with as many experts as candidates it is the optimum, except for exchanges
    where the room is all used. Deterministic. With `cost` the packing may be infeasible: a token that fits nowhere takes the
    expert with the most room, and `over_capacity` says so; without, the capacities are kept. Source: auction for
    transportation problems (Bertsekas, Castanon 1989).

    Parameters
    ----------
    ids : int32 [T, C]
        Candidates of each token, 0..E-1; -1 where there are fewer. A repeated one counts once, with its first mass.
    mass : float32 [T, C]
        Gate mass of each, finite and >= 0; experts that are not candidates have none.
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
    given, masses, room = array("ids", ids, np.int32, "T C"), array("mass", mass, np.float32, "T C"), _room(capacity)
    if given.shape != masses.shape:
        raise ProblemError(must_be("mass", f"{given.shape}, the shape of ids", Shown(f"shape {masses.shape}")))
    if given.size and not -1 <= given.min() <= given.max() < len(room):
        raise ProblemError(must_be("ids", f"-1 to {len(room) - 1}", Shown(f"experts {given.min()} to {given.max()}")))
    check_load("mass", masses)
    once = np.empty(given.shape, np.int32)
    _drop_repeats(given, len(room), once)
    return _assign(once, masses, room, k, cost)


def even_capacity(tokens: int, experts: int, factor: float, k: int = 1) -> NDArray[np.float64]:
    """ceil(factor * k * T / E) tokens for each expert, float64 [E]; ProblemError unless factor is finite and >= 1."""
    if experts < 1:
        raise ProblemError(must_be("experts", ">= 1", experts))
    if tokens < 0:
        raise ProblemError(must_be("tokens", ">= 0", tokens))
    if not 1.0 <= factor < np.inf:
        raise ProblemError(must_be("factor", "finite and >= 1", factor))
    return np.full(experts, np.ceil(factor * k * tokens / experts * (1.0 - 1e-12)))  # 1.1 * 100 is a little above 110


def _room(capacity: NDArray[np.float64], experts: int | None = None) -> NDArray[np.float64]:
    room: NDArray[np.float64] = array("capacity", capacity, np.float64, "E")
    check_load("capacity", room)
    if experts is not None and len(room) != experts:
        raise ProblemError(must_be("capacity", f"{experts} values, one for each expert", Shown(f"{len(room)} values")))
    return room


def _assign(
    ids: NDArray[np.int32],
    mass: NDArray[np.float32],
    capacity: NDArray[np.float64],
    k: int,
    cost: NDArray[np.float32] | None,
) -> CapacityPlan:
    """The plan for candidates that are checked, each at most once a token."""
    tokens, experts = len(ids), len(capacity)
    weight = array("cost", np.ones(tokens, np.float32) if cost is None else cost, np.float32, "T")
    if len(weight) != tokens:
        raise ProblemError(must_be("cost", f"{tokens} values, one for each token", Shown(f"{len(weight)} values")))
    if tokens and not 0.0 < weight.min() <= weight.max() < np.inf:  # a NaN fails both
        raise ProblemError(must_be("cost", "finite and > 0", Shown(f"values from {weight.min()} to {weight.max()}")))
    if not 1 <= k <= experts:
        raise ProblemError(must_be("k", f"1 to {experts}, the number of experts", k))
    total = float(weight.sum(dtype=np.float64))
    room = np.minimum(np.floor(capacity + 1e-9) if cost is None else capacity, total)
    if room.sum() < k * total * (1.0 - 1e-6):
        allowed = f">= {k * total:g} in total, counting each token at most once for an expert"
        raise ProblemError(must_be("capacity", allowed, Shown(f"{room.sum():g}")))
    ids, mass = read_only(ids), read_only(mass)
    price, load = np.zeros(experts), np.zeros(experts)
    best = surplus(ids, mass, weight, price, k)
    chosen, kept = np.full((tokens, k), -1, np.int32), np.zeros((tokens, k), np.float32)
    if tokens:
        auction(ids, mass, weight, room, _LEAST_RAISE * best / (tokens * k), price, load, chosen)
        large_first = np.arange(tokens) if cost is None else np.argsort(-weight, kind="stable")
        _fill(ids, mass, weight, room, large_first, load, chosen)
        _sort(ids, mass, chosen, kept)
        price[room < weight.min()] = mass.max(initial=0.0) / weight.min()  # no token fits there, whatever it bids
    bound = float((price * room).sum()) + surplus(ids, mass, weight, price, k)
    gate_mass, mean = float(kept.sum(dtype=np.float64)), float(load.mean())
    return CapacityPlan(
        assignment=chosen,
        gate_mass=gate_mass,
        bound=min(bound, best),
        gate_kept=gate_mass / best if best > 0.0 else 1.0,
        off_candidate=float((kept <= 0.0).mean()) if kept.size else 0.0,
        max_over_mean=float(load.max()) / mean if mean > 0.0 else 1.0,
        over_capacity=float(np.maximum(load - room, 0.0).sum()),
    )


@compiled
def _list(gate: Any, ids: Any, mass: Any) -> None:
    """Fill in the candidates of a dense gate, those with mass."""
    for t in range(len(gate)):
        c = 0
        for e in range(gate.shape[1]):
            if gate[t, e] > 0.0:
                ids[t, c], mass[t, c] = e, gate[t, e]
                c += 1


@compiled
def _drop_repeats(ids: Any, experts: int, once: Any) -> None:
    last = np.full(experts, -1)
    for t in range(len(ids)):
        for c in range(ids.shape[1]):
            e = ids[t, c]
            once[t, c] = e if e >= 0 and last[e] != t else -1
            if e >= 0:
                last[e] = t


@compiled
def _fill(ids: Any, mass: Any, cost: Any, room: Any, order: Any, load: Any, chosen: Any) -> None:
    """Place what the auction left, first where there is room, then by exchange.

    After the first round an unfinished token has every expert with room. So a token that lacks one is finished, and has an
    expert that the unfinished one has not: the exchange is always there, where all tokens cost the same.
    """
    first = np.zeros(len(room), np.int64)
    for may_exchange in (False, True):
        for place in range(len(order)):
            t = order[place]
            for i in range(chosen.shape[1]):
                if chosen[t, i] >= 0:
                    continue
                e = _with_room(ids, mass, cost[t], room, load, chosen, t)
                if e < 0 and may_exchange:
                    e = _make_room(ids, mass, cost, room, load, chosen, t, first)
                if e >= 0:
                    chosen[t, i] = e
                    load[e] += cost[t]


@compiled
def _with_room(ids: Any, mass: Any, cost: Any, room: Any, load: Any, chosen: Any, t: int) -> Any:
    """The candidate with the most mass, else the emptiest expert, of those with room that the token has not; or -1."""
    at, most = -1, 0.0
    for c in range(ids.shape[1]):
        e = ids[t, c]
        if e >= 0 and mass[t, c] > most and load[e] + cost <= room[e] and not has(chosen, t, e):
            at, most = e, mass[t, c]
    if at < 0:
        most = -np.inf
        for e in range(len(room)):
            left = room[e] - load[e]
            if left > most and cost <= left and not has(chosen, t, e):
                at, most = e, left
    return at


@compiled
def _make_room(ids: Any, mass: Any, cost: Any, room: Any, load: Any, chosen: Any, token: int, first: Any) -> Any:
    """All experts with room have the token: pass another token's expert on to one of them, at little loss, and take its place.

    If no token of the same or a larger cost can pass, return the expert with the most room that the token has not.
    """
    best, donor, at, spare = -np.inf, -1, -1, -1
    for f in range(len(room)):
        if load[f] + cost[token] > room[f]:
            continue
        while first[f] < len(chosen) and has(chosen, first[f], f):  # a token whose expert has room keeps it
            first[f] += 1
        for u in range(first[f], len(chosen)):
            if spare >= 0 and u - first[f] >= _ASKED:
                break
            if cost[u] < cost[token] or load[f] + cost[u] > room[f] or has(chosen, u, f):
                continue
            for i in range(chosen.shape[1]):
                e = chosen[u, i]
                if e < 0 or has(chosen, token, e):
                    continue
                gain = _mass_of(ids, mass, u, f) - _mass_of(ids, mass, u, e) + _mass_of(ids, mass, token, e)
                if gain > best:
                    best, donor, at, spare = gain, u, i, f
    if donor >= 0:
        e = chosen[donor, at]
        chosen[donor, at] = spare
        load[spare] += cost[donor]
        load[e] -= cost[donor]
        return e
    fallback = -1
    for e in range(len(room)):
        if not has(chosen, token, e) and (fallback < 0 or room[e] - load[e] > room[fallback] - load[fallback]):
            fallback = e
    return fallback


@compiled
def _sort(ids: Any, mass: Any, chosen: Any, kept: Any) -> None:
    """Order each token's experts by mass, the largest first, in place; `kept` holds their masses."""
    for t in range(len(chosen)):
        for i in range(chosen.shape[1]):
            e = chosen[t, i]
            more = _mass_of(ids, mass, t, e)
            at = i
            while at > 0 and more > kept[t, at - 1]:
                chosen[t, at], kept[t, at] = chosen[t, at - 1], kept[t, at - 1]
                at -= 1
            chosen[t, at], kept[t, at] = e, more


@compiled
def _mass_of(ids: Any, mass: Any, token: int, expert: int) -> Any:
    for c in range(ids.shape[1]):
        if ids[token, c] == expert:
            return mass[token, c]
    return np.float32(0.0)
