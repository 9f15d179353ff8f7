"""The one way to a next state: fields replaced, frozen, and refused where no store could keep them."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray

from qstream.learn import LearnError, hedge
from qstream.learn.evolve import evolve
from schemas.frame import Axes, Frame


class Levels(Frame):
    level: Annotated[NDArray[np.float64], Axes("series")]
    steps: int = 0


START = Levels(level=np.zeros(3))


def test_the_new_state_has_the_changes_and_the_old_one_stays_as_it_was() -> None:
    new = evolve(START, level=np.arange(3.0), steps=1)
    assert new == Levels(level=np.arange(3.0), steps=1)
    assert START.level.tolist() == [0, 0, 0]
    assert not new.level.flags.writeable


def test_what_no_store_could_keep_is_refused_by_name() -> None:
    for value, message in [
        (np.array([0, np.nan, 0]), "Levels.level must be finite numbers, got NaN or infinity"),
        (np.full(3, np.inf), "Levels.level must be finite numbers"),
        (np.zeros(2), "of shape \\(3,\\), got float64 of shape \\(2,\\)"),
        (np.zeros(3, np.float32), "array of float64 .* got float32"),
    ]:
        with pytest.raises(LearnError, match=message):
            evolve(START, level=value)
    with pytest.raises(LearnError, match="a field must be one of Levels, got 'speed'"):
        evolve(START, speed=1)


def test_finite_numbers_whose_sum_overflows_are_kept() -> None:
    assert evolve(START, level=np.full(3, 1e308)).level[0] == 1e308


def test_a_restored_state_in_which_a_kernel_overflows_is_refused_by_the_name_of_the_array() -> None:
    most = np.full((1, 4, 2), 1.7976931348623157e308)
    with pytest.raises(LearnError, match=r"^HedgeState\.weight must be finite numbers, got NaN or infinity$"):
        hedge.learn(hedge.start(2).model_copy(update={"regret": most}), [[0.0, 0.0]])
