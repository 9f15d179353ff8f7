"""StateStore: loads and saves the states of one module in Redis, and says who may write."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar

import redis

from qstream.contract import TopicPartition
from qstream.errors import StaleEpoch, StoreConflict, StoreUnavailable
from qstream.state.connection import Command, Connection
from qstream.state.fields import HEADER, is_state_field, unpack
from qstream.state.keys import KeyIndex
from qstream.state.logs import LogIndex
from qstream.state.write import Delta, Stored, Write, delta
from schemas.frame import Frame, FrameError

S = TypeVar("S", bound=Frame)

_CAS: Final = Path(__file__).with_name("cas.lua").read_text(encoding="utf-8")
CHECK_KEYS: Final = 1000  # names to choose from, so that each node of a cluster has one
SPREAD: Final = 64
CHECK_S: Final = 60.0
_CAS_SHA: Final = hashlib.sha1(_CAS.encode(), usedforsecurity=False).hexdigest()

# The clock keeps epochs rising when Redis restarts empty, the stored one when its clock steps back.
_NEXT_EPOCH: Final = """
local now = redis.call('TIME')
local epoch = math.max((tonumber(redis.call('GET', KEYS[1])) or 0) + 1, now[1] * 1000000 + now[2])
redis.call('SET', KEYS[1], string.format('%.0f', epoch))
return string.format('%.0f', epoch)
"""


@dataclass(frozen=True)
class Facts:
    """What one Redis tells of itself: its INFO, and whether it takes snapshots; None where the user may not ask."""

    info: Mapping[str, Any] | None
    snapshots: bool | None


class StateStore(Generic[S]):
    """The states of one module, one Redis hash a key.

    Guarantees: a write happens whole or not at all; a worker whose partition has a newer owner cannot write; a write whose
    reply was lost is recognised when it is tried again; a Redis that lost its data gets back what a live worker knows,
    with versions counting on. The last holds for keys with one writer: two workers that feed one key from two partitions
    cannot merge what each alone remembers, so the one that comes second loads the state of the first.

    No call retries or blocks longer than about twice `timeout_ms` for each node that does not answer.

    Parameters
    ----------
    url
        ``redis://[user:password@]host[:port][/db]``, ``rediss://`` (TLS) or ``unix://``; ``redis+cluster://host:port,...`` or
        ``redis+sentinel://host:port,.../service[/db]``, with TLS ``rediss+...``.
    module
        First part of every key of this store.
    state
        The class of the states.
    timeout_ms
        For connecting, and for each answer.

    Raises
    ------
    ConfigError
        The url is not a Redis url. From every call: a key of this store holds something that is not a hash.
    StoreUnavailable
        From every call: Redis does not answer. `StoreRefused`, one of these: it answers and refuses, because the user lacks
        a right, it is read-only or full, or the URL is of another kind; the message says what must be so.
    """

    def __init__(self, url: str, module: str, state: type[S], timeout_ms: int = 200) -> None:
        self._module = module
        self._state = state
        self._redis = Connection(url, module, timeout_ms)
        self.index = KeyIndex(self._redis)
        self.logs = LogIndex(self._redis)

    def new_epoch(self) -> int:
        """Number a new assignment: higher than every number before, over all workers and restarts of Redis."""
        # A key of its own, outside the hash tags of the states: on a cluster it may live on any node.
        (epoch,) = self._redis.ask([("EVAL", _NEXT_EPOCH, 1, f"qstream:{self._module}:epoch")])
        return int(epoch)

    def load(self, key: str) -> Stored[S]:
        """Read what is stored of a key; damage is a cold start with a `reason`, never an error."""
        return self.load_all([key])[0]

    def load_all(self, keys: Sequence[str]) -> list[Stored[S]]:
        """Read what is stored of several keys, as `load`, in one round trip."""
        asked_at = time.monotonic()
        replies = self._redis.ask([(word, self._hash(key)) for key in keys for word in ("HGETALL", "PTTL")])
        found = zip(replies[::2], replies[1::2], strict=True)
        return [self._stored(raw, None if left_ms < 0 else asked_at + left_ms / 1000) for raw, left_ms in found]

    def marks(self, keys: Sequence[str]) -> list[tuple[int, bytes]]:
        """The version and the writer's mark of several keys, in one round trip: whether `load` would give something else."""
        replies = self._redis.ask([("HMGET", self._hash(key), "version", "writer") for key in keys])
        return [(_integer(version), writer or b"") for version, writer in replies]

    def save(
        self,
        key: str,
        stored: Stored[S],
        state: S | None,
        offsets: Mapping[TopicPartition, int],
        epochs: Mapping[TopicPartition, int],
    ) -> Stored[S]:
        """Save one state, as `save_all`; a conflict is raised."""
        (saved,) = self.save_all([Write(key, stored, state, offsets, epochs)])
        if isinstance(saved, StoreConflict):
            raise saved
        return saved

    def save_all(self, writes: Sequence[Write[S]]) -> list[Stored[S] | StoreConflict]:
        """Write the changed fields of several keys in one round trip.

        Returns
        -------
        saved
            For each write what to save on next time; or `StaleEpoch` (a newer owner has written) or `StoreConflict` (the
            stored state moved on: load it and process again), with nothing written to that key.
        """
        deltas = [delta(write, write.stored) for write in writes]
        replies = self._compare_and_set(deltas)
        again = [i for i, (status, *_) in enumerate(replies) if status == b"resend"]
        for i in again:
            found: Stored[S] = Stored(version=int(replies[i][1]), writer=replies[i][2])
            deltas[i] = delta(writes[i], found, whole=True)
        for i, reply in zip(again, self._compare_and_set([deltas[i] for i in again]), strict=True):
            replies[i] = reply
        return [self._outcome(sent, reply) for sent, reply in zip(deltas, replies, strict=True)]

    def watermarks(self) -> dict[TopicPartition, int]:
        """For each input partition the next offset up to which all states are written."""
        (found,) = self._redis.ask([("HGETALL", f"qstream:{self._module}:watermarks")])
        return _by_partition({name.decode(errors="replace"): value for name, value in found.items()}, "")

    def set_watermarks(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Set the watermarks of some partitions, the others stay."""
        if offsets:
            pairs = [word for partition, offset in offsets.items() for word in (str(partition), offset)]
            self._redis.ask([("HSET", f"qstream:{self._module}:watermarks", *pairs)])

    def check(self) -> None:
        """Do all that an agent asks of the store, on keys of its own on each node, which end by themselves.

        What is wrong is raised, as by every call. Redis may answer a PING and yet refuse writes, scripts or some commands.
        """
        epoch = self.new_epoch()
        names = {self._hash(key): key for key in (f"check-{epoch}-{n}" for n in range(CHECK_KEYS))}
        self.marks([*names.values()][:SPREAD])  # one node of a cluster, named as if it were alone, refuses some of these
        keys = [names[name] for name in self._redis.one_on_each_node(names)]
        partition, stored = TopicPartition("check", 0), Stored[S](fields={HEADER: b""})
        for offset, ttl_s in enumerate((None, CHECK_S)):  # the second write meets the first, which is the script's other path
            self.save_all([Write(key, stored, None, {partition: offset}, {partition: epoch}, ttl_s) for key in keys])
        self._redis.ask([("HSET", self._hash(key), "checked", 1) for key in keys])
        self._redis.ask([("HSCAN", self._hash(key), 0) for key in keys])
        self.load_all(keys)

    def ping(self) -> bool:
        """Whether `check` passes now."""
        try:
            self.check()
        except StoreUnavailable:
            return False
        return True

    def facts(self) -> list[Facts]:
        """What each node tells of itself, as far as the user may ask for it."""
        return [
            Facts(
                info=info if isinstance(info, dict) else None,
                snapshots=bool(saved.get("save")) if isinstance(saved, dict) else None,
            )
            for info, saved in self._redis.send_to_all([("INFO",), ("CONFIG GET", "save")])
        ]

    def has_expiring(self, partitions: Iterable[TopicPartition]) -> bool:
        """Whether something has given an end to keys that have none: those of the module, and the indexes of these partitions."""
        own = [f"qstream:{self._module}:{name}" for name in ("watermarks", "logs")]
        names = [*own, *map(self.index.name, partitions)]
        return any(left_ms >= 0 for left_ms in self._redis.ask([("PTTL", name) for name in names]))

    def close(self) -> None:
        """Close the connections; may be called twice."""
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hash(self, key: str) -> str:
        return f"qstream:{{{self._module}:{key}}}"

    def _compare_and_set(self, deltas: Sequence[Delta[S]]) -> list[list[bytes]]:
        """Run the script for each write, in one round trip; a second one teaches it to a Redis that has restarted."""
        replies = self._redis.send([self._script("EVALSHA", _CAS_SHA, sent) for sent in deltas])
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
        taught = self._redis.ask([self._script("EVAL", _CAS, deltas[i]) for i in unknown])
        for i, reply in zip(unknown, taught, strict=True):
            replies[i] = reply
        for reply in replies:
            if isinstance(reply, redis.RedisError):
                raise self._redis.fault(reply) from reply
        return replies

    def _script(self, command: str, script: str, sent: Delta[S]) -> Command:
        return (command, script, 1, self._hash(sent.write.key), *sent.arguments)

    def _outcome(self, sent: Delta[S], reply: list[bytes]) -> Stored[S] | StoreConflict:
        status, *facts = reply
        if status == b"ok":
            return sent.saved
        name, key, first, second = self._module, sent.write.key, facts[0].decode(), facts[1].decode(errors="replace")
        if status == b"stale":
            return StaleEpoch(f"state {key!r} of {name}: {first} is {second}, a newer owner; this writer must not write")
        stored = sent.write.stored
        return StoreConflict(
            f"state {key!r} of {name}: stored is version {first} ({second}), "
            f"expected was {stored.version} ({stored.writer.decode(errors='replace')})"
        )

    def _stored(self, found: Mapping[bytes, bytes], expires_at: float | None) -> Stored[S]:
        raw = {name.decode(errors="replace"): value for name, value in found.items()}
        fields = {name: value for name, value in raw.items() if is_state_field(name)}
        stored: Stored[S] = Stored(
            version=_integer(raw.get("version")),
            offsets=_by_partition(raw, "offset:"),
            epochs=_by_partition(raw, "epoch:"),
            fields=fields,
            writer=raw.get("writer", b""),
            expires_at=expires_at,
        )
        if not fields:
            return stored
        try:
            return replace(stored, state=unpack(self._state, fields))
        except FrameError as exc:
            return replace(stored, reason=str(exc))


def _integer(text: bytes | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _by_partition(raw: Mapping[str, bytes], prefix: str) -> dict[TopicPartition, int]:
    """Numbers by partition from fields ``<prefix><topic>:<partition>``, -1 where nothing was seen; other fields are left out."""
    found = {}
    for name, value in raw.items():
        topic, _, partition = name.removeprefix(prefix).rpartition(":")
        if name.startswith(prefix) and topic and partition.isdecimal() and (value.isdigit() or value == b"-1"):
            found[TopicPartition(topic, int(partition))] = int(value)
    return found
