"""Influence of channels by Monte-Carlo dropout: how much a loss rises when a channel is zeroed, with others already zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.arguments import whole_number
from qstream.errors import ProblemError
from schemas.wording import must_be


def influence_by_dropout(
    loss: Callable[[NDArray[Any]], float], array: ArrayLike, *, axis: int = -1, samples: int = 64, seed: int = 0
) -> NDArray[np.float64]:
    """How much each channel matters to a loss.

    Channels are dropped one after the other in random order, so that each is judged among others that are gone as well. For a
    squared error the rise is the channel's own energy, whatever the order.

    Parameters
    ----------
    loss
        The loss of an array like `array`.
    axis
        Of the channels.
    samples
        Random subsets that are tried, at least one a channel.

    Returns
    -------
    influence : float64 [channels]
        Mean rise, 0 where dropping a channel helped.

    >>> x = np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    >>> influence_by_dropout(lambda y: float(((x - y) ** 2).sum()), x)
    array([2., 8., 0.])
    """
    whole_number("samples", samples, 1, 1 << 30)
    given = np.array(array, np.float64)
    if not -given.ndim <= axis < given.ndim:
        raise ProblemError(must_be("axis", f"from {-given.ndim} to {given.ndim - 1}", axis))
    channels = given.shape[axis]
    rng, rises = np.random.default_rng(seed), np.zeros(channels)
    rounds = max(1, -(-samples // max(channels, 1)))
    for _ in range(rounds):
        left = given.copy()
        view, before = np.moveaxis(left, axis, 0), float(loss(left))
        for channel in rng.permutation(channels):
            view[channel] = 0.0
            after = float(loss(left))
            rises[channel] += after - before
            before = after
    if not np.isfinite(rises).all():
        raise ProblemError(must_be("loss", "finite for every subset of channels", rises.tolist()))
    return np.asarray(np.maximum(rises / rounds, 0.0))
