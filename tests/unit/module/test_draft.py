"""Drafts: the state they are made of stays, blocks change whole or not at all, and what is read out is a valid state."""

from typing import Annotated, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from qstream.module.draft import Draft
from schemas.frame import Axes, Frame


class Room(Frame):
    name: str = "cold"
    visits: int = Field(default=0, ge=0)
    heat: Annotated[NDArray[np.int64], Axes("walls", "bricks")]
    draught: Annotated[NDArray[np.int64], Axes("walls")] | None = None

    @classmethod
    def example(cls) -> Self:
        return cls(heat=np.zeros((3, 2), np.int64))


def test_the_state_that_a_draft_is_made_of_does_not_change():
    state = Room.example()
    before = state.encode()
    draft = Draft(state)
    draft.set(name="warm", visits=1)
    draft.edit("heat", 1)[:] += 5
    draft.edit("heat")[0] = 7
    assert state.encode() == before
    assert draft.now.heat.tolist() == [[7, 7], [5, 5], [0, 0]]
    assert draft.state() == Room(name="warm", visits=1, heat=np.array([[7, 7], [5, 5], [0, 0]]))


def test_a_state_that_was_read_out_does_not_change_either():
    draft = Draft(Room.example())
    draft.edit("heat", 0)[:] = 1
    first = draft.state()
    draft.edit("heat", 0)[:] = 2
    assert first.heat.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert draft.state().heat.tolist() == [[2, 2], [0, 0], [0, 0]]


def test_what_is_not_edited_is_shared():
    state = Room(heat=np.ones((3, 2), np.int64), draught=np.ones(3, np.int64))
    draft = Draft(state)
    draft.edit("heat", 0)[:] = 2
    edited = draft.now.heat
    found = draft.state()
    assert np.shares_memory(found.draught, state.draught)
    assert np.shares_memory(found.heat, edited)


def test_a_state_that_would_be_wrong_cannot_be_read_out():
    draft = Draft(Room.example())
    draft.set(visits=-1)
    with pytest.raises(ValidationError, match="visits"):
        draft.state()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 9)),
        st.tuples(st.just("replace"), st.integers(0, 9)),
        st.tuples(st.just("edit"), st.integers(0, 2)),
        st.tuples(st.just("edit all"), st.integers(0, 9)),
    ),
    max_size=6,
)


def change(draft: Draft[Room], steps: list[tuple[str, int]]) -> None:
    for kind, value in steps:
        if kind == "set":
            draft.set(visits=value)
        elif kind == "replace":
            draft.set(heat=np.full((3, 2), value))
        elif kind == "edit":
            draft.edit("heat", value)[:] += 1
        else:
            draft.edit("heat")[:] *= value


def fail(draft: Draft[Room], steps: list[tuple[str, int]], *, inner: bool = False) -> None:
    """Change the draft in a block that fails, or in one that does not within one that does."""
    with draft.atomic():
        if inner:
            with draft.atomic():
                change(draft, steps)
        else:
            change(draft, steps)
        raise ZeroDivisionError


@given(before=STEPS, kept=STEPS, failed=STEPS, after=STEPS)
def test_a_block_that_fails_leaves_nothing_and_one_that_does_not_leaves_all(before, kept, failed, after):
    draft, plain = Draft(Room.example()), Draft(Room.example())
    for each in (draft, plain):
        change(each, before)
    with draft.atomic():
        change(draft, kept)
        with pytest.raises(ZeroDivisionError):
            fail(draft, failed)
    change(plain, kept)
    assert draft.now == plain.now
    with pytest.raises(ZeroDivisionError):
        fail(draft, failed, inner=True)
    for each in (draft, plain):
        change(each, after)
    assert draft.state() == plain.state()
