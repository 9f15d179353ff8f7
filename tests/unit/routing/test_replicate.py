"""Replica counts: exact by exhaustive search."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.routing.replicate import replica_counts


def test_heaviest_replica_is_as_light_as_exhaustive_search_can_make_it() -> None:
    rng = np.random.default_rng(0)
    for experts, gpus, slots in ((2, 2, 4), (3, 3, 6), (4, 2, 6), (4, 4, 8), (5, 3, 9), (4, 4, 16)):
        load = rng.lognormal(0, 1.5, (40, experts))
        choices = np.array([c for c in product(range(1, gpus + 1), repeat=experts) if sum(c) == slots])
        optimum = (load[:, None] / choices).max(2).min(1)
        counts = replica_counts(load, slots, gpus)
        assert counts.min() >= 1
        assert counts.max() <= gpus
        assert (counts.sum(1) == slots).all()
        np.testing.assert_array_equal((load / counts).max(1), optimum)


def test_ties_go_to_the_lowest_index() -> None:
    assert replica_counts(np.ones((1, 4)), 6, 2).tolist() == [[2, 2, 1, 1]]
    assert replica_counts(np.zeros((1, 3)), 6, 3).tolist() == [[3, 2, 1]]


def test_one_gpu_means_one_replica() -> None:
    assert replica_counts(np.array([[9.0, 1.0]]), 2, 1).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("load", "slots", "gpus", "field"),
    [
        (np.ones((1, 4)), 2, 2, "slots_per_gpu"),
        (np.ones((1, 2)), 6, 2, "slots_per_gpu"),
        (np.ones((1, 4)), 5, 2, "num_gpus"),
        (np.array([[-1.0, 1.0]]), 2, 1, "load"),
        (np.ones(4), 4, 2, "load"),
    ],
)
def test_bad_input_is_named(load: np.ndarray, slots: int, gpus: int, field: str) -> None:
    with pytest.raises(ProblemError, match=f"^{field} must be "):
        replica_counts(load, slots, gpus)
