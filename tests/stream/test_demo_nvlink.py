"""The nvlink scene as a user runs it: real broker, store and agent, a model that trains, a slow uplink and a lost server."""

from __future__ import annotations

import pytest

from tests.stream.demos import CIRCUMSTANCES, figures_of, needs_torch

pytestmark = [pytest.mark.slow, needs_torch]
FIGURES = {
    *("modelled", "seconds", "tokens", "loss", "windows", "windows_on_plans", "exchange_ms", "cost_us", "nic_over_bound"),
    *("link_over_optimum", "windows_until_recovered", "single_tier", "plans", "plans_skipped", "shares"),
    *("latency_ms", "plan_latency_ms", "dead_letters", "lost", "repeated"),
}
PHASES = {"healthy", "slow uplink", "server gone"}


def test_plans_are_scored_on_windows_after_them_and_nothing_is_lost_when_links_and_servers_fail() -> None:
    figures, said = figures_of("nvlink", 1)
    assert "no hardware was measured" in said
    assert figures.keys() == FIGURES | CIRCUMSTANCES
    for name in ("dead_letters", "lost", "repeated"):
        assert figures[name] == 0, name
    assert figures["modelled"] is True
    assert figures["windows"] == 32
    assert figures["shares"] == 33  # one a topology, and one a window but the last
    assert figures["exchange_ms"].keys() == figures["link_over_optimum"].keys() == PHASES
    assert figures["link_over_optimum"]["server gone"]["plan"] < figures["link_over_optimum"]["server gone"]["wcmp"]
    until = figures["windows_until_recovered"]
    assert until["uplink"] <= 6
    assert until["server"] <= 3
    assert figures["single_tier"] == {"gain": 0.0, "reason": "single tier, nothing blocks"}
    assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p99"]
    assert figures["loss"]["last"] < figures["loss"]["first"]
