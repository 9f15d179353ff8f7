"""The state store against a real Redis: what travels, what damage does, epochs, watermarks, logs and addresses."""

from __future__ import annotations

import numpy as np
import pytest
import redis

from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import ConfigError, StoreConflict
from qstream.state.store import StateStore
from qstream.state.write import Stored, Write
from tests.stream.state.counts import HASH, KEY, P0, P1, PATIENCE_MS, Counts, CountsV2, Inner, counts


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

    with StateStore(redis_at.url, "m", CountsV2, PATIENCE_MS) as newer:
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


def test_epochs_rise_over_workers_over_an_empty_restart_and_when_the_clock_steps_back(
    store: StateStore[Counts], redis_at: EmbeddedRedis, raw: redis.Redis
) -> None:
    with StateStore(redis_at.url, "m", Counts, PATIENCE_MS) as other:
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
