"""The cost model with a clock that the test turns: what it measures, how it extrapolates, what it admits."""

from __future__ import annotations

import math
import time

import pytest

from qstream.quantum.ising import IsingProblem
from qstream.quantum.qaoa.cost import PROBES, CostModel, calibrate
from qstream.quantum.record import Refused
from schemas.solver import Reason

MODEL = CostModel(fixed_s=(1e-3, 1e-3, 4e-3), layer_s=(1e-4, 2e-4, 8e-4))


def test_between_the_probes_times_are_geometric_and_beyond_them_they_grow() -> None:
    low, middle, high = PROBES
    assert MODEL.layer(low) == pytest.approx(1e-4)
    assert MODEL.layer(1) == pytest.approx(1e-4)
    assert MODEL.layer((low + middle) // 2) == pytest.approx(math.sqrt(2e-8))
    assert MODEL.layer(high + 2) == pytest.approx(8e-4 * 2.3**2)
    assert MODEL.estimate_s(high + 1, 10) == pytest.approx(2 * 4e-3 + 10 * 8e-4 * 2.3)


def test_the_depth_is_what_three_fifths_of_the_time_hold() -> None:
    # 0.6 * 10 ms - 1 ms = 5 ms, and a layer takes 0.2 ms.
    assert MODEL.fitting_layers(12, 10.1e-3, 100) == 25
    assert MODEL.fitting_layers(12, 10.1e-3, 10) == 10
    assert MODEL.fitting_layers(12, 10.1e-3, 100, work=5) == 5
    assert MODEL.fitting_layers(12, math.inf, 32) == 32


def test_it_refuses_what_cannot_fit_and_says_what_would() -> None:
    with pytest.raises(Refused, match=r"1\.5 ms remain, one layer on 12 qubits needs 2 ms") as refused:
        MODEL.fitting_layers(12, 1.5e-3, 32)
    assert refused.value.reason is Reason.DEADLINE_INSUFFICIENT
    assert MODEL.fitting_layers(12, 2.1e-3, 32) == 1


def test_calibration_takes_the_fastest_call_of_each_size() -> None:
    sizes: list[int] = []
    now = iter(range(10**6))

    def clock() -> float:
        return 0.001 * next(now) ** 2  # later calls take longer

    model = calibrate(lambda problem: sizes.append(problem.n), clock)
    assert sorted(set(sizes)) == list(PROBES)
    assert model.layer_s[0] == pytest.approx(0.001)  # from 0 to 1
    assert model.layer_s[0] < model.layer_s[1] < model.layer_s[2]


def test_a_real_calibration_gives_more_time_to_more_qubits() -> None:
    problems: list[IsingProblem] = []
    model = calibrate(problems.append, time.perf_counter)
    assert 0 < model.layer(8) < model.layer(15) < model.layer(20)
