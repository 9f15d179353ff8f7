"""The energy scene without an agent: what it publishes, and that what is not limited is counted as over the budget."""

from __future__ import annotations

from collections import Counter

import pytest
from rich.console import Console

from qstream.demo.energy import scene as module
from qstream.demo.energy.scene import BUDGET_W, PLAN_S, EnergyScene
from schemas.power import GpuTelemetry, PowerBudget


def test_the_hour_as_it_is_published_and_what_it_comes_to_where_no_plan_comes(monkeypatch) -> None:
    modelled_s, fall_s, notice_s, cut_s = 150, 70, 20, range(90, 120)
    for name, value in {"FALL_S": fall_s, "NOTICE_S": notice_s, "CUT_S": cut_s, "GRAPH_S": 30}.items():
        monkeypatch.setattr(module, name, value)
    scene, sent, begins = EnergyScene(0), Counter(), 0
    scene._load = scene._load[:modelled_s]
    for step in scene.steps(0.0):
        for topic, frame in step:
            sent[topic.name] += 1
            begins = begins or frame.ts_ns - 10**9
            if isinstance(frame, PowerBudget):
                assert frame.budget_w == pytest.approx(0.8 * BUDGET_W)
                assert frame.valid_from_ns - frame.ts_ns == notice_s * 10**9
            if isinstance(frame, GpuTelemetry) and frame.node == "node-1":
                assert (frame.ts_ns - begins) // 10**9 not in cut_s
    assert sent == {
        "qstream.gpu.telemetry.v1": 2 * modelled_s - len(cut_s),
        "qstream.power.budget.v1": 1,
        "qstream.tasks.graph.v1": 1,
    }
    assert begins % (PLAN_S * 10**9) == 0
    figures = scene.figures(1.0, 0)
    assert figures["budget_violations"] == modelled_s - fall_s
    assert figures["saved_ratio"] == pytest.approx(0)
    assert figures["slowdown_worst"] == pytest.approx(0)
    assert (figures["unsafe_writes"], figures["plans"], figures["probes"]) == (0, 0, 0)
    console = Console(width=400, record=True, force_terminal=False)
    console.print(scene.line("ready"), scene.panel("ready"), *scene.report())
    assert "over a budget 80 s" in console.export_text()
