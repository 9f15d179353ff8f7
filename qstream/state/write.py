"""Write: the difference that a save sends, and the mark by which it is recognised."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from qstream.contract import TopicPartition
from qstream.state.fields import pack
from schemas.frame import Frame
from schemas.wording import Shown, must_be

S = TypeVar("S", bound=Frame)


@dataclass(eq=False)  # as immutable as if frozen, which would cost three times as much to make
class Stored(Generic[S]):
    """What the store holds of one key, as loaded or last saved; the default is nothing. Not to be changed.

    `offsets` are the highest ones that the state has seen, `epochs` those in which they were written. `writer` marks the write
    that left it. `reason` says why there is no `state` although the store holds something: it is damaged or of another major
    version, so the key starts cold. `written_bytes` are the bytes of state that the last save sent. `expires_at` is when the
    store deletes it, by this process's `time.monotonic`, None for never; the store may be a little later.
    """

    state: S | None = None
    version: int = 0
    offsets: Mapping[TopicPartition, int] = field(default_factory=dict)
    fields: Mapping[str, bytes] = field(default_factory=dict)
    writer: bytes = b""
    reason: str | None = None
    written_bytes: int = 0
    expires_at: float | None = None
    epochs: Mapping[TopicPartition, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the state as it is stored."""
        return sum(map(len, self.fields.values()))


@dataclass(eq=False)  # not frozen, for the same reason
class Write(Generic[S]):
    """One state to save on top of `stored`, with the offsets that it has newly seen; not to be changed.

    `epochs` are those of this worker's assignments, at least of every partition in `offsets`; a tick's write has no new
    offsets but the epochs of the partitions that feed the key. For an unchanged state pass ``stored.state``;
    None leaves the key with offsets and no state. After `ttl_s` seconds the store deletes all that it holds of the key,
    unless another write came; None is never. `since` are the epochs since which partitions have their present log: a stored
    offset that was written in an earlier one does not stand against the write.
    """

    key: str
    stored: Stored[S]
    state: S | None
    offsets: Mapping[TopicPartition, int]
    epochs: Mapping[TopicPartition, int]
    ttl_s: float | None = None
    since: Mapping[TopicPartition, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unfenced := [str(partition) for partition in self.offsets if partition not in self.epochs]:
            raise ValueError(must_be("epochs", "one for each partition in offsets", Shown(f"none for {', '.join(unfenced)}")))


@dataclass(eq=False)
class Delta(Generic[S]):
    """A write ready to send, and what is stored once it has succeeded; not to be changed."""

    write: Write[S]
    arguments: list[str | bytes]
    saved: Stored[S]


def delta(write: Write[S], found: Stored[S], whole: bool = False) -> Delta[S]:
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
        str(0 if write.ttl_s is None else max(1, round(write.ttl_s * 1000))),
        *deleted,
    ]
    for partition, epoch in write.epochs.items():
        arguments += (f"epoch:{partition}", str(epoch), f"offset:{partition}", str(write.since.get(partition, 0)))
    for partition, offset in offsets.items():
        arguments += (f"offset:{partition}", str(offset))
    for name, value in changed.items():
        arguments += (name, value)
    expires_at = None if write.ttl_s is None else time.monotonic() + write.ttl_s
    written = sum(map(len, changed.values()))
    saved = Stored(write.state, version, offsets, fields, writer, written_bytes=written, expires_at=expires_at)
    return Delta(write, arguments, saved)


def _mark(
    epochs: Mapping[TopicPartition, int],
    found: Stored[S],
    changed: Mapping[str, bytes],
    deleted: Sequence[str],
    offsets: Mapping[TopicPartition, int],
) -> bytes:
    """``<epoch>:<digest>``: the same for one write tried again, another for any other write.

    The digest chains to the mark that is found, so that equal marks mean equal histories even after a loss of data, when
    versions repeat. Epochs are given out once, so a worker knows its own writes by the epoch.
    """
    said = [f"{found.version}:{deleted}".encode(), found.writer]
    for name, value in changed.items():
        said += f"{name}:{len(value)}:".encode(), value
    said += [f"{partition}:{offset},".encode() for partition, offset in offsets.items()]
    digest = hashlib.blake2b(b"".join(said), digest_size=8)
    return f"{max(epochs.values(), default='')}:{digest.hexdigest()}".encode()
