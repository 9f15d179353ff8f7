"""What a GPU may draw at most until the next plan: what is not known to have come down counts as high."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy.enforced import enforced_w, unheeded
from qstream.energy.memory import EnergyState
from qstream.energy.options import EnergyOptions

SECOND = 10**9
NOW = 1_000 * SECOND
APPLY = EnergyOptions(mode="apply")


def state(**of_the_first):
    """The example's domain, of which the first GPU has these values."""
    example = EnergyState.example()
    changed = {
        name: np.concatenate(([value], getattr(example, name)[1:])).astype(getattr(example, name).dtype)
        if name in example.arrays else value
        for name, value in of_the_first.items()
    }  # fmt: skip
    return example.model_copy(update=changed)


def first(now, age=0.0, options=APPLY):
    return float(enforced_w(now, options, NOW, np.array([age, 0.0, 0.0, 0.0]))[0])


@pytest.mark.parametrize(
    ("known", "age", "watts"),
    [
        pytest.param({}, 0, 700, id="never-heard"),
        pytest.param({"limit_w": 300}, 0, 300, id="as-it-was-read"),
        pytest.param({"limit_w": 300, "target_w": 500, "changed_ns": NOW}, 0, 500, id="raise-not-acknowledged"),
        pytest.param({"limit_w": 300, "target_w": -1, "changed_ns": NOW}, 0, 700, id="release-not-acknowledged"),
        pytest.param({"limit_w": 500, "target_w": 300, "changed_ns": NOW}, 0, 500, id="fall-not-acknowledged"),
        pytest.param({"limit_w": 300, "acked_ns": NOW - 20 * SECOND, "published_ns": NOW - 10 * SECOND}, 0, 700, id="lease-ends"),
        pytest.param({"limit_w": 300, "acked_ns": NOW - 15 * SECOND, "published_ns": NOW - 5 * SECOND}, 0, 300, id="lease-lasts"),
        pytest.param({"limit_w": 300, "acked_ns": NOW - 20 * SECOND, "published_ns": NOW - 20 * SECOND}, 0, 300, id="answers"),
        pytest.param({"limit_w": 300}, 11, 700, id="silent"),
        pytest.param({"limit_w": 300, "acked_ns": NOW - SECOND, "published_ns": NOW - SECOND}, 31, 300, id="silent-but-answers"),
    ],
)
def test_the_most_that_a_gpu_may_draw(known, age, watts):
    assert first(state(**known), age) == watts


def test_without_apply_no_actuator_counts():
    now = state(limit_w=300, target_w=500, changed_ns=NOW, acked_ns=NOW)
    assert [first(now, age, EnergyOptions()) for age in (0, 11)] == [300, 700]


def test_a_target_that_readings_do_not_follow_is_noticed_after_a_while():
    given = {"limit_w": 700, "target_w": 300, "changed_ns": NOW - 20 * SECOND, "applied_ns": NOW - 20 * SECOND}
    assert unheeded(state(seen_ns=NOW, **given), APPLY).tolist() == [True, False, False, False]
    assert not unheeded(state(seen_ns=NOW - 11 * SECOND, **given), APPLY).any()
    assert not unheeded(state(seen_ns=NOW, **given), EnergyOptions()).any()
    just_switched = given | {"applied_ns": NOW - 5 * SECOND}
    assert not unheeded(state(seen_ns=NOW, **just_switched), APPLY).any(), "a dry run's target was never to be set"
