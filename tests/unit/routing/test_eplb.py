"""The drop-in for EPLB: the published maps number by number, and ours without a duplicate on any input."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.routing.eplb import rebalance_experts
from qstream.routing.score import balancedness, violations

README = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]


def maps_agree(maps: tuple[Any, Any, Any]) -> bool:
    plan, slots_of, count = maps
    for layer in range(len(plan)):
        for e in range(slots_of.shape[1]):
            slots = slots_of[layer, e][slots_of[layer, e] >= 0]
            if sorted(slots) != np.flatnonzero(plan[layer] == e).tolist() or len(slots) != count[layer, e]:
                return False
    return True


def test_the_published_example_comes_out_number_by_number() -> None:
    plan, _, count = maps = rebalance_experts(np.array(README), 16, 4, 2, 8, "eplb")
    assert plan.tolist() == [
        [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
        [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
    ]
    assert count.tolist() == [[1, 2, 1, 1, 2, 2, 1, 1, 1, 1, 2, 1], [1, 2, 1, 1, 1, 2, 2, 1, 2, 1, 1, 1]]
    assert maps_agree(maps)


@pytest.mark.parametrize(
    ("weight", "numbers", "plan", "slots_of"),
    [
        (README[:1], (16, 3, 2, 8), [10, 6, 10, 7, 0, 2, 11, 4, 5, 9, 5, 4, 8, 3, 1, 1], None),
        ([[1] * 6], (8, 2, 2, 4), [1, 0, 2, 0, 4, 3, 5, 3], [[1, 3], [0, -1], [2, -1], [5, 7], [4, -1], [6, -1]]),
        ([[0, 0, 5, 5, 1, 1, 3, 3]], (12, 4, 2, 4), [2, 2, 0, 3, 3, 1, 6, 6, 4, 7, 7, 5], None),
    ],
)
def test_ties_and_the_global_case_come_out_as_from_the_published_code_with_a_stable_sort(
    weight: list[list[int]], numbers: tuple[int, int, int, int], plan: list[int], slots_of: list[list[int]] | None
) -> None:
    got = rebalance_experts(np.array(weight), *numbers, "eplb")
    assert got[0].tolist() == [plan]
    assert maps_agree(got)
    if slots_of is not None:
        assert got[1].tolist() == [slots_of]


@settings(max_examples=150)
@given(data=st.data())
def test_every_expert_is_placed_and_none_twice_on_a_gpu_even_where_gpus_do_not_divide_among_nodes(data: Any) -> None:
    gpus, nodes, groups = (data.draw(st.integers(1, n)) for n in (8, 4, 4))
    experts = data.draw(st.integers(1, 8)) * (1 if groups % nodes else groups)  # groups that are not used need not divide them
    per_gpu = data.draw(st.integers(-(-experts // gpus), experts))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    weight = rng.lognormal(0, 2, (2, experts)) * data.draw(st.sampled_from([0.0, 1.0]))
    maps = rebalance_experts(weight, gpus * per_gpu, groups, nodes, gpus)
    assert violations(maps[0].astype(np.int32), experts, gpus) == 0
    assert maps_agree(maps)


@settings(max_examples=50)
@given(nodes=st.integers(1, 4), per_node=st.integers(1, 3), size=st.integers(1, 4), seed=st.integers(0, 99))
def test_groups_stay_on_one_node_in_both_algorithms(nodes: int, per_node: int, size: int, seed: int) -> None:
    groups, gpus = 2 * nodes, per_node * nodes
    experts = groups * size
    slots = gpus * min(2 * size, -(-experts // gpus) + 1)
    weight = np.random.default_rng(seed).integers(0, 9, (3, experts))
    for algorithm in ("eplb", "default"):
        maps = rebalance_experts(weight, slots, groups, nodes, gpus, algorithm)  # type: ignore[arg-type]
        assert maps_agree(maps)
        for row in maps[0].reshape(3, nodes, -1) // size:
            homes = [set(node.tolist()) for node in row]
            assert sum(map(len, homes)) == len(set.union(*homes)) == groups


def test_ours_is_never_less_balanced_than_the_published_plan_on_skewed_loads() -> None:
    weight = np.random.default_rng(0).lognormal(0, 1, (20, 64))
    scores = [balancedness(rebalance_experts(weight, 96, 1, 1, 8, a)[0].astype(np.int32), weight, 8) for a in ("default", "eplb")]
    assert scores[0] > 0.999
    assert scores[0] >= scores[1]


@pytest.mark.parametrize("algorithm", ["default", "eplb"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bfloat16])
def test_tensors_come_back_as_tensors_with_the_numbers_of_arrays(algorithm: Any, dtype: torch.dtype) -> None:
    tensor = torch.tensor(README).to(dtype)
    of_tensor = rebalance_experts(tensor, 16, 4, 2, 8, algorithm)
    of_array = rebalance_experts(tensor.double().numpy(), 16, 4, 2, 8, algorithm)
    for got, want in zip(of_tensor, of_array, strict=True):
        assert got.dtype == torch.int64
        np.testing.assert_array_equal(got.numpy(), want)


def test_torch_is_not_imported_for_arrays() -> None:
    code = (
        "import sys, numpy; from qstream.routing.eplb import rebalance_experts as r;"
        "r(numpy.ones((1, 4)), 4, 1, 1, 2); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("field", "weight", "numbers"),
    [
        ("weight", [[1, -1]], (2, 1, 1, 1)),
        ("weight", [[1, float("nan")]], (2, 1, 1, 1)),
        ("weight", [1, 1], (2, 1, 1, 1)),
        ("num_replicas", [[1, 1, 1]], (2, 1, 1, 1)),
        ("num_replicas", [[1, 1, 1]], (4, 1, 1, 3)),
        ("num_groups", [[1, 1, 1]], (3, 2, 1, 1)),
        ("num_groups", [[1, 1]], (2, 0, 1, 1)),
        ("num_nodes", [[1, 1]], (2, 1, 0, 1)),
        ("num_gpus", [[1, 1]], (2, 1, 1, 0)),
    ],
)
def test_bad_input_is_named(field: str, weight: Any, numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(ProblemError, match=f"^{field} must be "):
        rebalance_experts(np.array(weight), *numbers)


@pytest.mark.parametrize("algorithm", ["default", "eplb"])
@pytest.mark.parametrize("numbers", [(12, 1, 1, 4), (12, 4, 2, 4)])
def test_a_model_without_layers_has_maps_without_layers(algorithm: Any, numbers: tuple[int, int, int, int]) -> None:
    maps = rebalance_experts(np.ones((0, 8)), *numbers, algorithm)
    assert [len(part) for part in maps] == [0, 0, 0]
    assert maps[0].shape == (0, 12)
    assert maps[2].shape == (0, 8)


def test_more_slots_on_a_gpu_than_experts_hold_experts_twice() -> None:
    for numbers in ((16, 1, 1, 4), (18, 3, 3, 2)):
        maps = rebalance_experts(np.array([[5.0, 1.0, 1.0]]), *numbers)
        assert set(maps[0][0].tolist()) == {0, 1, 2}
        assert maps_agree(maps)


def test_groups_that_are_not_used_need_not_divide_the_experts() -> None:
    plan = rebalance_experts(np.ones((1, 10)), 12, 4, 3, 12, "eplb")[0]
    assert set(plan[0].tolist()) == set(range(10))


def test_the_published_algorithm_refuses_gpus_that_do_not_divide_among_nodes() -> None:
    with pytest.raises(ProblemError, match=r"^num_gpus must be .*, got 3$"):
        rebalance_experts(np.ones((1, 4)), 6, 2, 2, 3, "eplb")
    with pytest.raises(ProblemError, match=r"^algorithm must be "):
        rebalance_experts(np.ones((1, 4)), 6, 2, 2, 3, "fast")  # type: ignore[arg-type]
