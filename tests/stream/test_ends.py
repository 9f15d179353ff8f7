"""How keys end, against a real Redis: by a result that forgets them, by their time to live, and by the bounds of memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import redis
from prometheus_client import REGISTRY

from qstream.contract import Record, TopicPartition
from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import StaleEpoch
from qstream.state.store import StateStore
from qstream.state.write import Write
from qstream.stream.cache import COPIES
from qstream.stream.commit import Ledger
from qstream.testing.chaos_worker import PAYMENTS, Balance, Payment
from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping, Tally

KEY = "account-1"
LONG_S = 3600.0
FIRST = TopicPartition(PAYMENTS.name, 0)


def balance(count: int, size: int = 2) -> Balance:
    return Balance(account=KEY, counts=np.full(size, count), digests=np.zeros(size, np.uint64))


def record(offset: int, key: str = KEY) -> Record:
    return Record(*FIRST, offset, key, Payment(account=key, number=offset), 0)


@pytest.fixture
def store(redis_server: EmbeddedRedis) -> Iterator[StateStore[Balance]]:
    with StateStore(redis_server.url, "ledger", Balance, timeout_ms=2000) as store:
        yield store


@pytest.fixture
def raw(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def ticking(store: StateStore[Balance], **bounds: float) -> Ledger[Balance]:
    ledger: Ledger[Balance] = Ledger(store, "ledger", **bounds)  # type: ignore[arg-type]
    ledger.keys.wanted = True
    return ledger


def answer(ledger: Ledger[Balance], offset: int, state: Balance | None, key: str = KEY) -> None:
    """What a turn over one record leaves."""
    ledger.adopt([FIRST])
    ledger.stage(key, state, ledger.unseen(key, [record(offset, key)]))
    assert ledger.save() == set()


def test_a_forgotten_key_keeps_what_it_has_seen_for_a_day_and_begins_again_with_a_version_that_rises(
    store: StateStore[Balance], raw: redis.Redis
) -> None:
    ledger = ticking(store)
    answer(ledger, 0, balance(1))
    answer(ledger, 1, None)
    assert store.load(KEY).state is None
    assert 80_000 < raw.ttl(f"qstream:{{ledger:{KEY}}}") <= 86_400
    again = ticking(store)
    again.adopt([FIRST])
    assert again.unseen(KEY, [record(1)]) == [], "the last record of the key changes nothing when it is delivered again"
    answer(again, 2, balance(1))
    stored = store.load(KEY)
    assert (stored.version, stored.state) == (3, balance(1))
    assert raw.ttl(f"qstream:{{ledger:{KEY}}}") == -1


def test_an_earlier_owner_cannot_forget_a_key(store: StateStore[Balance]) -> None:
    zombie, owner = ticking(store), ticking(store)
    answer(zombie, 0, balance(1))
    answer(owner, 1, balance(2))
    zombie.stage(KEY, None, [record(2)])
    assert zombie.save() == set()
    assert store.load(KEY).state == balance(2)
    stored = store.load(KEY)
    (refused,) = store.save_all([Write(KEY, stored, None, {FIRST: 9}, {FIRST: 1}, ttl_s=1.0)])
    assert isinstance(refused, StaleEpoch)


def test_the_index_holds_the_keys_with_a_state_and_an_earlier_owner_cannot_change_it(store: StateStore[Balance]) -> None:
    ledger = ticking(store)
    for offset, key in enumerate("abc"):
        answer(ledger, offset, balance(1), key)
    answer(ledger, 3, None, "b")
    old = store.new_epoch()
    assert store.index.take(FIRST, old) == {"a", "c"}
    assert store.index.take(FIRST, store.new_epoch()) == {"a", "c"}
    store.index.change({FIRST: old}, {FIRST: ["z"]}, {FIRST: ["a"]})
    assert store.index.take(FIRST, store.new_epoch()) == {"a", "c"}
    assert store.index.take(FIRST, old) == set()


def test_a_key_is_in_the_index_before_its_first_state_is_written(store: StateStore[Balance], raw: redis.Redis) -> None:
    ledger = ticking(store)
    ledger.adopt([FIRST])
    ledger.stage(KEY, balance(1), ledger.unseen(KEY, [record(0)]))
    ledger._index_new(store)
    assert store.load(KEY).version == 0
    assert store.index.take(FIRST, store.new_epoch()) == {KEY}


def test_a_state_with_a_time_to_live_ends_in_store_and_memory(store: StateStore[Balance], raw: redis.Redis) -> None:
    ledger = ticking(store, ttl_s=LONG_S)
    answer(ledger, 0, balance(1))
    assert ledger.entry(KEY).state == balance(1)
    assert 0 < raw.pttl(f"qstream:{{ledger:{KEY}}}") <= 1000 * LONG_S
    ledger.ttl_s = 0.3
    answer(ledger, 1, balance(2))
    wait_until(lambda: store.load(KEY).version == 0)
    wait_until(lambda: ledger.entry(KEY).state is None)
    ledger.ttl_s = LONG_S
    answer(ledger, 1, balance(5))
    assert store.load(KEY).version == 1


def test_a_loaded_state_lives_no_longer_in_memory_than_in_the_store(
    store: StateStore[Balance], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(ticking(store, ttl_s=LONG_S), 0, balance(1))
    other = ticking(store)
    before = time.monotonic()
    expires_at = other.entry(KEY).stored.expires_at
    assert expires_at is not None
    assert before < expires_at <= time.monotonic() + LONG_S
    assert other.cached(KEY) is not None
    monkeypatch.setattr("qstream.stream.cache.time.monotonic", lambda: expires_at)
    assert other.cached(KEY) is None


def test_a_state_that_the_store_does_not_know_yet_does_not_expire(
    store: StateStore[Balance], redis_server: EmbeddedRedis
) -> None:
    ledger = ticking(store, ttl_s=0.3)
    answer(ledger, 0, balance(1))
    ledger.stage(KEY, balance(2), ledger.unseen(KEY, [record(1)]))
    time.sleep(0.4)
    assert ledger.entry(KEY).state == balance(2)
    assert ledger.save() == set()
    assert store.load(KEY).state == balance(2)


def metric(name: str) -> float:
    return REGISTRY.get_sample_value(name, {"agent": "ledger"}) or 0.0


def test_states_in_memory_are_bounded_in_bytes_and_come_back_from_the_store(store: StateStore[Balance]) -> None:
    size = 10_000
    bytes_each = COPIES * 2 * 8 * size
    ledger = ticking(store, max_bytes=10 * bytes_each + 10_000)
    evicted = metric("qstream_states_evicted_total")
    for offset in range(30):
        answer(ledger, offset, balance(offset, size), f"account-{offset}")
        assert ledger._cache.bytes <= 10 * bytes_each + 10_000
    assert 8 <= len(ledger._cache) <= 10
    assert metric("qstream_cached_bytes") == ledger._cache.bytes
    assert metric("qstream_cached_states") == len(ledger._cache)
    assert metric("qstream_states_evicted_total") - evicted == 30 - len(ledger._cache)
    assert ledger.entry("account-0").state == balance(0, size)
    for offset in range(30, 60):
        answer(ledger, offset, balance(1, 2), f"account-{offset - 30}")
    assert len(ledger._cache) == 30
    ledger.release([FIRST])
    assert metric("qstream_cached_bytes") == metric("qstream_cached_states") == 0


def test_one_state_above_the_bound_still_works(store: StateStore[Balance]) -> None:
    ledger = ticking(store, max_bytes=1000)
    for offset in range(3):
        answer(ledger, offset, balance(offset, 10_000), f"account-{offset}")
    assert len(ledger._cache) == 1


def test_a_record_may_end_its_key_and_the_next_one_begins_it_again(rig: Rig) -> None:
    rig.publish([Ping.of("a", 1), Ping.of("a", 2, act="end")])
    with rig.loop():
        wait_until(lambda: rig.committed_records() == 2)
        assert rig.tally("a") is None
        rig.publish([Ping.of("a", 3), Ping.of("b", 1, act="end"), Ping.of("b", 2)])
        wait_until(lambda: rig.committed_records() == 5)
    assert rig.tally("a") == Tally.of(Ping.of("a", 3))
    assert rig.tally("b") == Tally.of(Ping.of("b", 2))
    assert len(rig.pongs()) == 5


def indexed(rig: Rig, raw: redis.Redis) -> set[str]:
    """The keys in the index of the rig's agent."""
    found = [key for name in raw.keys(f"qstream:{rig.sample.name}:keys:*") for key in raw.hkeys(name)]
    return {key.decode() for key in found if key}


@pytest.mark.parametrize("tick_s", [0.1, None])
def test_a_key_that_expires_leaves_the_index_and_ticks_no_more_though_nothing_else_happens(
    rig: Rig, raw: redis.Redis, tick_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qstream.stream.ticks.SWEEP_S", 0.1)
    rig.publish([Ping.of("a", 1), Ping.of("b", 1)])
    with rig.loop(rig.processor(ttl_s=3600.0)):
        wait_until(lambda: rig.committed_records() == 2)
    assert indexed(rig, raw) == {"a", "b"}
    with rig.loop(rig.processor(ttl_s=0.5, tick_s=tick_s)) as running:
        rig.publish([Ping.of("a", 2), Ping.of("c", 1)])
        wait_until(lambda: rig.committed_records() == 4)
        wait_until(lambda: indexed(rig, raw) == {"b"})
        wait_until(lambda: set(running.loop.ledger.keys.all()) == {"b"})
        rig.publish([Ping.of("a", 3)])
        wait_until(lambda: rig.committed_records() == 5)
    assert not {event_id for event_id, _ in rig.pongs() if event_id.startswith("tick/a/0/")}
    assert [pong.count for _, pong in rig.pongs() if pong.name == "a"][-1] == 1
