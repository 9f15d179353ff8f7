"""The state store against a real Redis that pauses, dies, forgets or is full: what is lost comes back, and nothing is mixed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import redis

from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import StaleEpoch, StoreConflict, StoreUnavailable
from qstream.state.store import StateStore
from qstream.state.write import Stored
from tests.stream.state.counts import HASH, KEY, P0, P1, PATIENCE_MS, Counts, counts


def test_a_paused_redis_is_unavailable_for_every_call_and_then_serves_again(
    hasty_store: StateStore[Counts], redis_at: EmbeddedRedis
) -> None:
    assert hasty_store.ping()
    redis_at.pause()
    assert not hasty_store.ping()
    with pytest.raises(StoreUnavailable, match=r"redis at redis://127\.0\.0\.1:\d+/0: TimeoutError") as failure:
        hasty_store.load(KEY)
    assert isinstance(failure.value.__cause__, redis.TimeoutError)
    for call in (hasty_store.new_epoch, hasty_store.watermarks, lambda: hasty_store.set_watermarks({P0: 1})):
        with pytest.raises(StoreUnavailable):
            call()
    redis_at.resume()

    assert hasty_store.ping()
    assert hasty_store.save(KEY, hasty_store.load(KEY), counts(1), {P0: 1}, {P0: 10}).version == 1


def test_a_killed_redis_is_unavailable_and_an_empty_one_gets_the_state_back(
    store: StateStore[Counts], redis_at: EmbeddedRedis
) -> None:
    table = np.arange(3 * 100 * 100, dtype=np.int32).reshape(3, 100, 100)
    first = store.save(KEY, Stored(), counts(1, table=table), {P0: 1, P1: 6}, {P0: 10, P1: 10})
    redis_at.kill()
    with pytest.raises(StoreUnavailable, match="ConnectionError"):
        store.save(KEY, first, counts(2, table=table), {P0: 2}, {P0: 10})
    redis_at.start()

    restored = store.save(KEY, first, counts(2, table=table), {P0: 2}, {P0: 10})

    loaded = store.load(KEY)
    assert loaded.version == restored.version == 2
    assert loaded.state == counts(2, table=table)
    assert loaded.offsets == {P0: 2, P1: 6}
    assert store.save(KEY, restored, counts(3), {P0: 3}, {P0: 10}).version == 3


def test_a_redis_with_an_append_only_file_goes_on_after_a_kill(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, append_only=True) as server, StateStore(server.url, "m", Counts, PATIENCE_MS) as store:
        epoch = store.new_epoch()
        first = store.save(KEY, Stored(), counts(1), {P0: 1}, {P0: epoch})
        store.set_watermarks({P0: 2})
        server.kill()
        server.start()

        assert store.load(KEY).state == counts(1)
        assert store.save(KEY, first, counts(2), {P0: 2}, {P0: epoch}).version == 2
        assert store.watermarks() == {P0: 2}
        assert store.new_epoch() > epoch


def test_a_redis_that_went_back_in_time_gets_the_newer_state(store: StateStore[Counts], raw: redis.Redis) -> None:
    stored = store.save(KEY, Stored(), counts(1, note="a"), {P0: 1}, {P0: 10})
    backup = raw.dump(HASH)
    stored = store.save(KEY, stored, counts(2, note="b"), {P0: 2}, {P0: 10})
    stored = store.save(KEY, stored, counts(3, note="b"), {P0: 3}, {P0: 10})
    raw.restore(HASH, 0, backup, replace=True)

    assert store.save(KEY, stored, counts(4, note="b"), {P0: 4}, {P0: 10}).version == 4
    assert store.load(KEY).state == counts(4, note="b")


def test_a_zombie_that_restores_an_empty_redis_first_does_not_win(store: StateStore[Counts], raw: redis.Redis) -> None:
    zombie_knows = store.save(KEY, Stored(), counts(1), {P0: 1}, {P0: 10})
    owner_knows = store.save(KEY, zombie_knows, counts(2), {P0: 2}, {P0: 20})
    raw.flushall()
    store.save(KEY, zombie_knows, counts(1, note="zombie"), {P0: 2}, {P0: 10})

    assert store.save(KEY, owner_knows, counts(3), {P0: 3}, {P0: 20}).version == 3
    assert store.load(KEY).state == counts(3)
    with pytest.raises(StaleEpoch):
        store.save(KEY, zombie_knows, counts(9), {P0: 9}, {P0: 10})


def test_after_lost_data_equal_versions_of_two_histories_are_not_mixed(store: StateStore[Counts], raw: redis.Redis) -> None:
    one_knows = store.save(KEY, Stored(), counts(1, 0, note="1"), {P0: 1}, {P0: 10})
    other_knows = store.save(KEY, one_knows, counts(1, 1, note="1"), {P1: 1}, {P1: 11})
    raw.flushall()
    assert store.save(KEY, one_knows, counts(2, 0, note="2"), {P0: 2}, {P0: 10}).version == other_knows.version

    with pytest.raises(StoreConflict):
        store.save(KEY, other_knows, counts(1, 2, note="1"), {P1: 2}, {P1: 11})
    assert store.load(KEY).state == counts(2, 0, note="2")


def test_a_writer_that_goes_on_from_memory_through_pauses_and_losses_ends_exact(redis_at: EmbeddedRedis) -> None:
    """Every state differs from the last, so that one missed or mixed write shows in the end."""
    last, epoch = 300, 10
    saved: list[Stored[Counts]] = []

    def write() -> None:
        with StateStore(redis_at.url, "m", Counts, 60) as own:
            stored = Stored[Counts]()
            for n in range(last):
                state = counts(n + 1, note="even" if n % 2 == 0 else "odd")
                try:
                    stored = own.save(KEY, stored, state, {P0: n}, {P0: epoch})
                except StoreUnavailable:
                    continue
                saved.append(stored)
                time.sleep(0.002)
            while len(saved) == 0 or saved[-1].offsets[P0] < last - 1:
                try:
                    saved.append(own.save(KEY, stored, state, {P0: last - 1}, {P0: epoch}))
                except StoreUnavailable:
                    time.sleep(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    rng = np.random.default_rng(7)
    for _ in range(60):  # more than a fast machine lasts; a slow one ends in peace
        if not thread.is_alive():
            break
        time.sleep(float(rng.uniform(0.01, 0.1)))
        if rng.random() < 0.3:
            redis_at.kill()
            redis_at.start()
        else:
            redis_at.pause()
            time.sleep(float(rng.uniform(0.02, 0.2)))
            redis_at.resume()
    thread.join()

    with StateStore(redis_at.url, "m", Counts, PATIENCE_MS) as own:
        own.save(KEY, saved[-1], saved[-1].state, {}, {P0: epoch})  # the last kill may have emptied it
        loaded = own.load(KEY)
    assert loaded.state == counts(last, note="odd")
    assert loaded.offsets == {P0: last - 1}
    versions = [stored.version for stored in saved]
    assert versions == sorted(set(versions))


def test_a_full_redis_is_unavailable_and_keeps_the_state_whole(store: StateStore[Counts], raw: redis.Redis) -> None:
    first = store.save(KEY, Stored(), counts(1, table=np.ones((3, 100, 100), np.int32)), {P0: 1}, {P0: 10})
    before = raw.hgetall(HASH)
    raw.config_set("maxmemory", 1)

    with pytest.raises(StoreUnavailable, match=r"OOM|OutOfMemory"):
        store.save(KEY, first, counts(2, table=np.zeros((1, 100, 100), np.int32)), {P0: 2}, {P0: 10})
    assert raw.hgetall(HASH) == before
    raw.config_set("maxmemory", 0)
    assert store.save(KEY, first, counts(2), {P0: 2}, {P0: 10}).version == 2


def test_a_read_only_redis_is_unavailable(store: StateStore[Counts], raw: redis.Redis, redis_at: EmbeddedRedis) -> None:
    first = store.save(KEY, Stored(), counts(1), {P0: 1}, {P0: 10})
    raw.config_set("replica-serve-stale-data", "yes")
    raw.replicaof("127.0.0.1", str(redis_at.port))

    with pytest.raises(StoreUnavailable, match=r"READONLY|read only"):
        store.save(KEY, first, counts(2), {P0: 2}, {P0: 10})
