"""Scores of windows, what they come to, and what is said of them: nothing is called a gain that is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qstream.demo.nvlink.fabric import Fabric
from qstream.demo.nvlink.findings import findings
from qstream.demo.nvlink.held import Held
from qstream.demo.nvlink.score import Phase, Score, Window, scored
from schemas.fabric import FabricPlan
from schemas.plan import SkipReason


def window(number: int, phase: Phase, link: tuple[float, float, float], planned: bool = True, **changes: Any) -> Window:
    fields: dict[str, Any] = {"exchange_ms": (4.0, 3.0, 2.0, 1.0), "cost_us": (100.0, 90.0), "nic": (2.0, 1.0)}
    return Window(number=number, phase=phase, planned=planned, link=link, **(fields | changes))


def score(*windows: Window) -> Score:
    return Score(windows=list(windows), losses=[3.0, 2.0])


def test_before_any_plan_all_ways_are_the_same_but_for_the_shares() -> None:
    held, nbytes = Held(Fabric(0), 16), np.ones((16, 16)) - np.eye(16)
    assert held.gpus is not None
    found = scored(0, "healthy", held, held.gpus, nbytes * 1e9)
    assert not found.planned
    assert len(set(found.exchange_ms)) == 1  # the shares are WCMP's, too
    assert found.cost_us[0] == found.cost_us[1]
    assert found.nic[0] == found.nic[1] == pytest.approx(1)
    assert found.link[0] == found.link[1] == found.link[2] >= 1


def test_an_uplink_that_fell_is_recovered_with_the_first_window_near_the_optimum() -> None:
    links = [(2.0, 1.1, 2.0), (2.0, 1.1, 1.2), (2.0, 1.1, 1.1), (2.0, 1.1, 1.3)]
    found = score(window(0, "healthy", (1.0, 1.0, 1.0)), *(window(1 + at, "slow uplink", link) for at, link in enumerate(links)))
    assert (found.recovered(0), found.recovered(1), found.recovered(2)) == (None, 0, 2)


def test_only_windows_on_plans_count_and_figures_are_by_phase() -> None:
    found = score(
        window(0, "healthy", (9.0, 9.0, 9.0), planned=False),
        window(1, "healthy", (1.2, 1.2, 1.0)),
        window(2, "healthy", (1.4, 1.4, 1.0)),
        window(3, "slow uplink", (2.0, 1.1, 1.1)),
    ).figures(1.0, lost=0, repeated=0)
    assert found["windows_on_plans"] == 3
    assert found["link_over_optimum"] == {
        "healthy": {"wcmp": 1.3, "wcmp_told": 1.3, "plan": 1.0},
        "slow uplink": {"wcmp": 2.0, "wcmp_told": 1.1, "plan": 1.1},
    }
    assert found["cost_us"] == {"linear": 100.0, "plan": 90.0}
    assert found["nic_over_bound"] == {"pxn": 2.0, "plan": None}  # no plan had rails
    assert found["windows_until_recovered"]["server"] is None
    assert found["latency_ms"] == {"p50": None, "p99": None}
    assert score(window(0, "healthy", (1.0, 1.0, 1.0), planned=False)).figures(1.0, 0, 0) == {}


def test_a_job_without_gpus_has_no_window() -> None:
    held, found = Held(Fabric(0), 16), Score()
    held.server_gone(0)
    assert found.window(0, "server gone", held, np.ones((16, 16))) is None
    assert (found.stood_still, found.windows) == (1, [])


def test_on_a_healthy_tier_the_reason_is_the_plan_s() -> None:
    plan = FabricPlan.example().model_copy(update={"skip_reason": SkipReason.SINGLE_TIER, "score": None})
    assert Score(healthy=plan).single_tier == {"gain": 0.0, "reason": "single tier, nothing blocks"}
    assert Score().single_tier == {"gain": None, "reason": None}


def test_what_gains_less_than_a_hundredth_is_said_to_gain_nothing() -> None:
    dear = (100.0, 101.0)
    found = score(window(0, "healthy", (1.0, 1.0, 0.995), cost_us=dear), window(1, "slow uplink", (2.0, 1.0, 1.0), cost_us=dear))
    said = list(findings(found.figures(1.0, 0, 0)))
    assert any(sentence.startswith("Placement: no gain") for sentence in said)
    assert any(sentence.startswith("Shares, healthy: no gain") for sentence in said)
    assert "Shares, slow uplink: the fullest link over the optimum 2.00 → 1.00, 50% less." in said
    assert any("no plan had any" in sentence for sentence in said)
    assert any("0 windows after it fell; by WCMP, which is not told, never" in sentence for sentence in said)
    assert "no hardware was measured" in said[-1]
