"""Dashboards on a real Prometheus: while a demo runs no panel of the overview and of its module is empty, no alert fires."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.stream.demos import STREAMING, Demo, needs_torch, streaming_demo
from tests.stream.prometheus import scraping
from tests.unit.deploy.queries import filled, queries

FILLED_S = 300.0  # for the first placement plan, on a busy machine

pytestmark = [pytest.mark.slow, needs_torch]


def addresses_of(demo: Demo) -> list[str]:
    """Where the demo's agents have their pages."""
    commands = [child.cmdline() for child in demo.children]
    return [f"127.0.0.1:{words[words.index('--port') + 1]}" for words in commands if "run" in words and "--port" in words]


@pytest.mark.parametrize(("module", "least", "streaming"), [("routing", 40, STREAMING), ("nvlink", 40, "modelled: exchange")])
def test_no_panel_is_empty_and_no_alert_fires_while_the_demo_runs(
    module: str, least: int, streaming: str, tmp_path: Path
) -> None:
    wanted = {str(query): filled(query) for name in ("qstream", module) for query in queries(name)}
    assert len(wanted) > least
    with streaming_demo(600, module, streaming=streaming) as demo, scraping(addresses_of(demo), tmp_path) as prometheus:
        until = time.monotonic() + FILLED_S
        while empty := [name for name, expression in wanted.items() if not prometheus.query(expression)]:
            assert time.monotonic() < until, empty
            assert demo.process.poll() is None, "".join(demo.output)
            time.sleep(1)
        rules = prometheus.rules()
    assert len(rules) > 20
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] == "err"] == []
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []
