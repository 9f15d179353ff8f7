"""A real Prometheus that scrapes workers every second, with the rules of deploy/, to be asked by its own interface."""

from __future__ import annotations

import http.client
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from qstream.embedded.child import end_child, free_ports, log_end, start_child

READY_S = 120.0  # for a busy machine
RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"


class Prometheus:
    """The server at a port of this machine; its answers as they come."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, **terms: str) -> Any:
        """The data of an answer; `OSError` if the server does not listen."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", f"{path}?{urlencode(terms)}")
            found = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression, now."""
        found: list[dict[str, Any]] = self.get("/api/v1/query", query=expression)["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """The alerts with their states."""
        return [rule for group in self.get("/api/v1/rules")["groups"] for rule in group["rules"]]


@contextmanager
def scraping(addresses: Sequence[str], folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes these addresses; without one installed the test is skipped."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus, which comes with promtool, is not installed")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "5s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "qstream", "static_configs": [{"targets": list(addresses)}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    server, log = Prometheus(free_ports(1)[0]), folder / "prometheus.log"
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    child = start_child([*command, f"--web.listen-address=127.0.0.1:{server.port}"], log, folder)
    try:
        until = time.monotonic() + READY_S
        while True:
            assert child.poll() is None, "\n".join(log_end(log, 20))
            try:
                server.query("up")
                break
            except (OSError, http.client.HTTPException, ValueError):
                assert time.monotonic() < until, "\n".join(log_end(log, 20))
                time.sleep(0.1)
        yield server
    finally:
        end_child(child, 5.0)
