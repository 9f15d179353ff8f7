"""Kept: a bandit or hedge whose arms have changed keeps what it knows of those whose names it still has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qstream.learn import bandit, given, hedge
from qstream.learn.bandit import BanditState
from qstream.learn.evolve import evolve
from qstream.learn.hedge import HedgeState

Places = NDArray[np.int64]


def hedge_over(state: HedgeState, arms: Iterable[str]) -> HedgeState:
    """The hedge over these arms, in this order; the same state if they have not changed.

    It is as if a new arm had slept so far. Weights in force that were put aside (`Used`) are of the arms before: losses that
    are late then are judged by today's weights.
    """
    names = given.labels("arms", tuple(arms), hedge.MAX_ARMS)
    if names == state.arms:
        return state
    arm = _places(state.arms, names)
    regret, variance = (_taken(getattr(state, name), arm, np.float64(0.0), 2) for name in ("regret", "variance"))
    share = np.maximum(regret, 0.0) / np.maximum(variance + state.most[:, :, None], hedge.TINY)
    total = np.cumsum(share, axis=2)[:, :, -1:]  # one after another, as the kernel sums
    weight = np.where(total > 0, share / np.where(total > 0, total, 1.0), 1 / len(names))
    begun = hedge.start(names, series=len(state.weight), discounts=state.discounts.tolist())
    same = {name: getattr(state, name) for name in ("steps", "most", "loss_total", *hedge.TOP)}
    changed = {"regret": regret, "variance": variance, "weight": weight}
    return evolve(begun, **same, **changed, arm_regret=_taken(state.arm_regret, arm, np.float64(0.0), 1))


def bandit_over(state: BanditState, arms: Iterable[str], features: Iterable[str]) -> BanditState:
    """The bandit over these arms and features, in this order; the same state if nothing has changed.

    It is as if a new arm had never been allowed, and a new feature had been 0 so far. What was known of an arm or feature that is
    gone is dropped, and pending decisions for such an arm expire. A new arm counts as having earned what was earned, so that it
    does not pass for the best or the worst one.
    """
    names = given.labels("arms", tuple(arms), bandit.MOST_ARMS)
    columns = given.labels("features", tuple(features), bandit.MOST_FEATURES)
    if (names, columns) == (state.arm_names, state.feature_names):
        return state
    begun = bandit.start_like(state, names, columns)
    arm, feature = _places(state.arm_names, names), _places(state.feature_names, columns)
    gram = _taken(state.gram, _triangle(feature), begun.gram[0, :, :], axis=2)
    target = _taken(state.target, feature, begun.target[0, :, :], axis=2)
    changes: dict[str, Any] = {"gram": _taken(gram, arm, begun.gram[0], axis=0)}
    changes |= {"target": _taken(target, arm, begun.target[0], axis=0)}
    changes |= {"chosen": _taken(state.chosen, arm, np.int64(0), axis=0)}
    changes |= {"value": _taken(state.value, arm, np.float64(state.reward_sum), axis=0)}
    for name in ("noise", "memory", "decisions", "rewards", "unmatched", "expired", "reward_sum"):
        changes[name] = getattr(state, name)
    return _with_pending(evolve(begun, **changes), state, arm, feature)


def _with_pending(after: BanditState, before: BanditState, arm: Places, feature: Places) -> BanditState:
    """With the decisions that wait, but those for an arm that is gone."""
    features, arms = len(before.feature_names), len(before.arm_names)
    context, chance, expected, rest = np.split(before.waiting, [features, features + arms, features + 2 * arms], axis=1)
    zero = np.float64(0.0)
    parts = [_taken(context, feature, zero, 1), _taken(chance, arm, zero, 1), _taken(expected, arm, zero, 1), rest]
    waiting, at, ids = np.concatenate(parts, axis=1), before.waiting_at.copy(), list(before.waiting_id)
    place = {old: new for new, old in enumerate(arm.tolist())}
    gone = 0
    for row, name in enumerate(ids):
        new = place.get(int(at[row, 2])) if name else None
        if new is None:
            gone += name != ""
            ids[row], at[row], waiting[row] = "", 0, 0.0
        else:
            at[row, 2] = new
    return evolve(after, waiting=waiting, waiting_at=at, waiting_id=tuple(ids), expired=after.expired + gone)


def _places(old: Sequence[str], new: Sequence[str]) -> Places:
    """Where each new name stood, -1 where it is new."""
    return np.array([old.index(name) if name in old else -1 for name in new], np.int64)


def _triangle(feature: Places) -> Places:
    """The places in a lower triangle, row by row, of the pairs of features; -1 where one of them is new."""
    rows, columns = np.tril_indices(len(feature))
    high, low = np.maximum(feature[rows], feature[columns]), np.minimum(feature[rows], feature[columns])
    return np.where(low < 0, -1, high * (high + 1) // 2 + low)


def _taken(known: NDArray[Any], places: Places, new: Any, axis: int) -> NDArray[Any]:
    """`known` at the places along an axis, and `new` where there is none."""
    shape = [1] * known.ndim
    shape[axis] = len(places)
    return np.where((places >= 0).reshape(shape), np.take(known, np.maximum(places, 0), axis), new)
