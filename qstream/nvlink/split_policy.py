"""Split policy: a small network, shared by all paths, that moves each path's share by what the last window put on its links."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qstream.errors import LearnError
from qstream.learn import policy
from qstream.learn.model import Model
from qstream.nvlink.links import narrowest, utilisation

Floats = NDArray[np.float64]
NAME: Final = "splits"
FEATURES: Final = (
    "up_less_mean",
    "down_less_mean",
    "larger_less_mean",
    "up_capacity",
    "down_capacity",
    "path_capacity",
    "logit",
    "demand_share",
    "larger",
)
UNITS: Final = 32
KEEP: Final = 0.8  # of a logit from window to window, before what the network adds
CLIP: Final = 8.0
_LEAST, _MOST_USED = 1e-9, 4.0


def policy_share(model: Model, share: Floats, base: Floats, demand: Floats, up_gb_s: Floats, down_gb_s: Floats) -> Floats | None:
    """Return the shares [L, L, S] that follow the policy's last ones, or None if the network gives no finite numbers.

    Parameters
    ----------
    share, base
        The policy's last shares, and WCMP's now; a path without a share in `base` gets none.
    demand
        GB/s [L, L] of the window that ended.
    """
    logit = logits(share, base)
    rows = features(share, logit, demand, up_gb_s, down_gb_s).reshape(-1, len(FEATURES))
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            moved = policy.mlp(model, rows)[:, 0].reshape(share.shape)
    except LearnError:  # a description that does not fit its arrays
        return None
    if not np.isfinite(moved).all():
        return None
    theta = np.clip(KEEP * logit + moved, -CLIP, CLIP)
    weight = base * np.exp(theta - theta.max(axis=2, keepdims=True))
    return np.asarray(weight / weight.sum(axis=2, keepdims=True))


def logits(share: Floats, base: Floats) -> Floats:
    """What parts shares from WCMP's, [L, L, S], with a mean of 0 over the paths of a pair."""
    ratio = np.log(np.maximum(share, _LEAST)) - np.log(np.maximum(base, _LEAST))
    return np.asarray(np.clip(ratio - ratio.mean(axis=2, keepdims=True), -CLIP, CLIP))


def features(share: Floats, logit: Floats, demand: Floats, up_gb_s: Floats, down_gb_s: Floats) -> Floats:
    """`FEATURES` of all paths, [L, L, S, 9]: utilisation over that of all links, capacities over their mean."""
    used_up, used_down = utilisation(share, demand, up_gb_s, down_gb_s)
    on_up = np.broadcast_to(used_up[:, None, :], share.shape)
    on_down = np.broadcast_to(used_down.T[None], share.shape)
    larger = np.maximum(on_up, on_down)
    finite = larger[np.isfinite(larger)]
    scale = max(float(finite.mean()) if finite.size else 0.0, _LEAST)
    loads = [np.clip(each / scale, 0.0, _MOST_USED) for each in (on_up, on_down, larger)]
    less = [each - each.mean(axis=2, keepdims=True) for each in loads]
    speeds = (np.broadcast_to(up_gb_s[:, None, :], share.shape), np.broadcast_to(down_gb_s.T[None], share.shape))
    capacity = [each / max(float(each.mean()), _LEAST) for each in (*speeds, narrowest(up_gb_s, down_gb_s))]
    part = np.minimum(demand / max(float(demand.mean()), _LEAST), 20.0)
    wanted = np.broadcast_to(part[:, :, None], share.shape)
    return np.stack([*less, *capacity, logit, wanted, loads[2]], axis=-1)
