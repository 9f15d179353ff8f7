"""The store on a real Redis Cluster of three primaries, and behind real sentinels that fail over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from redis.crc import key_slot

from qstream.cli.checks_redis import check_redis
from qstream.contract import TopicPartition
from qstream.errors import StoreRefused, StoreUnavailable
from qstream.state.refusals import RIGHTS
from qstream.state.store import StateStore
from qstream.state.write import Stored, Write
from qstream.testing.redis_sets import SERVICE, Server, redis_cluster, redis_sentinels
from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping, Tally

MakeRig = Callable[..., Rig]
P0 = TopicPartition("in.v1", 0)
KEYS = [f"name-{n}" for n in range(60)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[Server]]:
    with redis_cluster() as nodes:
        yield nodes


@pytest.fixture
def store(cluster: list[Server]) -> Iterator[StateStore[Tally]]:
    for node in cluster:
        node.ask("FLUSHALL")
    with StateStore(url_of(cluster), "m", Tally, 5000) as store:
        yield store


def url_of(nodes: list[Server], scheme: str = "redis+cluster", path: str = "") -> str:
    return f"{scheme}://{','.join(f'127.0.0.1:{node.port}' for node in nodes)}{path}"


def tally(n: int) -> Tally:
    return Tally.of(Ping.of("name", n))


def test_states_of_many_keys_lie_on_all_nodes_and_are_written_and_read_together(
    store: StateStore[Tally], cluster: list[Server]
) -> None:
    epoch = store.new_epoch()
    assert store.new_epoch() > epoch
    writes = [Write(key, Stored(), tally(n), {P0: n}, {P0: epoch}) for n, key in enumerate(KEYS)]
    saved = store.save_all(writes)
    assert all(isinstance(found, Stored) for found in saved)
    assert [found.state for found in store.load_all(KEYS)] == [tally(n) for n in range(len(KEYS))]
    assert [version for version, _ in store.marks(KEYS)] == [1] * len(KEYS)
    assert all(node.ask("DBSIZE") > 5 for node in cluster)


def test_the_index_and_the_watermarks_of_many_partitions_work_on_a_cluster(store: StateStore[Tally]) -> None:
    partitions = [TopicPartition("in.v1", n) for n in range(20)]
    epochs = dict.fromkeys(partitions, store.new_epoch())
    for partition in partitions:
        assert store.index.take(partition, epochs[partition]) == set()
    store.index.change(epochs, {partition: [f"key-{partition.partition}", "gone"] for partition in partitions}, {})
    store.index.change(epochs, {}, {partition: ["gone"] for partition in partitions})
    found = [store.index.take(partition, epochs[partition]) for partition in partitions]
    assert found == [{f"key-{partition.partition}"} for partition in partitions]
    store.set_watermarks(dict.fromkeys(partitions, 7))
    assert store.watermarks() == dict.fromkeys(partitions, 7)


def test_a_check_writes_to_every_node_and_finds_the_one_that_refuses(store: StateStore[Tally], cluster: list[Server]) -> None:
    store.check()
    assert all(any(b"check-" in name for name in node.ask("KEYS", "*")) for node in cluster)
    for node in cluster:
        node.ask("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StoreRefused, match="it must have room"):
            store.check()
        node.ask("CONFIG", "SET", "maxmemory", 0)
    store.check()


def test_a_node_that_does_not_answer_makes_the_store_unavailable_and_is_used_again_when_it_does(
    cluster: list[Server], store: StateStore[Tally]
) -> None:
    epoch = store.new_epoch()
    with StateStore(url_of(cluster), "m", Tally, 300) as hasty:
        cluster[1].pause()
        with pytest.raises(StoreUnavailable, match="Timeout"):
            hasty.load_all(KEYS)
        cluster[1].resume()
        write = Write("late", Stored(), tally(1), {P0: 1}, {P0: epoch})

        def saved() -> bool:
            with suppress(StoreUnavailable):  # a busy machine may need longer than that for an answer
                return isinstance(hasty.save_all([write])[0], Stored)
            return False

        wait_until(saved)


def test_a_key_is_read_and_written_while_its_slot_moves_to_another_node(store: StateStore[Tally], cluster: list[Server]) -> None:
    epoch, slot = store.new_epoch(), key_slot(b"m:moving")
    saved = store.save("moving", Stored(), tally(1), {P0: 1}, {P0: epoch})
    owner = cluster[slot * len(cluster) // 16384]
    target = cluster[(cluster.index(owner) + 1) % len(cluster)]
    names = {node.port: node.ask("CLUSTER", "MYID").decode() for node in cluster}
    try:
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[owner.port])
        owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target.port])
        assert store.load("moving").state == tally(1)
        owner.ask("MIGRATE", "127.0.0.1", target.port, "qstream:{m:moving}", 0, 5000)
        assert store.load("moving").state == tally(1)  # the owner says ASK by now
        saved = store.save("moving", saved, tally(2), {P0: 2}, {P0: epoch})
    finally:
        for node in (target, owner, *cluster):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target.port])
    assert store.load("moving").state == tally(2)  # and MOVED
    assert store.save("moving", saved, tally(3), {P0: 3}, {P0: epoch}).state == tally(3)


def test_on_a_cluster_an_agent_needs_its_rights_and_the_layout(cluster: list[Server]) -> None:
    for node in cluster:
        rights = [f"+{right}" for right in (*RIGHTS, "cluster|slots", "command", "asking")]
        node.ask("ACL", "SETUSER", "agent", "reset", "on", ">right", "~qstream:*", *rights)
    url = url_of(cluster).replace("://", "://agent:right@")
    with StateStore(url, "m", Tally, 5000) as store:
        store.check()
        assert store.load("any").state is None
    with (
        StateStore(url.replace("right@", "wrong@"), "m", Tally, 5000) as wrong,
        pytest.raises(StoreRefused, match="user and password in the URL must be right"),
    ):
        wrong.check()


def test_one_node_of_a_cluster_under_a_plain_url_is_refused_with_the_right_one(cluster: list[Server]) -> None:
    with (
        StateStore(f"redis://127.0.0.1:{cluster[0].port}/0", "m", Tally, 5000) as plain,
        pytest.raises(StoreRefused, match=r"the URL of a Redis Cluster must begin with redis\+cluster"),
    ):
        plain.check()


def test_the_doctor_looks_at_all_nodes_of_a_cluster(cluster: list[Server]) -> None:
    cluster[1].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    checks = {check.what: check for check in check_redis(url_of(cluster), 1 << 20)}
    cluster[1].ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert checks["redis"].verdict == "ok"
    assert checks["redis"].detail.endswith("3 nodes")
    assert "allkeys-lru" in checks["redis memory"].detail


def test_workers_on_a_cluster_count_right_and_tick_every_key(make_rig: MakeRig, cluster: list[Server]) -> None:
    rig = make_rig(redis_url=url_of(cluster))
    sent = [Ping.of(f"name-{n % 12}", n) for n in range(300)]
    with rig.loop(rig.processor(tick_s=0.2), worker_id="one") as one:
        rig.publish(sent[:150])
        wait_until(lambda: rig.committed_records() == 150)
        with rig.loop(rig.processor(tick_s=0.2), worker_id="two") as two:
            wait_until(lambda: len(one.loop.intake.assigned) == len(two.loop.intake.assigned) == 4)
            rig.publish(sent[150:])
            wait_until(lambda: rig.committed_records() == 300)
    for name in {ping.name for ping in sent}:
        assert rig.tally(name) == Tally.of(*(ping for ping in sent if ping.name == name))
    assert {id_.split("/")[1] for id_, _ in rig.pongs() if id_.startswith("tick/")} == {ping.name for ping in sent}


def test_workers_go_on_when_sentinels_name_another_primary(make_rig: MakeRig) -> None:
    with redis_sentinels() as (servers, sentinels):
        with (
            StateStore(url_of(sentinels, "redis+sentinel", "/unknown"), "m", Tally, 5000) as unknown,
            pytest.raises(StoreUnavailable, match="No master found for 'unknown'"),
        ):
            unknown.check()
        rig = make_rig(redis_url=url_of(sentinels, "redis+sentinel", f"/{SERVICE}/0"))
        sent = [Ping.of(f"name-{n % 6}", n) for n in range(300)]
        with rig.loop() as running:
            rig.publish(sent[:100])
            wait_until(lambda: rig.committed_records() == 100)
            servers[0].kill()
            rig.publish(sent[100:200])
            wait_until(lambda: len(rig.pongs()) == 200)  # from memory
            wait_until(lambda: rig.committed_records() == 200, saying=running.loop.status)
            rig.publish(sent[200:])
            wait_until(lambda: rig.committed_records() == 300)
            wait_until(lambda: not running.loop.status().degraded)
        with StateStore(f"redis://127.0.0.1:{servers[1].port}/0", rig.sample.name, Tally, 5000) as store:
            for name in {ping.name for ping in sent}:
                assert store.load(name).state == Tally.of(*(ping for ping in sent if ping.name == name))
