"""Grafana's dashboards, one for each file of `deploy/grafana/panels`: the overview, a module, or what modules share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from agents.names import files
from agents.registry import find_agent
from docs.blocks import room
from schemas.plan import Plan

PANELS: Final = "deploy/grafana/panels"
DASHBOARDS: Final = "deploy/grafana/dashboards"
OVERVIEW: Final = "qstream"
SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
COLUMNS: Final = 24  # of Grafana's grid
IN_A_ROW: Final = {"stat": 4, "timeseries": 3}
HEIGHTS: Final = {"row": 1, "stat": 4, "timeseries": 8}

Spec = Mapping[str, Any]
Panel = dict[str, Any]


def dashboards(root: Path) -> dict[str, str]:
    """The text of each dashboard by its path below `root`."""
    modules = {room(find_agent(name)) for name in files()}
    specs = {name: {"title": name.capitalize(), "rows": []} for name in modules}
    specs |= {path.stem: yaml.safe_load(path.read_text()) for path in (root / PANELS).glob("*.yaml")}
    return {f"{DASHBOARDS}/{name}.json": json.dumps(_dashboard(name, specs), indent=2) + "\n" for name in sorted(specs)}


def agents_of(name: str) -> list[str]:
    """The agents of the module of that name; none for the overview, and for what modules share."""
    return [agent for agent in files() if room(find_agent(agent)) == name]


def _dashboard(name: str, specs: Mapping[str, Spec]) -> dict[str, Any]:
    spec, agents = specs[name], agents_of(name)
    rows = [*spec["rows"], *(row for row in specs[OVERVIEW]["rows"] if _belongs(row, agents))]
    panels = list(_placed(rows))
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    variables = [_agent_variable(agents)] if any("$agent" in query for query in queries) else []
    variables += [
        _variable(label, f"label_values({metric}, {label})", ".*") for label, metric in spec.get("variable", {}).items()
    ]
    return {
        "uid": name if name == OVERVIEW else f"{OVERVIEW}-{name}",
        "title": spec["title"] if name == OVERVIEW else f"{OVERVIEW}: {spec['title']}",
        "tags": [OVERVIEW],
        "schemaVersion": 39,
        "version": 3,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [{"type": "dashboards", "title": "Dashboards", "tags": [OVERVIEW], "asDropdown": True, "keepTime": True}],
        "templating": {"list": variables},
        "panels": panels,
    }


def _belongs(row: Spec, agents: Sequence[str]) -> bool:
    """Whether a row of the overview is on the dashboard of a module with these agents as well."""
    topics = [topic for name in agents for topic in find_agent(name).topics]
    plans = any(topic.role == "plan" and issubclass(topic.frame, Plan) for topic in topics)
    return bool(agents) and row.get("on_modules") in (["all", "plans"] if plans else ["all"])


def _placed(rows: Sequence[Spec]) -> Iterator[Panel]:
    """Rows and their panels from left to right and top to bottom, numbered."""
    number = y = 0
    for row in rows:
        panels = [{"type": "row", "title": row["row"], "collapsed": False, "panels": []}, *map(_panel, row["panels"])]
        x = 0
        for panel in panels:
            kind = panel["type"]
            width, height = COLUMNS // IN_A_ROW.get(kind, 1), HEIGHTS[kind]
            number += 1
            yield {"id": number, **panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}}
            x += width
            if x == COLUMNS:
                x, y = 0, y + height
        y += height if x else 0


def _panel(spec: Spec) -> Panel:
    """A number for each line where the panel has `states`, else lines over time."""
    defaults: dict[str, Any] = {"unit": spec.get("unit", "none")}
    if "states" in spec:
        kind, when = "stat", {"range": False, "instant": True}
        options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name", "graphMode": "none"}
        options["colorMode"] = "background" if spec["states"] else "none"
        words = {str(value): {"text": text, "color": color} for value, (text, color) in spec["states"].items()}
        defaults |= {"mappings": [{"type": "value", "options": words}]} if words else {}
    else:
        kind, when = "timeseries", {"range": True}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
        defaults |= {} if spec.get("below_0") else {"min": 0}
        defaults |= {"max": spec["max"]} if "max" in spec else {}
        custom: dict[str, Any] = {"lineWidth": 2, "fillOpacity": 8, "showPoints": "never"}
        if spec.get("stacked"):
            custom |= {"lineWidth": 1, "fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
        defaults["custom"] = custom
    targets = [
        {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend, **when}
        for at, (legend, query) in enumerate(spec["queries"].items())
    ]
    return {
        "type": kind,
        "title": spec["title"],
        "description": spec["shows"],
        "datasource": SOURCE,
        "targets": targets,
        "options": options,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }


def _agent_variable(agents: Sequence[str]) -> Panel:
    """The agents to be shown: of a module only its own, of other dashboards all."""
    own = "|".join(agents)
    metric = f'qstream_ready{{agent=~"{own}"}}' if own else "qstream_ready"
    return _variable("agent", f"label_values({metric}, agent)", own or ".*")


def _variable(name: str, query: str, everything: str) -> Panel:
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": everything,
        "current": {"text": ["All"], "value": ["$__all"]},
    }
