"""What every learner owes: a state that a store can keep and give back, whatever numbers come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qstream.state.fields import pack, unpack
from schemas.frame import Frame

HARD = (0.0, -0.0, 1.0, -1.0, 0.3, 5e-324, 1e-310, 1e-160, 1e-30, 1e30, 1e160, -1e160, 1e300, -1e300, 1.7e308, -1.7e308)


def restored(state: Any) -> Any:
    """The state after a store has kept it, which must give the same bytes again."""
    found = unpack(type(state), pack(state))
    assert pack(found) == pack(state)
    return found


@pytest.fixture(scope="session")
def through_store() -> Callable[[Any], Any]:
    return restored


@pytest.fixture(scope="session")
def hard() -> tuple[float, ...]:
    """Finite numbers at which sums of squares overflow or vanish."""
    return HARD


@pytest.fixture(scope="session")
def same() -> Callable[[Frame, Frame], bool]:
    return lambda left, right: pack(left) == pack(right)
