"""Splits: shares of leaf-to-leaf traffic over spines for the next window, a mix of experts behind a guard."""

from __future__ import annotations

from typing import Annotated, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qstream.errors import ProblemError
from qstream.learn import guard, weights
from qstream.learn.evolve import evolve
from qstream.learn.fresh import fresh
from qstream.learn.guard import GuardState
from qstream.learn.model import Model
from qstream.learn.weights import WeightsState
from qstream.nvlink.descent import descend
from qstream.nvlink.links import Floats, fullest, utilisation, wcmp
from qstream.nvlink.options import NvlinkOptions
from qstream.nvlink.outlook import is_new_pattern, next_demands
from qstream.nvlink.rewards import EXPERTS, MIX, WCMP, RewardState
from qstream.nvlink.split_policy import policy_share
from schemas.frame import Axes, Count, Frame, Int64
from schemas.wording import Shown, must_be

WINDOWS: Final = 16
RATES: Final = (0.5, 0.2)  # of the experts by multiplicative weights
FIRST_WEIGHTS: Final = (0.1, 0.1, 0.8)
POLICY_WEIGHT: Final = 0.2  # of a trained policy that joins
NO_POLICY: Final = -1
HEDGE_RATE, HEDGE_DECAY = 4.0, 0.97
GUARD_WINDOWS: Final = 5
LEAST_FACTOR: Final = 0.05
_SEEN: Final = 1e-3  # utilisation below which a link says nothing of its capacity
Ring = Annotated[NDArray[np.float64], Axes("windows", "leaves", "leaves")]
Shares = Annotated[NDArray[np.float64], Axes("leaves", "leaves", "spines")]


class SplitState(Frame):
    """What is known of a fabric's leaves and spines after some windows.

    `demand_ring` holds the last demands, newest last, of which `seen` are real; `share` is what serves now, `expert_share`
    what each expert would have served, the last one a trained policy if `policy_version` is not -1; factors say which part of
    its nominal capacity a link has. `rewards` are what reported steps achieved, once one was.
    """

    steps: Count = 0
    seen: Count = 0
    resets: Count = 0
    policy_version: Int64 = NO_POLICY
    demand_ring: Ring
    share: Shares
    expert_share: Annotated[NDArray[np.float64], Axes("experts", "leaves", "leaves", "spines")]
    expert_weight: Annotated[NDArray[np.float64], Axes("experts")]
    up_factor: Annotated[NDArray[np.float64], Axes("leaves", "spines")]
    down_factor: Annotated[NDArray[np.float64], Axes("spines", "leaves")]
    fast: WeightsState
    slow: WeightsState
    guard: GuardState
    rewards: RewardState | None = None


def start(up_gb_s: Floats, down_gb_s: Floats) -> SplitState:
    """A state that has seen no window: WCMP's shares, full capacities."""
    leaves, spines = up_gb_s.shape
    share = wcmp(up_gb_s, down_gb_s)
    watch = guard.start("mix", bound=1.0, alarm=1e9, window=GUARD_WINDOWS, hold=GUARD_WINDOWS)
    warm = weights.start(np.maximum(share, 1e-9).reshape(-1, spines))
    return SplitState(
        demand_ring=np.zeros((WINDOWS, leaves, leaves)),
        share=share,
        expert_share=np.repeat(share[None], len(FIRST_WEIGHTS), axis=0),
        expert_weight=np.array(FIRST_WEIGHTS),
        up_factor=np.ones((leaves, spines)),
        down_factor=np.ones((spines, leaves)),
        fast=warm,
        slow=warm,
        guard=evolve(watch, promoted=True),
    )


@fresh.register
def _(state: SplitState) -> Frame:
    """As of even links: the next window brings what they are."""
    return start(np.ones(state.up_factor.shape), np.ones(state.down_factor.shape))


