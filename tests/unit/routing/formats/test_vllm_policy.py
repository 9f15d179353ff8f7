"""The vLLM policy: the plan where it fits, our planner where none does, and always a whole map of vLLM's shape."""

from __future__ import annotations

import functools
import inspect
import sys
import types

import numpy as np
import pytest

from qstream.errors import ConfigError, ProblemError, StoreUnavailable
from qstream.module.inforce import InForce
from qstream.routing.formats.export import export
from qstream.routing.formats.vllm_policy import newest_of, of_file, policy
from qstream.routing.memory import Memory, RoutingState
from qstream.routing.placement import place
from qstream.routing.score import balancedness, moved_experts, violations
from schemas.experts import ExpertTopology
from schemas.placement import PlacementPlan

LAYERS, EXPERTS, SLOTS, GPUS, NODES = 2, 16, 24, 4, 2
WEIGHT = np.random.default_rng(0).lognormal(5, 1, (LAYERS, EXPERTS)).round()
TOPOLOGY = ExpertTopology(
    model="moe", num_layers=LAYERS, num_logical_experts=EXPERTS, num_gpus=GPUS, num_nodes=NODES, slots_per_gpu=SLOTS // GPUS
)


@functools.cache
def plan() -> PlacementPlan:
    """Made when first asked for: what runs while tests are collected runs in every process."""
    return place(WEIGHT[None], TOPOLOGY, seed=3)


def ask(chosen, weight=WEIGHT, groups=1, old=None, gpus=GPUS):
    return chosen.rebalance_experts(weight, SLOTS, groups, NODES, gpus, old)


def test_the_call_is_vllm_s():
    parameters = inspect.signature(policy(lambda: None).rebalance_experts).parameters
    assert list(parameters) == ["weight", "num_replicas", "num_groups", "num_nodes", "num_ranks", "old_global_expert_indices"]
    assert parameters["old_global_expert_indices"].default is None


@pytest.mark.parametrize("source", [plan, lambda: plan().encode(), lambda: export(plan(), "plan")])
def test_the_newest_plan_is_the_answer_as_a_frame_or_as_its_bytes(source):
    chosen = policy(source)
    found = ask(chosen)
    assert (found.dtype, chosen.used) == (np.int64, f"plan {plan().version}")
    assert found.tolist() == plan().physical_to_logical_map.tolist()


def skipped() -> PlacementPlan:
    return plan().model_copy(update={"physical_to_logical_map": None, "skip_reason": "gain_too_small"})


def lacking() -> PlacementPlan:
    return plan().model_copy(update={"physical_to_logical_map": np.zeros((LAYERS, SLOTS), np.int32)})


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (lambda: None, "no plan"),
        (lambda: b"rubbish", "PlacementPlan"),
        (skipped, "gain_too_small"),  # nothing is known to be in force
        (lacking, "does not hold the experts"),
        (lambda: plan().model_copy(update={"num_gpus": 8, "slots_per_gpu": 3}), "[2, 24] on 4 GPUs, got [2, 24] on 8 GPUs"),
        (lambda: place(np.ones((1, 1, EXPERTS)), TOPOLOGY.model_copy(update={"num_layers": 1})), r"[1, 24]"),
    ],
)
def test_where_no_plan_fits_our_planner_answers_and_says_why(source, reason):
    chosen = policy(source)
    found = ask(chosen)
    assert chosen.used.startswith("own planner: ")
    assert reason in chosen.used
    assert violations(found.astype(np.int32), EXPERTS, GPUS) == 0
    assert balancedness(found.astype(np.int32), WEIGHT, GPUS) > 0.95


def test_from_the_map_in_force_few_experts_move():
    chosen = policy(lambda: None)
    fresh = ask(chosen)
    renamed = fresh.reshape(LAYERS, GPUS, -1)[:, ::-1].reshape(LAYERS, -1)  # the same load on GPUs of other names
    assert moved_experts(renamed.astype(np.int32), ask(chosen, old=renamed).astype(np.int32), GPUS) == 0


