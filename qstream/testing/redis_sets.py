"""Several Redis servers for tests: a cluster of three primaries, and a primary with its replica behind three sentinels."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from qstream.embedded.child import Child, end_child, free_ports, start_child
from qstream.embedded.redis import redis_binary
from qstream.errors import StoreUnavailable

SLOTS: Final = 16384
READY_S: Final = 120.0
DOWN_AFTER_MS: Final = 1000  # without an answer, after which a sentinel takes a server for dead
SERVICE: Final = "states"


class Server:
    """One redis-server with options of its own, on a loopback port."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        self.port = port
        self._log = folder / f"{port}.log"
        place = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--loglevel", "warning")
        self._child: Child = start_child([redis_binary(), *options, *place], self._log, folder)
        until(self.answers, lambda: self._log.read_text(errors="replace")[-2000:])

    def client(self) -> redis.Redis:
        """A client of this server alone."""
        return redis.Redis(port=self.port, socket_timeout=5.0, retry=Retry(NoBackoff(), 0), protocol=2)

    def ask(self, *command: str | int) -> Any:
        """The reply to one command."""
        with self.client() as client:
            return client.execute_command(*command)

    def answers(self) -> bool:
        """Whether it serves by now."""
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False

    def pause(self) -> None:
        """Stop it for now (SIGSTOP): connections stay open, nothing is answered."""
        self._child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._child.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        end_child(self._child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def until(condition: Callable[[], object], saying: Callable[[], object]) -> None:
    """Wait until it is true; `StoreUnavailable` with what `saying` tells if that takes too long."""
    deadline = time.monotonic() + READY_S
    while not condition():
        if time.monotonic() > deadline:
            raise StoreUnavailable(f"not ready in {READY_S:.0f} s: {saying()}")
        time.sleep(0.02)


@contextmanager
def redis_cluster(primaries: int = 3) -> Iterator[list[Server]]:
    """A Redis Cluster without replicas, its slots spread evenly."""
    with tempfile.TemporaryDirectory(prefix="qstream-redis-") as folder, ExitStack() as running:
        nodes = [
            running.enter_context(
                Server(
                    Path(folder),
                    port,
                    *("--save", "", "--cluster-enabled", "yes", "--cluster-config-file", f"{port}.conf"),
                    *("--cluster-node-timeout", "30000"),
                )
            )
            for port in _cluster_ports(primaries)
        ]
        for at, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            node.ask("CLUSTER", "ADDSLOTS", *range(SLOTS * at // primaries, SLOTS * (at + 1) // primaries))
            node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        until(lambda: all(_is_whole(node, nodes) for node in nodes), lambda: nodes[0].ask("CLUSTER", "NODES"))
        yield nodes


def _cluster_ports(count: int) -> list[int]:
    """Free ports for nodes whose own traffic, 10000 ports higher, stays below the ephemeral ports as well."""
    return sorted(free_ports(10 * count))[:count]


def _is_whole(node: Server, nodes: Sequence[Server]) -> bool:
    lines = bytes(node.ask("CLUSTER", "INFO")).split()
    return b"cluster_state:ok" in lines and f"cluster_known_nodes:{len(nodes)}".encode() in lines


@contextmanager
def redis_sentinels(sentinels: int = 3) -> Iterator[tuple[list[Server], list[Server]]]:
    """A primary and its replica, and the sentinels that watch them as `SERVICE`; they fail over within seconds."""
    with tempfile.TemporaryDirectory(prefix="qstream-redis-") as folder, ExitStack() as running:
        first, second, *watching = free_ports(2 + sentinels)
        quick = ("--save", "", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
        primary = running.enter_context(Server(Path(folder), first, *quick))
        replica = running.enter_context(Server(Path(folder), second, *quick))
        replica.ask("REPLICAOF", "127.0.0.1", first)
        until(lambda: replica.ask("INFO", "replication")["master_link_status"] == "up", lambda: "the replica does not follow")
        watchers = []
        for port in watching:
            config = Path(folder) / f"{port}.conf"
            config.write_text(
                f"sentinel monitor {SERVICE} 127.0.0.1 {first} {sentinels // 2 + 1}\n"
                f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
                f"sentinel failover-timeout {SERVICE} 10000\n"
            )
            watchers.append(running.enter_context(Server(Path(folder), port, str(config), "--sentinel")))
        until(lambda: all(_sees(watcher, sentinels) for watcher in watchers), lambda: watchers[0].ask("SENTINEL", "MASTERS"))
        yield [primary, replica], watchers


def _sees(watcher: Server, sentinels: int) -> bool:
    with watcher.client() as client:
        found = client.sentinel_masters()[SERVICE]
    return int(found["num-slaves"]) == 1 and int(found["num-other-sentinels"]) == sentinels - 1
