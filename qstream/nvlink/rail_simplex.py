"""Rails by linear programming: the least relays with no NIC over its room, by a simplex that keeps messages out of its basis."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from qstream.kernels import compiled

SLACK: Final = -1  # kinds of columns in the working basis; a message's number is the third
SURPLUS: Final = -2
OVERLOAD: Final = 1e3  # price of a byte above a NIC's room, in relays: above all true prices, so that none is left
_ZERO: Final = 1e-9
_TINY: Final = 1e-11  # a pivot that is no pivot


@compiled
def first_rails(src: Any, dst: Any, nbytes: Any, order: Any, g: Any, room: Any, key: Any) -> None:
    """Give each message one rail whole, in this order: its own or its receiver's, by room; else any that takes it.

    `src`, `dst` int64 [messages] are GPUs, `room` float64 [2, GPUs] is what NICs may carry out and in; `key` is filled.
    """
    left = room.copy()
    for m in order:
        i, j, a, b = src[m] % g, dst[m] % g, src[m] // g * g, dst[m] // g * g
        best, most = i, min(left[0, a + i], left[1, b + i])
        other = min(left[0, a + j], left[1, b + j])
        if other > most:
            best, most = j, other
        if most < nbytes[m]:
            for r in range(g):
                other = min(left[0, a + r], left[1, b + r])
                if other >= nbytes[m] and other > most:
                    best, most = r, other
        key[m] = best
        left[0, a + best] -= nbytes[m]
        left[1, b + best] -= nbytes[m]


@compiled
def even_out(src: Any, dst: Any, nbytes: Any, order: Any, g: Any, key: Any, passes: Any) -> None:
    """Move whole messages between their sender's and their receiver's rail, in place, while that makes NICs more alike.

    What falls is the sum of squared loads, in some passes over all messages: where every server is full, hundreds of pivots less.
    """
    gpus = max(src.max(), dst.max()) + g
    load = np.zeros((2, gpus))
    for m in range(len(src)):
        load[0, src[m] // g * g + key[m]] += nbytes[m]
        load[1, dst[m] // g * g + key[m]] += nbytes[m]
    for _ in range(passes):
        moved = False
        for m in order:
            i, j, a, b, r = src[m] % g, dst[m] % g, src[m] // g * g, dst[m] // g * g, key[m]
            if i == j or (r != i and r != j):
                continue
            to = j if r == i else i
            change = load[0, a + to] - load[0, a + r] + load[1, b + to] - load[1, b + r] + 2 * nbytes[m]
            if change < -_ZERO:
                load[0, a + r] -= nbytes[m]
                load[1, b + r] -= nbytes[m]
                load[0, a + to] += nbytes[m]
                load[1, b + to] += nbytes[m]
                key[m] = to
                moved = True
        if not moved:
            return


@compiled
def least_relays(
    src: Any, dst: Any, nbytes: Any, g: Any, room: Any, key: Any, pivots: Any, gap: Any, held: Any, basis: Any, value: Any
) -> Any:
    """Split messages over rails so that the fewest bytes are relayed, and return the number of pivots that it took.

    Minimises the sum of x[m, r] times ([r is not the sender's] + [r is not the receiver's]), with x[m, :] summing to the bytes of
    m and no NIC above its room. Every message has a key column outside of the basis (generalised upper bounds; Dantzig, Van
    Slyke 1967), so the basis has a row for each NIC alone. Only three rails of a message can be worth anything: the sender's, the
    receiver's, and the cheapest between the two servers. A vertex splits no more messages than there are full NICs.

    Parameters
    ----------
    src, dst, nbytes
        int64 and float64 [messages]; a GPU is server * g + index.
    room : float64 [2, GPUs]
        What each NIC may send and receive.
    key : int64 [messages]
        A rail of each message to begin with; the key rail at the end.
    pivots, gap
        It ends after so many pivots, or where no answer is better by this part of the cost.
    held : float64 [messages]
        Filled: bytes on the key rail.
    basis, value : int64 [2, 2 * GPUs], float64 [2 * GPUs]
        Filled: kinds and rails; where the kind is a message, `value` bytes of it take the rail besides the key rail.
    """
    kind, rail = basis[0], basis[1]
    gpus, messages, rows = room.shape[1], len(src), 2 * room.shape[1]
    inverse, price, y = np.zeros((rows, rows)), np.zeros(rows), np.empty(rows)
    third, rate, limit = np.empty((gpus // g, gpus // g), np.int64), np.zeros(messages), room.copy().reshape(rows)
    objective, total = 0.0, 0.0
    for k in range(rows):
        value[k], rail[k] = limit[k], k
    for m in range(messages):
        held[m] = nbytes[m]
        total += nbytes[m]
        value[src[m] // g * g + key[m]] -= nbytes[m]
        value[gpus + dst[m] // g * g + key[m]] -= nbytes[m]
        objective += nbytes[m] * _relays(src[m], dst[m], key[m], g)
    for k in range(rows):
        kind[k], inverse[k, k] = SLACK, 1.0
        if value[k] < 0:
            kind[k], inverse[k, k], price[k] = SURPLUS, -1.0, OVERLOAD
            value[k] = -value[k]
            objective += OVERLOAD * value[k]
    for pivot in range(pivots):
        entering, to, drop, bound = _cheapest(src, dst, nbytes, g, key, price, third, limit, total / messages)
        if entering == -3 or objective - bound <= gap * objective:
            return pivot
        _column(inverse, src, dst, g, key, entering, to, y)
        step, leaving, blocked = _ratio(y, kind, value, held, rate, entering)
        for q in range(rows):
            if kind[q] >= 0:
                held[kind[q]] += step * y[q]
            value[q] = max(value[q] - step * y[q], 0.0)
        if entering >= 0:
            held[entering] -= step
        objective += drop * step
        if blocked >= 0:
            leaving = _swap_key(inverse, kind, rail, value, key, held, blocked)
            if leaving < 0:  # the message moves whole: no column changes
                key[blocked], held[blocked] = to, step
                continue
            _column(inverse, src, dst, g, key, entering, to, y)
        if abs(y[leaving]) < _TINY:
            return pivot
        _enter(inverse, y, leaving)
        kind[leaving], rail[leaving], value[leaving] = entering, to, step
        for k in range(rows):
            price[k] -= drop * inverse[leaving, k]
    return pivots


@compiled
def _swap_key(inverse: Any, kind: Any, rail: Any, value: Any, key: Any, held: Any, m: Any) -> Any:
    """Let another rail of a message be its key, and return the place in the basis of the old one; -1 if it has no other."""
    place = -1
    for q in range(len(kind)):
        if kind[q] == m:
            place = q
    if place < 0:
        return place
    for q in range(len(kind)):
        if kind[q] == m and q != place:
            for k in range(len(kind)):
                inverse[place, k] += inverse[q, k]
    for k in range(len(kind)):
        inverse[place, k] = -inverse[place, k]
    held[m], value[place] = value[place], max(held[m], 0.0)
    key[m], rail[place] = rail[place], key[m]
    return place


@compiled
def _enter(inverse: Any, y: Any, leaving: Any) -> None:
    """The inverse after the column `y` has taken a place in the basis."""
    rows = len(y)
    for k in range(rows):
        inverse[leaving, k] /= y[leaving]
    for q in range(rows):
        if q != leaving and y[q] != 0.0:
            for k in range(rows):
                inverse[q, k] -= y[q] * inverse[leaving, k]


@compiled
def _relays(src: Any, dst: Any, rail: Any, g: Any) -> Any:
    return (1 if src % g != rail else 0) + (1 if dst % g != rail else 0)


@compiled
def _cheapest(src: Any, dst: Any, nbytes: Any, g: Any, key: Any, price: Any, third: Any, limit: Any, mean: Any) -> Any:
    """The column to enter, its rail or row, its reduced cost, and the bound that the prices give; -3 if none is cheaper."""
    gpus, servers = len(price) // 2, third.shape[0]
    entering, to, drop, most = -3, 0, 0.0, 0.0
    bound = 0.0
    for k in range(len(price)):
        bound -= price[k] * limit[k]
        if price[k] < -_ZERO:
            bound = -np.inf
            if price[k] * mean < most:
                entering, to, drop, most = SLACK, k, price[k], price[k] * mean
        elif price[k] > OVERLOAD + _ZERO and (OVERLOAD - price[k]) * mean < most:
            entering, to, drop, most = SURPLUS, k, OVERLOAD - price[k], (OVERLOAD - price[k]) * mean
    for a in range(servers):
        for b in range(servers):
            at, least = 0, np.inf
            for r in range(g):
                both = price[a * g + r] + price[gpus + b * g + r]
                if both < least:
                    at, least = r, both
            third[a, b] = at
    for m in range(len(src)):
        a, b = src[m] // g, dst[m] // g
        i, j, r = src[m] - a * g, dst[m] - b * g, key[m]
        now = price[a * g + r] + price[gpus + b * g + r] + _relays(i, j, r, g)
        best, rail = now, r
        for option in (i, j, third[a, b]):
            cost = price[a * g + option] + price[gpus + b * g + option] + _relays(i, j, option, g)
            if cost < best:
                best, rail = cost, option
        bound += best * nbytes[m]
        if best - now < -_ZERO and (best - now) * nbytes[m] < most:
            entering, to, drop, most = m, rail, best - now, (best - now) * nbytes[m]
    return entering, to, drop, bound


@compiled
def _column(inverse: Any, src: Any, dst: Any, g: Any, key: Any, entering: Any, to: Any, y: Any) -> None:
    """Fill `y` with the entering column in terms of the basis."""
    rows = len(y)
    if entering < 0:
        sign = 1.0 if entering == SLACK else -1.0
        for q in range(rows):
            y[q] = sign * inverse[q, to]
        return
    a, b = src[entering] // g * g, rows // 2 + dst[entering] // g * g
    r = key[entering]
    for q in range(rows):
        y[q] = inverse[q, a + to] + inverse[q, b + to] - inverse[q, a + r] - inverse[q, b + r]


@compiled
def _ratio(y: Any, kind: Any, value: Any, held: Any, rate: Any, entering: Any) -> Any:
    """How far the entering column goes, and which column of the basis, or the key of which message, ends it."""
    step, leaving, blocked, size = np.inf, -1, -1, 0.0
    for q in range(len(y)):
        if kind[q] >= 0:
            rate[kind[q]] -= y[q]
        if y[q] > _ZERO:
            far = value[q] / y[q]
            if far < step - 1e-12 or (far <= step + 1e-12 and y[q] > size):
                step, leaving, size = far, q, y[q]
    if entering >= 0:
        rate[entering] += 1.0
        if rate[entering] > _ZERO and held[entering] / rate[entering] < step:
            step, blocked = held[entering] / rate[entering], entering
        rate[entering] = 0.0
    for q in range(len(y)):
        if kind[q] >= 0:
            m = kind[q]
            if rate[m] > _ZERO and held[m] / rate[m] < step:
                step, blocked = held[m] / rate[m], m
            rate[m] = 0.0
    return max(step, 0.0), leaving, blocked


@compiled
def spill(src: Any, dst: Any, part: Any, rail: Any, order: Any, g: Any, room: Any) -> Any:
    """Take from pieces, in place and in this order, what is above the room of a NIC, for rails that have room.

    Returns new pieces: the piece that each is taken from, its rail and its size. What finds no room stays.
    """
    load = np.zeros(room.shape)
    for p in range(len(src)):
        load[0, src[p] // g * g + rail[p]] += part[p]
        load[1, dst[p] // g * g + rail[p]] += part[p]
    most = len(src) * g
    of, to, size, count = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most), 0
    for p in order:
        a, b = src[p] // g * g, dst[p] // g * g
        for _ in range(g):
            over = max(load[0, a + rail[p]] - room[0, a + rail[p]], load[1, b + rail[p]] - room[1, b + rail[p]])
            over = min(over, part[p])
            if over <= _ZERO:
                break
            best, widest = -1, 0.0
            for r in range(g):
                free = min(room[0, a + r] - load[0, a + r], room[1, b + r] - load[1, b + r])
                if free > widest:
                    best, widest = r, free
            if best < 0:
                break
            moved = min(over, widest)
            for sign, r in ((-1.0, rail[p]), (1.0, best)):
                load[0, a + r] += sign * moved
                load[1, b + r] += sign * moved
            part[p] -= moved
            of[count], to[count], size[count] = p, best, moved
            count += 1
    return of[:count], to[:count], size[:count]
