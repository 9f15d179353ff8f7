"""Fluid: when flows end that share links max-min fairly, by progressive filling from one completion to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.kernels import compiled
from schemas.wording import Shown, must_be

Floats = NDArray[np.float64]


def drain(first_link: ArrayLike, link: ArrayLike, nbytes: ArrayLike, gb_s: ArrayLike, *, merge: float = 0.0) -> Floats:
    """Return the time in us at which each flow ends, float64 [flows]; all begin at 0. Modelled, not measured.

    Between two completions each flow has its max-min fair rate (Bertsekas, Gallager, "Data networks", 1992, section 6.5). A flow
    of no bytes or without links ends at 0, one over a link that is down never: infinite.

    Parameters
    ----------
    first_link
        int [flows + 1]: flow i takes ``link[first_link[i]:first_link[i + 1]]``, each link once.
    link
        Indices into `gb_s`.
    nbytes
        Bytes of each flow, at least 0.
    gb_s
        Capacity of each link, per direction; 0 if it is down.
    merge
        Part of the bound (the fullest link, alone) within which completions count as one event; 0 is exact. Rates then stay
        as they are for so long: at .005 the error is below 1.5 %.

    Raises
    ------
    ProblemError
        An argument has another shape or range.
    """
    first, links, size, speed = _checked(first_link, link, nbytes, gb_s)
    if not 0 <= merge < 1:
        raise ProblemError(must_be("merge", "at least 0 and below 1", merge))
    length = np.diff(first)
    load = np.bincount(links, np.repeat(size, length), minlength=len(speed))
    with np.errstate(divide="ignore", invalid="ignore"):
        fullest_us = np.where(load > 0, load / speed / 1e3, 0.0)
    finite = fullest_us[np.isfinite(fullest_us)]
    order = np.argsort(links, kind="stable")
    flow_of = np.repeat(np.arange(len(size)), length)[order]
    first_flow = np.searchsorted(links[order], np.arange(len(speed) + 1))
    end_us = np.zeros(len(size))
    _drain(first, links, first_flow, flow_of, size / 1e3, speed, merge * float(finite.max(initial=0.0)), end_us)
    return end_us


@compiled
def _drain(first: Any, links: Any, first_flow: Any, flow_of: Any, left: Any, speed: Any, window_us: Any, end_us: Any) -> None:
    """Fill `end_us`; `left` in KB, which is GB/s times us."""
    flows = len(left)
    rate, room, sharing = np.empty(flows), np.empty(len(speed)), np.zeros(len(speed), np.int64)
    alive = np.zeros(flows, np.bool_)
    running, now = 0, 0.0
    for f in range(flows):
        if left[f] > 0 and first[f + 1] > first[f]:
            alive[f] = True
            running += 1
            for at in range(first[f], first[f + 1]):
                sharing[links[at]] += 1
    while running > 0:
        _fill(first, links, first_flow, flow_of, alive, speed, sharing, room, rate)
        soonest = np.inf
        for f in range(flows):
            if alive[f] and rate[f] > 0:
                soonest = min(soonest, left[f] / rate[f])
        if soonest == np.inf:
            for f in range(flows):
                if alive[f]:
                    end_us[f] = np.inf
            return
        step = soonest * (1 + 1e-12) + window_us
        for f in range(flows):
            if not alive[f]:
                continue
            if left[f] <= rate[f] * step:
                end_us[f] = now + left[f] / rate[f]
                alive[f] = False
                running -= 1
                for at in range(first[f], first[f + 1]):
                    sharing[links[at]] -= 1
            else:
                left[f] -= rate[f] * step
        now += step


@compiled
def _fill(
    first: Any, links: Any, first_flow: Any, flow_of: Any, alive: Any, speed: Any, sharing: Any, room: Any, rate: Any
) -> None:
    """Fill the max-min fair rates in GB/s of the flows alive: the link with least room a flow decides for its own."""
    count = sharing.copy()
    waiting = 0
    for k in range(len(speed)):
        room[k] = speed[k]
    for f in range(len(rate)):
        rate[f] = -1.0 if alive[f] else 0.0
        waiting += alive[f]
    while waiting > 0:
        least, narrow = np.inf, -1
        for k in range(len(speed)):
            if count[k] > 0 and room[k] / count[k] < least:
                least, narrow = room[k] / count[k], k
        least = max(least, 0.0)
        for at in range(first_flow[narrow], first_flow[narrow + 1]):
            f = flow_of[at]
            if rate[f] < 0:
                rate[f] = least
                waiting -= 1
                for on in range(first[f], first[f + 1]):
                    room[links[on]] -= least
                    count[links[on]] -= 1


def _checked(first_link: ArrayLike, link: ArrayLike, nbytes: ArrayLike, gb_s: ArrayLike) -> tuple[Any, Any, Floats, Floats]:
    size, speed = np.array(nbytes, np.float64), np.array(gb_s, np.float64)
    for name, array in (("nbytes", size), ("gb_s", speed)):
        if array.ndim != 1 or not np.isfinite(array).all() or array.min(initial=0.0) < 0:
            raise ProblemError(must_be(name, "a list of finite numbers of at least 0", Shown(f"an array of shape {array.shape}")))
    first, links = np.asarray(first_link), np.asarray(link)
    if first.dtype.kind not in "iu" or first.shape != (len(size) + 1,) or first[0] != 0 or (np.diff(first) < 0).any():
        raise ProblemError(
            must_be("first_link", "rising whole numbers from 0, one more than flows", Shown(f"shape {first.shape}"))
        )
    if links.shape != (first[-1],) or (links.size and links.dtype.kind not in "iu"):
        raise ProblemError(must_be("link", f"{first[-1]} whole numbers, as first_link says", Shown(f"shape {links.shape}")))
    if links.size and not 0 <= links.min() <= links.max() < len(speed):
        raise ProblemError(must_be("link", f"from 0 to {len(speed) - 1}", Shown(f"{links.min()} to {links.max()}")))
    return first.astype(np.int64), links.astype(np.int64), size, speed
