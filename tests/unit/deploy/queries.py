"""Queries: those of dashboards and alerts, and which metrics and labels there are for them to name."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from agents.names import files
from agents.registry import find_agent
from tests.unit.deploy.folder import DASHBOARDS, PROMETHEUS, load

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}
SCRAPE_LABELS = {"instance", "job"}
INFO_LABELS = {"version", "python"}
METRICS = ["qstream.metrics", "qstream.learn.metrics", *sorted({f"{find_agent(name).package}.metrics" for name in files()})]
COLLECTORS = [
    value
    for name in METRICS
    if importlib.util.find_spec(name) is not None
    for value in vars(importlib.import_module(name)).values()
    if isinstance(value, MetricWrapperBase)
]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


class Query(NamedTuple):
    """A query of a dashboard, and where it stands."""

    dashboard: str
    panel: str
    ref: str
    legend: str
    expr: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel} {self.ref}"


def promtool(*arguments: str | Path, stdin: bytes = b"") -> str:
    """Output of promtool; fails the test with it unless the exit status is 0."""
    done = subprocess.run(["promtool", *map(str, arguments)], input=stdin, capture_output=True, check=False)
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output
    return output


def dashboard(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DASHBOARDS / f"{name}.json").read_text())
    return found


def dashboard_names() -> list[str]:
    return sorted(path.stem for path in DASHBOARDS.glob("*.json"))


def panels(name: str) -> list[dict[str, Any]]:
    """The panels of a dashboard, without the titles of rows."""
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


def queries(name: str) -> list[Query]:
    return [
        Query(name, panel["title"], target["refId"], target["legendFormat"], target["expr"])
        for panel in panels(name)
        for target in panel["targets"]
    ]


def all_queries() -> list[Query]:
    return [query for name in dashboard_names() for query in queries(name)]


def variables(name: str) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in dashboard(name)["templating"]["list"]}


def filled(query: Query, interval: str = "1m") -> str:
    """The query as Grafana sends it where all values of its variables are shown."""
    text = query.expr.replace("$__rate_interval", interval)
    for name, entry in variables(query.dashboard).items():
        text = text.replace(f"${name}", entry["allValue"])
    return text


def alert_rules() -> dict[str, list[dict[str, Any]]]:
    """The alerts of each group."""
    return {group["name"]: group["rules"] for group in load(PROMETHEUS / "alerts.yml")["groups"]}


def alert_queries() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for rules in alert_rules().values() for rule in rules}


def series_names() -> set[str]:
    families = [family for family in REGISTRY.collect() if family.name.startswith("qstream_")]
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


def declared_labels() -> dict[str, set[str]]:
    """Labels of every series of qstream."""
    return {
        family.name + suffix: {*collector._labelnames, *({"le"} if family.type == "histogram" else ()), *SCRAPE_LABELS}
        for collector in COLLECTORS
        for family in collector.describe()
        for suffix in SUFFIXES[family.type]
    }


def labels_in(expression: str) -> set[str]:
    """Labels that a query groups by, joins on or selects by."""
    lists = re.findall(r"\b(?:by|on|without|ignoring|group_left|group_right) *\(([^)]*)\)", expression)
    lists += [re.sub(r"\"[^\"]*\"", "", selector) for selector in re.findall(r"\{([^}]*)\}", expression)]
    return {name for names in lists for name in re.findall(r"[a-z_]+", names)}


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bqstream_\w+", expression))
