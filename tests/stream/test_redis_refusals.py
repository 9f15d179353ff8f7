"""A Redis that answers and refuses: it is named, nothing is taken for healthy, and what heals is followed without a restart."""

from __future__ import annotations

import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from qstream.embedded.redis import EmbeddedRedis
from qstream.errors import ConfigError, StoreRefused, StoreUnavailable
from qstream.state import store as store_file
from qstream.state.keys import _SCRIPT as KEYS_SCRIPT
from qstream.state.refusals import RIGHTS
from qstream.state.store import StateStore
from qstream.testing.rig import Rig, wait_until
from qstream.testing.sample import Ping, Tally

MakeRig = Callable[..., Rig]
PATIENT_MS = 20_000  # a Redis that refuses answers; a late answer on a busy machine would be another fault
BY_NAME = ("eval", "evalsha", "hgetall", "pttl", "hmget", "hset", "hscan")
SCRIPTS = (store_file._CAS, store_file._NEXT_EPOCH, KEYS_SCRIPT)
USED = {*BY_NAME, *(word.lower() for text in SCRIPTS for word in re.findall(r"redis\.call\('(\w+)'", text))}


@pytest.fixture
def raw(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def grant(raw: redis.Redis, *rights: str, keys: str = "qstream:*") -> None:
    raw.execute_command("ACL", "SETUSER", "agent", "reset", "on", ">right", f"~{keys}", *(f"+{right}" for right in rights))


def url_of(server: EmbeddedRedis, login: str = "agent:right@") -> str:
    return f"redis://{login}127.0.0.1:{server.port}/0"


def refusal(url: str) -> str:
    with StateStore(url, "m", Tally, 5000) as store, pytest.raises(StoreRefused) as refused:
        store.check()
    return str(refused.value)


def test_the_rights_on_the_security_page_are_all_that_an_agent_needs_and_each_is_needed(
    redis_server: EmbeddedRedis, raw: redis.Redis
) -> None:
    page = Path(__file__).parents[2].joinpath("docs/pages/howto/security.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("ACL SETUSER"))
    assert {word[1:] for word in line.split() if word.startswith("+")} == set(RIGHTS) == USED
    grant(raw, *RIGHTS)
    with StateStore(url_of(redis_server), "m", Tally, 5000) as store:
        store.check()
    for right in RIGHTS:
        grant(raw, *(other for other in RIGHTS if other != right))
        raw.script_flush()  # EVAL is needed where a script is not known yet
        assert "the user must have the right to run this command" in refusal(url_of(redis_server)), right
    grant(raw, *RIGHTS, keys="other:*")
    assert "on its keys" in refusal(url_of(redis_server))


def test_each_refusal_says_what_must_be_so(redis_server: EmbeddedRedis, raw: redis.Redis) -> None:
    grant(raw, *RIGHTS)
    assert "user and password in the URL must be right" in refusal(url_of(redis_server, "agent:wrong@"))
    assert "the database in the URL must exist" in refusal(f"redis://127.0.0.1:{redis_server.port}/7")
    assert "must begin with redis://" in refusal(f"redis+cluster://127.0.0.1:{redis_server.port}")
    raw.config_set("maxmemory", 1)
    assert "it must have room, and is full" in refusal(redis_server.url)
    raw.config_set("maxmemory", 0)
    raw.replicaof("127.0.0.1", str(redis_server.port))
    assert "it must be the primary, and is a read-only replica" in refusal(redis_server.url)
    raw.replicaof("NO", "ONE")
    raw.config_set("requirepass", "asked")
    assert "user and password in the URL must be right" in refusal(redis_server.url)


def test_a_file_of_the_url_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"redis_url must be a URL whose ssl_ca_certs is a file, got ./nowhere/ca\.pem"):
        StateStore("rediss://:s3cret@127.0.0.1:1/0?ssl_ca_certs=/nowhere/ca.pem", "m", Tally)


def test_a_worker_without_a_right_is_not_ready_and_says_so_until_it_has_it(
    make_rig: MakeRig, redis_server: EmbeddedRedis, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    grant(raw, *(right for right in RIGHTS if right != "hset"))
    rig = make_rig(redis_url=url_of(redis_server), redis_timeout_ms=PATIENT_MS)
    sent = [Ping.of(f"name-{n % 3}", n) for n in range(30)]
    rig.publish(sent)
    with rig.loop() as running:
        wait_until(lambda: running.loop.settling.degraded)
        status = running.loop.status()
        assert (status.running, status.ready, status.partitions) == (True, False, 0)
        assert "the user must have the right to run this command" in status.store_error
        assert "right@" not in status.store_error
        raw.config_set("maxmemory", 1)
        grant(raw, *RIGHTS)
        wait_until(lambda: "it must have room" in running.loop.status().store_error)
        said = [record.message for record in caplog.records if record.levelno == logging.ERROR and "refuses" in record.message]
        assert ["the right to run" in message for message in said] == [True, False]  # each reason once, though it is tried on
        raw.config_set("maxmemory", 0)
        wait_until(lambda: running.loop.status().ready)
        wait_until(lambda: rig.committed_records() == 30)
        assert not running.loop.status().degraded


@pytest.mark.parametrize("turns", ["read-only", "full", "without a right"])
def test_what_turns_useless_under_a_worker_is_said_once_and_lasts_until_it_is_over(
    turns: str, make_rig: MakeRig, redis_server: EmbeddedRedis, raw: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    spoil, heal = {
        "read-only": (lambda: raw.replicaof("127.0.0.1", str(redis_server.port)), lambda: raw.replicaof("NO", "ONE")),
        "full": (lambda: raw.config_set("maxmemory", 1), lambda: raw.config_set("maxmemory", 0)),
        "without a right": (lambda: grant(raw, *(r for r in RIGHTS if r != "hset")), lambda: grant(raw, *RIGHTS)),
    }[turns]
    grant(raw, *RIGHTS)
    rig = make_rig(redis_url=url_of(redis_server), redis_timeout_ms=PATIENT_MS)
    sent = [Ping.of(f"name-{n % 6}", n) for n in range(200)]
    with rig.loop() as running:
        rig.publish(sent[:60])
        wait_until(lambda: rig.committed_records() == 60)
        spoil()
        for at in range(60, 200, 20):  # also keys that are not in memory: reading them succeeds, and proves nothing
            rig.publish([*sent[at : at + 20], Ping.of(f"new-{at}", at)])
            wait_until(lambda at=at: len(rig.pongs()) >= at + 20)
        wait_until(lambda: running.loop.settling.degraded)
        assert isinstance(running.loop.settling.fault, StoreRefused)
        assert running.loop.status().ready
        heal()
        wait_until(lambda: rig.committed_records() == 207)
        assert running.loop.settling.fault is None
    said = [record.message for record in caplog.records if record.name == "qstream.stream.settle"]
    assert [message.split(":")[0] for message in said] == [
        "the state store refuses what the agent needs",
        "the state store answers again",
    ]
    for name in {ping.name for ping in sent}:
        assert rig.tally(name) == Tally.of(*(ping for ping in sent if ping.name == name))


class Forwarder:
    """One address whose new connections go to `port`, while those that are open stay where they are."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    source.close()


def test_a_failover_behind_one_address_is_followed_though_the_old_primary_keeps_its_connections(
    make_rig: MakeRig, redis_server: EmbeddedRedis, raw: redis.Redis
) -> None:
    with EmbeddedRedis() as second, redis.Redis.from_url(second.url) as other:
        front = Forwarder(redis_server.port)
        other.replicaof("127.0.0.1", str(redis_server.port))
        wait_until(lambda: other.info("replication")["master_link_status"] == "up")
        rig = make_rig(redis_url=f"redis://127.0.0.1:{front.port}/0")
        sent = [Ping.of(f"name-{n % 6}", n) for n in range(120)]
        with rig.loop():
            rig.publish(sent[:60])
            wait_until(lambda: rig.committed_records() == 60)
            other.replicaof("NO", "ONE")
            front.target = second.port
            raw.replicaof("127.0.0.1", str(second.port))
            rig.publish(sent[60:])
            wait_until(lambda: rig.committed_records() == 120)
        front.close()
        with StateStore(second.url, rig.sample.name, Tally, 5000) as store:
            for name in {ping.name for ping in sent}:
                assert store.load(name).state == Tally.of(*(ping for ping in sent if ping.name == name))


def test_a_redis_that_gives_no_answer_is_absent_and_no_refusal() -> None:
    with StateStore("redis://127.0.0.1:1/0", "m", Tally, 500) as store, pytest.raises(StoreUnavailable) as absent:
        store.check()
    assert not isinstance(absent.value, StoreRefused)
