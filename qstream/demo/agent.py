"""An agent as a process of its own, started as an operator starts it."""

from __future__ import annotations

import http.client
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from qstream.embedded.child import end_child, free_ports, log_end, start_child

GRACE_S = 12.0  # more than the agent's own drain_s
PAGE_TIMEOUT_S = 0.5


class AgentProcess:
    """``qstream run AGENT`` on the given servers; ends with this object, and with this process however that dies.

    Parameters
    ----------
    agent
        Name in the registry.
    folder
        Working directory; its log is ``<agent>.log`` there.
    kafka
        Further librdkafka properties.
    options
        Options of the module.

    Raises
    ------
    OSError
        The process cannot be started.
    """

    def __init__(
        self,
        agent: str,
        folder: Path,
        bootstrap_servers: str,
        redis_url: str,
        kafka: Mapping[str, str],
        options: Mapping[str, object],
    ) -> None:
        self.name = agent
        self.log = folder / f"{agent}.log"
        self._newest = "starting"
        self.port = free_ports(1)[0]
        # No wait for further records: a scene publishes at once what belongs together.
        command = [shutil.which("env") or "/usr/bin/env", f"QSTREAM_KAFKA={json.dumps(dict(kafka))}", "QSTREAM_BATCH_WINDOW_MS=0"]
        command += [sys.executable, "-m", "qstream.cli", "run", agent, "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--bootstrap-servers", bootstrap_servers, "--redis", redis_url]
        for name, value in options.items():
            command += ["--set", f"{name}={value}"]
        self._command, self._folder = command, folder
        self._child = start_child(command, self.log, folder)

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def state(self) -> str:
        """In one word: ended, starting, compiling, joining, paused, degraded or ready."""
        if not self.alive:
            return "ended"
        page = self._ready_page()
        if page is not None:  # a busy agent may be late with its page: then it is what it was
            self._newest = _state_of(page)
        return self._newest

    def log_tail(self, lines: int = 20) -> str:
        """The end of what it wrote."""
        return "\n".join(log_end(self.log, lines))

    def kill_and_replace(self) -> None:
        """SIGKILL, as a crash of the machine would, and another process in its place."""
        end_child(self._child)
        self._newest = "starting"
        self._child = start_child(self._command, self.log, self._folder)

    def close(self) -> None:
        """SIGTERM, and SIGKILL if it does not end in time."""
        end_child(self._child, GRACE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready_page(self) -> dict[str, Any] | None:
        # Not urllib: it would ask a proxy for the loopback address.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PAGE_TIMEOUT_S)
        try:
            connection.request("GET", "/readyz")
            page: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return page


def _state_of(page: Mapping[str, Any]) -> str:
    if not page["warm"]:
        return "compiling"
    if not page["joined"]:
        return "joining"
    return "paused" if page["paused"] else "degraded" if page["degraded"] else "ready"