def plan_splits(
    demand: ArrayLike | None,
    up_gb_s: ArrayLike,
    down_gb_s: ArrayLike,
    *,
    utilisation: tuple[ArrayLike, ArrayLike] | None = None,
    state: SplitState | None = None,
    options: NvlinkOptions | None = None,
    model: Model | None = None,
) -> tuple[Floats, SplitState]:
    """Return shares for the next window, float64 [L, L, S] whose rows sum to 1, and the next state.

    Knows the last window only. The mix of the experts serves: WCMP, multiplicative weights at two rates, and a descent over
    drawn next demands. The fullest link is convex in the shares, so the mix is never worse than the weighted mean of them.

    Parameters
    ----------
    demand
        GB/s [L, L] that was offered between leaves in the last window; None before the first, and where it was not measured.
    up_gb_s, down_gb_s
        Nominal capacities, per direction, of the links from leaf to spine [L, S] and from spine to leaf [S, L]; 0 if down.
    utilisation
        Measured congestion of both under the last shares, offered over achieved rate: by it links that are slower than they
        say are found. Never bytes over the nominal rate, by which a slow link looks idle.
    state
        What the last call gave; None at first. A state of another number of leaves or spines starts again.
    options
        `shares`, `rl`, `wcmp_floor` and `freeze` count; the defaults if None.
    model
        With `rl`: the trained policy that is one more expert (`train_splits`); without one the others mix.

    Raises
    ------
    ProblemError
        An argument has another shape, or a value that is negative or not finite.
    """
    chosen = NvlinkOptions() if options is None else options
    up, down, offered, measured = _checked(demand, up_gb_s, down_gb_s, utilisation)
    if state is None or state.up_factor.shape != up.shape:
        state = start(up, down)
    if chosen.freeze or chosen.shares != "mix":
        return wcmp(up, down), state
    state = _with_policy(state, model if chosen.rl else None)
    return _next(state, offered, up, down, measured, chosen.wcmp_floor, model)


def _next(
    state: SplitState,
    offered: Floats | None,
    up: Floats,
    down: Floats,
    measured: tuple[Floats, Floats] | None,
    floor: float,
    model: Model | None,
) -> tuple[Floats, SplitState]:
    if offered is not None and measured is not None:
        state = _with_factors(state, offered, up, down, measured)
    here_up, here_down = up * state.up_factor, down * state.down_factor
    base = wcmp(here_up, here_down)
    if offered is not None and offered.any():
        state = _with_window(state, offered, here_up, here_down, base, model)
    share = arm_share(state, MIX, base, floor) if state.guard.answers == "candidate" else base
    return share, evolve(state, share=np.ascontiguousarray(share))


def arms(state: SplitState) -> int:
    """How many shares may serve: WCMP's, the mix, and those of each expert."""
    return EXPERTS + len(state.expert_share)


def arm_share(state: SplitState, arm: int, base: Floats, floor: float) -> Floats:
    """Shares [L, L, S] of an arm as it last stood, `floor` of them WCMP's, `base`, on paths that work."""
    if arm == WCMP:
        return base
    mean = np.einsum("m,mijs->ijs", state.expert_weight, state.expert_share)
    mixed = floor * base + (1 - floor) * (mean if arm == MIX else state.expert_share[arm - EXPERTS])
    mixed = np.where(base > 0, mixed, 0.0)
    total = mixed.sum(axis=2, keepdims=True)
    return np.asarray(np.where(total > 0, mixed / np.where(total > 0, total, 1.0), base))


def _with_policy(state: SplitState, model: Model | None) -> SplitState:
    """The state with this policy as its last expert, or with none: a new one begins with the mean of the others."""
    version = NO_POLICY if model is None else model.version
    if version == state.policy_version:
        return state
    own = len(FIRST_WEIGHTS)
    weight, shares = state.expert_weight[:own] / state.expert_weight[:own].sum(), state.expert_share[:own]
    if model is not None:
        weight = np.append((1 - POLICY_WEIGHT) * weight, POLICY_WEIGHT)
        shares = np.concatenate([shares, shares.mean(axis=0, keepdims=True)])
    changed = {"policy_version": version, "expert_weight": weight, "expert_share": np.ascontiguousarray(shares)}
    return SplitState(**(dict(state) | changed))


