"""Frames that differ from another in some fields."""

from __future__ import annotations


def changed(frame, **fields):
    """The frame with other fields, validated."""
    given = {name: getattr(frame, name) for name in type(frame).model_fields}
    return type(frame).build(**(given | fields))


def at(array, place, value):
    """A copy with one value changed."""
    other = array.copy()
    other[place] = value
    return other
