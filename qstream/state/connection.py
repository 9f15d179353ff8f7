"""Connection: commands to the nodes that have their keys, and the faults of Redis as errors of qstream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import redis
from redis.cluster import PRIMARY, ClusterNode, RedisCluster
from redis.exceptions import AskError, MovedError, RedisClusterException

from qstream.errors import ConfigError, QstreamError, StoreRefused, StoreUnavailable
from qstream.state.address import Client, Host, opener, without_secrets
from qstream.state.refusals import is_foreign, meaning_of

Command = tuple[str | bytes | int, ...]
_HOPS: Final = 5  # of a command whose key moves between the nodes of a cluster meanwhile


class Connection:
    """A client of one Redis, cluster or sentinels' service, for one module.

    No call retries, or blocks longer than about twice `timeout_ms` for each node that does not answer. After every fault the
    next call opens new connections, and so reaches what has taken over: a server that refuses may keep its old ones open.

    `ConfigError` if the url cannot be used.
    """

    def __init__(self, url: str, module: str, timeout_ms: int) -> None:
        self.module = module
        self._where = without_secrets(url)
        self._open = opener(url, timeout_ms / 1000)
        self._client: Client | None = None
        self._known: list[Host] = []

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands about one key each, in one round trip to each node; the first refusal is raised."""
        replies = self.send(commands)
        for reply in replies:
            if isinstance(reply, redis.RedisError):
                raise self.fault(reply) from reply
        return replies

    def send(self, commands: Sequence[Command]) -> list[Any]:
        """As `ask`, with the error of Redis in the place of a reply that is a refusal."""
        if not commands:
            return []
        try:
            client = self._opened()
            return _to_cluster(client, commands) if isinstance(client, RedisCluster) else _to_node(client, commands)
        except (redis.RedisError, RedisClusterException) as exc:
            raise self.fault(exc) from exc

    def one_on_each_node(self, keys: Iterable[str]) -> list[str]:
        """The first of `keys` that lies on each node which takes writes."""
        try:
            client = self._opened()
            if not isinstance(client, RedisCluster):
                return [next(iter(keys))]
            found: dict[str, str] = {}
            for key in keys:
                found.setdefault(client.get_node_from_key(key).name, key)
                if len(found) == len(client.get_primaries()):
                    break
        except (redis.RedisError, RedisClusterException) as exc:
            raise self.fault(exc) from exc
        return list(found.values())

    def send_to_all(self, commands: Sequence[Command]) -> list[list[Any]]:
        """As `send`, to each node that takes writes, of commands without a key."""
        try:
            client = self._opened()
            if not isinstance(client, RedisCluster):
                return [_to_node(client, commands)]
            return [_to_node(client.get_redis_connection(node), commands) for node in client.get_primaries()]
        except (redis.RedisError, RedisClusterException) as exc:
            raise self.fault(exc) from exc

    def fault(self, exc: Exception) -> QstreamError:
        """The error of qstream for one of Redis; the client that met it is left."""
        if is_foreign(exc):
            return ConfigError(
                f"redis at {self._where}: a key of qstream:{self.module} holds something that qstream did not write; "
                f"delete it, or choose another database: {exc}"
            )
        self.close()
        what = f"{type(exc).__name__}: {exc}"
        if (meaning := meaning_of(exc)) is not None:
            return StoreRefused(f"redis at {self._where}: {meaning}: {what}", meaning)
        return StoreUnavailable(f"redis at {self._where}: {what}")

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            if isinstance(client, RedisCluster):
                self._known = [(node.host, node.port) for node in client.get_nodes()]
            client.close()

    def _opened(self) -> Client:
        client = self._client
        if client is None:
            client = self._client = self._open(self._known)
        return client


def _to_node(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        return pipeline.execute(raise_on_error=False)


def _to_cluster(client: RedisCluster, commands: Sequence[Command]) -> list[Any]:
    """One pipeline to each node, and further ones where a slot moves between nodes.

    Not redis-py's own pipeline of a cluster: it asks the server for the keys of each script call, with all its arguments, and
    tries each command of a node that does not answer again by itself, which takes as many timeouts.
    """
    replies: list[Any] = [None] * len(commands)
    left = {at: (client.get_node_from_key(_key(command)), False) for at, command in enumerate(commands)}
    for _ in range(_HOPS):
        groups: dict[tuple[ClusterNode, bool], list[int]] = {}
        for at, group in left.items():
            groups.setdefault(group, []).append(at)
        left = {}
        for (node, asking), places in groups.items():
            sent: list[Command] = []
            for at in places:
                sent += [("ASKING",), commands[at]] if asking else [commands[at]]
            answers = _to_node(client.get_redis_connection(node), sent)
            for at, reply in zip(places, answers[1::2] if asking else answers, strict=True):
                replies[at] = reply
                if isinstance(reply, AskError):  # a MovedError is one as well
                    left[at] = (_moved_to(client, reply), not isinstance(reply, MovedError))
        if not left:
            break
    return replies


def _moved_to(client: RedisCluster, moved: AskError) -> ClusterNode:
    if isinstance(moved, MovedError):
        client.nodes_manager.move_slot(moved)
    return client.get_node(moved.host, moved.port) or ClusterNode(moved.host, moved.port, PRIMARY)


def _key(command: Command) -> str | bytes | int:
    return command[3] if command[0] in ("EVAL", "EVALSHA") else command[1]
