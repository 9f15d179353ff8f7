"""Placement and routing plans: any valid one survives, and a plan is either an answer or a reason."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from schemas import FrameError, PlacementPlan, RoutingPlan
from schemas.placement import PlacementScore
from schemas.plan import ResetReason, SkipReason
from schemas.routing import RoutingMetrics
from schemas.solver import Reason, SolverRecord

TOKENS = st.from_regex(r"\A[a-z][a-z0-9.-]{0,20}\Z")
NAMES = st.text(min_size=1, max_size=20)
COUNT = st.integers(0, 2**63 - 1)
NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False)
INT32 = st.integers(0, 2**31 - 1)
SHARE = st.floats(0, 1)
SOLVERS = st.builds(
    SolverRecord,
    solver=TOKENS,
    variant=st.none() | TOKENS,
    execution=st.sampled_from(["classical", "simulated-subspace", "device:lightning.qubit"]),
    asked=st.lists(TOKENS, max_size=3).map(tuple),
    n=st.none() | COUNT,
    depth=st.none() | COUNT,
    shots=st.none() | COUNT,
    seed=st.integers(-(2**63), 2**63 - 1),
    wall_ms=st.none() | st.floats(0, 1e9),
    objective=NUMBER,
    bound=NUMBER,
    control=NUMBER,
    exact=NUMBER,
    twin=NUMBER,
    tried=st.none() | COUNT,
    kept=st.none() | COUNT,
)


@st.composite
def placements(draw):
    layers, gpus, slots = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    experts, moves = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    answers = draw(st.booleans())

    def array(dtype, shape, low, high):
        items = st.floats(low, high, width=32) if dtype is np.float32 else st.integers(low, high)
        return npst.arrays(dtype, shape, elements=items)

    def extra(*described):
        return draw(st.none() | array(*described)) if answers else None

    top = 2**31 - 1
    return PlacementPlan(
        model=draw(NAMES),
        plan_id=draw(NAMES),
        ts_ns=draw(COUNT),
        version=draw(COUNT),
        base_version=draw(COUNT),
        num_gpus=gpus,
        slots_per_gpu=slots,
        ttl_s=draw(st.none() | st.floats(1e-9, 1e9)),
        skip_reason=None if answers else draw(st.sampled_from(SkipReason)),
        reset_reason=draw(st.none() | st.sampled_from(ResetReason)),
        expected=PlacementScore(
            balancedness_before=draw(SHARE),
            balancedness=draw(SHARE),
            worst_layer_balancedness=draw(SHARE),
            moved_experts=draw(COUNT),
        ),
        solver=draw(SOLVERS),
        apply_layers=tuple(draw(st.lists(st.integers(0, 4095), max_size=3))),
        physical_to_logical_map=draw(array(np.int32, (layers, gpus * slots), 0, top)) if answers else None,
        logical_to_physical_map=extra(np.int32, (layers, experts, draw(st.integers(1, 3))), -1, top),
        logical_replica_count=extra(np.int32, (layers, experts), 0, top),
        replica_shares=extra(np.float32, (layers, gpus * slots), 0, 1),
        move_layer=extra(np.int32, (moves,), 0, top),
        move_expert=extra(np.int32, (moves,), 0, top),
        move_src_gpu=extra(np.int32, (moves,), -1, gpus - 1),
        move_dst_gpu=extra(np.int32, (moves,), 0, gpus - 1),
        move_bytes=extra(np.int64, (moves,), 0, 2**63 - 1),
    )


@st.composite
def routes(draw):
    tokens, k = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    chosen, queued = draw(st.booleans()), draw(st.booleans())
    choices = tokens * k if chosen else tokens
    ends = sorted(draw(st.lists(st.integers(0, choices), max_size=4)))
    return RoutingPlan(
        plan_id=draw(NAMES),
        batch_id=draw(NAMES),
        model=draw(NAMES),
        layer=draw(st.none() | st.integers(0, 4095)),
        ts_ns=draw(COUNT),
        ttl_s=draw(st.none() | st.floats(1e-9, 1e9)),
        placement_version=draw(COUNT),
        metrics=RoutingMetrics(
            max_over_mean=draw(st.floats(0, 1e300)),
            balancedness=draw(SHARE),
            cross_node_copies_per_token=draw(st.none() | st.floats(0, 1e9)),
            gate_kept=draw(st.none() | SHARE),
            off_candidate=draw(st.none() | SHARE),
        ),
        solver=draw(SOLVERS),
        fallback_reason=draw(st.none() | st.sampled_from(Reason)),
        assignment=None if chosen else draw(npst.arrays(np.int32, tokens, elements=INT32)),
        slot_ids=draw(npst.arrays(np.int32, (tokens, k), elements=INT32)) if chosen else None,
        expert_ids=draw(npst.arrays(np.int32, (tokens, k), elements=INT32)) if chosen and draw(st.booleans()) else None,
        queue_token=draw(npst.arrays(np.uint64, choices)) if queued else None,
        queue_end=np.array([*ends, choices], np.int32) if queued else None,
    )


@given(plan=placements())
def test_any_valid_placement_survives_both_forms(plan, round_trip):
    round_trip(plan)


@given(plan=routes())
def test_any_valid_route_survives_both_forms(plan, round_trip):
    round_trip(plan)


def changed(frame, **fields):
    kept = {name: getattr(frame.example(), name) for name in frame.model_fields if name != "frame"}
    with pytest.raises(FrameError) as caught:
        frame.build(**kept | fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"physical_to_logical_map": None},
            "absent in a skipped plan and present in any other, got neither a map nor a skip_reason",
        ),
        ({"skip_reason": "gain_too_small"}, "absent in a skipped plan and present in any other, got a map and a skip_reason"),
        ({"skip_reason": "no gain"}, "skip_reason must be 'gain_too_small', "),
        ({"reset_reason": "why not"}, "reset_reason must be 'topology_changed' or "),
        ({"slots_per_gpu": 3}, "physical_to_logical_map must be [layers, 6 slots], num_gpus * slots_per_gpu, got shape [1, 4]"),
        ({"physical_to_logical_map": [[0, 1, 2, -1]]}, "physical_to_logical_map must be >= 0, got values from -1 to 2"),
        ({"logical_to_physical_map": [[[-2]] * 3]}, "logical_to_physical_map must be >= -1, got values from -2 to -2"),
        ({"logical_replica_count": [[1, -1, 1]]}, "logical_replica_count must be >= 0, got values from"),
        ({"replica_shares": [[0.5, 1.5, 1, 1]]}, "replica_shares must be 0 to 1, got values from 0.5 to 1.5"),
        ({"replica_shares": [[1.0]]}, "axis 'slots' of replica_shares must be as long as in physical_to_logical_map, 4, got 1"),
        ({"move_dst_gpu": [2]}, "move_dst_gpu must be 0 to 1, got values from 2 to 2"),
        ({"move_src_gpu": [-2]}, "move_src_gpu must be -1 to 1, got values from -2 to -2"),
        ({"move_bytes": [-1]}, "move_bytes must be >= 0, got values from"),
        ({"move_bytes": [1, 2]}, "axis 'moves' of move_bytes must be as long as in move_layer, 1, got 2"),
        ({"apply_layers": [0, True]}, "apply_layers.1 must be a valid integer"),
        ({"apply_layers": [-1]}, "apply_layers.0 must be greater than or equal to 0"),
        ({"expected": {"balancedness": 2.0}}, "expected.balancedness_before must be given, got nothing"),
        ({"solver": {"solver": "x", "depth": "3"}}, "solver.depth must be a valid integer, got '3'"),
        ({"solver": {"solver": "x", "seed": 2**63}}, "solver.seed must be less than"),
        ({"solver": {"solver": "x", "objective": float("nan")}}, "solver.objective must be a finite number"),
        ({"solver": 3}, "solver must be"),
        ({"ttl_s": 0.0}, "ttl_s must be greater than 0"),
        ({"version": -1}, "version must be greater than or equal to 0"),
    ],
    ids=str,
)
def test_placements_that_contradict_themselves_are_refused(fields, said):
    assert said in changed(PlacementPlan, **fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"slot_ids": None}, "must be with either assignment or slot_ids, got neither"),
        ({"assignment": [0, 1, 2]}, "must be with either assignment or slot_ids, got both"),
        ({"slot_ids": [[0, -2]]}, "slot_ids must be >= -1, got values from -2 to 0"),
        ({"slot_ids": None, "assignment": [-1]}, "assignment must be >= 0, got values from -1 to -1"),
        ({"expert_ids": [[0, -2], [0, 1], [0, 1]]}, "expert_ids must be >= -1, got values from -2 to 1"),
        ({"expert_ids": [[0, 1]]}, "axis 'tokens' of expert_ids must be as long as in slot_ids, 3, got 1"),
        (
            {"slot_ids": None, "assignment": [0, 1, 2], "expert_ids": [[0]] * 3},
            "expert_ids must be absent without slot_ids, got shape [3, 1]",
        ),
        ({"queue_token": [1] * 6}, "queue_token and queue_end must be given together, got one of them"),
        ({"queue_end": [6]}, "queue_token and queue_end must be given together, got one of them"),
        ({"queue_token": [1] * 5, "queue_end": [5]}, "queue_token must be 6 tokens, one for each choice, got 5 tokens"),
        ({"queue_token": [1] * 6, "queue_end": []}, "queue_end must be non-decreasing from 0 or more to 6"),
        ({"queue_token": [1] * 6, "queue_end": [2, 5]}, "queue_end must be non-decreasing from 0 or more to 6"),
        ({"queue_token": [1] * 6, "queue_end": [-1, 6]}, "queue_end must be non-decreasing from 0 or more to 6"),
        ({"queue_token": [1] * 6, "queue_end": [4, 3, 6]}, "queue_end must be non-decreasing from 0 or more to 6"),
        ({"metrics": {"max_over_mean": 1, "balancedness": 1, "gate_kept": 1.1}}, "metrics.gate_kept must be less"),
        ({"metrics": {"max_over_mean": 1, "balancedness": 1, "off_candidate": -1}}, "metrics.off_candidate must be"),
        ({"metrics": {"max_over_mean": 1, "balancedness": 1.1}}, "metrics.balancedness must be less than or equal"),
        ({"metrics": {"max_over_mean": True, "balancedness": 1}}, "metrics.max_over_mean must be a valid number"),
        ({"metrics": None}, "metrics must be"),
        ({"fallback_reason": "tired"}, "fallback_reason must be 'disabled'"),
    ],
    ids=str,
)
def test_routes_that_contradict_themselves_are_refused(fields, said):
    assert said in changed(RoutingPlan, **fields)
