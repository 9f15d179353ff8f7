"""The next state of a learner: the same frame with some of its fields replaced, frozen and checked to be storable."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import read_only
from qstream.errors import LearnError
from qstream.kernels import compiled
from schemas.frame import Frame
from schemas.wording import Shown, must_be

S = TypeVar("S", bound=Frame)
_TOGETHER = 4096  # numbers, up to which copying arrays into one is quicker than a kernel for each
_set = object.__setattr__
_SMALL = 16  # numbers, up to which a sum of Python floats is quicker than a compiled kernel


def evolve(state: S, **changes: Any) -> S:
    """Return `state` with the fields in `changes` replaced; `state` itself stays as it is.

    Validating a frame of seven arrays again costs ten times as much. So only what a learner could get wrong is checked: an
    array keeps dtype and shape, and floats are finite. Arrays become read-only and belong to the new state.

    Raises
    ------
    LearnError
        A field is unknown, of another dtype or shape, or not finite, which a store would refuse.
    """
    held = state.__dict__
    floats: list[NDArray[Any]] = []
    for name, value in changes.items():
        if name not in held:
            raise LearnError(must_be("a field", f"one of {type(state).__name__}", name))
        if type(value) is np.ndarray:
            old = held[name]
            if value is old:
                continue
            if value.dtype != old.dtype or value.shape != old.shape or not value.flags.c_contiguous:
                allowed = f"a C-ordered array of {old.dtype} of shape {old.shape}"
                raise LearnError(must_be(_named(state, name), allowed, Shown(f"{value.dtype} of shape {value.shape}")))
            if value.dtype.kind == "f":
                floats.append(value)
            value.setflags(write=False)
        elif type(value) is float and not math.isfinite(value):
            raise LearnError(must_be(_named(state, name), "a finite number", value))
    if floats and not _all_finite(floats):
        wrong = next(name for name, value in changes.items() if isinstance(value, np.ndarray) and not np.isfinite(value).all())
        raise LearnError(must_be(_named(state, wrong), "finite numbers", Shown("NaN or infinity")))
    return _replaced(state, changes)


def copies(state: Frame, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Copies of arrays of the state, for a kernel to change."""
    held = state.__dict__
    return {name: held[name].copy() for name in names}


def renewed(state: S, arrays: dict[str, NDArray[Any]], finite: bool, **changes: Any) -> S:
    """`evolve` where a kernel has changed copies of the state's own `arrays`, so that dtype and shape are right, and has found
    them `finite`: a quarter of the time. If they are not, `evolve` says which one."""
    if not finite:
        return evolve(state, **arrays, **changes)
    for array in arrays.values():
        array.setflags(write=False)
    changes.update(arrays)
    return _replaced(state, changes)


def _replaced(state: S, changes: dict[str, Any]) -> S:
    """What `model_copy` gives, at a third of its time."""
    new: S = object.__new__(type(state))
    _set(new, "__dict__", state.__dict__ | changes)
    _set(new, "__pydantic_fields_set__", state.__pydantic_fields_set__)  # shared: a frozen frame never changes it
    _set(new, "__pydantic_extra__", None)
    _set(new, "__pydantic_private__", None)
    return new


def _named(state: Frame, name: str) -> str:
    return f"{type(state).__name__}.{name}"


def _all_finite(arrays: list[NDArray[Any]]) -> bool:
    """Whether no number in any of the arrays is NaN or infinite; many small arrays cost one call."""
    if sum(array.size for array in arrays) > _TOGETHER:
        return all(all_finite(array) for array in arrays)
    return bool(_finite(read_only(np.concatenate(arrays, axis=None))))


def all_finite(value: NDArray[Any]) -> bool:
    """Whether no number of a C-ordered array of floats is NaN or infinite."""
    if value.size <= _SMALL and math.isfinite(sum(value.ravel().tolist())):  # a sum that overflows says nothing
        return True
    return bool(_finite(read_only(value.reshape(-1))))


@compiled
def _finite(flat: Any) -> bool:
    wrong = 0
    for number in flat:
        wrong += not np.isfinite(number)
    return wrong == 0
