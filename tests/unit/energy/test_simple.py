"""The simple scheduler's clocks: by how much of their working time multiprocessors are active, where progress is seen."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy import EnergyOptions, plan_energy
from qstream.energy.simple import simple_clocks
from tests.unit.energy.racks import rack, topology_of

LEVELS = np.tile([990.0, 1200.0, 1500.0, 1980.0], (4, 1))


def test_a_clock_lies_between_the_efficient_and_the_highest_one_at_a_supported_level():
    active = np.array([0.0, 0.5, 0.99, 1.0], np.float32)
    assert simple_clocks(LEVELS, active, np.ones(4, bool)).tolist() == [990, 1500, 1500, -1]


def test_what_is_unknown_or_may_not_be_capped_is_not():
    active, may = np.array([-1, 0.1, 0.1, 0.1], np.float32), np.array([True, False, True, True])
    assert simple_clocks(LEVELS, active, may).tolist() == [-1, -1, 1200, 1200]


@pytest.mark.parametrize(("util", "share"), [(50.0, 0.8), (-1.0, 0.4)])
def test_plans_carry_it_next_to_their_answer_and_as_the_answer_where_nothing_else_is_on(util, share):
    nodes = rack(1)
    frames = []
    for _ in range(12):
        nodes[0].advance(1)
        frame = nodes[0].telemetry("d")
        value = np.vstack([frame.value, np.full(4, 0.4)]).astype(np.float32)
        value[frame.metric.index("gpu_util")] = util
        frames.append(frame.model_copy(update={"metric": (*frame.metric, "sm_active"), "value": value}))
    plan = plan_energy(topology_of(nodes, 9000), frames)
    assert (plan.sm_clock_mhz == -1).all()
    most = 1980 * (0.6 + 0.4 * share)
    assert ((plan.simple_sm_clock_mhz <= most) & (plan.simple_sm_clock_mhz > most - 120)).all()
    simple = plan_energy(topology_of(nodes, 9000), frames, options=EnergyOptions(deterministic=False))
    assert simple.sm_clock_mhz.tolist() == simple.simple_sm_clock_mhz.tolist() == plan.simple_sm_clock_mhz.tolist()
