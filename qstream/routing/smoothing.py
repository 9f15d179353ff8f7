"""Smoothed shares: those of several smoothed loads, mixed by a hedge that judges each by the tokens that came after it.

The newest counts are the load of tokens that have been served; what comes next is another sample. Each arm splits the tokens by
another look at the past, and all are judged by what came, since the load does not depend on the shares.
"""

from __future__ import annotations

from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray

from qstream.learn import hedge
from qstream.learn.evolve import evolve
from qstream.learn.hedge import HedgeState
from qstream.routing.problem import capacities, replica_counts
from qstream.routing.shares import shares_of_each
from schemas.experts import ExpertTopology
from schemas.frame import Axes, Count, Frame

RATES: Final = (1.0, 0.5, 0.25, 0.1)  # what the newest counts weigh in each smoothed load
ARMS: Final = ("even", "live", "ewma-0.5", "ewma-0.25", "ewma-0.1")  # evenly, and by the load at each of `RATES`
LIVE: Final = 1


class Smoothed(Frame):
    """The `seen` counts of a model's tokens, smoothed at each of `RATES`: what the arms look at."""

    seen: Count = 0
    load: Annotated[NDArray[np.float32], Axes("rates", "layers", "experts")]

    @classmethod
    def example(cls) -> Self:
        return cls(load=np.zeros((len(RATES), 1, 3), np.float32))


def start() -> HedgeState:
    """A hedge over `ARMS` that has seen nothing: all arms alike.

    The loss of an arm is what the fullest GPU of each layer under the mixture would carry by the arm's shares, above the mean,
    in mean GPU loads: the gradient of the mixture's own loss.
    """
    return hedge.start(ARMS)


def learn(
    state: HedgeState,
    smoothed: Smoothed | None,
    load: NDArray[np.float64],
    placement: NDArray[np.int32],
    topology: ExpertTopology,
) -> tuple[HedgeState, Smoothed, NDArray[np.float32]]:
    """The hedge and the smoothed loads after the counts `load` [L, E] came, and each arm's shares for what follows [K, L, P].

    The arms are judged by what they would have said of the placement in force now. So one that has just come into force is no
    new beginning: what was learnt is how the load moves. The first counts are not judged: nothing was said of them.
    """
    newest = load.astype(np.float32)
    if smoothed is None:
        smoothed = Smoothed(seen=1, load=np.stack([newest] * len(RATES)))
    else:
        if load.any():
            lost = _losses(state, _arms(smoothed.load, placement, topology), load, placement, topology)
            state = hedge.learn(state, lost[None])
        seen = smoothed.seen + 1  # until a memory is full its load is the plain mean: the first counts are one sample
        rate = np.maximum(np.array(RATES, np.float32), np.float32(1 / seen))[:, None, None]
        smoothed = evolve(smoothed, seen=seen, load=(1 - rate) * smoothed.load + rate * newest)
    return state, smoothed, _arms(smoothed.load, placement, topology)


def mixed(state: HedgeState, arms: NDArray[np.float32]) -> NDArray[np.float32]:
    """The arms' shares as the hedge mixes them, float32 [L, P]; all arms alike before it has seen a loss."""
    found: NDArray[np.float32] = np.minimum(np.tensordot(hedge.mix(state)[0], arms, 1), 1.0).astype(np.float32)
    return found


def servable(load: NDArray[np.float64], placement: NDArray[np.int32], topology: ExpertTopology) -> NDArray[np.float64]:
    """`load` [..., L, E] without the tokens of experts that are on no GPU with capacity."""
    if topology.gpu_capacity is None:
        return load
    alive = np.repeat(capacities(topology) > 0, topology.slots_per_gpu)
    held: NDArray[np.float64] = load * (replica_counts(placement[:, alive], topology.num_logical_experts) > 0)
    return held


def _arms(smoothed: NDArray[np.float32], placement: NDArray[np.int32], topology: ExpertTopology) -> NDArray[np.float32]:
    loads = np.concatenate([np.zeros_like(smoothed[:1]), smoothed]).astype(np.float64)  # without load, shares are even
    return shares_of_each(servable(loads, placement, topology), placement, topology)


def _losses(
    state: HedgeState,
    arms: NDArray[np.float32],
    load: NDArray[np.float64],
    placement: NDArray[np.int32],
    topology: ExpertTopology,
) -> NDArray[np.float64]:
    """The loss of each arm [K] on the load that came."""
    layers, gpus, capacity = len(load), topology.num_gpus, capacities(topology)
    tokens = np.take_along_axis(servable(load, placement, topology), placement, axis=1)
    level = (arms * tokens).reshape(len(arms), layers, gpus, -1).sum(3) / np.where(capacity > 0, capacity, 1.0)
    fullest = np.tensordot(hedge.mix(state)[0], level, 1).argmax(1)
    mean = max(float(load.sum()) / float(capacity.sum()), 1e-300)
    lost: NDArray[np.float64] = level[:, np.arange(layers), fullest].sum(1) / mean - 1.0
    return lost
