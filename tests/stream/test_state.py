"""The state store against a real Redis: who may write, what a lost reply or lost data does, and what travels."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from qstream.contract import TopicPartition
from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import ConfigError, StaleEpoch, StoreConflict, StoreUnavailable
from qstream.state.store import StateStore
from qstream.state.write import Stored, Write
from schemas.frame import Axes, Frame

P0, P1 = TopicPartition("in.v1", 0), TopicPartition("in.v1", 1)
KEY = "model-a"
HASH = "qstream:{m:model-a}"
TIMEOUT_MS = 500


class Inner(Frame):
    note: str = ""


class Counts(Frame):
    note: str = ""
    counts: Annotated[NDArray[np.int64], Axes("partitions")]
    inner: Inner | None = None
    table: Annotated[NDArray[np.int32], Axes("layers", "windows", "experts")] | None = None


class CountsV2(Counts):
    VERSION = 2

    @classmethod
    def tag(cls) -> str:
        return "Counts.v2"


def counts(*values: int, **fields: Any) -> Counts:
    return Counts(counts=np.array(values, np.int64), **fields)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def redis_at(shared_server: EmbeddedRedis) -> Iterator[EmbeddedRedis]:
    """A running, empty Redis; a test may pause or kill it, or change its settings to those that are reset here."""
    shared_server.start()
    with redis.Redis.from_url(shared_server.url) as client:
        client.replicaof("NO", "ONE")
        client.config_set("maxmemory", 0)
        client.flushall()
    yield shared_server
    shared_server.resume()


@pytest.fixture
def raw(redis_at: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_at.url) as client:
        yield client


@pytest.fixture
def store(redis_at: EmbeddedRedis) -> Iterator[StateStore[Counts]]:
    with StateStore(redis_at.url, "m", Counts, TIMEOUT_MS) as found:
        yield found


def wait_for_version(raw: redis.Redis, version: int) -> None:
    deadline = time.monotonic() + 120
    while raw.hget(HASH, "version") != str(version).encode():
        assert time.monotonic() < deadline
        time.sleep(0.005)


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
    with StateStore(redis_at.url, "m", Counts, TIMEOUT_MS) as owner:
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
    store: StateStore[Counts], redis_at: EmbeddedRedis, raw: redis.Redis
) -> None:
    first = store.save(KEY, Stored(), counts(1), {P0: 1}, {P0: 10})
    redis_at.pause()
    with pytest.raises(StoreUnavailable):
        store.save(KEY, first, counts(2), {P0: 2}, {P0: 10})
    redis_at.resume()
    wait_for_version(raw, 2)

    again = store.save(KEY, first, counts(2), {P0: 2}, {P0: 10})

    assert again.version == 2
    assert store.load(KEY).state == counts(2)
    assert store.save(KEY, again, counts(3), {P0: 3}, {P0: 10}).version == 3


def test_after_a_lost_reply_a_worker_may_go_on_from_memory(
    store: StateStore[Counts], redis_at: EmbeddedRedis, raw: redis.Redis
) -> None:
    first = store.save(KEY, Stored(), counts(1, note="a"), {P0: 1}, {P0: 10})
    redis_at.pause()
    with pytest.raises(StoreUnavailable):
        store.save(KEY, first, counts(2, note="b"), {P0: 2}, {P0: 10})
    redis_at.resume()
    wait_for_version(raw, 2)

    # The note is again as in `first`, so the difference to `first` alone would leave the lost write's.
    later = store.save(KEY, first, counts(3, note="a"), {P0: 3}, {P0: 10})

    assert later.version == 3
    assert store.load(KEY).state == counts(3, note="a")


def test_a_lost_write_never_hides_another_partition(store: StateStore[Counts], redis_at: EmbeddedRedis, raw: redis.Redis) -> None:
    first = store.save(KEY, Stored(), counts(1, 0), {P0: 1}, {P0: 10, P1: 10})
    redis_at.pause()
    with pytest.raises(StoreUnavailable):
        store.save(KEY, first, counts(1, 1), {P1: 0}, {P0: 10, P1: 10})
    redis_at.resume()
    wait_for_version(raw, 2)

    with pytest.raises(StoreConflict):
        store.save(KEY, first, counts(2, 0), {P0: 2}, {P0: 10, P1: 10})
    assert store.load(KEY).state == counts(1, 1)


def test_a_paused_redis_is_unavailable_for_every_call_and_then_serves_again(
    store: StateStore[Counts], redis_at: EmbeddedRedis
) -> None:
    assert store.ping()
    redis_at.pause()
    assert not store.ping()
    with pytest.raises(StoreUnavailable, match=r"redis at redis://127\.0\.0\.1:\d+/0: TimeoutError") as failure:
        store.load(KEY)
    assert isinstance(failure.value.__cause__, redis.TimeoutError)
    for call in (store.new_epoch, store.watermarks, lambda: store.set_watermarks({P0: 1})):
        with pytest.raises(StoreUnavailable):
            call()
    redis_at.resume()

    assert store.ping()
    assert store.save(KEY, store.load(KEY), counts(1), {P0: 1}, {P0: 10}).version == 1


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
    with EmbeddedRedis(tmp_path, append_only=True) as server, StateStore(server.url, "m", Counts, TIMEOUT_MS) as store:
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
    while thread.is_alive():
        time.sleep(float(rng.uniform(0.01, 0.1)))
        if rng.random() < 0.3:
            redis_at.kill()
            redis_at.start()
        else:
            redis_at.pause()
            time.sleep(float(rng.uniform(0.02, 0.2)))
            redis_at.resume()
    thread.join()

    with StateStore(redis_at.url, "m", Counts, TIMEOUT_MS) as own:
        own.save(KEY, saved[-1], saved[-1].state, {}, {P0: epoch})  # the last kill may have emptied it
        loaded = own.load(KEY)
    assert loaded.state == counts(last, note="odd")
    assert loaded.offsets == {P0: last - 1}
    versions = [stored.version for stored in saved]
    assert versions == sorted(set(versions))


def test_only_changed_chunks_travel(store: StateStore[Counts], raw: redis.Redis) -> None:
    table = np.zeros((16, 58, 256), np.int32)
    first = store.save(KEY, Stored(), counts(1, table=table), {P0: 1}, {P0: 10})
    table = table.copy()
    table[3, 0, 0] = 1
    before = raw.info("stats")["total_net_input_bytes"]
    second = store.save(KEY, first, counts(1, table=table), {P0: 2}, {P0: 10})
    received = raw.info("stats")["total_net_input_bytes"] - before
    third = store.save(KEY, second, second.state, {P0: 3}, {P0: 10})

    row = 58 * 256 * 4
    assert second.written_bytes == row
    assert third.written_bytes == 0
    assert row <= received < row + 1000
    assert store.load(KEY).state == counts(1, table=table)
    assert max(len(value) for value in raw.hvals(HASH)) <= 64 << 10


def test_chunks_of_a_shrunk_array_are_deleted(store: StateStore[Counts], raw: redis.Redis) -> None:
    stored = store.save(KEY, Stored(), counts(1, table=np.ones((3, 100, 100), np.int32)), {P0: 1}, {P0: 10})
    stored = store.save(KEY, stored, counts(1, table=np.ones((1, 100, 100), np.int32)), {P0: 2}, {P0: 10})
    assert sorted(name for name in raw.hkeys(HASH) if name.startswith(b"a:")) == [b"a:counts:0", b"a:table:0"]

    store.save(KEY, stored, counts(1), {P0: 3}, {P0: 10})
    assert [name for name in raw.hkeys(HASH) if name.startswith(b"a:")] == [b"a:counts:0"]


def test_chunks_of_a_shrunk_array_are_deleted_when_the_state_is_sent_whole(store: StateStore[Counts], raw: redis.Redis) -> None:
    small = store.save(KEY, Stored(), counts(1), {P0: 1}, {P0: 10})
    store.save(KEY, small, counts(1, table=np.ones((3, 100, 100), np.int32)), {P0: 2}, {P0: 10})

    store.save(KEY, small, counts(2), {P0: 3}, {P0: 10})

    assert [name for name in raw.hkeys(HASH) if name.startswith(b"a:")] == [b"a:counts:0"]
    assert store.load(KEY).state == counts(2)


def test_the_header_of_a_frame_that_is_gone_is_deleted_when_the_state_is_sent_whole(
    store: StateStore[Counts], raw: redis.Redis
) -> None:
    small = store.save(KEY, Stored(), counts(1), {P0: 1}, {P0: 10})
    store.save(KEY, small, counts(1, inner=Inner(note="old")), {P0: 2}, {P0: 10})
    assert raw.hexists(HASH, "h:inner")

    store.save(KEY, small, counts(2), {P0: 3}, {P0: 10})

    assert not raw.hexists(HASH, "h:inner")
    assert store.load(KEY).state == counts(2)


def test_offsets_alone_can_be_saved(store: StateStore[Counts]) -> None:
    stored = store.save(KEY, store.load(KEY), None, {P0: 3}, {P0: 10})
    loaded = store.load(KEY)

    assert (loaded.state, loaded.version, loaded.offsets, loaded.reason) == (None, 1, {P0: 3}, None)
    assert store.save(KEY, stored, counts(1), {P0: 4}, {P0: 10}).version == 2


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("h", b"{", "JSON header"),
        ("h", None, "no 'h'"),
        ("a:counts:0", b"\1", "must be int64 [1], got 1 bytes in 1 chunks"),
        ("a:counts:0", None, "must be int64 [1], got 0 bytes in 0 chunks"),
    ],
)
def test_a_damaged_state_is_a_cold_start_with_a_reason_that_can_be_written_over(
    store: StateStore[Counts], raw: redis.Redis, field: str, value: bytes | None, reason: str
) -> None:
    store.save(KEY, Stored(), counts(1, table=np.ones((2, 100, 100), np.int32)), {P0: 1}, {P0: 10})
    if value is None:
        raw.hdel(HASH, field)
    else:
        raw.hset(HASH, field, value)

    cold = store.load(KEY)

    assert cold.state is None
    assert reason in str(cold.reason)
    assert (cold.version, cold.offsets) == (1, {P0: 1})
    assert store.save(KEY, cold, counts(2), {P0: 2}, {P0: 10}).version == 2
    assert store.load(KEY).state == counts(2)


@pytest.mark.parametrize("field", ["version", "offset:in.v1:0", "epoch:in.v1:0", "writer", "offset:x"])
@pytest.mark.parametrize("value", [b"nan", b"\xff", b"", b"-3", b"1.5", None])
def test_damaged_bookkeeping_does_not_stop_a_key(
    store: StateStore[Counts], raw: redis.Redis, field: str, value: bytes | None
) -> None:
    store.save(KEY, Stored(), counts(1), {P0: 1}, {P0: 10})
    if value is None:
        raw.hdel(HASH, field)
    else:
        raw.hset(HASH, field, value)

    store.save(KEY, store.load(KEY), counts(2), {P0: 2}, {P0: 10})

    loaded = store.load(KEY)
    assert (loaded.state, loaded.offsets) == (counts(2), {P0: 2})


def test_a_state_of_another_major_version_is_a_cold_start(store: StateStore[Counts], redis_at: EmbeddedRedis) -> None:
    store.save(KEY, Stored(), counts(1), {P0: 1}, {P0: 10})

    with StateStore(redis_at.url, "m", CountsV2, TIMEOUT_MS) as newer:
        cold = newer.load(KEY)
        assert cold.state is None
        assert cold.reason == "Counts.v2.frame must be Counts.v2, got 'Counts.v1'"
        newer.save(KEY, cold, CountsV2(counts=np.ones(1, np.int64)), {P0: 2}, {P0: 10})
        assert newer.load(KEY).version == 2


def test_a_key_that_holds_no_hash_is_a_config_error(store: StateStore[Counts], raw: redis.Redis) -> None:
    raw.set(HASH, "mine")

    with pytest.raises(ConfigError, match=r"a key of qstream:m holds something that qstream did not write"):
        store.load(KEY)
    with pytest.raises(ConfigError, match=r"qstream did not write"):
        store.save(KEY, Stored(), counts(1), {P0: 1}, {P0: 10})
    assert raw.get(HASH) == b"mine"


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


def test_epochs_rise_over_workers_over_an_empty_restart_and_when_the_clock_steps_back(
    store: StateStore[Counts], redis_at: EmbeddedRedis, raw: redis.Redis
) -> None:
    with StateStore(redis_at.url, "m", Counts, TIMEOUT_MS) as other:
        seen = [store.new_epoch(), other.new_epoch(), store.new_epoch()]
    redis_at.kill()
    redis_at.start()
    seen.append(store.new_epoch())
    raw.set("qstream:m:epoch", 9_000_000_000_000_000)
    seen.append(store.new_epoch())

    assert seen == sorted(set(seen))
    assert seen[-1] == 9_000_000_000_000_001


def test_watermarks_are_kept_by_partition(store: StateStore[Counts]) -> None:
    assert store.watermarks() == {}
    store.set_watermarks({})
    store.set_watermarks({P0: 4, P1: 7})
    store.set_watermarks({P1: 9})

    assert store.watermarks() == {P0: 4, P1: 9}


@pytest.mark.parametrize(
    "url",
    [
        "embedded",
        "http://:s3cret@host",
        "redis://u:s3cret@host:port/0",
        "redis://:s3c/ret@host:1x",
        "unix:///tmp/x?password=s3cret&db=x",
        "redis://u:s3cret@host?socket_timeout=x",
        "redis://u:s3cret#x@host",
        "redis://u:12/s3cret@host",
        "redis+other://u:s3cret@host",
        "redis+cluster://u:s3cret@host,",
        "redis+cluster://u:s3cret@host:1,host:2/3",
        "redis+sentinel://u:s3cret@host:1,host:2",
        "redis+sentinel://u:s3cret@host/service/two?sentinel_password=s3cret",
    ],
)
def test_a_wrong_url_is_a_config_error_that_hides_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"redis_url must be redis://") as failure:
        StateStore(url, "m", Counts)
    assert "s3c" not in str(failure.value)
    assert failure.value.__cause__ is None


def test_the_logs_of_partitions_are_another_one_from_the_epoch_on_in_which_that_was_found(store: StateStore[Counts]) -> None:
    assert store.logs.take({P0: "topic:a", P1: "cluster:x"}, 10) == {P0: 0, P1: 0}
    assert store.logs.take({P0: "topic:a", P1: "topic:a"}, 20) == {P0: 0, P1: 0}  # a broker that has learnt to name topics
    assert store.logs.take({P0: "topic:b"}, 30) == {P0: 30}
    assert store.logs.take({P0: "topic:b", P1: "cluster:y"}, 40) == {P0: 30, P1: 0}
    store.logs.restart([P1], 50)
    assert store.logs.known() == {P0: (30, "topic:b"), P1: (50, "topic:a")}


def test_an_offset_of_another_log_does_not_stand_against_a_write(store: StateStore[Counts]) -> None:
    first = store.save(KEY, Stored(), counts(1), {P0: 20}, {P0: 10})
    refused, saved = store.save_all(
        [Write(KEY, first, counts(2), {P0: 3}, {P0: 30}), Write(KEY, first, counts(2), {P0: -1}, {P0: 30}, since={P0: 30})]
    )
    assert isinstance(refused, StoreConflict)
    assert not isinstance(saved, StoreConflict)
    loaded = store.load(KEY)
    assert (loaded.offsets, loaded.epochs) == ({P0: -1}, {P0: 30})
    assert store.save(KEY, loaded, counts(3), {P0: 4}, {P0: 30}).offsets == {P0: 4}


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("redis://u:s3cret@host?unknown=1", "unknown"),
        ("redis://u:s3cret@host?decode_responses=true", "decode_responses"),
        ("redis+cluster://u:s3cret@host?unknown=1", "unknown"),
        ("rediss+cluster://u:s3cret@host?ssl_min_version=3", "ssl_min_version"),
        ("redis+cluster://u:s3cret@host?sentinel_password=s3cret", "sentinel_password"),
        ("redis+sentinel://u:s3cret@host/service?unknown=1", "unknown"),
    ],
)
def test_an_option_that_the_client_does_not_take_is_named(url: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"redis_url must be .*, got the option '{option}'") as failure:
        StateStore(url, "m", Counts)
    assert "s3c" not in str(failure.value)
    assert failure.value.__cause__ is None
