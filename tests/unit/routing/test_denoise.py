"""What windows share is kept, what differs by chance is not; plans for loads without structure are at least as good as EPLB's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.routing.denoise import denoised
from qstream.routing.eplb import rebalance_experts
from qstream.routing.forecast import Forecast, forecast
from qstream.routing.placement import place
from qstream.routing.score import balancedness
from schemas.experts import ExpertTopology


def windows(rng: np.random.Generator, rate: np.ndarray, count: int, kind: str) -> np.ndarray:
    """Counts [count, L, E] that differ by chance alone."""
    if kind == "multinomial":
        return np.stack([rng.multinomial(int(row.sum()), row / row.sum(), count) for row in rate], axis=1)
    wild = rng.gamma(10, 0.1, (count, *rate.shape)) if kind == "overdispersed" else 1.0
    return rng.poisson(rate * wild, (count, *rate.shape))


@pytest.mark.parametrize("kind", ["poisson", "multinomial", "overdispersed"])
@pytest.mark.parametrize("count", [8, 16, 40])
@pytest.mark.parametrize("slots", [72, 96])
def test_without_structure_the_plan_is_as_good_as_eplb_on_the_sum_of_all_windows(kind: str, count: int, slots: int) -> None:
    gpus, layers, experts = 8, 4, 64
    topology = ExpertTopology(num_layers=layers, num_logical_experts=experts, num_gpus=gpus, slots_per_gpu=slots // gpus)
    ours, theirs = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        rate = rng.lognormal(0, 1, (layers, experts))
        rate *= 6144 / rate.sum(1, keepdims=True)
        every = windows(rng, rate, count + 40, kind)
        plan = place(every[:count], topology).physical_to_logical_map
        assert plan is not None
        published = rebalance_experts(every[:count].sum(0), slots, 1, 1, gpus, "eplb")[0].astype(np.int32)
        for following in every[count:].astype(np.float64):
            ours.append(balancedness(plan, following, gpus))
            theirs.append(balancedness(published, following, gpus))
    assert np.mean(ours) >= np.mean(theirs) - 0.001


def test_windows_that_differ_by_chance_alone_leave_one_scenario() -> None:
    rng = np.random.default_rng(0)
    history = rng.poisson(rng.lognormal(3, 1, (8, 64)), (40, 8, 64)).astype(np.float64)
    found = denoised(forecast(history[-16:]), history[:-16])
    np.testing.assert_allclose(found.scenarios, history.mean(0)[None])
    assert found.weights.tolist() == [1.0]


@pytest.mark.parametrize("count", [3, 8, 16])
def test_what_the_experts_of_all_layers_share_is_kept_and_comes_out_nearer_to_the_truth(count: int) -> None:
    rng = np.random.default_rng(0)
    tasks = rng.dirichlet(np.full(64, 0.5), (2, 8)) * 6144
    mix = rng.random(count)
    truth = mix[:, None, None] * tasks[0] + (1 - mix[:, None, None]) * tasks[1]
    counts = rng.poisson(truth).astype(np.float64)
    found = denoised(forecast(counts))
    assert len(found.scenarios) == count
    assert np.square(found.scenarios - truth).mean() < np.square(counts - truth).mean()
    assert np.square(found.scenarios - truth).mean() < 0.1 * np.square(counts.mean(0) - truth).mean()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 3), st.integers(1, 9), st.sampled_from([0, 1, 50, 10**7]))
def test_scenarios_are_finite_and_not_negative_whatever_the_windows(
    seed: int, count: int, layers: int, experts: int, most: int
) -> None:
    rng = np.random.default_rng(seed)
    history = rng.integers(0, most + 1, (count, layers, experts)).astype(np.float64)
    older = rng.integers(0, most + 1, (seed % 4, layers, experts)).astype(np.float64)
    found = denoised(Forecast(history, np.full(count, 1.0 / count)), older)
    assert np.isfinite(found.scenarios).all()
    assert (found.scenarios >= 0).all()
    assert found.weights.shape == found.scenarios.shape[:1]
    assert found.weights.sum() == pytest.approx(1.0)
