"""Dashboards: one a module and an overview, with queries of metrics that exist, and every metric on a panel."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

from agents.names import files
from agents.registry import find_agent
from docs.blocks import room
from docs.dashboards import OVERVIEW, agents_of
from tests.unit.deploy.folder import COMPOSE, DASHBOARDS, DEPLOY, load
from tests.unit.deploy.queries import (
    INFO_LABELS,
    SCRAPE_LABELS,
    SUFFIXES,
    Query,
    all_queries,
    dashboard,
    dashboard_names,
    declared_labels,
    filled,
    labels_in,
    metrics_in,
    needs_promtool,
    panels,
    promtool,
    queries,
    series_names,
    variables,
)

QUERIES = all_queries()


def test_every_module_has_a_dashboard_of_its_own() -> None:
    assert {OVERVIEW, *(room(find_agent(name)) for name in files())} <= set(dashboard_names())


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_metric_that_a_query_names_exists(query: Query) -> None:
    assert metrics_in(query.expr) <= series_names()


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_label_that_a_query_names_is_one_of_its_metrics(query: Query) -> None:
    declared = declared_labels()
    known = set().union(*(declared.get(metric, set()) for metric in metrics_in(query.expr)))
    assert labels_in(query.expr) <= known | SCRAPE_LABELS | INFO_LABELS


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_legend_shows_labels_that_its_query_keeps(query: Query) -> None:
    shown = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
    kept = {name for names in re.findall(r"\bby \(([^)]*)\)", query.expr) for name in re.findall(r"\w+", names)}
    assert shown <= kept


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_query_selects_by_the_variables_whose_label_its_metrics_have(query: Query) -> None:
    declared, names = declared_labels(), {*variables(query.dashboard), "agent"}
    for metric, selector in re.findall(r"\b(qstream_\w+)(\{[^}]*\})?", query.expr):
        chosen = set(re.findall(r"(\w+)=~\"\$\1\"", selector))
        assert chosen == names & declared.get(metric, set()), metric


@pytest.mark.parametrize("name", dashboard_names())
def test_every_metric_of_a_module_is_on_its_dashboard(name: str) -> None:
    """On the overview are those of all agents that no other dashboard has."""
    known = [other for other in dashboard_names() if other != OVERVIEW]
    prefixes = tuple(f"qstream_{each}_" for each in (agents_of(name) or [name]))
    others = tuple(f"qstream_{each}_" for other in known for each in (agents_of(other) or [other]))
    mine = [
        family
        for family in REGISTRY.collect()
        if family.name.startswith("qstream_")
        and (not family.name.startswith(others) if name == OVERVIEW else family.name.startswith(prefixes))
    ]
    shown = set().union(*(metrics_in(query.expr) for query in queries(name)))
    assert [family.name for family in mine if not {family.name + suffix for suffix in SUFFIXES[family.type]} & shown] == []


@pytest.mark.parametrize("name", dashboard_names())
def test_variables_are_used_and_come_from_metrics_of_the_dashboard(name: str) -> None:
    found = variables(name)
    used = {each for query in queries(name) for each in re.findall(r"\$(?!__)(\w+)", query.expr)}
    assert used == found.keys()
    shown = set().union(*(metrics_in(query.expr) for query in queries(name)))
    for label, entry in found.items():
        assert entry["definition"] == entry["query"]["query"]
        (metric,) = metrics_in(entry["definition"])
        assert label in declared_labels()[metric]
        assert metric in shown | {"qstream_ready"}


@pytest.mark.parametrize("name", sorted({room(find_agent(agent)) for agent in files()}))
def test_all_agents_of_a_module_s_dashboard_are_its_own(name: str) -> None:
    assert sorted(variables(name)["agent"]["allValue"].split("|")) == sorted(agents_of(name))


@pytest.mark.parametrize("name", dashboard_names())
def test_panels_have_own_ids_and_titles_and_do_not_overlap(name: str) -> None:
    found = dashboard(name)["panels"]
    for field in ("id", "title"):
        assert len({panel[field] for panel in found}) == len(found)
    cells = [
        (x, y)
        for panel in found
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24  # columns of Grafana's grid


def test_dashboards_have_addresses_of_their_own() -> None:
    assert len({dashboard(name)["uid"] for name in dashboard_names()}) == len(dashboard_names())


@pytest.mark.parametrize("name", dashboard_names())
def test_dashboards_read_the_provisioned_data_source(name: str) -> None:
    uid = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]["uid"]
    assert {panel["datasource"]["uid"] for panel in panels(name)} == {uid}
    assert {target["datasource"]["uid"] for panel in panels(name) for target in panel["targets"]} == {uid}


def test_grafana_finds_dashboards_where_compose_mounts_them() -> None:
    service = load(COMPOSE)["services"]["grafana"]
    folder = load(DEPLOY / "grafana/provisioning/dashboards/qstream.yaml")["providers"][0]["options"]["path"]
    assert f"../grafana/dashboards:{folder}:ro" in service["volumes"]
    home = Path(service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home == Path(folder) / f"{OVERVIEW}.json"
    assert (DASHBOARDS / home.name).exists()


@needs_promtool
def test_promtool_parses_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"query:{n}", "expr": filled(query)} for n, query in enumerate(QUERIES)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")
