"""The scenario tier: a plan for the next window, annealed on the average over past windows, with a price on moved experts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.kernels import GOLDEN, below, compiled, mix64
from qstream.routing.pack import place_window, valid_plan
from qstream.routing.problem import check_load, relative_capacity
from qstream.routing.score import holds
from schemas.wording import Shown, must_be

HOT = 0.02  # first and last temperature, as parts of what the fullest GPU of the start has above the mean
COLD = 0.0005
_SPREAD = 0.67  # standard deviations above the mean: the upper quartile of a normal load
LEAST_GAIN = 1e-9
_HALF = np.uint64(32)
DRAWS = 1 << 31


def place_scenarios(
    history: NDArray[np.float64], num_gpus: int, slots: int, *, steps: int, seed: int = 0, windows: int = 16
) -> NDArray[np.int32]:
    """Plan for the window that follows `history`: `place_quartile`, then `anneal` on the windows.

    Parameters
    ----------
    history : float64 [W, L, E]
        Tokens of each expert in past windows, newest last, finite and >= 0.
    num_gpus, slots : int
        G and P.
    steps, seed : int
        As in `anneal`.
    windows : int
        How many of the newest windows are scenarios, >= 1.

    Returns
    -------
    physical_to_logical : int32 [L, P]

    Raises
    ------
    ProblemError
        No window, or as in `place_window` and `anneal`.
    """
    if windows < 1:
        raise ProblemError(must_be("windows", ">= 1", windows))
    past = _scenarios("history", history)[-windows:]
    return anneal(place_quartile(past, num_gpus, slots), past, num_gpus, steps=steps, seed=seed)


def place_quartile(history: NDArray[np.float64], num_gpus: int, slots: int) -> NDArray[np.int32]:
    """`place_window` on mean + 0.67 standard deviations of float64 [W, L, E], a load that three windows in four stay below."""
    return place_window(history.mean(0) + _SPREAD * history.std(0), num_gpus, slots)


def anneal(
    start: NDArray[np.int32],
    scenarios: NDArray[np.float64],
    num_gpus: int,
    *,
    steps: int,
    seed: int = 0,
    move_cost: float = 0.0,
    previous: NDArray[np.int32] | None = None,
    weights: NDArray[np.float64] | None = None,
    capacity: NDArray[np.float64] | None = None,
) -> NDArray[np.int32]:
    """Improve a plan by exchanging slots between GPUs.

    Minimises, layer by layer, the mean over scenarios of (fullest GPU / mean GPU) + `move_cost` * (experts that a GPU holds
    and did not hold in `previous`); never returns a worse plan than `start`. Replica counts are kept, no exchange makes a
    duplicate, equal arguments give equal bytes. A proposal touches the GPU that is fullest in a random scenario and costs
    O(W G). Source: sample average approximation (Kleywegt, Shapiro, Homem-de-Mello 2002), simulated annealing.

    Parameters
    ----------
    start : int32 [L, P]
        A plan without violations.
    scenarios : float64 [W, L, E]
        Tokens of each expert, finite and >= 0, W >= 1.
    num_gpus : int
    steps : int
        Proposals a layer, >= 0.
    seed : int
    move_cost : float
        Part of the mean GPU load that one moved expert must save in each window, finite and >= 0: 0.001 keeps all but 2 to
        4 of 72 to 96 slots a layer.
    previous : int32 [L, P], optional
        The plan in force, which may break invariants; `start` by default.
    weights : float64 [W], optional
        What each scenario counts in the mean, >= 0, not all 0; the same by default.
    capacity : float64 [G], optional
        Speed of each GPU, > 0, by which its load is divided; the same by default.

    Returns
    -------
    physical_to_logical : int32 [L, P]

    Raises
    ------
    ProblemError
        An argument breaks a rule above.
    """
    past = _scenarios("scenarios", scenarios)
    if steps < 0:
        raise ProblemError(must_be("steps", ">= 0", steps))
    if not 0.0 <= move_cost < np.inf:
        raise ProblemError(must_be("move_cost", "finite and >= 0", move_cost))
    _, layers, experts = past.shape
    plan = valid_plan("start", start, layers, experts, num_gpus).copy()
    was = holds(plan if previous is None else previous, experts, num_gpus)
    if len(was) != layers:
        raise ProblemError(must_be("previous", f"{layers} layers", Shown(f"{len(was)} layers")))
    weight = _weights(weights, len(past))
    slowness = 1.0 / relative_capacity(capacity, num_gpus)
    if num_gpus > 1:
        _anneal(plan, was, relative_load(past, weight, num_gpus), slowness, steps, np.uint64(seed % 2**64), float(move_cost))
    return plan


def relative_load(scenarios: NDArray[np.float64], weights: NDArray[np.float64], num_gpus: int) -> NDArray[np.float64]:
    """Scenarios [W, L, E] in units of the mean GPU load times their weights with mean 1: float64 [L, E, W]."""
    mean = scenarios.sum(2, keepdims=True) / num_gpus
    # The fullest GPU grows as its load does, so a scenario's weight can be a factor of its load.
    scaled = weights * (len(weights) / weights.sum())
    relative = np.divide(scenarios, mean, out=np.zeros_like(scenarios), where=mean > 0.0) * scaled[:, None, None]
    return np.ascontiguousarray(relative.transpose(1, 2, 0))


def _weights(weights: NDArray[np.float64] | None, windows: int) -> NDArray[np.float64]:
    """Weights with mean 1."""
    given = array("weights", np.ones(windows) if weights is None else weights, np.float64, "W")
    check_load("weights", given)
    if len(given) != windows or given.sum() == 0.0:
        raise ProblemError(must_be("weights", f"{windows} values, not all 0", given.tolist()))
    scaled: NDArray[np.float64] = given * (windows / given.sum())
    return scaled


def _scenarios(field: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
    past: NDArray[np.float64] = array(field, value, np.float64, "W L E")
    check_load(field, past)
    if not len(past):
        raise ProblemError(must_be(field, "at least one window", Shown("none")))
    return past


@compiled
def _anneal(plan: Any, was: Any, load: Any, slowness: Any, steps: int, seed: Any, move_cost: float) -> None:
    """Anneal each layer in place; was bool [L, G, E], load float64 [L, E, W] in units of the mean GPU load."""
    state = np.empty(1, np.uint64)
    for layer in range(len(plan)):
        state[0] = mix64(seed * GOLDEN + np.uint64(layer))
        slots = plan[layer].reshape(was.shape[1], -1)
        _anneal_layer(slots, was[layer], load[layer], slowness, steps, state, move_cost)


@compiled
def _anneal_layer(slots: Any, was: Any, load: Any, slowness: Any, steps: int, state: Any, move_cost: float) -> None:
    on, replica, gpu = _tables(slots, load, slowness, was.shape)
    peak = np.empty(gpu.shape[1])
    cost = 0.0  # relative to the start, so that the price of what `start` has moved already cancels out
    level = _fullest(gpu, slowness, replica[0], replica[0], 0, 1, peak)
    best, kept = 0.0, slots.copy()
    temperature, cooling = HOT * max(level - 1.0, 0.0), (COLD / HOT) ** (1.0 / max(steps, 1))
    for _ in range(steps):
        temperature *= cooling
        a, i, b, j = propose(gpu, slots.shape[1], state)
        e, f = slots[a, i], slots[b, j]
        if on[b, e] or on[a, f]:
            continue
        after = _fullest(gpu, slowness, replica[e], replica[f], a, b, peak)
        moved = np.int64(was[a, e]) + np.int64(was[b, f]) - np.int64(was[b, e]) - np.int64(was[a, f])
        rise = after - level + move_cost * moved
        if rise > 0.0 and rise > -temperature * np.log((below(word(state), DRAWS) + 1.0) / DRAWS):
            continue
        cost += rise
        level = after
        for w in range(gpu.shape[1]):
            gap = replica[e, w] - replica[f, w]
            gpu[a, w] -= gap * slowness[a]
            gpu[b, w] += gap * slowness[b]
        slots[a, i], slots[b, j] = f, e
        on[a, e], on[b, f], on[a, f], on[b, e] = False, False, True, True
        if cost < best - LEAST_GAIN:
            best = cost
            copy_slots(slots, kept)
    copy_slots(kept, slots)


@compiled
def copy_slots(these: Any, into: Any) -> None:
    for g in range(len(these)):
        for s in range(these.shape[1]):
            into[g, s] = these[g, s]


@compiled
def _tables(slots: Any, load: Any, slowness: Any, shape: Any) -> Any:
    """Whether GPUs hold experts [G, E], load of one replica [E, W], load over speed of each GPU [G, W]."""
    experts, windows = load.shape
    on = np.zeros(shape, np.bool_)
    count = np.zeros(experts)
    for g in range(len(slots)):
        for e in slots[g]:
            on[g, e] = True
            count[e] += 1.0
    replica, gpu = np.empty((experts, windows)), np.zeros((len(slots), windows))
    for e in range(experts):
        for w in range(windows):
            replica[e, w] = load[e, w] / count[e]
    for g in range(len(slots)):
        for e in slots[g]:
            for w in range(windows):
                gpu[g, w] += replica[e, w] * slowness[g]
    return on, replica, gpu


@compiled
def word(state: Any) -> Any:
    state[0] += GOLDEN
    return mix64(state[0])


@compiled
def propose(gpu: Any, room: int, state: Any) -> Any:
    """A slot of the GPU that is fullest in a random scenario, and a slot of any other GPU."""
    bits = word(state)
    w = below(bits, gpu.shape[1])
    a = 0
    for g in range(1, len(gpu)):
        if gpu[g, w] > gpu[a, w]:
            a = g
    b = below(bits << _HALF, len(gpu) - 1)
    bits = word(state)
    return a, below(bits, room), b + 1 if b >= a else b, below(bits << _HALF, room)


@compiled
def _fullest(gpu: Any, slowness: Any, out: Any, into: Any, a: int, b: int, peak: Any) -> float:
    """Mean over scenarios of the fullest GPU, if a gave the replica `out` [W] to b and took `into` [W] for it."""
    windows = len(peak)
    for w in range(windows):
        gap = out[w] - into[w]
        peak[w] = max(gpu[a, w] - gap * slowness[a], gpu[b, w] + gap * slowness[b])
    for g in range(len(gpu)):
        if g not in (a, b):
            for w in range(windows):
                peak[w] = max(peak[w], gpu[g, w])
    total = 0.0
    for w in range(windows):
        total += peak[w]
    return total / windows
