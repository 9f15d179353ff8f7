"""What a commit says of a partition with gaps, and which records give no second event."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from qstream.contract import TopicPartition
from qstream.stream.replay import MAX_NOTE, Answered, too_long


@given(st.sets(st.integers(0, 2**40), max_size=300), st.integers(0, 1000))
def test_a_commit_with_its_note_says_exactly_what_is_answered(missing: set[int], beyond: int):
    answered = Answered(max(missing, default=0) + 1 + beyond, frozenset(missing))
    assert Answered.of(answered.next, answered.note) == answered
    for offset in missing:
        assert not answered.covers(offset)
        assert answered.covers(offset + 1) == (offset + 1 < answered.until and offset + 1 not in missing)


def test_the_metadata_of_others_says_nothing():
    assert Answered.of(7, "") == Answered.of(7, "by another tool") == Answered.of(7, "12") == Answered(7)


def test_as_many_gaps_as_a_partition_may_have_fit_into_a_note():
    rng = random.Random(0)
    partition = TopicPartition("t", 0)
    gaps = frozenset(rng.sample(range(2**20), 756))  # 256, and a batch of 500
    assert too_long({partition: Answered(2**20, gaps)}) == []
    assert too_long({partition: Answered(2**40, frozenset(rng.sample(range(2**40), MAX_NOTE)))}) == [partition]