def test_groups_stay_on_one_node_though_few_experts_move():
    # in force is the same plan with GPUs of both nodes interchanged: to move nothing would tear the groups apart
    old = ask(policy(lambda: None), groups=4).reshape(LAYERS, GPUS, -1)[:, [0, 2, 1, 3]].reshape(LAYERS, -1)
    found = ask(policy(lambda: None), groups=4, old=old)
    node_of = np.arange(SLOTS) // (SLOTS // NODES)
    for row in found:
        for group in range(4):
            assert len(set(node_of[row // 4 == group])) == 1


def test_loads_that_drift_move_few_experts_at_nearly_the_same_balance():
    old, drifted = ask(policy(lambda: None)), (WEIGHT * np.random.default_rng(1).normal(1, 0.1, WEIGHT.shape)).round()
    near, fresh = (ask(policy(lambda: None), drifted, old=map_).astype(np.int32) for map_ in (old, None))
    moved = [moved_experts(old.astype(np.int32), found, GPUS) for found in (near, fresh)]
    assert moved[0] <= moved[1] / 2
    assert balancedness(near, drifted, GPUS) > balancedness(fresh, drifted, GPUS) - 0.02


def test_nodes_that_change_names_move_nothing():
    old = ask(policy(lambda: None), groups=4).reshape(LAYERS, NODES, -1)[:, ::-1].reshape(LAYERS, -1)
    assert moved_experts(old.astype(np.int32), ask(policy(lambda: None), groups=4, old=old).astype(np.int32), GPUS) == 0


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("width", [SLOTS - 6, SLOTS, SLOTS + 6])
def test_gpus_that_come_and_go_leave_the_others_nearly_as_they_are(groups, width):
    old = np.full((LAYERS, width), -1)
    old[:, : SLOTS - 6] = ask(policy(lambda: None), groups=groups)[:, : SLOTS - 6]
    found = ask(policy(lambda: None), groups=groups, old=old).astype(np.int32)
    assert violations(found, EXPERTS, GPUS) == 0


def test_more_slots_on_a_gpu_than_experts_are_filled():
    found = policy(lambda: None).rebalance_experts(np.ones((1, 3)), 16, 1, 1, 4, np.full((1, 16), -1))
    assert set(found[0].tolist()) == {0, 1, 2}


def test_a_vllm_that_takes_three_maps_is_refused_by_name(monkeypatch):
    class AbstractEplbPolicy:
        @classmethod
        def rebalance_experts(cls, weight) -> tuple[object, object, object]:
            raise NotImplementedError

    module = types.ModuleType("abstract")
    module.AbstractEplbPolicy = AbstractEplbPolicy
    monkeypatch.setitem(sys.modules, "vllm.distributed.eplb.policy.abstract", module)
    monkeypatch.setattr("qstream.routing.formats.vllm_policy.version", lambda name: "0.16.0")
    with pytest.raises(ConfigError, match=r"vllm must be a version that takes one map .*, got 0\.16\.0, which takes three"):
        policy(lambda: None)


def test_tensors_in_tensors_out():
    torch = pytest.importorskip("torch")
    for source in (plan, lambda: None):
        found = ask(policy(source), torch.from_numpy(WEIGHT), old=torch.arange(SLOTS).repeat(LAYERS, 1) % EXPERTS)
        assert isinstance(found, torch.Tensor)
        assert (found.dtype, tuple(found.shape)) == (torch.int64, (LAYERS, SLOTS))


def test_ranks_that_read_different_plans_answer_alike_where_they_agree():
    board = {}

    def rank_zero(plan):
        board["map"] = plan
        return plan

    first = ask(policy(plan, rank_zero))
    second = ask(policy(lambda: None, lambda _: board["map"]))
    assert first.tolist() == second.tolist()


def test_a_skipped_plan_leaves_in_force_what_is():
    old = np.tile(np.arange(SLOTS) % EXPERTS, (LAYERS, 1))
    chosen = policy(skipped)
    assert ask(chosen, old=old).tolist() == old.tolist()
    assert chosen.used == "kept: gain_too_small"
    answers = [plan(), skipped()]
    chosen = policy(lambda: answers.pop(0))
    for _ in range(2):
        assert ask(chosen, old=old).tolist() == plan().physical_to_logical_map.tolist()
    assert chosen.used == "kept: gain_too_small"


def test_what_is_in_force_but_lacks_experts_is_not_kept():
    chosen = policy(skipped)
    found = ask(chosen, old=np.zeros((LAYERS, SLOTS), np.int64))
    assert chosen.used == "own planner: gain_too_small"
    assert violations(found.astype(np.int32), EXPERTS, GPUS) == 0


def test_a_subscriber_is_drained_and_its_newest_placement_of_the_model_stays_when_later_plans_are_skipped():
    waiting = [plan().model_copy(update={"version": 7}), skipped(), plan().model_copy(update={"version": 8}), skipped()]

    class Plans:
        def drain(self, timeout_s: float = 0.0):
            while waiting:
                yield waiting.pop(0)
            yield plan().model_copy(update={"version": 9, "model": "another"})

    chosen = policy(newest_of(Plans(), "moe"))
    for _ in range(2):
        ask(chosen)
        assert chosen.used == "plan 8"


def test_a_file_may_come_later(tmp_path):
    chosen = policy(of_file(tmp_path / "plan.json"))
    ask(chosen)
    assert chosen.used == "own planner: no plan"
    (tmp_path / "plan.json").write_bytes(export(plan(), "plan"))
    ask(chosen)
    assert chosen.used == f"plan {plan().version}"


def test_contradicting_arguments_are_told():
    with pytest.raises(ProblemError, match="num_replicas"):
        ask(policy(plan), gpus=7)


def remembered(version: int, proposed_version: int = 0, **more: object) -> RoutingState:
    in_force = InForce(version=version, proposed_version=proposed_version)
    placement = {"placement": plan().physical_to_logical_map} if version else {}
    return Memory.fresh(TOPOLOGY, windows=1).now.model_copy(update={"in_force": in_force, **placement, **more})


def test_the_state_of_the_agent_is_as_good_as_its_plan_and_a_proposed_placement_is_newer():
    chosen = policy(lambda: remembered(7))
    assert ask(chosen).tolist() == plan().physical_to_logical_map.tolist()
    assert chosen.used == "plan 7"
    newer = place(WEIGHT[None, :, ::-1], TOPOLOGY).physical_to_logical_map
    chosen = policy(lambda: remembered(7, proposed=newer, proposed_version=9))
    assert ask(chosen).tolist() == newer.tolist()
    assert chosen.used == "plan 9"
    chosen = policy(lambda: remembered(0))
    ask(chosen)
    assert chosen.used == "own planner: no plan"


@pytest.mark.parametrize("error", [StoreUnavailable("redis:6379 does not answer"), ConnectionResetError("gone")])
def test_a_source_that_is_away_leaves_the_engine_with_our_planner(error):
    def away() -> None:
        raise error

    chosen = policy(away)
    found = ask(chosen)
    assert chosen.used == f"own planner: {error}"
    assert violations(found.astype(np.int32), EXPERTS, GPUS) == 0


def test_a_model_without_groups_says_zero():
    assert ask(policy(lambda: None), groups=0).tolist() == ask(policy(lambda: None), groups=1).tolist()
