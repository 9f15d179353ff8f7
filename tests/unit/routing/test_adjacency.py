"""Adjacency lists: every token stands in the queues of its experts, in order, as JSON numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qstream.errors import ProblemError
from qstream.routing.adjacency import expert_queues, queue_columns


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 5), min_size=2, max_size=2))))
def test_queues_are_the_same_as_appending_token_by_token(rows: list[tuple[int, list[int]]]) -> None:
    queues: dict[str, list[int]] = {str(e): [] for e in range(6)}
    for token, experts in rows:
        for e in experts:
            queues[str(e)].append(token)
    assignment = np.array([experts for _, experts in rows], np.int32).reshape(-1, 2)
    found = expert_queues(assignment, np.array([token for token, _ in rows], np.uint64), 6)
    assert json.loads(json.dumps(found)) == queues
    token, end = queue_columns(assignment, np.array([token for token, _ in rows], np.uint64), 6)
    assert [part.tolist() for part in np.split(token, end[:-1])] == list(queues.values())
    assert end[-1] == len(token)


def test_one_expert_a_token_may_be_a_plain_vector() -> None:
    tokens = np.arange(3, dtype=np.uint64)
    assert expert_queues(np.array([1, 1, 0], np.int32), tokens, 2) == {"0": [2], "1": [0, 1]}


@pytest.mark.parametrize(
    ("assignment", "experts", "field"),
    [([0, 3, 1], 3, "assignment"), ([-1, 0, 1], 3, "assignment"), ([0, 1], 3, "assignment"), ([0, 0, 0], 0, "experts")],
)
def test_bad_input_is_named(assignment: list[int], experts: int, field: str) -> None:
    with pytest.raises(ProblemError, match=f"^{field} must be "):
        expert_queues(np.array(assignment, np.int32), np.arange(3, dtype=np.uint64), experts)
