"""The energy scene's score: savings at equal work, slowdown by progress, seconds over a budget and unsafe writes."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.demo.energy.rack import OVERHEAD_W, Rack, Second
from qstream.demo.energy.score import Score, unsafe
from qstream.demo.energy.training import STEPS_S
from qstream.node.fake import FakeNvml


def seconds(watts: float, speed: float, limit_w: float = 700.0) -> Second:
    values = [np.full(16, value) for value in (watts, speed, 600.0, 1.0, limit_w)]
    return Second(*values)


def test_savings_are_at_equal_work_and_slowdown_is_by_progress() -> None:
    score = Score(Rack(0))
    assert score.saved_ratio is None
    score.second(seconds(600.0, 1.0), 1e5)
    score.second(seconds(300.0, 0.8), 1e5)
    assert score.slowdown == pytest.approx(2 / 1.8 - 1)
    assert score.saved_ratio == pytest.approx(1 - 900 / 1.8 / (1200 / 2))


@pytest.mark.parametrize(("watts", "limit_w", "over"), [(500, 500, 0), (500, 501, 1), (501, 500, 1)])
def test_a_second_is_over_the_budget_by_what_is_drawn_or_by_what_the_limits_allow(watts, limit_w, over) -> None:
    score = Score(Rack(0))
    score.second(seconds(watts, 1.0, limit_w), 16 * 500 + 2 * OVERHEAD_W)
    assert score.violations == over


def test_a_write_is_unsafe_on_a_gpu_that_is_not_allowed_and_outside_what_it_takes() -> None:
    node = FakeNvml(2)
    first, second = node.uuids
    safe = [(first, "power_limit_w", 700.0), (first, "power_limit_w", 200.0), (first, "sm_clock_mhz", 1500.0)]
    assert unsafe([*safe, (first, "sm_clock_mhz", None)], node, frozenset({first})) == 0
    wrong = [(second, "power_limit_w", 700.0), (first, "power_limit_w", 701.0), (first, "sm_clock_mhz", 300.0)]
    assert unsafe([*wrong, (first, "power_limit_w", None)], node, frozenset({first})) == 4


def test_the_live_training_does_fewer_steps_on_a_gpu_that_is_slowed_and_its_telemetry_says_so() -> None:
    slow, fast = Rack(0), Rack(0)
    slow.nodes[0].set_sm_clock_cap_mhz(slow.live, 1400.0)
    seconds = [(slow.advance(0.5), fast.advance(0.5)) for _ in range(30)]
    at = slow.uuids.index(slow.live)
    done = [sum(second.speed[at] for second in side) * STEPS_S for side in zip(*seconds, strict=True)]
    assert done == pytest.approx([slow.training.steps, fast.training.steps])
    assert done[0] == pytest.approx(done[1] / (0.8 * 1980 / 1395 + 0.2), abs=1)  # the highest clock below the cap
    assert 0 < slow.training.loss < slow.training.first_loss
    frame = slow.telemetry(slow.nodes[0], 1)
    assert frame.count is not None
    assert frame.count[frame.counter.index("progress"), at] == slow.training.steps
