"""The ledger against a real Redis: what a rebalance must make it forget, and which partitions it asks to read again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from qstream.contract import Record, TopicPartition
from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import StoreUnavailable
from qstream.state.store import StateStore
from qstream.stream.commit import Ledger
from qstream.testing.chaos_worker import PAYMENTS, REFUNDS, Balance, Payment

KEY = "account-1"
FIRST, SECOND = TopicPartition(PAYMENTS.name, 0), TopicPartition(REFUNDS.name, 0)


def balance(count: int) -> Balance:
    return Balance(account=KEY, counts=np.array([count, 0]), digests=np.zeros(2, np.uint64))


def record(partition: TopicPartition, offset: int) -> Record:
    return Record(*partition, offset, KEY, Payment(account=KEY, number=offset), 0)


@pytest.fixture
def store(redis_server: EmbeddedRedis) -> Iterator[StateStore[Balance]]:
    with StateStore(redis_server.url, "ledger", Balance, timeout_ms=2000) as store:
        yield store


def answered(ledger: Ledger[Balance], partition: TopicPartition, offset: int) -> None:
    """What a turn over one record leaves in the ledger."""
    ledger.adopt([partition])
    ledger.stage(KEY, balance(offset + 1), ledger.unseen(KEY, [record(partition, offset)]))
    ledger.advance({partition: offset}, {partition: offset + 1})


def test_a_state_that_was_only_looked_at_is_loaded_again_when_its_partition_comes_back(store: StateStore[Balance]) -> None:
    ours: Ledger[Balance] = Ledger(store, "ledger")
    theirs: Ledger[Balance] = Ledger(store, "ledger")
    ours.adopt([FIRST])
    assert ours.unseen(KEY, [record(FIRST, 0)])  # its events could not be delivered, so nothing was staged
    ours.release([FIRST])
    answered(theirs, FIRST, 0)
    assert theirs.save() == set()
    ours.adopt([FIRST])
    assert ours.unseen(KEY, [record(FIRST, 0)]) == []
    assert ours.entry(KEY).state == balance(1)


def test_a_partition_that_fed_a_state_which_a_lost_one_takes_along_unsaved_is_read_again(store: StateStore[Balance]) -> None:
    ledger: Ledger[Balance] = Ledger(store, "ledger")
    ledger.adopt([FIRST, SECOND])
    answered(ledger, FIRST, 0)
    answered(ledger, SECOND, 0)
    assert ledger.release([FIRST]) == {SECOND}
    assert ledger.entry(KEY).state is None


def test_a_saved_state_is_loaded_again_without_reading_any_partition_again(store: StateStore[Balance]) -> None:
    ledger: Ledger[Balance] = Ledger(store, "ledger")
    ledger.adopt([FIRST, SECOND])
    answered(ledger, FIRST, 0)
    answered(ledger, SECOND, 0)
    ledger.save()
    assert ledger.release([FIRST]) == set()
    assert ledger.entry(KEY).state == balance(1)


def test_a_state_from_before_a_partition_came_is_loaded_again_for_its_records(store: StateStore[Balance]) -> None:
    ours: Ledger[Balance] = Ledger(store, "ledger")
    theirs: Ledger[Balance] = Ledger(store, "ledger")
    ours.adopt([SECOND])
    assert ours.unseen(KEY, [record(SECOND, 0)])  # the state is empty, and in memory from now on
    answered(theirs, FIRST, 0)
    assert theirs.save() == set()
    theirs.release([FIRST])
    ours.adopt([FIRST])
    assert ours.unseen(KEY, [record(FIRST, 1)])
    assert ours.entry(KEY).state == balance(1)


def test_the_same_holds_for_a_partition_that_went_and_came_back(store: StateStore[Balance]) -> None:
    ours: Ledger[Balance] = Ledger(store, "ledger")
    theirs: Ledger[Balance] = Ledger(store, "ledger")
    ours.adopt([FIRST, SECOND])
    assert ours.unseen(KEY, [record(SECOND, 0)])
    ours.release([FIRST])
    answered(theirs, FIRST, 0)
    assert theirs.save() == set()
    ours.adopt([FIRST])
    assert ours.unseen(KEY, [record(FIRST, 1)])
    assert ours.entry(KEY).state == balance(1)


def test_a_state_that_cannot_be_loaded_again_yet_has_the_records_of_the_new_partition_wait(store: StateStore[Balance]) -> None:
    ours: Ledger[Balance] = Ledger(store, "ledger")
    answered(ours, SECOND, 0)  # not saved
    ours.adopt([FIRST])
    with pytest.raises(StoreUnavailable, match=KEY):
        ours.unseen(KEY, [record(FIRST, 0)])
    assert ours.unseen(KEY, [record(SECOND, 1)])
    assert ours.save() == set()
    assert ours.unseen(KEY, [record(FIRST, 0)])


def test_a_stateless_module_that_ends_a_key_does_not_hold_up_its_commits() -> None:
    ledger: Ledger[Balance] = Ledger(None, "ledger")
    ledger.stage(KEY, None, [record(FIRST, 4)])
    ledger.advance({FIRST: 4}, {FIRST: 5})
    assert ledger.save() == set()
    assert ledger.committable() == {FIRST: 5}
