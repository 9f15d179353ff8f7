"""Messages between a runtime and the process of a device, each read and written before a given moment."""

from __future__ import annotations

import math
import pickle
import socket
import struct
import time
from typing import Any

_LENGTH = struct.Struct("<Q")


class ChannelClosed(Exception):
    """The other side has ended."""


def send(channel: socket.socket, message: object, due: float = math.inf) -> None:
    """Write one message; `TimeoutError` at `due` (of `time.monotonic`), `ChannelClosed` if nobody will read it."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    try:
        _limit(channel, due)
        channel.sendall(_LENGTH.pack(len(body)) + body)
    except TimeoutError:
        raise
    except OSError as exc:
        raise ChannelClosed from exc


def receive(channel: socket.socket, due: float = math.inf) -> Any:
    """Read one message; `TimeoutError` at `due`, `ChannelClosed` if the other side ended before it was whole.

    After a `TimeoutError` before the first byte the channel can be read again; the two sides trust each other.
    """
    try:
        first = _exactly(channel, 1, due)
        rest = _exactly(channel, _LENGTH.size - 1, due)
        return pickle.loads(_exactly(channel, _LENGTH.unpack(first + rest)[0], due))
    except TimeoutError:
        raise
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
