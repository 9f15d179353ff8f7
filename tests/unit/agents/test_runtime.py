"""A configured device pool reaches an agent: its devices answer for plans, and a wrong pool ends the start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agents.registry import find_agent
from agents.runtime import quantum_runtime
from qstream.config import Settings
from qstream.errors import ConfigError, OptionError
from qstream.testing.feed import Feed
from schemas import ExpertLoad, ExpertTopology, PlacementPlan

# A simulator that is declared to be a machine, so that the record of a plan tells its name.
POOL = """
[[devices]]
name = "lab"
pennylane = "lightning.qubit"
seeded = true
simulator = false
mode = "inline"
"""
OPTIONS: dict[str, bool | int | float | str] = {
    "qaoa": True,
    "device": "lab",
    "circuit_slots": 6,
    "shots": 128,
    "steps": 0,
    "min_gain": 0.0,
    "window_tokens": 256,
    "plan_ms": 0.0,
    "plan_every_s": 0.0,
}


def settings(tmp_path: Path, pool: str = POOL, **options: bool | int | float | str) -> Settings:
    path = tmp_path / "pool.toml"
    path.write_text(pool)
    return Settings(devices=str(path), options=OPTIONS | options)


def test_a_device_of_the_configured_pool_answers_for_a_plan_of_the_routing_agent(tmp_path: Path) -> None:
    feed = Feed(find_agent("routing").processor(settings(tmp_path)))
    feed.processor.warm()
    rng = np.random.default_rng(5)
    topology = ExpertTopology(model="m", num_layers=2, num_logical_experts=24, num_nodes=1, num_gpus=4, slots_per_gpu=7)
    feed.send(topology, 1000)
    # Windows of different shape, so that the classical plan, which packs their mean, leaves something to win.
    for window in range(4):
        counts = rng.lognormal(3, 1, (2, 24)).astype(np.int64) + 1
        load = ExpertLoad(
            model="m", source="s", window_id=str(window), t0_ns=0, t1_ns=1, num_tokens=int(counts[0].sum()), logical_count=counts
        )
        feed.send(load, 2000 + 1000 * window)
    plans = [event.frame for event in feed.events if isinstance(event.frame, PlacementPlan)]
    records = [plan.solver for plan in plans if plan.solver.asked]
    assert all(plan.fallback_reason is None for plan in plans)
    assert records
    assert all(record.asked == ("qaoa",) and record.shots == 128 for record in records)
    won = [record for record in records if record.kept]
    assert won
    assert {(record.solver, record.execution) for record in won} == {("qaoa", "device:lab")}


def test_a_device_that_the_pool_lacks_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    processor = find_agent("routing").processor(settings(tmp_path, device="nonesuch"))
    with pytest.raises(OptionError, match="lab"):
        processor.warm()


def test_a_fault_in_the_pool_s_file_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="devices"):
        find_agent("routing").processor(settings(tmp_path, "[[devices]"))
    with pytest.raises(ConfigError, match=r"devices\.0\.max_wires"):
        find_agent("routing").processor(settings(tmp_path / ".", POOL + "max_wires = 0\n"))


def test_equal_settings_share_one_runtime(tmp_path: Path) -> None:
    first, second = (quantum_runtime(settings(tmp_path)) for _ in range(2))
    assert first() is second()
