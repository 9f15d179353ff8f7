"""Rules of the problem, bounds, and the two forms of a plan."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.arguments import array
from qstream.errors import ProblemError
from qstream.routing.pack import place_window
from qstream.routing.problem import check_slots, fullest_gpu_bound, logical_maps
from qstream.routing.replicate import replica_counts
from qstream.routing.score import gpu_loads


@pytest.mark.parametrize(
    ("load", "gpus", "slots", "field"),
    [
        (np.ones((1, 9)), 4, 2, "slots_per_gpu must be enough for 9 experts, got 2 x 4 GPUs = 8 slots"),
        (np.ones((1, 3)), 2, 4, "slots_per_gpu must be <= 3 experts, .* got 4"),
        (np.ones((1, 3)), 0, 4, "num_gpus must be >= 1 and a divisor of the 0 slots, got 0"),
        (np.ones((1, 3)), 4, 0, "slots_per_gpu must be >= 1, got 0"),
        (np.ones((1, 0)), 1, 1, "load must be of at least one expert, got 0 experts"),
        (np.array([[1.0, np.nan]]), 1, 2, "load must be finite and >= 0, got values from nan"),
        (np.array([[1.0, -1.0]]), 1, 2, r"load must be finite and >= 0, got values from -1\.0"),
        (np.array([[1.0, np.inf]]), 1, 2, r"load must be finite and >= 0, got values from 1\.0 to inf"),
    ],
)
def test_a_problem_without_a_plan_is_named(load: np.ndarray, gpus: int, slots: int, field: str) -> None:
    with pytest.raises(ProblemError, match=f"^{field}"):
        replica_counts(load, gpus * slots, gpus)


def test_every_expert_on_every_gpu_is_a_problem_with_a_plan() -> None:
    check_slots(3, 4, 3)
    assert place_window(np.ones((2, 3)), 4, 12).shape == (2, 12)


def test_logical_maps_list_the_slots_of_each_expert_in_order() -> None:
    slots, counts = logical_maps(np.array([[2, 0, 2, 1], [0, 0, 1, 0]], np.int32), 3)
    assert slots.tolist() == [[[1, -1, -1], [3, -1, -1], [0, 2, -1]], [[0, 1, 3], [2, -1, -1], [-1, -1, -1]]]
    assert counts.tolist() == [[1, 1, 2], [3, 1, 0]]


def test_logical_maps_refuse_an_expert_out_of_range() -> None:
    with pytest.raises(ProblemError, match=r"^physical_to_logical must be 0 to 2, got values from 0 to 3"):
        logical_maps(np.array([[0, 3]], np.int32), 3)


def test_no_plan_is_below_the_bound() -> None:
    load = np.random.default_rng(0).lognormal(0, 1.5, (40, 12))
    plan = place_window(load, 4, 16)
    counts = replica_counts(load, 16, 4)
    assert (gpu_loads(plan, load, 4).max(1) >= fullest_gpu_bound(load, counts, 4) * (1 - 1e-12)).all()


def test_lists_of_unequal_lengths_are_named() -> None:
    with pytest.raises(ProblemError, match=r"load must be an array with the axes \[L, E\], got rows of different lengths"):
        array("load", [[1, 2], [3]], np.float64, "L E")
