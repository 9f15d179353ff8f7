"""The hedge against hand cases and a slow reference, with arms asleep and losses that come late."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qstream.learn import LearnError, hedge


class Reference:
    """Both levels as the papers write them, one series, no arm asleep."""

    def __init__(self, arms: int, discounts: tuple[float, ...]) -> None:
        self.g, self.k = np.array(discounts)[:, None], arms
        self.r, self.v = np.zeros((len(discounts), arms)), np.zeros((len(discounts), arms))
        self.b, self.top_b = np.zeros((len(discounts), 1)), 0.0
        self.top_r, self.top_v = np.zeros(len(discounts)), np.zeros(len(discounts))
        self.u, self.p = np.full((len(discounts), arms), 1 / arms), np.full(len(discounts), 1 / len(discounts))

    def learn(self, loss: np.ndarray) -> np.ndarray:
        q = self.u @ loss
        r = q[:, None] - loss
        self.b = np.maximum(self.g * self.b, (r * r).max(1, keepdims=True))
        self.v, self.r = self.g * self.v + r * r, self.g * self.r + r
        w = np.maximum(self.r, 0) / (self.v + self.b)
        sums = w.sum(1, keepdims=True)
        self.u = np.where(sums > 0, w / np.where(sums > 0, sums, 1), 1 / self.k)
        top = np.where(abs(self.p @ q - q) > 1e-12, self.p @ q - q, 0)  # equal up to rounding is equal
        self.top_b = max(self.top_b, abs(top).max(), 1e-300)
        self.top_v += top * top
        eta = np.minimum(0.5 / self.top_b, np.sqrt(np.log(len(q)) / np.maximum(self.top_v, 1e-300)))
        self.top_r += top - eta * top * top
        p = eta * np.exp(eta * self.top_r - (eta * self.top_r).max())
        self.p = p / p.sum()
        return self.p @ self.u


def test_one_round_of_two_arms_is_what_a_hand_computes() -> None:
    state = hedge.learn(hedge.start(["fast", "slow"], discounts=[1.0]), [[0.0, 1.0]])
    assert hedge.mix(state).tolist() == [[1.0, 0.0]]
    assert state.regret.tolist() == [[[0.5, -0.5]]]
    assert state.variance.tolist() == [[[0.25, 0.25]]]
    # Judged by (1, 0): regrets .5 - 1 and -.5 + 0, variances 1.25 and .25, most 1.
    state = hedge.learn(state, [[1.0, 0.0]])
    assert state.regret.tolist() == [[[0.5, 0.5]]]
    assert hedge.mix(state)[0] == pytest.approx(
        [(0.5 / 1.25) / (0.5 / 1.25 + 0.5 / 2.25), (0.5 / 2.25) / (0.5 / 1.25 + 0.5 / 2.25)]
    )


def test_weights_equal_a_slow_reference() -> None:
    losses = np.random.default_rng(0).normal(size=(300, 5))
    reference, state = Reference(5, hedge.DISCOUNTS), hedge.start(5)
    for loss in losses:
        expected = reference.learn(loss)
        state = hedge.learn(state, loss[None])
        assert hedge.mix(state)[0] == pytest.approx(expected, abs=1e-12)


def test_series_side_by_side_are_the_same_as_each_alone() -> None:
    losses = np.random.default_rng(1).random((20, 3, 4))
    together, alone = hedge.start(4, series=3), [hedge.start(4) for _ in range(3)]
    for loss in losses:
        together = hedge.learn(together, loss)
        alone = [hedge.learn(one, loss[[s]]) for s, one in enumerate(alone)]
    assert hedge.mix(together).tolist() == [hedge.mix(one)[0].tolist() for one in alone]


def test_scale_and_offset_of_the_losses_do_not_matter() -> None:
    losses = np.random.default_rng(2).random((50, 1, 4))
    plain, scaled = hedge.start(4), hedge.start(4)
    for loss in losses:
        plain, scaled = hedge.learn(plain, loss), hedge.learn(scaled, 1024 * loss + 512)
    assert hedge.mix(scaled) == pytest.approx(hedge.mix(plain), abs=1e-9)


def test_the_regret_of_an_arm_asleep_stands_still_and_its_weight_goes_to_the_others() -> None:
    state = hedge.start(3)
    for loss in np.random.default_rng(3).random((30, 1, 3)):
        state = hedge.learn(state, loss)
    awake = [[True, False, True]]
    after = hedge.learn(state, [[0.1, 123.0, 0.9]], awake=awake)
    for name in ("regret", "variance"):
        before, now = getattr(state, name), getattr(after, name)
        assert now[0, :, 1].tolist() == before[0, :, 1].tolist()
        assert (now[0, :, 0] != before[0, :, 0]).all()
    assert after.arm_regret[0, 1] == state.arm_regret[0, 1]
    share = hedge.mix(after, awake)
    assert share[0, 1] == 0
    assert share.sum() == pytest.approx(1)
    none = hedge.learn(state, [[0.1, 0.5, 0.9]], awake=[[False] * 3])
    assert all(np.array_equal(getattr(none, name), getattr(state, name)) for name in hedge.LEARNT)


def test_a_late_loss_is_judged_by_the_weights_that_were_in_force() -> None:
    state = hedge.learn(hedge.start(2, discounts=[1.0]), [[0.0, 1.0]])
    then = hedge.used(hedge.start(2, discounts=[1.0]))
    late, prompt = hedge.learn(state, [[0.0, 1.0]], at=then), hedge.learn(state, [[0.0, 1.0]])
    assert late.regret.tolist() == [[[1.0, -1.0]]]
    assert prompt.regret.tolist() == [[[0.5, -1.5]]]
    assert hedge.mix(then).tolist() == [[0.5, 0.5]]


def test_a_floor_leaves_every_arm_awake_its_part() -> None:
    state = hedge.learn(hedge.start(4), [[0.0, 1.0, 1.0, 1.0]])
    assert hedge.mix(state, floor=0.2)[0] == pytest.approx([0.85, 0.05, 0.05, 0.05])
    assert hedge.mix(state, [[True, True, False, False]], floor=0.2)[0] == pytest.approx([0.9, 0.1, 0, 0])


def test_a_mixture_that_learns_by_the_gradient_beats_every_forecast() -> None:
    rng = np.random.default_rng(4)
    state, errors = hedge.start(2), []
    for _ in range(500):
        came = rng.normal()
        said = came + np.array([[1.0, -1.0]]) + 0.1 * rng.normal(size=(1, 2))
        share = hedge.mix(state)
        errors.append([abs((share * said).sum() - came), *abs(said[0] - came)])
        state = hedge.learn(state, hedge.linear_loss(said, [came], share))
    mixture, *each = np.mean(errors, 0)
    assert mixture < 0.3 * min(each)
    pinball = hedge.linear_loss([[2.0, 4.0]], [1.0], [[0.5, 0.5]], quantile=0.9)
    assert pinball == pytest.approx(np.array([[0.2, 0.4]]))


def test_regret_to_the_best_arm_and_to_the_best_sequence_stays_small() -> None:
    rng = np.random.default_rng(5)
    losses = 0.5 + 0.2 * rng.normal(size=(3000, 6))
    losses[:, 2] -= 0.1
    state, lost = hedge.start(6), 0.0
    for loss in losses:
        lost += float(hedge.mix(state)[0] @ loss)
        state = hedge.learn(state, loss[None])
    assert lost / 3000 - losses.mean(0).min() < 0.003
    assert state.loss_total[0] == pytest.approx(lost)
    assert state.arm_regret[0, 2] / 3000 == pytest.approx(lost / 3000 - losses[:, 2].mean())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: hedge.start(0), "arms must be a whole number from 1 to"),
        (lambda s: hedge.start(["a", "a"]), "arms must be 1 to 10000 different names"),
        (lambda s: hedge.start("ab"), "arms must be a count or several names, got 'ab'"),
        (lambda s: hedge.start(2, discounts=[1.1]), "discounts must be a number from"),
        (lambda s: hedge.start(2, discounts=[]), "discounts must be one or more numbers"),
        (lambda s: hedge.start(2, series=0), "series must be a whole number from 1 to"),
        (lambda s: hedge.learn(s, [[0.0, np.nan]]), "loss must be finite numbers, got NaN or infinity"),
        (lambda s: hedge.learn(s, [0.0, 1.0]), r"loss must be of shape \(1, 2\), got shape \(2,\)"),
        (lambda s: hedge.learn(s, [["a", "b"]]), "loss must be numbers, got dtype"),
        (lambda s: hedge.learn(s, [[0.0, 1.0]], awake=[[1, 1]]), "awake must be booleans, got dtype int64"),
        (lambda s: hedge.learn(s, [[0.0, 1.0]], at=hedge.used(hedge.start(3))), "at must be weights of shape"),
        (lambda s: hedge.mix(s, [[False, False]]), "awake must be true for an arm of each series"),
        (lambda s: hedge.mix(s, floor=1.5), "floor must be a number from 0 to 1, got 1.5"),
        (lambda s: hedge.linear_loss([1.0], [1.0], [1.0]), "prediction must be of shape"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[hedge.HedgeState], Any], message: str) -> None:
    with pytest.raises(LearnError, match=message):
        call(hedge.start(2))
