"""The state store against a real Redis: what is written, who may write, and what a lost reply does."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import redis

from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import StaleEpoch, StoreConflict, StoreUnavailable
from qstream.state.store import StateStore
from qstream.state.write import Stored, Write
from tests.stream.state.counts import KEY, P0, P1, PATIENCE_MS, Counts, counts, wait_for_version


def test_a_key_never_written_has_version_0_and_no_state(store: StateStore[Counts]) -> None:
    stored = store.load(KEY)

    assert (stored.state, stored.version, stored.offsets, stored.reason) == (None, 0, {}, None)


def test_a_saved_state_is_loaded_equal_with_its_version_and_offsets(store: StateStore[Counts]) -> None:
    first = store.save(KEY, store.load(KEY), counts(1, note="a"), {P0: 4}, {P0: 10})
    second = store.save(KEY, first, counts(2), {P1: 0}, {P0: 10, P1: 11})
    loaded = store.load(KEY)

    assert loaded.state == second.state == counts(2)
    assert loaded.version == second.version == 2
    assert loaded.offsets == second.offsets == {P0: 4, P1: 0}
    assert loaded.writer == second.writer
    assert dict(loaded.fields) == dict(second.fields)


def test_keys_and_modules_do_not_see_each_other(store: StateStore[Counts], redis_at: EmbeddedRedis) -> None:
    store.save(KEY, Stored(), counts(1), {P0: 4}, {P0: 10})

    assert store.load("model-b").version == 0
    with StateStore(redis_at.url, "other", Counts) as other:
        assert other.load(KEY).version == 0


def test_a_write_on_an_older_version_is_a_conflict_and_changes_nothing(store: StateStore[Counts]) -> None:
    first = store.save(KEY, Stored(), counts(1), {P0: 1}, {P0: 10})
    second = store.save(KEY, first, counts(2), {P0: 2}, {P0: 10})

    with pytest.raises(StoreConflict, match=r"stored is version 2 .*, expected was 1") as conflict:
        store.save(KEY, first, counts(3), {P1: 0}, {P1: 99})
    assert not isinstance(conflict.value, StaleEpoch)
    assert store.load(KEY).state == second.state


def test_an_offset_that_goes_back_is_a_conflict(store: StateStore[Counts]) -> None:
    first = store.save(KEY, Stored(), counts(1), {P0: 5}, {P0: 10})

    with pytest.raises(StoreConflict, match=r"offset:in\.v1:0 is 5"):
        store.save(KEY, first, counts(2), {P0: 4}, {P0: 10})
    assert store.save(KEY, first, counts(2), {P0: 5}, {P0: 10}).version == 2


def test_a_zombie_cannot_write_even_after_loading_again(store: StateStore[Counts], redis_at: EmbeddedRedis) -> None:
    old = store.new_epoch()
    zombie_knows = store.save(KEY, store.load(KEY), counts(1), {P0: 1}, {P0: old})
    with StateStore(redis_at.url, "m", Counts, PATIENCE_MS) as owner:
        new = owner.new_epoch()
        owner.save(KEY, owner.load(KEY), counts(2), {P0: 2}, {P0: new})

    assert new > old
    for knows in (zombie_knows, store.load(KEY)):
        with pytest.raises(StaleEpoch, match=rf"epoch:in\.v1:0 is {new}, a newer owner"):
            store.save(KEY, knows, counts(9), {P0: 9}, {P0: old})
    assert store.load(KEY).state == counts(2)


def test_the_fence_is_per_partition(store: StateStore[Counts]) -> None:
    first = store.save(KEY, Stored(), counts(1, 0), {P0: 0}, {P0: 20})

    assert store.save(KEY, first, counts(1, 1), {P1: 0}, {P1: 10}).version == 2


def test_two_owners_of_two_partitions_of_one_key_lose_no_update(redis_at: EmbeddedRedis) -> None:
    each = 100
    conflicts: list[int] = []

    def work(mine: int) -> None:
        partition = (P0, P1)[mine]
        with StateStore(redis_at.url, "m", Counts, 10_000) as own:
            epoch, stored, refused = own.new_epoch(), own.load(KEY), 0
            while (offset := stored.offsets.get(partition, -1) + 1) < each:
                values = stored.state.counts.copy() if stored.state else np.zeros(2, np.int64)
                values[mine] += 1
                try:
                    stored = own.save(KEY, stored, counts(*values), {partition: offset}, {partition: epoch})
                except StoreConflict:
                    refused += 1
                    stored = own.load(KEY)
            conflicts.append(refused)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with StateStore(redis_at.url, "m", Counts) as own:
        stored = own.load(KEY)
    assert stored.state == counts(each, each)
    assert stored.version == 2 * each
    assert len(conflicts) == 2


def test_offsets_need_an_epoch() -> None:
    with pytest.raises(ValueError, match=r"epochs must be one for each partition in offsets, got none for in\.v1:1"):
        Write(KEY, Stored(), counts(1), {P0: 1, P1: 1}, {P0: 1})


def test_conflicts_of_a_batch_are_values_and_the_other_keys_are_written(store: StateStore[Counts]) -> None:
    store.save("b", Stored(), counts(1), {P0: 7}, {P0: 10})
    store.save("c", Stored(), counts(1), {P0: 7}, {P0: 99})

    a, b, c, d = store.save_all([Write(key, Stored(), counts(5), {P0: 8}, {P0: 11}) for key in "abcd"])

    assert isinstance(a, Stored)
    assert isinstance(d, Stored)
    assert type(b) is StoreConflict
    assert type(c) is StaleEpoch
    assert [store.load(key).state for key in "abcd"] == [counts(5), counts(1), counts(1), counts(5)]
    assert store.save_all([]) == []


def test_a_write_whose_reply_was_lost_is_recognised_when_tried_again(
    hasty_store: StateStore[Counts], redis_at: EmbeddedRedis, raw: redis.Redis
) -> None:
    first = hasty_store.save(KEY, Stored(), counts(1), {P0: 1}, {P0: 10})
    redis_at.pause()
    with pytest.raises(StoreUnavailable):
        hasty_store.save(KEY, first, counts(2), {P0: 2}, {P0: 10})
    redis_at.resume()
    wait_for_version(raw, 2)

    again = hasty_store.save(KEY, first, counts(2), {P0: 2}, {P0: 10})

    assert again.version == 2
    assert hasty_store.load(KEY).state == counts(2)
    assert hasty_store.save(KEY, again, counts(3), {P0: 3}, {P0: 10}).version == 3


def test_after_a_lost_reply_a_worker_may_go_on_from_memory(
    hasty_store: StateStore[Counts], redis_at: EmbeddedRedis, raw: redis.Redis
) -> None:
    first = hasty_store.save(KEY, Stored(), counts(1, note="a"), {P0: 1}, {P0: 10})
    redis_at.pause()
    with pytest.raises(StoreUnavailable):
        hasty_store.save(KEY, first, counts(2, note="b"), {P0: 2}, {P0: 10})
    redis_at.resume()
    wait_for_version(raw, 2)

    # The note is again as in `first`, so the difference to `first` alone would leave the lost write's.
    later = hasty_store.save(KEY, first, counts(3, note="a"), {P0: 3}, {P0: 10})

    assert later.version == 3
    assert hasty_store.load(KEY).state == counts(3, note="a")


def test_a_lost_write_never_hides_another_partition(
    hasty_store: StateStore[Counts], redis_at: EmbeddedRedis, raw: redis.Redis
) -> None:
    first = hasty_store.save(KEY, Stored(), counts(1, 0), {P0: 1}, {P0: 10, P1: 10})
    redis_at.pause()
    with pytest.raises(StoreUnavailable):
        hasty_store.save(KEY, first, counts(1, 1), {P1: 0}, {P0: 10, P1: 10})
    redis_at.resume()
    wait_for_version(raw, 2)

    with pytest.raises(StoreConflict):
        hasty_store.save(KEY, first, counts(2, 0), {P0: 2}, {P0: 10, P1: 10})
    assert hasty_store.load(KEY).state == counts(1, 1)
