"""Contention of layouts: features by hand, a model equal to scikit-learn's, ranks, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.svm import SVC

from qstream.errors import LearnError, ProblemError
from qstream.learn import policy
from qstream.learn.model import Model
from qstream.nvlink.contention import PENALTY, WIDTH, ContentionModel, rank_layouts
from qstream.nvlink.layouts import FEATURES, Layout, bound_s, layout_features

LEAF = [0, 0, 1, 1]
UP, DOWN = np.full((2, 2), 100.0), np.full((2, 2), 50.0)


def features(src: Any, dst: Any, nbytes: Any, up: Any = UP, down: Any = DOWN) -> dict[str, float]:
    return dict(zip(FEATURES, layout_features(src, dst, nbytes, LEAF, 400.0, up, down).tolist(), strict=True))


def drawn(n: int = 200, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(FEATURES)))
    return x, x[:, 0] + x[:, 1] ** 2 + 0.3 * rng.normal(size=n) > 0.8


def test_one_flow_across_is_bound_by_the_downlinks_of_its_leaf() -> None:
    assert bound_s(Layout([0], [2], [1e9], LEAF, 400.0, UP, DOWN)) == pytest.approx(1e9 / 100 / 1e9)
    found = features([0], [2], [1e9])
    assert (found["cross_share"], found["up_over_bound"], found["down_over_bound"]) == pytest.approx((1.0, 0.5, 1.0))
    assert found["port_over_bound"] == pytest.approx(100 / 400)
    assert found["largest_over_bound"] == pytest.approx(2.0)  # one spine's downlink takes it all


def test_traffic_below_one_leaf_does_not_cross() -> None:
    found = features([0, 1], [1, 0], [1e9, 1e9])
    assert found["cross_share"] == 0
    assert found["port_over_bound"] == 1
    assert found["largest_over_bound"] == 0


def test_no_bytes_are_no_features_and_a_dead_link_makes_none_infinite() -> None:
    assert set(features([0], [2], [0.0]).values()) == {0.0}
    up = UP.copy()
    up[0, 0] = 0.0
    assert np.isfinite(list(features([0], [2], [1e9], up).values())).all()


def test_the_model_is_the_support_vector_machine_of_scikit_learn() -> None:
    x, y = drawn()
    model = ContentionModel.fit(x, y)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    theirs = SVC(C=PENALTY, gamma=WIDTH).fit(standard, y).decision_function(standard)
    ours = policy.svm(model.model, x)[:, 0]
    slope, offset = np.polyfit(theirs, ours, 1)
    assert slope > 0
    assert ours == pytest.approx(slope * theirs + offset, abs=1e-9)


def test_probabilities_are_calibrated_on_what_was_not_seen() -> None:
    model = ContentionModel.fit(*drawn(600))
    x, y = drawn(2000, 1)
    said = model.probability(x)
    assert ((said >= 0) & (said <= 1)).all()
    assert said[y].mean() > said[~y].mean() + 0.3
    for low in (0.0, 0.5):
        inside = (said >= low) & (said < low + 0.5)
        assert said[inside].mean() == pytest.approx(y[inside].mean(), abs=0.1)


def test_layouts_rank_by_their_bound_and_by_half_of_the_probability() -> None:
    model = ContentionModel.fit(*drawn())
    x, _ = drawn(3, 2)
    assert rank_layouts(model, x, [1.0, 2.0, 3.0]) == pytest.approx(np.array([1, 2, 3]) * (1 + model.probability(x) / 2))


def test_a_saved_model_answers_the_same_and_another_is_refused(tmp_path: Path) -> None:
    x, y = drawn()
    model, path = ContentionModel.fit(x, y), tmp_path / "contention.safetensors"
    model.save(path)
    assert ContentionModel.load(path).probability(x).tolist() == model.probability(x).tolist()
    path.write_bytes(b"no model")
    with pytest.raises(LearnError):
        ContentionModel.load(path)


def test_the_same_log_gives_the_same_model() -> None:
    x, y = drawn()
    assert ContentionModel.fit(x, y).probability(x).tolist() == ContentionModel.fit(x, y).probability(x).tolist()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((20, 3)), np.ones(20, bool), "features"),
        (np.full((20, len(FEATURES)), np.nan), np.ones(20, bool), "features"),
        (np.ones((20, len(FEATURES))), np.ones(20), "contended"),
        (np.ones((20, len(FEATURES))), np.ones(20, bool), "contended"),
    ],
)
def test_a_log_that_teaches_nothing_is_refused(x: Any, y: Any, message: str) -> None:
    with pytest.raises(LearnError, match=message):
        ContentionModel.fit(x, y)


@pytest.mark.parametrize(
    ("arrays", "config", "message"),
    [
        ({"mean": np.zeros(3)}, {"gamma": 0.1}, "mean"),
        ({"scale": np.zeros(2)}, {"gamma": 0.1}, "scale"),
        ({}, {"gamma": 0.0}, "gamma"),
        ({}, {}, "gamma"),
    ],
)
def test_a_damaged_machine_is_named(arrays: dict[str, Any], config: dict[str, Any], message: str) -> None:
    whole = {"mean": np.zeros(2), "scale": np.ones(2), "support": np.ones((4, 2)), "weight": np.ones((1, 4)), "bias": np.ones(1)}
    with pytest.raises(LearnError, match=message):
        policy.svm(Model("m", "n", 1, "svm", whole | arrays, ("a", "b"), config), [[1.0, 2.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src": [9]}, "src"),
        ({"nbytes": [-1.0]}, "nbytes"),
        ({"leaf_of_node": [0, 0, 1, 7]}, "leaf_of_node"),
        ({"down_gb_s": np.ones((3, 2))}, "up_gb_s, down_gb_s"),
        ({"dst": [1, 2]}, "src, dst, nbytes"),
    ],
)
def test_a_layout_that_cannot_be_is_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"src": [0], "dst": [2], "nbytes": [1.0], "leaf_of_node": LEAF, "port_gb_s": 400.0}
    given |= {"up_gb_s": UP, "down_gb_s": DOWN}
    with pytest.raises(ProblemError, match=message):
        layout_features(**(given | change))
