"""Layouts: what can be said without simulation of how several jobs' flows share leaves and spines."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from schemas.wording import Shown, must_be

Floats = NDArray[np.float64]
FEATURES: Final = (
    "cross_share",
    "port_over_bound",
    "up_over_bound",
    "down_over_bound",
    "largest_over_bound",
    "up_spread_over_bound",
    "down_spread_over_bound",
    "up_hashed_over_bound",
    "down_hashed_over_bound",
    "log_cross_flows",
    "log_cross_pairs",
    "least_up",
    "least_down",
    "up_deviation",
    "down_deviation",
    "skew",
)
_LONGEST: Final = 1e3  # bounds: a link that is down makes more, which no model could use
_COLLISIONS: Final = 1.5  # deviations above the mean at which the fullest of a few spines is expected


def layout_features(
    src: ArrayLike,
    dst: ArrayLike,
    nbytes: ArrayLike,
    leaf_of_node: ArrayLike,
    port_gb_s: float,
    up_gb_s: ArrayLike,
    down_gb_s: ArrayLike,
) -> Floats:
    """Return the features of one layout, float64 [F], named by `FEATURES`.

    Times are parts of the analytic bound (`bound_s`). Flows take a spine by hash, so what counts beside the load of a leaf is
    how unevenly hashing spreads it: the largest flow over the slowest link, and the root of summed squared flows of a leaf.

    Parameters
    ----------
    src, dst, nbytes
        Nodes and bytes of each flow.
    leaf_of_node
        The leaf of each node.
    port_gb_s
        Of a node, per direction.
    up_gb_s, down_gb_s
        [L, S] from leaf to spine, [S, L] from spine to leaf.

    Raises
    ------
    ProblemError
        An argument has another shape or range.
    """
    flows = _flows(Layout(src, dst, nbytes, leaf_of_node, port_gb_s, up_gb_s, down_gb_s))
    port, leaf_up, leaf_down = _loads(flows)
    bound = max(port, leaf_up, leaf_down)
    if bound == 0:
        return np.zeros(len(FEATURES))
    up, down, a, b, size = flows.up, flows.down, flows.a, flows.b, flows.crossing
    leaves, spines = up.shape
    slow_up, slow_down = up.min(axis=1), down.min(axis=0)
    spread, hashed = [], []
    for side, slow in ((a, slow_up), (b, slow_down)):
        root = np.sqrt(np.bincount(side, size**2, leaves))
        mean = np.bincount(side, size, leaves) / spines
        spread.append(_most(root, slow))
        hashed.append(_most(mean + _COLLISIONS * root / np.sqrt(spines), slow))
    largest = _most(size, np.minimum(slow_up[a], slow_down[b]))
    times = np.array([port, leaf_up, leaf_down, largest, *spread, *hashed]) / bound
    counts = np.log1p([len(size), len(np.unique(a * leaves + b))])
    capacity = [up.min() / up.mean(), down.min() / down.mean(), up.std() / up.mean(), down.std() / down.mean()]
    sent = np.bincount(a, size, leaves)
    skew = sent.max() / sent.mean() if len(size) else 1.0
    return np.array([size.sum() / flows.size.sum(), *np.minimum(times, _LONGEST), *counts, *capacity, skew])


class Layout(NamedTuple):
    """A layout as `layout_features` takes it."""

    src: ArrayLike
    dst: ArrayLike
    nbytes: ArrayLike
    leaf_of_node: ArrayLike
    port_gb_s: float
    up_gb_s: ArrayLike
    down_gb_s: ArrayLike


def bound_s(layout: Layout) -> float:
    """Seconds of the fullest of: node ports, all uplinks of a leaf together, all downlinks of a leaf together."""
    return max(_loads(_flows(layout))) / 1e9


class _Flows(NamedTuple):
    """Flows with their capacities; `a` and `b` are the leaves of those that cross, which send `crossing` bytes."""

    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    size: Floats
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    crossing: Floats
    nodes: int
    port: float
    up: Floats
    down: Floats


def _flows(layout: Layout) -> _Flows:
    """The layout as arrays whose shapes and ranges are right."""
    up, down, size = (np.asarray(value, np.float64) for value in (layout.up_gb_s, layout.down_gb_s, layout.nbytes))
    leaf, source, target = (np.asarray(value) for value in (layout.leaf_of_node, layout.src, layout.dst))
    port_gb_s = layout.port_gb_s
    if up.ndim != 2 or not up.size or down.shape != up.shape[::-1]:
        raise ProblemError(must_be("up_gb_s, down_gb_s", "of shapes [L, S] and [S, L]", Shown(f"{up.shape}, {down.shape}")))
    if source.ndim != 1 or not source.shape == target.shape == size.shape:
        raise ProblemError(must_be("src, dst, nbytes", "three lists of one length", Shown(f"{source.shape}, {target.shape}")))
    for name, array, high in (("leaf_of_node", leaf, len(up)), ("src", source, len(leaf)), ("dst", target, len(leaf))):
        if array.size and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= high):
            raise ProblemError(must_be(name, f"whole numbers from 0 to {high - 1}", array))
    for name, array in (("nbytes", size), ("up_gb_s", up), ("down_gb_s", down), ("port_gb_s", np.atleast_1d(port_gb_s))):
        if not np.isfinite(array).all() or array.min(initial=0.0) < 0:
            raise ProblemError(must_be(name, "finite numbers of at least 0", array))
    source, target, leaf = source.astype(np.int64), target.astype(np.int64), leaf.astype(np.int64)
    cross = leaf[source] != leaf[target]
    return _Flows(source, target, size, leaf[source][cross], leaf[target][cross], size[cross], len(leaf), port_gb_s, up, down)


def _loads(flows: _Flows) -> tuple[float, float, float]:
    """Bytes over GB/s of the fullest port, the fullest leaf upwards and the fullest leaf downwards."""
    leaves = len(flows.up)
    ports = max(np.bincount(side, flows.size, flows.nodes).max(initial=0.0) for side in (flows.src, flows.dst))
    up = _most(np.bincount(flows.a, flows.crossing, leaves), flows.up.sum(axis=1))
    down = _most(np.bincount(flows.b, flows.crossing, leaves), flows.down.sum(axis=0))
    return _most(np.array([ports]), np.array([flows.port])), up, down


def _most(load: NDArray[Any], capacity: Floats) -> float:
    """The largest load over capacity; nothing over no capacity is nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(load > 0, load / capacity, 0.0).max(initial=0.0))
