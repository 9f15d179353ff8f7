"""The forecasts in the stream: those of the offline function, second by second, however records come."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy import forecast_series
from qstream.energy.options import EnergyOptions
from qstream.energy.outlook import GAP_S, HORIZONS_S, advanced, fresh_outlook
from qstream.energy.processor import EnergyProcessor
from qstream.state.fields import pack, unpack
from qstream.testing import Feed
from schemas.energy import EnergyPlan
from tests.unit.energy.loops import START_S
from tests.unit.energy.racks import rack, topology_of

SECOND_NS = 10**9


@pytest.fixture(scope="module")
def watts():
    """Five minutes of steps every 17 s, with noise."""
    steps = 2000 + 300 * np.sign(np.sin(np.arange(300) / 5.4))
    return (steps + 20 * np.random.default_rng(0).standard_normal(300)).astype(np.float32).astype(np.float64)


@pytest.fixture(scope="module")
def outlooks(watts):
    """After each second."""
    found = [fresh_outlook()]
    for second, value in enumerate(watts, 1):
        found.append(advanced(found[-1], second * SECOND_NS + 7, value, 0.95))
    return found[1:]


@pytest.mark.parametrize("row", range(4))
def test_forecasts_are_those_of_the_offline_function(watts, outlooks, row):
    mean_w, upper_w = forecast_series(watts, HORIZONS_S[row])
    assert [outlook.mean_w[row] for outlook in outlooks] == pytest.approx(mean_w)
    assert [outlook.upper_w[row] for outlook in outlooks] == pytest.approx(upper_w, rel=1e-5)


def test_errors_and_coverage_are_counted_once_what_was_forecast_has_come(watts, outlooks):
    assert outlooks[29].error_ratio[3] == outlooks[29].coverage[3] == -1
    mean_w, upper_w = forecast_series(watts, 5)
    came = [watts[t + 1 : t + 6] for t in range(295)]
    fades = 0.5 ** (np.arange(295)[::-1] / 600)
    error = np.array([abs(after.mean() - mean) for after, mean in zip(came, mean_w, strict=False)])
    naive = np.array([abs(after.mean() - last) for after, last in zip(came, watts, strict=False)])
    held = np.array([after.max() <= upper * (1 + 1e-6) for after, upper in zip(came, upper_w, strict=False)])
    assert outlooks[-1].error_ratio[1] == pytest.approx((error * fades).sum() / (naive * fades).sum(), rel=1e-5)
    assert outlooks[-1].coverage[1] == pytest.approx((held * fades).sum() / fades.sum(), rel=0.01)


def test_a_short_gap_repeats_the_watts_a_long_one_begins_again_and_the_same_second_changes_nothing(outlooks):
    last = outlooks[-1]
    assert advanced(last, 300 * SECOND_NS + 999, 5.0, 0.95) is last
    assert advanced(last, 303 * SECOND_NS, 5.0, 0.95).steps == last.steps + 3
    assert advanced(last, (301 + GAP_S) * SECOND_NS, 5.0, 0.95).steps == 1


def test_the_state_is_bounded_and_survives_its_storage(outlooks):
    fields = pack(outlooks[-1])
    assert unpack(type(outlooks[-1]), fields) == outlooks[-1]
    assert sum(map(len, fields.values())) < 60_000
    assert {name: len(data) for name, data in fields.items() if "a:" in name} == {
        name: len(data) for name, data in pack(outlooks[50]).items() if "a:" in name
    }


def test_plans_carry_the_forecast_of_what_the_domain_draws_however_batches_are_split():
    nodes = rack()
    topology = topology_of(nodes, 5600, overhead_w=np.array([100, 50], np.float32))
    frames = []
    for second in range(1, 42):
        for node in nodes:
            node.advance(1)
            frames.append((node.telemetry("d"), (START_S + second) * 1000))
    feeds = [Feed(EnergyProcessor(EnergyOptions())) for _ in range(2)]
    for feed in feeds:
        feed.send(topology, at_ms=START_S * 1000)
    for frame, at_ms in frames:
        feeds[0].send(frame, at_ms=at_ms)
    for part in (frames[:31], frames[31:]):
        feeds[1].send_batch([feeds[1].record(frame, at_ms) for frame, at_ms in part])
    assert feeds[0].state("d") == feeds[1].state("d")
    plan = feeds[0].frames(EnergyPlan)[-1]
    assert plan.horizon_s.tolist() == list(HORIZONS_S)
    assert plan.drawn_w - 150 == pytest.approx(sum(frame.value[0].sum() for frame, _ in frames[-6:-4]), rel=0.01)
    assert plan.forecast_w == pytest.approx(np.full(4, plan.drawn_w), rel=0.02)
    assert (plan.forecast_upper_w >= plan.forecast_w).all()
    assert (plan.forecast_coverage[:3] > 0.5).all()
