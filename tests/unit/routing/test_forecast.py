"""Scenarios of the next window: labels are recovered from mixed counts, bad windows do no harm, real windows come out nearer."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.routing.forecast import forecast, label_mix, label_rates
from qstream.routing.pack import place_window
from qstream.routing.scenarios import anneal
from qstream.routing.score import balancedness


def profiles(rng: np.random.Generator, labels: int, layers: int, experts: int) -> np.ndarray:
    """Part of a label's tokens that each expert gets."""
    return rng.dirichlet(np.full(experts, 0.5), (labels, layers))


def test_without_labels_the_windows_themselves_are_the_scenarios_and_newer_ones_count_more() -> None:
    history = np.random.default_rng(0).integers(0, 9, (5, 2, 4))
    found = forecast(history)
    np.testing.assert_array_equal(found.scenarios, history)
    assert found.weights.sum() == pytest.approx(1.0)
    assert (np.diff(found.weights) > 0).all()
    assert forecast(history, decay=1.0).weights.tolist() == [0.2] * 5, "windows in no order count alike"


def test_the_labels_of_a_window_are_recovered_from_its_counts() -> None:
    rng = np.random.default_rng(0)
    rates = profiles(rng, 3, 4, 32)
    mix = rng.dirichlet(np.ones(3), 6) * 5000
    history = np.einsum("wk,kle->wle", mix, rates)
    np.testing.assert_allclose(label_mix(history, rates), mix, rtol=0.05, atol=25)


def test_windows_that_labels_explain_in_full_give_the_demand_of_the_queue_alone() -> None:
    rng = np.random.default_rng(0)
    rates = profiles(rng, 2, 3, 16)
    mix = np.array([[90_000, 10_000], [20_000, 80_000], [50_000, 50_000]])
    history = np.einsum("wk,kle->wle", mix, rates).round().astype(np.int64)
    labels = np.einsum("wk,kle->kle", mix, rates).round().astype(np.int64)
    found = forecast(history, labels=labels, queued=np.array([75_000, 25_000]))
    want = 0.75 * rates[0] + 0.25 * rates[1]
    for scenario in found.scenarios[3:]:
        np.testing.assert_allclose(scenario / scenario.sum(1, keepdims=True), want, atol=0.003)


def test_what_labels_do_not_explain_stays_in_the_scenarios() -> None:
    rng = np.random.default_rng(0)
    rates = profiles(rng, 2, 1, 16)
    history = (np.einsum("wk,kle->wle", np.full((2, 2), 50_000.0), rates)).round()
    history[1, 0, 0] *= 2
    labels = (rates * 100_000).round().astype(np.int64)
    found = forecast(history, labels=labels, queued=np.array([1, 1]))
    first, second = found.scenarios[2:, 0]
    assert 1.5 < second[0] / first[0] < 2.0
    others = second[1:] / first[1:]
    assert np.abs(others - 1).max() < 0.2


def test_a_queue_that_is_wrong_is_believed_by_half() -> None:
    rng = np.random.default_rng(0)
    history = np.einsum("k,kle->le", [50_000, 50_000], profiles(rng, 2, 3, 16)).round()[None].repeat(3, 0).astype(np.int64)
    labels = rng.integers(0, 1000, (2, 3, 16))
    found = forecast(history, labels=labels, queued=np.array([100_000, 0]))
    np.testing.assert_array_equal(found.scenarios[:3], history)
    assert found.weights[:3].sum() == pytest.approx(0.5)
    unknown = forecast(history, labels=labels, queued=np.array([0, 0]))
    assert len(unknown.scenarios) == 3, "what no queue claims cannot be wrong"


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_queue_shorter_than_a_window_is_filled_up_with_the_labels_of_each_past_window(share: float) -> None:
    rng = np.random.default_rng(0)
    rates = profiles(rng, 2, 3, 16)
    mix = np.array([[90_000, 10_000], [20_000, 80_000], [50_000, 50_000]])
    history = np.einsum("wk,kle->wle", mix, rates).round().astype(np.int64)
    labels = np.einsum("wk,kle->kle", mix, rates).round().astype(np.int64)
    tokens = int(share * 100_000 / 4)
    found = forecast(history, labels=labels, queued=np.array([tokens, 0]), top_k=4)
    want = np.einsum("wk,kle->wle", share * np.array([1.0, 0.0]) + (1 - share) * mix / 100_000, rates)
    np.testing.assert_allclose(found.scenarios[-3:] / 100_000, want, atol=0.004)


