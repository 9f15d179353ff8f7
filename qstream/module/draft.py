"""Draft: a working copy of a state frame, changed by name, whole or not at all, and read out as the next state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import EllipsisType
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

from schemas.frame import Frame

S = TypeVar("S", bound=Frame)
_Undo = tuple[str, int | EllipsisType | None, Any]  # a field, the part of it that was edited (None: all of it), the old value


class Draft(Generic[S]):
    """A state while records change it.

    `now` has the fields as they are; read them there, and change them by `set` and `edit` alone. The state that the draft was
    made from never changes: an array is copied when it is first edited. Within `atomic`, all changes are kept or none.
    """

    def __init__(self, state: S) -> None:
        self.now: S = state.model_copy()
        self._own: dict[str, NDArray[Any]] = {}  # arrays that were copied here, and may be edited in place
        self._undo: list[_Undo] | None = None

    def set(self, **fields: Any) -> None:
        """Give fields new values. They are checked when the state is read out."""
        for name, value in fields.items():
            old = self.now.__dict__[name]
            if self._undo is not None:
                self._undo.append((name, None, old))
            self.now.__dict__[name] = value

    def edit(self, name: str, at: int | EllipsisType = ...) -> NDArray[Any]:
        """An array, or one index of its first axis, to be written in place until the next call of a method."""
        array: NDArray[Any] = self.now.__dict__[name]
        if self._own.get(name) is not array:
            array = array.copy()
            self.set(**{name: array})
            self._own[name] = array
        elif self._undo is not None:
            self._undo.append((name, at, array[at].copy()))
        part: NDArray[Any] = array[at]
        return part

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Take back all changes of the block if it raises. Blocks may be nested."""
        outer = self._undo
        mine: list[_Undo] = []
        self._undo = mine
        try:
            yield
        except BaseException:
            for name, at, old in reversed(mine):
                if at is None:
                    self.now.__dict__[name] = old
                else:
                    self.now.__dict__[name][at] = old
            mine.clear()
            raise
        finally:
            self._undo = outer
            if outer is not None:
                outer += mine

    def state(self) -> S:
        """The state as it is now, checked as every frame is."""
        for array in self._own.values():
            array.flags.writeable = False  # so that the frame shares it
        self._own = {}
        return type(self.now)(**dict(self.now))
