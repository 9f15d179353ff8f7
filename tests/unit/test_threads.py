"""Linear algebra keeps to one thread while it is asked to, and has what it had before after that."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg  # noqa: F401 - its library counts as well
from threadpoolctl import threadpool_info, threadpool_limits

from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import suggest
from qstream.hpo.problem import Observation
from qstream.hpo.space import SearchSpace
from qstream.threads import one_thread


def counts() -> set[int]:
    """Threads of each library of linear algebra that is loaded."""
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}


def test_it_is_one_thread_within_and_what_it_was_after() -> None:
    with threadpool_limits(2, "blas"):
        with one_thread(), one_thread():
            assert counts() == {1}
        assert counts() == {2}


def test_an_error_takes_the_limit_away() -> None:
    with threadpool_limits(2, "blas"):
        with pytest.raises(ZeroDivisionError), one_thread():
            raise ZeroDivisionError
        assert counts() == {2}


def test_a_suggestion_leaves_the_program_its_threads_and_does_not_depend_on_them() -> None:
    space = SearchSpace.load(
        [{"name": "x", "type": "float", "low": 0, "high": 1}, {"name": "y", "type": "float", "low": 0, "high": 1}]
    )
    points = np.random.default_rng(0).random((60, 2))
    seen = [Observation(n, {"x": float(x), "y": float(y)}, float((x - 0.3) ** 2 + y)) for n, (x, y) in enumerate(points)]
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            found.append(suggest(space, seen, trial=len(seen), options=HpoOptions(optimizer="gp")).unit)
            assert counts() == {threads}
    assert found[0].tobytes() == found[1].tobytes()
