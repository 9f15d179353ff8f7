"""Rules for tuples of names in a frame's header: distinct, and one for each row of an array."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.frame import Frame
from schemas.wording import Shown, must_be


def require_distinct(frame: Frame, field: str) -> None:
    """Raise ValueError if a name stands twice in the field."""
    if (twice := first_twice(getattr(frame, field))) is not None:
        raise ValueError(must_be(field, "distinct names", Shown(f"{twice!r} twice")))


def first_twice(names: Sequence[str]) -> str | None:
    """The first name that stood before, None if all are distinct."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def require_count(frame: Frame, field: str, rows: int, what: str, *, or_none: bool = False) -> None:
    """Raise ValueError unless the field, names or an array, has one entry for each of `rows`; `what` says of which.

    An absent array passes; with `or_none` an empty tuple does too.
    """
    value = getattr(frame, field)
    if value is None or (or_none and not len(value)):
        return
    if len(value) != rows:
        rule = f"{'empty or ' if or_none else ''}{rows}, one for each of {what}"
        raise ValueError(must_be(f"length of {field}", rule, len(value)))