def test_labels_that_explain_nothing_leave_the_past_windows_as_they_are() -> None:
    rng = np.random.default_rng(0)
    history = rng.multinomial(5000, rng.dirichlet(np.full(16, 4.0), (6, 3)))
    for queued in ([0], [10**6]):
        found = forecast(history, labels=history.sum(0)[None], queued=np.array(queued))
        np.testing.assert_allclose(found.scenarios[-6:], history, rtol=0.02, atol=2)


def test_a_label_never_seen_is_foretold_as_the_mean_of_all_tokens() -> None:
    every = np.array([[30.0, 10.0, 0.0]])
    rates = label_rates(np.zeros((1, 1, 3)), every)
    np.testing.assert_allclose(rates[0], every / 40, atol=0.02)


def test_rare_labels_count_as_one_without_losing_their_tokens() -> None:
    rng = np.random.default_rng(0)
    common, rare = profiles(rng, 2, 1, 8)
    labels = np.concatenate([np.tile(common * 1e6, (70, 1, 1)), np.tile(rare * 1e3, (30, 1, 1))]).round()
    queued = np.repeat([0, 10**7], [70, 30])
    history = labels.sum(0)[None]
    known = labels[70:].sum(0)[None] + labels[63:70].sum(0)[None]
    found = forecast(history, labels=labels, queued=queued).load()
    np.testing.assert_allclose(found / found.sum(), (known / known.sum())[0], atol=0.01)


@settings(max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6)),
    labels=st.integers(1, 3),
    queue=st.sampled_from([0, 1, 1000]),
    empty=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_input_gives_finite_loads_and_the_same_ones_again(
    shape: tuple[int, int, int], labels: int, queue: int, empty: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    history = rng.integers(0, 20, shape) * (rng.random(shape) < 0.5) * (not empty)
    seen = rng.integers(0, 3, (labels, *shape[1:]))
    queued = np.full(labels, queue)
    found, again = (forecast(history, labels=seen, queued=queued) for _ in range(2))
    assert found.scenarios.shape[1:] == shape[1:]
    assert found.weights.shape == found.scenarios.shape[:1]
    assert found.weights.sum() == pytest.approx(1.0)
    for load in (found.scenarios, found.load()):
        assert np.isfinite(load).all()
        assert load.min() >= 0
    assert found.scenarios.tobytes() == again.scenarios.tobytes()


def test_bad_input_is_named() -> None:
    history, labels, queued = np.ones((2, 1, 3)), np.ones((2, 1, 3)), np.ones(2)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"history": history[:0]}, "history"),
        ({"history": -history}, "history"),
        ({"history": np.where(np.eye(3)[:2, None], np.nan, 1)}, "history"),
        ({"labels": labels}, "labels and queued"),
        ({"queued": queued}, "labels and queued"),
        ({"labels": labels[:, :, :2], "queued": queued}, "labels"),
        ({"labels": labels, "queued": np.ones(3)}, "labels"),
        ({"labels": -labels, "queued": queued}, "labels"),
        ({"labels": labels, "queued": -queued}, "queued"),
    ]
    for arguments, field in cases:
        with pytest.raises(ProblemError, match=f"^{field} must be "):
            forecast(**{"history": history} | arguments)


def test_plans_for_next_windows_of_real_routing_are_better_balanced_with_labels(stick: ModuleType) -> None:
    trace = stick.stream(stick.load(), seed=2)
    windows = stick.window_counts(trace.ids)
    scores: list[list[float]] = []
    for i in range(3, len(windows) - 1):
        seen, coming = trace.label[: (i + 1) * 1024], trace.label[(i + 1) * 1024 : (i + 2) * 1024]
        labels = np.stack([stick.counts(trace.ids[: (i + 1) * 1024][seen == k]) for k in range(2)])
        queued = np.bincount(coming, minlength=2)
        plans = [place_window(windows[i].astype(np.float64), 8, 72)]
        for known in ({}, {"labels": labels, "queued": queued}):
            look = forecast(windows[: i + 1], **known)
            plans.append(anneal(place_window(look.load(), 8, 72), look.scenarios, 8, steps=2000, weights=look.weights))
        scores.append([balancedness(plan, windows[i + 1].astype(np.float64), 8) for plan in plans])
    last, history, with_labels = np.mean(scores, axis=0)
    assert last < history < with_labels
