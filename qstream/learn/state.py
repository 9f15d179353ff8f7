"""State of a module that learns: which of its learners commands have frozen, and how a dotted name finds one."""

from __future__ import annotations

from typing import Any, TypeVar, get_args

import numpy as np
from pydantic import Field

from qstream.errors import LearnError
from schemas.frame import Count, Frame, Names
from schemas.wording import Shown, must_be

S = TypeVar("S", bound=Frame)


class LearningState(Frame):
    """Base of the state of a module with learners; `frozen` are their dotted fields that stand still, such as ``choice``.

    `commands` is how many commands the key has obeyed: an operator sees that one took effect, and once."""

    frozen: Names = Field(default=())
    commands: Count = 0


def learner_of(state: Frame, name: str) -> Frame | None:
    """The learner at a dotted field; None where it has not begun. `LearnError` if there is no such field."""
    value: Any = state
    for part in name.split("."):
        if not isinstance(value, Frame) or part not in type(value).model_fields:
            raise LearnError(must_be("learner", f"a dotted field of {type(state).__name__}", name))
        value = getattr(value, part)
        if value is None:
            return None
    if not isinstance(value, Frame):
        raise LearnError(must_be(f"learner {name}", "a frame", Shown(type(value).__name__)))
    return value


def with_learner(state: S, name: str, learner: Frame) -> S:
    """The state with another learner at a dotted field; the fields above it must not be None."""
    field, _, rest = name.partition(".")
    value = with_learner(getattr(state, field), rest, learner) if rest else learner
    return state.model_copy(update={field: value})


def class_of(state: Frame, name: str) -> type[Frame]:
    """The class of the frame at a dotted field, also where it has not begun."""
    above, _, field = name.rpartition(".")
    holder = learner_of(state, above) if above else state
    if holder is None or field not in type(holder).model_fields:
        raise LearnError(must_be("learner", f"a dotted field of {type(state).__name__} that has begun", name))
    return kind_of(type(holder), field)


def kind_of(state: type[Frame], name: str) -> type[Frame]:
    """The class of the frame at a dotted field of a class of states. `LearnError` if there is no such field."""
    kind = state
    for field in name.split("."):
        annotation = kind.model_fields[field].annotation if field in kind.model_fields else None
        found = [item for item in (annotation, *get_args(annotation)) if isinstance(item, type) and issubclass(item, Frame)]
        if len(found) != 1:
            raise LearnError(must_be(f"learner {name}", f"a dotted field of {state.__name__}", Shown(str(annotation))))
        kind = found[0]
    return kind


def require_alike(name: str, held: Frame, other: Frame) -> None:
    """`LearnError` unless two learners have the same names and shapes, so that one may take the place of the other."""
    for field in type(held).model_fields:
        own, new = getattr(held, field), getattr(other, field)
        if isinstance(own, Frame) and isinstance(new, Frame):
            require_alike(f"{name}.{field}", own, new)
        elif isinstance(own, np.ndarray) and isinstance(new, np.ndarray) and own.shape != new.shape:
            raise LearnError(must_be(f"shape of {name}.{field}", f"that of the key's learner, {own.shape}", new.shape))
        elif isinstance(own, tuple) and own != new:
            raise LearnError(must_be(f"{name}.{field}", f"{_names(own)}, as the key's learner has", _names(new)))


def _names(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))
