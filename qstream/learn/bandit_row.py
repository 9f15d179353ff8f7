"""The numbers of a bandit's decision and of its reward, in the row of the pending decisions that both share."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from qstream.kernels import GOLDEN, compiled, mix64
from qstream.learn import hedge
from qstream.learn.best import best_chances
from qstream.learn.ridge import MOST_CONTEXT, MOST_REWARD, add, predict

_LEAST_NOISE: Final = 1e-200
DISCOUNTS: Final = np.array([1.0, 0.98, 0.9])  # of the hedge over memories
_NOISE_RATE: Final = 0.02  # at which the noise of a memory follows, once there are 50 rewards
_NOISE_CLIP: Final = 25.0  # times the noise, beyond which a squared error counts as this
_LOSS_CLIP: Final = 10.0  # noise levels, beyond which an error counts as this for the hedge
_LEAST_CHANCE: Final = 1e-12
MOST_SUM: Final = 1e200


@compiled
def choose_row(known: Any, how: Any, x: Any, allowed: Any, at: Any, waiting: Any, chosen: Any) -> None:
    """Predict, draw, and write the decision into its row of the pending ones."""
    gram, target, noise, memory = known
    thompson, width, floor, seed = how
    arms, memories, features = target.shape
    discounts = len(DISCOUNTS)
    top = discounts * memories
    share = np.zeros(memories)
    for d in range(discounts):
        for m in range(memories):
            share[m] += memory[top + d] * memory[d * memories + m]
    each, spread = np.empty((arms, memories)), np.empty(arms)
    for i in range(features):
        waiting[i] = min(max(x[i], -MOST_CONTEXT), MOST_CONTEXT)
    end = features + 2 * arms
    chance, mean = waiting[features : features + arms], waiting[features + arms : end]
    predict(gram, target, noise, share, waiting[:features], each, mean, spread)
    chances(mean, spread, allowed, thompson, width, floor, chance)
    arm = draw(chance, seed, at[0])
    at[2] = arm
    chosen[arm] += 1
    for m in range(memories):
        waiting[end + m] = each[arm, m]
    for k in range(top + discounts):
        waiting[end + memories + k] = memory[k]


@compiled
def chances(mean: Any, spread: Any, allowed: Any, thompson: Any, width: Any, floor: Any, chance: Any) -> None:
    """Fill `chance` [A] with the propensities of the rule, `floor` of them spread over the allowed arms."""
    arms, best, highest, count = len(mean), -1, 0.0, 0
    for a in range(arms):
        value = mean[a] + width * spread[a]
        count += allowed[a]
        if allowed[a] and (best < 0 or value > highest):
            best, highest = a, value
    if thompson:
        best_chances(mean, spread, width, allowed, chance)
    else:
        for a in range(arms):
            chance[a] = 1.0 if a == best else 0.0
    for a in range(arms):
        if allowed[a]:
            chance[a] = (1.0 - floor) * chance[a] + floor / count


@compiled
def draw(chance: Any, seed: Any, number: Any) -> Any:
    """The arm that one uniform number picks, a function of the seed and the number of the decision."""
    left = (mix64(mix64(seed) + GOLDEN * np.uint64(number)) >> np.uint64(11)) * 2.0**-53
    arm = 0
    for a in range(len(chance)):
        if chance[a] > 0.0:
            arm = a
            if left < chance[a]:
                break
            left -= chance[a]
    return arm


@compiled
def learn_row(
    reward: Any,
    rewards: Any,
    ridge: Any,
    fades: Any,
    at: Any,
    waiting: Any,
    gram: Any,
    target: Any,
    noise: Any,
    memory: Any,
    value: Any,
) -> Any:
    """One reward of the decision in a row of the pending ones, in place. Returns whether all is finite."""
    arms, memories, features = target.shape
    arm, end = at[2], features + 2 * arms
    x, chance, mean = waiting[:features], waiting[features : features + arms], waiting[features + arms : end]
    each, in_force = waiting[end : end + memories], waiting[end + memories :]
    rate, loss = max(_NOISE_RATE, 1.0 / (rewards + 2.0)), np.empty((1, memories))
    for m in range(memories):
        error = min(abs(reward - each[m]), MOST_REWARD)
        loss[0, m] = min(error, _LOSS_CLIP * math.sqrt(noise[m]))
        noise[m] = max((1.0 - rate) * noise[m] + rate * min(error * error, _NOISE_CLIP * noise[m]), _LEAST_NOISE)
    _weigh(loss, in_force, memory)
    for a in range(arms):
        value[a] = min(max(value[a] + mean[a], -MOST_SUM), MOST_SUM)
    value[arm] = min(max(value[arm] + (reward - mean[arm]) / max(chance[arm], _LEAST_CHANCE), -MOST_SUM), MOST_SUM)
    for a in range(arms):
        for m in range(memories):
            add(reward if a == arm else 0.0, x, 1.0 if a == arm else 0.0, fades[m], ridge, gram[a, m], target[a, m])
    check = 0.0  # NaN once 0 times a number that is not finite is added
    for a in range(arms):
        check += 0.0 * value[a]
        for m in range(memories):
            for i in range(features):
                check += 0.0 * target[a, m, i]
            for i in range(gram.shape[2]):
                check += 0.0 * gram[a, m, i]
    for m in range(memories):
        check += 0.0 * noise[m]
    for i in range(len(memory)):
        check += 0.0 * memory[i]
    return check == 0.0


@compiled
def _weigh(loss: Any, in_force: Any, memory: Any) -> None:
    """One round of the hedge over memories, in place: `in_force` are the weights [D, M] and [D] when the answer was given."""
    memories, discounts = loss.shape[1], len(DISCOUNTS)
    cube, d, m = discounts * memories, discounts, memories
    top, regret = cube, cube + d
    most = regret + 2 * cube
    hedge.learn_rows(
        loss,
        in_force[:cube].reshape((1, d, m)),
        in_force[cube:].reshape((1, d)),
        np.ones((1, m), np.bool_),
        DISCOUNTS,
        memory[:cube].reshape((1, d, m)),
        memory[regret : regret + cube].reshape((1, d, m)),
        memory[regret + cube : most].reshape((1, d, m)),
        memory[most : most + d].reshape((1, d)),
        memory[top : top + d].reshape((1, d)),
        memory[most + d : most + 2 * d].reshape((1, d)),
        memory[most + 2 * d : most + 3 * d].reshape((1, d)),
        memory[most + 3 * d : most + 3 * d + 1],
        memory[most + 3 * d + 1 : most + 3 * d + 1 + m].reshape((1, m)),
        memory[most + 3 * d + 1 + m :],
    )
