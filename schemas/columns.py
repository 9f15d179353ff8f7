"""Rules for arrays of a frame that belong together: all or none, distinct numbers, and where parts begin in another array."""

from __future__ import annotations

import numpy as np

from schemas.frame import Frame
from schemas.wording import Shown, must_be


def require_both(frame: Frame, *fields: str) -> None:
    """Raise ValueError if some of the fields are given and others are not."""
    missing = [field for field in fields if getattr(frame, field) is None]
    if missing and len(missing) < len(fields):
        given = next(field for field in fields if field not in missing)
        raise ValueError(must_be(missing[0], f"given where {given} is", Shown("nothing")))


def require_once(frame: Frame, field: str) -> None:
    """Raise ValueError if a number stands twice in the array."""
    array = getattr(frame, field)
    if array is None:
        return
    values, counts = np.unique(array, return_counts=True)
    if len(values) < len(array):
        raise ValueError(must_be(field, "distinct numbers", Shown(f"{values[counts > 1][0]} twice")))


def require_starts(frame: Frame, field: str, of: str, parts: int | None = None) -> None:
    """Raise ValueError unless the array says where parts of the array `of` begin, and last where it ends.

    So it begins with 0, falls nowhere and ends with the length of `of`; if the number of parts is known, it has one more.
    """
    first = getattr(frame, field)
    if first is None:
        return
    if parts is not None and len(first) != parts + 1:
        raise ValueError(must_be(f"length of {field}", f"{parts + 1}, one more than there are parts", len(first)))
    end = len(getattr(frame, of))
    if not len(first) or first[0] != 0 or first[-1] != end or (np.diff(first) < 0).any():
        rule = f"from 0 to {end}, the length of {of}, and nowhere falling"
        raise ValueError(must_be(field, rule, Shown(f"{first.tolist()[:8]}")))
