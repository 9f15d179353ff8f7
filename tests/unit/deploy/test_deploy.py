"""deploy/: files parse, queries name metrics that exist, and alerts fire when they should."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from agents.names import files
from agents.registry import find_agent
from tests.unit.deploy.folder import COMPOSE, DEPLOY, PROMETHEUS, load

DASHBOARD = DEPLOY / "grafana" / "dashboards" / "qstream.json"
YAML_FILES = sorted(path for path in DEPLOY.rglob("*") if path.suffix in {".yaml", ".yml"})
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}
SCRAPE_LABELS = {"instance", "job"}
INFO_LABELS = {"version", "python"}
# Each has few values, whatever is streamed.
BOUNDED = {"agent", "topic", "stage", "error", "kind", "model", "outcome", "solver", "reason"}
BOUNDED |= {"learner", "arm", "verdict", "use", "domain", "state", "result", "horizon"}
BOUNDED |= {"role", "promise", "operation", "option", "correction"}
BOUNDED |= {"study", "source", "kernel", "status"}
METRICS = ["qstream.metrics", "qstream.learn.metrics", *sorted({f"{find_agent(name).package}.metrics" for name in files()})]
COLLECTORS = [
    value
    for name in METRICS
    if importlib.util.find_spec(name) is not None
    for value in vars(importlib.import_module(name)).values()
    if isinstance(value, MetricWrapperBase)
]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str | Path, stdin: bytes = b"") -> str:
    """Output of promtool; fails the test with it unless the exit status is 0."""
    done = subprocess.run(["promtool", *map(str, arguments)], input=stdin, capture_output=True, check=False)
    output = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output
    return output


def walk(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield panel
        yield from walk(panel.get("panels", []))


def dashboard_queries() -> dict[str, str]:
    panels = walk(json.loads(DASHBOARD.read_text())["panels"])
    return {f"{panel['title']} {t['refId']}": t["expr"] for panel in panels for t in panel.get("targets", [])}


def alert_queries() -> dict[str, str]:
    rules = [rule for group in load(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]
    return {rule["alert"]: rule["expr"] for rule in rules}


def series_names() -> set[str]:
    families = [family for family in REGISTRY.collect() if family.name.startswith("qstream_")]
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


def alert_names() -> set[str]:
    return set(alert_queries())


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


@pytest.fixture
def touched() -> Iterator[CollectorRegistry]:
    """The metrics of qstream alone, each with one labelled sample, taken away afterwards."""
    registry = CollectorRegistry()
    labelled = [(collector, ["example"] * len(collector._labelnames)) for collector in COLLECTORS if collector._labelnames]
    for collector, values in labelled:
        collector.labels(*values)
    for collector in COLLECTORS:
        registry.register(collector)
    yield registry
    for collector, values in labelled:
        collector.remove(*values)


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_yaml_parses_to_a_mapping(path: Path) -> None:
    assert isinstance(load(path), Mapping)


@pytest.mark.parametrize(("name", "query"), [*dashboard_queries().items(), *alert_queries().items()])
def test_every_metric_that_a_query_names_exists(name: str, query: str) -> None:
    assert metrics_in(query) <= series_names(), name


@pytest.mark.parametrize(("name", "query"), [*dashboard_queries().items(), *alert_queries().items()])
def test_every_label_that_a_query_names_is_one_of_its_metrics(name: str, query: str) -> None:
    declared = declared_labels()
    known = set().union(*(declared.get(metric, set()) for metric in metrics_in(query)))
    assert labels_in(query) <= known | SCRAPE_LABELS | INFO_LABELS, name


def test_every_legend_shows_labels_that_its_query_keeps() -> None:
    for panel in walk(json.loads(DASHBOARD.read_text())["panels"]):
        for target in panel.get("targets", []):
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = {name for names in re.findall(r"\bby \(([^)]*)\)", target["expr"]) for name in re.findall(r"\w+", names)}
            assert shown <= kept, panel["title"]


@pytest.mark.parametrize("module", [*files(), "learn"])
def test_every_metric_of_a_module_is_on_the_dashboard(module: str) -> None:
    shown = set().union(*map(metrics_in, dashboard_queries().values()))
    families = [family for family in REGISTRY.collect() if family.name.startswith(f"qstream_{module}_")]
    assert [family.name for family in families if not {family.name + suffix for suffix in SUFFIXES[family.type]} & shown] == []


def test_metrics_have_bounded_labels_only() -> None:
    for name, labels in declared_labels().items():
        assert labels <= BOUNDED | SCRAPE_LABELS | {"le"}, name


def test_every_alert_is_explained_in_the_readme_and_every_panel_named_there_exists() -> None:
    readme = (DEPLOY / "README.md").read_text()
    assert set(re.findall(r"^\| (Qstream\w+) \|", readme, re.MULTILINE)) == alert_names()
    titles = {panel["title"] for panel in walk(json.loads(DASHBOARD.read_text())["panels"])}
    assert set(re.findall(r"\*\*([A-Z][\w -]+)\*\*", readme)) <= titles


def test_a_metric_that_does_not_exist_is_noticed() -> None:
    assert not metrics_in("rate(qstream_records_consumed[5m])") <= series_names()  # the series ends in _total
    assert not metrics_in("qstream_end_to_end_seconds") <= series_names()  # a histogram has no plain series


def test_dashboard_variables_are_defined_and_come_from_existing_metrics() -> None:
    variables = {entry["name"]: entry for entry in json.loads(DASHBOARD.read_text())["templating"]["list"]}
    used = {name for query in dashboard_queries().values() for name in re.findall(r"\$(?!__)(\w+)", query)}
    assert used <= variables.keys()
    for entry in variables.values():
        assert metrics_in(entry["definition"]) <= series_names()
        assert entry["definition"] == entry["query"]["query"]


def test_dashboard_panels_have_own_ids_and_do_not_overlap() -> None:
    panels = list(walk(json.loads(DASHBOARD.read_text())["panels"]))
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24  # columns of Grafana's grid


def test_dashboard_reads_the_provisioned_data_source() -> None:
    uid = load(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]["uid"]
    panels = [panel for panel in walk(json.loads(DASHBOARD.read_text())["panels"]) if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {uid}
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {uid}


def test_grafana_finds_dashboards_where_compose_mounts_them() -> None:
    service = load(COMPOSE)["services"]["grafana"]
    folder = load(DEPLOY / "grafana/provisioning/dashboards/qstream.yaml")["providers"][0]["options"]["path"]
    assert f"../grafana/dashboards:{folder}:ro" in service["volumes"]
    assert service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/{DASHBOARD.name}"


@needs_promtool
def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    promtool("check", "config", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", PROMETHEUS / "alerts.yml")


@needs_promtool
def test_promtool_parses_every_dashboard_query(tmp_path: Path) -> None:
    def filled(query: str) -> str:
        return re.sub(r"\$(?!__)\w+", ".*", query.replace("$__rate_interval", "1m"))

    queries = [filled(query) for query in dashboard_queries().values()]
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")


@needs_promtool
def test_promtool_finds_no_fault_in_the_exposition(touched: CollectorRegistry) -> None:
    exposition = generate_latest(touched)
    assert len(metrics_in(exposition.decode())) > len(list(touched.collect()))
    assert not promtool("check", "metrics", stdin=exposition)


SCRAPED = {'up{job="qstream"}': "1x30"}
ALERT_CASES = [
    pytest.param("QstreamLagHigh", {'qstream_consumer_lag_records{agent="r", topic="t"}': "1001x30"}, "4m", 0, id="lag-too-soon"),
    pytest.param("QstreamLagHigh", {'qstream_consumer_lag_records{agent="r", topic="t"}': "1001x30"}, "5m", 1, id="lag"),
    pytest.param("QstreamLagHigh", {'qstream_consumer_lag_records{agent="r", topic="t"}': "1000x30"}, "20m", 0, id="lag-allowed"),
    pytest.param("QstreamDegraded", {'qstream_degraded{agent="r"}': "1x30"}, "1m", 0, id="degraded-too-soon"),
    pytest.param("QstreamDegraded", {'qstream_degraded{agent="r"}': "1x30"}, "2m", 1, id="degraded"),
    pytest.param("QstreamNotReady", {'qstream_ready{agent="r"}': "0x30"}, "2m", 1, id="not-ready"),
    pytest.param("QstreamNotReady", {'qstream_ready{agent="r"}': "1x30"}, "20m", 0, id="ready"),
    pytest.param("QstreamAgentDown", {'up{job="qstream"}': "0x30"}, "1m", 1, id="scrape-fails"),
    pytest.param("QstreamAgentDown", {'up{job="prometheus"}': "1x30"}, "1m", 1, id="no-agent-known"),
    pytest.param("QstreamAgentDown", {}, "20m", 0, id="agent-up"),
    pytest.param(
        "QstreamNotDelivered",
        {'qstream_batch_retries_total{agent="r", error="NotAllowed"}': "0+9x30"},
        "12m",
        1,
        id="not-allowed",
    ),
    pytest.param(
        "QstreamNotDelivered", {'qstream_batch_retries_total{agent="r", error="NotAllowed"}': "0 9x30"}, "12m", 0, id="delivered"
    ),
    pytest.param("QstreamDeadLetters", {"DEAD": "7x30"}, "20m", 0, id="old-dead-letters"),
    pytest.param("QstreamDeadLetters", {"DEAD": "0x14 1x15"}, "16m", 1, id="one-more-dead-letter"),
    pytest.param("QstreamDeadLetters", {"DEAD": "_x14 1x15"}, "16m", 1, id="first-dead-letter-of-its-kind"),
    pytest.param("QstreamDeadLetters", {"DEAD": "_x14 1x15"}, "29m", 0, id="first-dead-letter-is-past"),
    pytest.param("QstreamStateLimit", {"LIMITED": "7x30"}, "20m", 0, id="limited-long-ago"),
    pytest.param("QstreamStateLimit", {"LIMITED": "_x14 1x15"}, "16m", 1, id="first-state-beyond-a-limit"),
    pytest.param("QstreamStateLimit", {"DEAD": "_x14 1x15"}, "16m", 0, id="another-dead-letter"),
    pytest.param("QstreamMetricLabelsFull", {'qstream_label_values_merged_total{kind="model"}': "0+2x30"}, "11m", 1, id="full"),
    pytest.param("QstreamWrongClock", {"CLOCKS": "0+3x30"}, "11m", 1, id="wrong-clock"),
    pytest.param("QstreamWrongClock", {"CLOCKS": "3x30"}, "20m", 0, id="wrong-clock-is-past"),
    pytest.param("QstreamTopicCreatedAgain", {"RESTARTED": "2x30"}, "20m", 0, id="created-again-long-ago"),
    pytest.param("QstreamTopicCreatedAgain", {"RESTARTED": "_x14 2x15"}, "16m", 1, id="created-again"),
    pytest.param("QstreamPlanningFailed", {"FAILED": "7x30"}, "20m", 0, id="old-failures-of-planning"),
    pytest.param("QstreamPlanningFailed", {"FAILED": "0x14 1x15"}, "16m", 1, id="one-more-failure-of-planning"),
    pytest.param("QstreamPlanningFailed", {"FAILED": "_x14 1x15"}, "16m", 1, id="first-failure-of-planning"),
    pytest.param("QstreamPlanningFailed", {"PLANS": "0+10x30"}, "20m", 0, id="plans-are-published"),
    pytest.param("QstreamTensorBoundViolated", {"VIOLATED": "0x30"}, "20m", 0, id="bounds-kept"),
    pytest.param("QstreamTensorBoundViolated", {"VIOLATED": "_x14 1x15"}, "16m", 1, id="first-bound-violated"),
    pytest.param("QstreamTensorsWait", {"WAITING": "0+1x60"}, "9m", 0, id="blocks-wait-too-soon"),
    pytest.param("QstreamTensorsWait", {"WAITING": "0+1x60"}, "20m", 1, id="blocks-wait"),
    pytest.param("QstreamTensorsWait", {"WAITING": "0 3x60"}, "30m", 0, id="blocks-waited"),
    pytest.param("QstreamRoutingUnbalanced", {"SHARES": "0.69x60", "AGE": "5x60"}, "9m", 0, id="unbalanced-too-soon"),
    pytest.param("QstreamRoutingUnbalanced", {"SHARES": "0.69x60", "AGE": "5x60"}, "10m", 1, id="unbalanced"),
    pytest.param("QstreamRoutingUnbalanced", {"SHARES": "0.7x60", "AGE": "5x60"}, "50m", 0, id="balanced"),
    pytest.param("QstreamRoutingUnbalanced", {"SHARES": "0.69x60", "AGE": "1000x60"}, "50m", 0, id="left-by-an-old-owner"),
    pytest.param("QstreamRoutingPlansStale", {"AGE": "0+60x60", "TOKENS": "0+60x60"}, "39m", 0, id="stale-too-soon"),
    pytest.param("QstreamRoutingPlansStale", {"AGE": "0+60x60", "TOKENS": "0+60x60"}, "41m", 1, id="stale"),
    pytest.param("QstreamRoutingPlansStale", {"AGE": "0+60x60", "TOKENS": "7x60"}, "59m", 0, id="no-tokens-no-plans"),
    pytest.param(
        "QstreamRoutingPlansStale", {"AGE": "0+60x60", "AGE-B": "5x60", "TOKENS": "0+60x60"}, "59m", 0, id="another-worker-plans"
    ),
    pytest.param("QstreamRoutingFallbacks", {"FALLBACK": "0+6x60", "PLANS": "0+10x60"}, "30m", 1, id="most-fall-back"),
    pytest.param("QstreamRoutingFallbacks", {"FALLBACK": "0+4x60", "PLANS": "0+10x60"}, "59m", 0, id="some-fall-back"),
    pytest.param("QstreamRoutingFallbacks", {"FALLBACK": "6x60", "PLANS": "10x60"}, "59m", 0, id="no-plans-no-fallbacks"),
    pytest.param("QstreamLearnGuardTripped", {"TRIPPED": "_x14 1x15"}, "16m", 1, id="first-trip"),
    pytest.param("QstreamLearnGuardTripped", {"TRIPPED": "0x14 1x15"}, "16m", 1, id="trip"),
    pytest.param("QstreamLearnGuardTripped", {"TRIPPED": "3x30"}, "20m", 0, id="trips-are-past"),
    pytest.param("QstreamLearnRegretHigh", {"REGRET": "0.21x90"}, "59m", 0, id="regret-too-soon"),
    pytest.param("QstreamLearnRegretHigh", {"REGRET": "0.21x90"}, "60m", 1, id="regret"),
    pytest.param("QstreamLearnRegretHigh", {"REGRET": "0.2x90"}, "80m", 0, id="regret-allowed"),
    pytest.param("QstreamLearnRewardsUnmatched", {"MATCHED": "0+8x60", "UNMATCHED": "0+1x60"}, "50m", 1, id="unmatched"),
    pytest.param("QstreamLearnRewardsUnmatched", {"MATCHED": "0+9x60", "UNMATCHED": "0+1x60"}, "50m", 0, id="unmatched-allowed"),
    pytest.param("QstreamLearnRewardsUnmatched", {"MATCHED": "0+9x60", "UNMATCHED": "90x60"}, "50m", 0, id="unmatched-is-past"),
    pytest.param("QstreamLearnModelUnusable", {"REFUSED": "1x30"}, "9m", 0, id="refused-too-soon"),
    pytest.param("QstreamLearnModelUnusable", {"REFUSED": "1x30"}, "10m", 1, id="refused"),
    pytest.param("QstreamLearnModelUnusable", {"LACKING": "0.1x30"}, "10m", 1, id="missing"),
    pytest.param("QstreamEnergyBudgetExceeded", {"MISSING": "5x30", "ENERGY-AGE": "5x30"}, "2m", 1, id="watts-missing"),
    pytest.param("QstreamEnergyBudgetExceeded", {"MISSING": "0x30", "ENERGY-AGE": "5x30"}, "20m", 0, id="budget-kept"),
    pytest.param(
        "QstreamEnergyBudgetExceeded", {"MISSING": "5x30", "ENERGY-AGE": "900x30"}, "20m", 0, id="watts-of-an-old-owner"
    ),
    pytest.param(
        "QstreamEnergyBudgetExceeded",
        {"DRAWN": "901x30", "BUDGET": "900x30", "MISSING": "0x30", "ENERGY-AGE": "5x30"},
        "2m",
        1,
        id="drawn-above-budget",
    ),
    pytest.param("QstreamEnergyTargetsRefused", {"REFUSED-TARGET": "0+1x30", "ENERGY-AGE": "5x30"}, "12m", 1, id="refuses"),
    pytest.param("QstreamEnergyTargetsRefused", {"REFUSED-TARGET": "7x30", "ENERGY-AGE": "5x30"}, "20m", 0, id="has-refused"),
    pytest.param("QstreamEnergyTargetsHeld", {"HELD": "2x30", "ENERGY-AGE": "5x30"}, "4m", 0, id="held-too-soon"),
    pytest.param("QstreamEnergyTargetsHeld", {"HELD": "2x30", "ENERGY-AGE": "5x30"}, "5m", 1, id="held"),
    pytest.param("QstreamEnergyNodesSilent", {"LOST": "8x30", "ENERGY-AGE": "5x30"}, "2m", 1, id="silent"),
    pytest.param("QstreamEnergyNodesSilent", {"LOST": "0x30", "ENERGY-AGE": "5x30"}, "20m", 0, id="all-heard"),
    pytest.param("QstreamHpoTrialsFail", {"HPO-FAILED": "0+6x60", "HPO-COMPLETE": "0+5x60"}, "30m", 1, id="most-trials-fail"),
    pytest.param("QstreamHpoTrialsFail", {"HPO-FAILED": "0+4x60", "HPO-COMPLETE": "0+5x60"}, "59m", 0, id="some-trials-fail"),
    pytest.param("QstreamHpoTrialsFail", {"HPO-FAILED": "6x60", "HPO-COMPLETE": "5x60"}, "59m", 0, id="trials-failed-long-ago"),
    pytest.param("QstreamHpoTrialsLost", {"HPO-LOST": "_x14 1x15"}, "16m", 1, id="first-lost-trial"),
    pytest.param("QstreamHpoTrialsLost", {"HPO-LOST": "3x30"}, "20m", 0, id="trials-lost-long-ago"),
    pytest.param("QstreamHpoAsksSlow", {"ASK-FAST": "0+1x60", "ASK-SLOW": "0+9x60", "ASK": "0+9x60"}, "30m", 1, id="slow-asks"),
    pytest.param("QstreamHpoAsksSlow", {"ASK-FAST": "0+9x60", "ASK-SLOW": "0+9x60", "ASK": "0+9x60"}, "59m", 0, id="fast-asks"),
    pytest.param("QstreamLearnModelUnusable", {"REFUSED": "0x30", "LACKING": "0x30"}, "20m", 0, id="all-models-are-used"),
]
SERIES = {
    "HPO-FAILED": 'qstream_hpo_trials_total{outcome="failed", instance="a"}',
    "HPO-COMPLETE": 'qstream_hpo_trials_total{outcome="complete", instance="a"}',
    "HPO-LOST": 'qstream_hpo_trials_total{outcome="lost", instance="a"}',
    "ASK-FAST": 'qstream_hpo_ask_seconds_bucket{source="gp", le="0.5", instance="a"}',
    "ASK-SLOW": 'qstream_hpo_ask_seconds_bucket{source="gp", le="5.0", instance="a"}',
    "ASK": 'qstream_hpo_ask_seconds_bucket{source="gp", le="+Inf", instance="a"}',
    "VIOLATED": 'qstream_compression_bound_violations_total{role="weight", instance="a"}',
    "WAITING": 'qstream_decompression_waiting_blocks_total{reason="no_base", instance="a"}',
    "MISSING": 'qstream_energy_missing_watts{domain="d", instance="a"}',
    "ENERGY-AGE": 'qstream_energy_plan_age_seconds{domain="d", instance="a"}',
    "DRAWN": 'qstream_energy_drawn_watts{domain="d", instance="a"}',
    "BUDGET": 'qstream_energy_budget_watts{domain="d", instance="a"}',
    "REFUSED-TARGET": 'qstream_energy_acknowledgements_total{domain="d", result="denied", instance="a"}',
    "HELD": 'qstream_energy_targets{domain="d", reason="held", instance="a"}',
    "LOST": 'qstream_energy_targets{domain="d", reason="lost", instance="a"}',
    "TRIPPED": 'qstream_learn_guard_total{agent="r", learner="l", verdict="trip"}',
    "REGRET": 'qstream_learn_regret_ratio{agent="r", learner="l"}',
    "MATCHED": 'qstream_learn_rewards_total{agent="r", learner="l", outcome="matched"}',
    "UNMATCHED": 'qstream_learn_rewards_total{agent="r", learner="l", outcome="unmatched"}',
    "REFUSED": 'qstream_learn_models{agent="r", use="refused"}',
    "LACKING": 'qstream_learn_model_missing_ratio{agent="r", learner="l"}',
    "LIMITED": 'qstream_dead_letters_total{agent="r", stage="process", error="StateLimit"}',
    "DEAD": 'qstream_dead_letters_total{agent="r", stage="decode", error="FrameError"}',
    "SHARES": 'qstream_routing_shares_balancedness{model="m", instance="a"}',
    "AGE": 'qstream_routing_plan_age_seconds{model="m", instance="a"}',
    "AGE-B": 'qstream_routing_plan_age_seconds{model="m", instance="b"}',
    "TOKENS": 'qstream_records_consumed_total{agent="routing", topic="qstream.tokens.batch.v1"}',
    "CLOCKS": 'qstream_wrong_clocks_total{agent="r", topic="t"}',
    "RESTARTED": 'qstream_partitions_restarted_total{agent="r", topic="t"}',
    "FAILED": 'qstream_plans_total{agent="r", topic="t", outcome="planning_failed"}',
    "FALLBACK": 'qstream_fallbacks_total{agent="routing", reason="timeout", instance="a"}',
    "PLANS": 'qstream_plans_total{agent="routing", topic="qstream.placement.plan.v1", outcome="published", instance="a"}',
}


@needs_promtool
@pytest.mark.parametrize(("alert", "series", "at", "firing"), ALERT_CASES)
def test_alert_fires_when_it_should(alert: str, series: dict[str, str], at: str, firing: int, tmp_path: Path) -> None:
    named = {SERIES.get(name, name): values for name, values in series.items()}
    inputs = named if any(name.startswith("up") for name in named) else SCRAPED | named
    count = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)'
    case = {
        "rule_files": [str(PROMETHEUS / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in inputs.items()],
                "promql_expr_test": [{"expr": count, "eval_time": at, "exp_samples": [{"labels": "{}", "value": firing}]}],
            }
        ],
    }
    (tmp_path / "case.yml").write_text(yaml.safe_dump(case))
    promtool("test", "rules", tmp_path / "case.yml")
