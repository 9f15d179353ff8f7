"""The one wording of errors about a value: "X must be Y, got v"."""

from __future__ import annotations

MAX_SHOWN = 160  # characters of a value that a message repeats


def must_be(name: str, allowed: str, value: object) -> str:
    """The message for a value that breaks a rule.

    Parameters
    ----------
    name
        The field, argument, option or flag, as its user knows it.
    allowed
        What it may be, to follow the words "must be".
    value
        What it is. Shown as Python writes it, cut to `MAX_SHOWN` characters; a `Shown` goes in as it is.

    >>> must_be("shots", "1 to 100000", 0)
    'shots must be 1 to 100000, got 0'
    >>> must_be("load", "[layers, experts]", Shown("shape (3,)"))
    'load must be [layers, experts], got shape (3,)'
    """
    return f"{name} {must(allowed, value)}"


def must(allowed: str, value: object) -> str:
    """The end of the message, where what catches the error puts the name before it.

    >>> must("finite numbers", Shown("NaN or infinity"))
    'must be finite numbers, got NaN or infinity'
    """
    shown = value if isinstance(value, Shown) else repr(value)
    return f"must be {allowed}, got {shown[:MAX_SHOWN]}"


class Shown(str):
    """A description of a value, such as its shape, where the value itself would say little."""

    __slots__ = ()
