"""Plug-ins of engines: nothing where they are not enabled, what is wrong told by name, and the same answer on every rank."""

from __future__ import annotations

import enum
import subprocess
import sys
import tomllib
import types
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

from qstream.config import load_settings
from qstream.engines import plugin
from qstream.engines.plans import Plans
from qstream.engines.sglang import _replacement, planned
from qstream.engines.sglang import register as register_sglang
from qstream.engines.vllm import Acknowledging
from qstream.engines.vllm import register as register_vllm
from qstream.errors import ConfigError
from qstream.routing.formats.vllm_policy import policy
from qstream.routing.placement import place
from qstream.routing.score import moved_experts, violations
from schemas.experts import ExpertTopology

ROOT = Path(__file__).parents[3]
WEIGHT = np.random.default_rng(0).lognormal(5, 1, (2, 16)).round()


@pytest.mark.parametrize(("group", "function"), [("vllm.general_plugins", plugin.vllm), ("sglang.srt.plugins", plugin.sglang)])
def test_each_engine_finds_its_entry_point(group, function):
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][group]
    assert [EntryPoint(name, value, group).load() for name, value in points.items()] == [function]


def test_where_it_is_not_enabled_it_imports_nothing_and_does_nothing():
    program = (
        "import sys; from qstream.engines.plugin import sglang, vllm; vllm(); sglang();"
        "print(*sorted({'numpy', 'numba', 'pydantic', 'confluent_kafka', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


@pytest.fixture
def vllm(monkeypatch):
    """vLLM's table of policies, as its newest version has it."""
    table = types.ModuleType("vllm.distributed.eplb.policy")
    table.EPLB_POLICIES = {"default": object}
    for name in ("vllm", "vllm.distributed", "vllm.distributed.eplb"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, table.__name__, table)
    return table


@pytest.mark.parametrize("plans", ["planner", "/etc/qstream/plan.json"])
def test_vllm_gets_our_policy_once(vllm, plans):
    register_vllm(plans)
    first = vllm.EPLB_POLICIES["default"]
    register_vllm(plans)
    assert vllm.EPLB_POLICIES["default"] is first


@pytest.mark.parametrize(
    ("plans", "told"),
    [
        ("planer", "QSTREAM_EPLB must be planner, agent, or the path of a plan in JSON, got 'planer'"),
        ("agent", "QSTREAM_EPLB_MODEL must be the model's name on the topics"),
    ],
)
def test_what_is_wrong_is_told_by_name(vllm, plans, told):
    with pytest.raises(ConfigError, match=told):
        register_vllm(plans)


def test_the_agent_s_plans_need_a_broker(monkeypatch):
    with pytest.raises(ConfigError, match="QSTREAM_BOOTSTRAP_SERVERS must be HOST:PORT"):
        Plans("moe", load_settings())


def test_sglang_takes_no_other_planner():
    with pytest.raises(ConfigError, match="QSTREAM_EPLB must be planner for SGLang"):
        register_sglang("agent")


def test_a_vllm_without_policies_is_refused_by_its_version(monkeypatch):
    for name in ("vllm", "vllm.distributed"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr("qstream.engines.vllm.version", lambda name: "0.10.2")
    with pytest.raises(ConfigError, match=r"vllm must be 0\.19\.0 or newer, with EPLB policies, got 0\.10\.2"):
        register_vllm("planner")


def test_a_rank_that_does_not_lead_asks_no_source_and_takes_what_is_agreed():
    def source() -> None:
        raise AssertionError("only the leader asks")

    board = np.arange(24)[None].repeat(2, 0) % 16
    chosen = policy(source, lambda _: board, lambda: False)
    assert chosen.rebalance_experts(WEIGHT, 24, 1, 2, 4).tolist() == board.tolist()


@pytest.mark.parametrize(("groups", "nodes"), [(1, 1), (4, 2)])
def test_sglang_s_next_map_is_whole_and_near_the_one_in_force(groups, nodes):
    first = planned(WEIGHT, None, 24, groups, nodes, 4)
    assert violations(first.astype(np.int32), 16, 4) == 0
    again = planned(WEIGHT, first, 24, groups, nodes, 4)
    assert moved_experts(first.astype(np.int32), again.astype(np.int32), 4) == 0


def test_sglang_s_own_function_answers_where_ranks_may_be_down():
    algorithm = enum.Enum("algorithm", ["elasticity_aware"])
    ours = _replacement(lambda **given: sorted(given))
    assert "tokens_per_expert" in ours(None, 24, 6, None, 1, algorithm.elasticity_aware)


def test_a_plan_is_acknowledged_once_it_is_the_map_in_force_and_not_before(monkeypatch):
    held = types.SimpleNamespace(rebalanced=False, physical_to_logical_map=None)

    class State:
        def __init__(self) -> None:
            self.model_states = {"moe": held}

        def step(self) -> None: ...

    monkeypatch.setitem(sys.modules, "vllm.distributed.eplb.eplb_state", types.SimpleNamespace(EplbState=State))
    plan = place(WEIGHT[None].astype(np.int64), ExpertTopology(num_layers=2, num_logical_experts=16, num_gpus=4, slots_per_gpu=6))
    acknowledged: list[int] = []
    chosen = policy(lambda: plan, answered=Acknowledging(acknowledged.append))
    first = np.arange(24)[None].repeat(2, 0) % 16
    answer = chosen.rebalance_experts(WEIGHT, 24, 1, 1, 4, first)
    for rebalanced, map_ in ((False, first), (True, answer)):
        held.rebalanced, held.physical_to_logical_map = rebalanced, torch.from_numpy(map_)
        State().step()
    assert acknowledged == []
    held.rebalanced = False
    State().step()
    State().step()
    assert acknowledged == [plan.version]