def _with_factors(state: SplitState, offered: Floats, up: Floats, down: Floats, measured: tuple[Floats, Floats]) -> SplitState:
    """Move the factor of a link to where the model sees what was measured."""
    modelled = utilisation(state.share, offered, up * state.up_factor, down * state.down_factor)
    factors = {}
    for name, factor, ours, theirs in zip(
        ("up_factor", "down_factor"), (state.up_factor, state.down_factor), modelled, measured, strict=True
    ):
        told = (ours > _SEEN) & (theirs > _SEEN) & np.isfinite(ours)
        ratio = np.where(told, ours / np.where(told, theirs, 1.0), 1.0)
        # What a full link achieves is its rate; of one that is not full less is certain.
        power = np.where(theirs >= 1, 1.0, 0.7)
        factors[name] = np.clip(factor * np.clip(ratio, 0.2, 2.0) ** power, LEAST_FACTOR, 1.0)
    return evolve(state, **factors)


def _with_window(state: SplitState, offered: Floats, up: Floats, down: Floats, base: Floats, model: Model | None) -> SplitState:
    """Judge the experts by the window, and let each learn all of it."""
    spines = base.shape[2]
    peer = fullest(base, offered, up, down)
    loss = np.array([fullest(share, offered, up, down) for share in state.expert_share])
    watch, weight = state.guard, state.expert_weight
    if state.steps and 0 < peer < np.inf:
        ratio = np.minimum(loss / peer, 1e6)
        grown = weight**HEDGE_DECAY * np.exp(-HEDGE_RATE * (ratio - ratio.min()))
        weight = np.maximum(grown / grown.sum(), 1e-9)
        watch, _ = guard.compare(watch, 1.0, min(fullest(state.share, offered, up, down) / peer, 1e6))
    fresh = bool(state.seen) and is_new_pattern(state.demand_ring[-1], offered)
    seen = 1 if fresh else min(state.seen + 1, WINDOWS)
    ring = np.concatenate([state.demand_ring[1:], offered[None]])
    learnt, shares = [], []
    for known, rate in zip((state.fast, state.slow), RATES, strict=True):
        used_up, used_down = utilisation(weights.shares(known).reshape(base.shape), offered, up, down)
        congestion = np.maximum(used_up[:, None, :], used_down.T[None])
        known = weights.learn(known, np.minimum(congestion, 1e9).reshape(-1, spines), rate=rate)
        learnt.append(known)
        shares.append(weights.shares(known).reshape(base.shape))
    shares.append(descend(base, next_demands(ring[-seen:]), up, down))
    if model is not None and state.policy_version != NO_POLICY:
        said = policy_share(model, state.expert_share[-1], base, offered, up, down)
        shares.append(base if said is None else said)
    return evolve(
        state,
        steps=state.steps + 1,
        seen=seen,
        resets=state.resets + fresh,
        demand_ring=ring,
        expert_share=np.array(shares),
        expert_weight=weight / weight.sum(),
        fast=learnt[0],
        slow=learnt[1],
        guard=watch,
    )


def _checked(
    demand: ArrayLike | None, up_gb_s: ArrayLike, down_gb_s: ArrayLike, measured: tuple[ArrayLike, ArrayLike] | None
) -> tuple[Floats, Floats, Floats | None, tuple[Floats, Floats] | None]:
    up = _numbers("up_gb_s", up_gb_s, None)
    leaves, spines = up.shape
    down = _numbers("down_gb_s", down_gb_s, (spines, leaves))
    offered = None if demand is None else _numbers("demand", demand, (leaves, leaves))
    if measured is None:
        return up, down, offered, None
    used_up = _numbers("utilisation[0]", measured[0], (leaves, spines))
    return up, down, offered, (used_up, _numbers("utilisation[1]", measured[1], (spines, leaves)))


def _numbers(name: str, value: ArrayLike, shape: tuple[int, int] | None) -> Floats:
    found = np.array(value, np.float64)
    if found.ndim != 2 or not found.size or (shape is not None and found.shape != shape):
        raise ProblemError(
            must_be(name, "of shape [L, S]" if shape is None else f"of shape {shape}", Shown(f"shape {found.shape}"))
        )
    if not np.isfinite(found).all() or found.min() < 0:
        raise ProblemError(must_be(name, "at least 0 and finite", Shown(f"values from {found.min():g} to {found.max():g}")))
    return found
