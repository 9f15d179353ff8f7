"""StateStore: loads and saves the states of one module in Redis, and says who may write."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Generic, Literal, Self, TypeVar, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from qstream.contract import TopicPartition
from qstream.errors import ConfigError, QstreamError, StaleEpoch, StoreConflict, StoreUnavailable
from qstream.state.fields import ARRAY_PREFIX, HEADER, pack, unpack
from schemas.frame import Frame, FrameError

S = TypeVar("S", bound=Frame)

_CAS: Final = Path(__file__).with_name("cas.lua").read_text(encoding="utf-8")
_CAS_SHA: Final = hashlib.sha1(_CAS.encode(), usedforsecurity=False).hexdigest()

# The clock keeps epochs rising when Redis restarts empty, the stored one when its clock steps back.
_NEXT_EPOCH: Final = """
local now = redis.call('TIME')
local epoch = math.max((tonumber(redis.call('GET', KEYS[1])) or 0) + 1, now[1] * 1000000 + now[2])
redis.call('SET', KEYS[1], string.format('%.0f', epoch))
return string.format('%.0f', epoch)
"""

_SECRET: Final = re.compile(r"(?<=//).*(?=@)|^[^/]*(?=@)|(?<=password=)[^&]*")


# Without slots: before Python 3.12 they make ``Stored[Counts]()`` of a frozen dataclass a TypeError.
@dataclass(frozen=True, eq=False)
class Stored(Generic[S]):
    """What the store holds of one key, as loaded or last saved; the default is nothing.

    `offsets` are the highest ones that the state has seen. `writer` marks the write that left it. `reason` says why there
    is no `state` although the store holds something: it is damaged or of another major version, so the key starts cold.
    `written_bytes` are the bytes of state that the last save sent.
    """

    state: S | None = None
    version: int = 0
    offsets: Mapping[TopicPartition, int] = field(default_factory=dict)
    fields: Mapping[str, bytes] = field(default_factory=dict)
    writer: bytes = b""
    reason: str | None = None
    written_bytes: int = 0


@dataclass(frozen=True, eq=False)
class Write(Generic[S]):
    """One state to save on top of `stored`, with the offsets that it has newly seen.

    `epochs` are those of this worker's assignments, at least of every partition in `offsets`; a tick's write has no new
    offsets but the epochs of the partitions that feed the key. For an unchanged state pass ``stored.state``;
    None leaves the key with offsets and no state.
    """

    key: str
    stored: Stored[S]
    state: S | None
    offsets: Mapping[TopicPartition, int]
    epochs: Mapping[TopicPartition, int]

    def __post_init__(self) -> None:
        if unfenced := [str(partition) for partition in self.offsets if partition not in self.epochs]:
            raise ValueError(f"epochs: none for {', '.join(unfenced)}, allowed is one for each partition in offsets")


class StateStore(Generic[S]):
    """The states of one module, one Redis hash a key.

    Guarantees: a write happens whole or not at all; a worker whose partition has a newer owner cannot write; a write whose
    reply was lost is recognised when it is tried again; a Redis that lost its data gets back what a live worker knows,
    with versions counting on. The last holds for keys with one writer: two workers that feed one key from two partitions
    cannot merge what each alone remembers, so the one that comes second loads the state of the first.

    No call retries or blocks longer than about twice `timeout_ms`. Safe to share between threads.

    Parameters
    ----------
    url
        ``redis://[user:password@]host[:port][/db]``, ``rediss://`` or ``unix://``.
    module
        First part of every key of this store.
    state
        The class of the states.
    timeout_ms
        For connecting, and for each answer.

    Raises
    ------
    ConfigError
        The url is no Redis url. From every call: a key of this store holds something that is no hash, or the user of the
        url lacks a right.
    StoreUnavailable
        From every call: Redis does not answer, is loading, read-only or full.
    """

    def __init__(self, url: str, module: str, state: type[S], timeout_ms: int = 200) -> None:
        self._module = module
        self._state = state
        self._client = _client(url, timeout_ms / 1000)
        self._where = _SECRET.sub("***", url)

    def new_epoch(self) -> int:
        """Number a new assignment: higher than every number before, over all workers and restarts of Redis."""
        # A key of its own, outside the hash tags of the states: on a cluster it may live on any node.
        with self._answers():
            return int(cast(bytes, self._client.eval(_NEXT_EPOCH, 1, f"qstream:{self._module}:epoch")))

    def load(self, key: str) -> Stored[S]:
        """Read what is stored of a key; damage is a cold start with a `reason`, never an error."""
        with self._answers():
            found = cast("dict[bytes, bytes]", self._client.hgetall(self._hash(key)))
        raw = {name.decode(errors="replace"): value for name, value in found.items()}
        fields = {name: value for name, value in raw.items() if _is_state(name)}
        version = raw.get("version", b"0")
        stored: Stored[S] = Stored(
            version=int(version) if version.isdigit() else 0,
            offsets=_by_partition(raw, "offset:"),
            fields=fields,
            writer=raw.get("writer", b""),
        )
        if not fields:
            return stored
        try:
            return replace(stored, state=unpack(self._state, fields))
        except FrameError as exc:
            return replace(stored, reason=str(exc))

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
        plans = [_plan(write, write.stored) for write in writes]
        replies = self._compare_and_set(plans)
        again = [i for i, (status, *_) in enumerate(replies) if status == b"resend"]
        for i in again:
            found: Stored[S] = Stored(version=int(replies[i][1]), writer=replies[i][2])
            plans[i] = _plan(writes[i], found, whole=True)
        for i, reply in zip(again, self._compare_and_set([plans[i] for i in again]), strict=True):
            replies[i] = reply
        return [self._outcome(plan, reply) for plan, reply in zip(plans, replies, strict=True)]

    def watermarks(self) -> dict[TopicPartition, int]:
        """For each input partition the next offset up to which all states are written."""
        with self._answers():
            found = cast("dict[bytes, bytes]", self._client.hgetall(f"qstream:{self._module}:watermarks"))
        return _by_partition({name.decode(errors="replace"): value for name, value in found.items()}, "")

    def set_watermarks(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Set the watermarks of some partitions, the others stay."""
        if offsets:
            mapping: dict[Any, Any] = {str(partition): offset for partition, offset in offsets.items()}
            with self._answers():
                self._client.hset(f"qstream:{self._module}:watermarks", mapping=mapping)

    def ping(self) -> bool:
        """Whether Redis answers now."""
        try:
            return bool(self._client.ping())
        except redis.RedisError:
            return False

    def close(self) -> None:
        """Close the connections; may be called twice."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hash(self, key: str) -> str:
        return f"qstream:{{{self._module}:{key}}}"

    def _compare_and_set(self, plans: Sequence[_Plan[S]]) -> list[list[bytes]]:
        """Run the script for each plan, in one round trip; a second one teaches it to a Redis that has restarted."""
        replies = self._pipeline(plans, "evalsha", _CAS_SHA)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
        for i, reply in zip(unknown, self._pipeline([plans[i] for i in unknown], "eval", _CAS), strict=True):
            replies[i] = reply
        for reply in replies:
            if isinstance(reply, redis.RedisError):
                raise self._fault(reply) from reply
        return cast("list[list[bytes]]", replies)

    def _pipeline(self, plans: Sequence[_Plan[S]], command: Literal["eval", "evalsha"], script: str) -> list[object]:
        if not plans:
            return []
        with self._answers(), self._client.pipeline(transaction=False) as pipeline:
            run = getattr(pipeline, command)
            for plan in plans:
                run(script, 1, self._hash(plan.write.key), *plan.arguments)
            return pipeline.execute(raise_on_error=False)

    def _outcome(self, plan: _Plan[S], reply: list[bytes]) -> Stored[S] | StoreConflict:
        status, *facts = reply
        if status == b"ok":
            return plan.saved
        name, key, first, second = self._module, plan.write.key, facts[0].decode(), facts[1].decode(errors="replace")
        if status == b"stale":
            return StaleEpoch(f"state {key!r} of {name}: {first} is {second}, a newer owner; this writer must not write")
        stored = plan.write.stored
        return StoreConflict(
            f"state {key!r} of {name}: stored is version {first} ({second}), "
            f"expected was {stored.version} ({stored.writer.decode(errors='replace')})"
        )

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as exc:
            raise self._fault(exc) from exc

    def _fault(self, exc: redis.RedisError) -> QstreamError:
        # Inside a script the error of a command arrives as text.
        if "WRONGTYPE" in str(exc):
            return ConfigError(
                f"redis at {self._where}: a key of qstream:{self._module} holds something that qstream did not write, "
                f"allowed is a hash; delete it, or choose another database: {exc}"
            )
        if isinstance(exc, redis.exceptions.NoPermissionError):
            return ConfigError(f"redis at {self._where}: the user lacks a right: {exc}")
        return StoreUnavailable(f"redis at {self._where}: {type(exc).__name__}: {exc}")


@dataclass(frozen=True, eq=False)
class _Plan(Generic[S]):
    """A write made ready to send, and what is stored once it has succeeded."""

    write: Write[S]
    arguments: list[str | bytes]
    saved: Stored[S]


def _plan(write: Write[S], found: Stored[S], whole: bool = False) -> _Plan[S]:
    """The difference between what is found in the store and what is to be; `whole` if it is found to be another state."""
    if write.state is not None and write.state is write.stored.state:
        fields = write.stored.fields
    elif write.state is not None:
        fields = pack(write.state)
    else:
        fields = {}
    changed = {name: value for name, value in fields.items() if found.fields.get(name) != value}
    deleted = [name for name in found.fields if name not in fields]
    offsets = {**write.stored.offsets, **write.offsets}
    version = max(found.version, write.stored.version) + 1
    writer = _mark(write.epochs, found, changed, deleted, offsets)
    arguments: list[str | bytes] = [
        str(found.version),
        found.writer,
        str(version),
        writer,
        str(int(whole)),
        str(len(deleted)),
        str(len(write.epochs)),
        str(len(offsets)),
        *deleted,
    ]
    for prefix, numbers in (("epoch", write.epochs), ("offset", offsets)):
        for partition, number in numbers.items():
            arguments += (f"{prefix}:{partition}", str(number))
    for name, value in changed.items():
        arguments += (name, value)
    saved = Stored(write.state, version, offsets, fields, writer, written_bytes=sum(map(len, changed.values())))
    return _Plan(write, arguments, saved)


def _mark(
    epochs: Mapping[TopicPartition, int],
    found: Stored[S],
    changed: Mapping[str, bytes],
    deleted: Sequence[str],
    offsets: Mapping[TopicPartition, int],
) -> bytes:
    """``<epoch>:<digest>``: the same for one write tried again, another for any other write.

    The digest chains to the mark that is found, so that equal marks mean equal histories even after a loss of data, when
    versions repeat. Epochs are given out once, so the epoch tells a worker that a write is its own.
    """
    digest = hashlib.blake2b(f"{found.version}:{deleted}".encode() + found.writer, digest_size=8)
    for name, value in changed.items():
        digest.update(f"{name}:{len(value)}:".encode())
        digest.update(value)
    for partition, offset in offsets.items():
        digest.update(f"{partition}:{offset},".encode())
    return f"{max(epochs.values(), default='')}:{digest.hexdigest()}".encode()


def _client(url: str, timeout_s: float) -> redis.Redis:
    try:
        # By default redis-py tries ten times, which blocks for seconds; the loop has a better plan while Redis is away.
        client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
            decode_responses=False,
            protocol=2,
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # or an unknown option in the url fails at the first call only
        if pool.get_encoder().decode_responses:
            raise ValueError
    except (ValueError, TypeError, redis.RedisError):
        # Not chained: the cause may quote a part of the password.
        raise ConfigError(
            f"redis_url is {_SECRET.sub('***', url)!r}, "
            "allowed is redis://[user:password@]host[:port][/db], rediss:// or unix://path, without decode_responses"
        ) from None
    return client


def _is_state(name: str) -> bool:
    return name == HEADER or name.startswith(ARRAY_PREFIX)


def _by_partition(raw: Mapping[str, bytes], prefix: str) -> dict[TopicPartition, int]:
    """Offsets by partition from fields ``<prefix><topic>:<partition>``; what is no such field is left out."""
    found = {}
    for name, value in raw.items():
        topic, _, partition = name.removeprefix(prefix).rpartition(":")
        if name.startswith(prefix) and topic and partition.isdecimal() and value.isdigit():
            found[TopicPartition(topic, int(partition))] = int(value)
    return found
