"""Messages between a runtime and the process of a device, each read and written before a given moment."""

from __future__ import annotations

import math
import pickle
import socket
import struct
import time
from typing import Any, Final

# How long the rest of a message may take after its first byte, if its time is up by then.
GRACE_S: Final = 0.01
_LENGTH = struct.Struct("<Q")


class ChannelClosed(Exception):
    """The other side has ended, or stopped within a message: the channel is of no more use."""


def send(channel: socket.socket, message: object, due: float = math.inf) -> None:
    """Write one message; `ChannelClosed` if no process will read it, `TimeoutError` if it was not whole at `due`.

    `due` is a moment of ``time.monotonic``. After a `TimeoutError` the channel is of no more use.
    """
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    try:
        _limit(channel, due)
        channel.sendall(_LENGTH.pack(len(body)) + body)
    except TimeoutError:
        raise
    except OSError as exc:
        raise ChannelClosed from exc


def receive(channel: socket.socket, due: float = math.inf) -> Any:
    """Read one message; `TimeoutError` if none has begun at `due`, after which the channel can be read again.

    The two sides trust each other: a message is a pickle.
    """
    try:
        _limit(channel, due)
        if not channel.recv(1, socket.MSG_PEEK):
            raise ChannelClosed
    except TimeoutError:
        raise
    except OSError as exc:
        raise ChannelClosed from exc
    end = max(due, time.monotonic() + GRACE_S)
    try:
        (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size, end))
        return pickle.loads(_exactly(channel, length, end))
    except OSError as exc:
        raise ChannelClosed from exc


def _exactly(channel: socket.socket, count: int, due: float) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        _limit(channel, due)
        part = channel.recv(min(count - len(parts), 1 << 20))
        if not part:
            raise ChannelClosed
        parts += part
    return bytes(parts)


def _limit(channel: socket.socket, due: float) -> None:
    if due == math.inf:
        channel.settimeout(None)
        return
    left = due - time.monotonic()
    if left <= 0:
        raise TimeoutError
    channel.settimeout(left)
