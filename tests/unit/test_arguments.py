"""Numbers come back plain, and what is not a number in range is refused with its name, the rule and its value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qstream.arguments import real_number, whole_number
from qstream.errors import ProblemError


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_whole_numbers_become_plain(value: object) -> None:
    assert type(whole_number("p", value, 1, 3)) is int


@pytest.mark.parametrize("value", [True, np.True_, 1.0, "1", None, 0, 4, math.nan])
def test_what_is_not_a_whole_number_in_range_is_refused_by_name(value: object) -> None:
    with pytest.raises(ProblemError, match=r"^p must be a whole number from 1 to 3, got "):
        whole_number("p", value, 1, 3)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(1), math.inf])
def test_real_numbers_become_plain(value: object) -> None:
    assert type(real_number("t", value)) is float


@pytest.mark.parametrize("value", [True, np.True_, "1", None, 1j, math.nan, 10**400, [1.0]])
def test_what_is_not_a_real_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(ProblemError, match=r"^t must be a number"):
        real_number("t", value)
