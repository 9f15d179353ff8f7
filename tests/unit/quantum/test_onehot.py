"""A one-hot problem takes what its rules allow, names what they do not, and evaluates solutions only."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from qstream.errors import ProblemError
from qstream.quantum.onehot import OneHotProblem


def test_costs_may_be_one_matrix_and_sizes_numpys() -> None:
    problem = OneHotProblem(np.array([2, 2]), unary=np.array([[0.0, 1.0], [2.0, 5.0]]), pair={(np.int64(0), 1): np.eye(2)})
    assert problem.sizes == (2, 2)
    assert problem.energy([1, 1]) == 1 + 5 + 1
    assert [type(at) for at in next(iter(problem.pair))] == [int, int]


@pytest.mark.parametrize("sizes", [(2.7, 3), "23", (math.nan, 2), (math.inf, 2), 3, None, (True, 2), (0, 2), (), (1025,)])
def test_sizes_are_whole_numbers(sizes: Any) -> None:
    with pytest.raises(ProblemError, match=r"^sizes"):
        OneHotProblem(sizes)


@pytest.mark.parametrize("key", [0, "01", (0,), (0, 1, 2), (1, 0), (0, 0), (0, 2), (-1, 1), (0.0, 1), None])
def test_a_wrong_key_of_the_pairs_is_named(key: Any) -> None:
    with pytest.raises(ProblemError, match=r"^pair must be keyed"):
        OneHotProblem((2, 2), pair={key: np.eye(2)})


@pytest.mark.parametrize(("field", "value"), [("pair", [1]), ("pair", None), ("unary", 3), ("unary", [[0, 1]]), ("offset", "x")])
def test_a_field_of_a_wrong_type_is_named(field: str, value: Any) -> None:
    with pytest.raises(ProblemError, match=rf"^{field} "):
        OneHotProblem((2, 2), **{field: value})


@pytest.mark.parametrize("levels", [[0, -1], [0.5, 1.9], [0, 2], [0], [0, 1, 1], ["0", "1"], [math.nan, 0], [[0], [0, 1]], None])
def test_only_solutions_have_an_energy(levels: Any) -> None:
    with pytest.raises(ProblemError, match=r"^levels"):
        OneHotProblem((2, 2)).energy(levels)


def test_a_problem_survives_pickling_and_stays_read_only() -> None:
    problem = OneHotProblem((2, 3), (np.arange(2.0), np.arange(3.0)), {(0, 1): np.ones((2, 3))}, 1.0)
    again = pickle.loads(pickle.dumps(problem))
    assert again.digest() == problem.digest()
    assert not any(costs.flags.writeable for costs in (*again.unary, *again.pair.values()))


def test_too_many_states_are_told_as_a_power_of_ten() -> None:
    with pytest.raises(ProblemError, match=r"10\^3082\.5 states"):
        OneHotProblem((1024,) * 1024).diagonal()
