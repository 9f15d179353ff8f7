"""deploy/: files parse, alerts name metrics that exist, have a runbook each, and fire when they should."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from tests.unit.deploy.folder import DEPLOY, PROMETHEUS, ROOT, load
from tests.unit.deploy.queries import (
    COLLECTORS,
    INFO_LABELS,
    SCRAPE_LABELS,
    alert_queries,
    alert_rules,
    all_queries,
    declared_labels,
    labels_in,
    metrics_in,
    needs_promtool,
    promtool,
    series_names,
)

YAML_FILES = sorted(path for path in DEPLOY.rglob("*") if path.suffix in {".yaml", ".yml"})
RUNBOOKS = ROOT / "docs" / "pages" / "runbooks"
# Each has few values, whatever is streamed.
BOUNDED = {"agent", "topic", "stage", "error", "kind", "model", "outcome", "solver", "reason"}
BOUNDED |= {"learner", "arm", "verdict", "use", "domain", "state", "result", "horizon"}
BOUNDED |= {"role", "promise", "operation", "option", "correction"}
BOUNDED |= {"study", "source", "kernel", "status"}
BOUNDED |= {"fabric", "planner", "guard", "placement"}


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


@pytest.mark.parametrize(("name", "query"), alert_queries().items())
def test_every_metric_and_label_that_an_alert_names_exists(name: str, query: str) -> None:
    assert metrics_in(query) <= series_names()
    declared = declared_labels()
    known = set().union(*(declared.get(metric, set()) for metric in metrics_in(query)))
    assert labels_in(query) <= known | SCRAPE_LABELS | INFO_LABELS


def test_metrics_have_bounded_labels_only() -> None:
    for name, labels in declared_labels().items():
        assert labels <= BOUNDED | SCRAPE_LABELS | {"le"}, name


def test_a_metric_that_does_not_exist_is_noticed() -> None:
    assert not metrics_in("rate(qstream_records_consumed[5m])") <= series_names()  # the series ends in _total
    assert not metrics_in("qstream_end_to_end_seconds") <= series_names()  # a histogram has no plain series


@pytest.mark.parametrize("group", alert_rules())
def test_every_alert_links_to_its_section_of_a_runbook(group: str) -> None:
    page = RUNBOOKS / f"{group.removeprefix('qstream-')}.md"
    text = page.read_text()
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == [rule["alert"] for rule in alert_rules()[group]]
    for rule in alert_rules()[group]:
        assert rule["annotations"]["runbook_url"] == f"{page.relative_to(ROOT)}#{rule['alert'].lower()}"
        (section,) = re.findall(rf"^## {rule['alert']}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert re.findall(r"^\*\*(\w+)\.\*\*", section, re.MULTILINE) == ["Means", "Look", "Do"], rule["alert"]


def test_every_runbook_is_of_a_group_of_alerts_and_names_panels_that_exist() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {group.removeprefix("qstream-") for group in alert_rules()} | {
        "index"
    }
    titles = {query.panel for query in all_queries()}
    for page in (*RUNBOOKS.glob("*.md"), DEPLOY / "README.md"):
        assert set(re.findall(r"\*\*([A-Z][\w -]+)\*\*", page.read_text())) <= titles, page.name


@needs_promtool
def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    promtool("check", "config", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", PROMETHEUS / "alerts.yml")


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
    pytest.param("QstreamPaused", {"PAUSED": "1x30"}, "4m", 0, id="paused-too-soon"),
    pytest.param("QstreamPaused", {"PAUSED": "1x30", "PAUSED-TOO": "1x30"}, "5m", 1, id="paused-once-an-agent"),
    pytest.param("QstreamPaused", {"PAUSED": "0x4 1x30", "PAUSED-TOO": "1x4 0x30"}, "20m", 1, id="one-worker-still-paused"),
    pytest.param("QstreamPaused", {"PAUSED": "1x10 0x30", "PAUSED-TOO": "0x60"}, "20m", 0, id="resumed"),
    pytest.param("QstreamPaused", {"PAUSED": "0x30"}, "20m", 0, id="not-paused"),
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
    "PAUSED": 'qstream_paused{agent="r", instance="a"}',
    "PAUSED-TOO": 'qstream_paused{agent="r", instance="b"}',
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
