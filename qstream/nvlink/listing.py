"""List schedules: each port begins its next transfer as soon as it and another end are free."""

from __future__ import annotations

from typing import Any

import numpy as np

from qstream.kernels import compiled


@compiled
def list_schedule(src: Any, dst: Any, took_us: Any, n: Any, send_weight: Any, take_weight: Any, start_us: Any) -> Any:
    """Fill the start of each transfer, and return the end of the last one.

    Whenever ports are free, senders in order of the work that they have left begin a transfer to that free receiver which has
    most work left: no port waits while both ends of one of its transfers are free. O(transfers
    x ports).

    Parameters
    ----------
    src, dst, took_us : int64, int64, float64 [transfers]
        Transfers and the time that they hold both of their ports, above 0; several of one pair go one after the other.
    send_weight, take_weight : float64 [n]
        Factors on the work left of senders and receivers: 1 for the plain rule, -1 for its contrary.
    start_us : float64 [transfers]
        Filled.
    """
    following = np.full(len(src), -1)
    head = np.full((n, n), -1)
    pending, count = np.empty((n, n), np.int64), np.zeros(n, np.int64)
    send_left, take_left = np.zeros(n), np.zeros(n)
    for e in range(len(src) - 1, -1, -1):
        i, j = src[e], dst[e]
        if head[i, j] < 0:
            pending[i, count[i]] = j
            count[i] += 1
        following[e] = head[i, j]
        head[i, j] = e
        send_left[i] += took_us[e]
        take_left[j] += took_us[e]
    send_free, take_free, fresh = np.zeros(n), np.zeros(n), np.ones(n, np.bool_)
    freed, number, order = np.arange(n), n, np.empty(n, np.int64)
    left, now, end = len(src), 0.0, 0.0
    while left > 0:
        waiting = 0
        for i in range(n):
            if count[i] > 0 and send_free[i] <= now:
                at, rank = waiting, send_left[i] * send_weight[i]
                while at > 0 and send_left[order[at - 1]] * send_weight[order[at - 1]] < rank:
                    order[at] = order[at - 1]
                    at -= 1
                order[at] = i
                waiting += 1
        for at in range(waiting):
            i = order[at]
            best, most = -1, -np.inf
            if fresh[i]:
                for p in range(count[i]):
                    j = pending[i, p]
                    if take_free[j] <= now and take_left[j] * take_weight[j] > most:
                        best, most = j, take_left[j] * take_weight[j]
                fresh[i] = False
            else:
                for p in range(number):
                    j = freed[p]
                    if head[i, j] >= 0 and take_free[j] <= now and take_left[j] * take_weight[j] > most:
                        best, most = j, take_left[j] * take_weight[j]
            if best < 0:
                continue
            e = head[i, best]
            head[i, best] = following[e]
            if following[e] < 0:
                for p in range(count[i]):
                    if pending[i, p] == best:
                        count[i] -= 1
                        pending[i, p] = pending[i, count[i]]
                        break
            start_us[e] = now
            send_left[i] -= took_us[e]
            take_left[best] -= took_us[e]
            send_free[i] = take_free[best] = now + took_us[e]
            end = max(end, send_free[i])
            left -= 1
        soonest = np.inf
        for i in range(n):
            if send_free[i] > now:
                soonest = min(soonest, send_free[i])
        number = 0
        for i in range(n):
            if now < send_free[i] <= soonest:
                fresh[i] = True
            if now < take_free[i] <= soonest:
                freed[number] = i
                number += 1
        now = soonest
    return end
