"""Fetch: one HTTP request to an exporter or a daemon of the node, at a URL or behind a unix socket."""

from __future__ import annotations

import http.client
import socket
from typing import Final
from urllib.parse import urlencode, urlsplit

from qstream.errors import ConfigError, QstreamError
from schemas.wording import must_be

MOST_BYTES: Final = 16 << 20
TIMEOUT_S: Final = 3.0
SOCKET: Final = "unix://"


class NoAnswer(QstreamError):
    """The server does not answer in time, or with an error; `status` is that of HTTP, 0 without one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def checked_place(text: str) -> str:
    """The place of a server; `ConfigError` unless it is an HTTP URL, or ``unix://`` and the path of a socket."""
    parts = urlsplit(text)
    if not (parts.scheme in ("http", "https") and parts.hostname) and not (text.startswith(SOCKET) and parts.path):
        raise ConfigError(must_be("URL", "such as http://localhost:9400/metrics or unix:///run/zeusd/zeusd.sock", text))
    return text


def fetch(place: str, path: str = "", *, method: str = "GET", token: str = "", **query: object) -> bytes:
    """The body of the answer.

    Parameters
    ----------
    place
        A `checked_place`.
    path
        Behind the place's own path.
    token
        Bearer token; empty for none.
    query
        Parameters of the URL.

    Raises
    ------
    NoAnswer
        No connection, no answer in time, one that is too long, or a status other than 200.
    """
    parts = urlsplit(place)
    own_path = "" if place.startswith(SOCKET) else parts.path.rstrip("/") if path else parts.path or "/"
    target = own_path + path + (f"?{urlencode(query)}" if query else "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection = _connection(place)
    try:
        connection.request(method, target, headers=headers)
        response = connection.getresponse()
        body = response.read(MOST_BYTES + 1)
    except (OSError, http.client.HTTPException) as exc:
        raise NoAnswer(f"{place} does not answer: {exc or type(exc).__name__}") from exc
    finally:
        connection.close()
    if response.status != 200:
        said = body[:200].decode(errors="replace").strip()
        raise NoAnswer(f"{place}{path} answers {response.status} {said or response.reason}", response.status)
    if len(body) > MOST_BYTES:
        raise NoAnswer(f"{place} answers with more than {MOST_BYTES >> 20} MiB")
    return body


def _connection(place: str) -> http.client.HTTPConnection:
    parts = urlsplit(place)
    if place.startswith(SOCKET):
        return _SocketConnection(parts.path)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
