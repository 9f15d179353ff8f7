"""Guard: each safety rule by itself, and a storm of targets, of which no unsafe one passes."""

from __future__ import annotations

import numpy as np
import pytest

from qstream.energy import guard
from qstream.energy.guard import Age, Fault

S = 1_000_000_000


def test_a_million_targets_pass_only_within_limits_and_where_allowed():
    rng, n = np.random.default_rng(3), 1_000_000
    values = np.array([-1, -0.0, 0, 1e-9, 99, 200, 350, 700, 701, 7e5, np.nan, np.inf, -np.inf, 1e308])
    limit, clock = rng.choice(values, n), rng.choice(values, n)
    least, most = rng.choice([-1, 0, 200], n), rng.choice([-1, 700, np.inf, 150], n)
    low, high, allowed = rng.choice([-1, 200], n), rng.choice([-1, 700], n), rng.random(n) < 0.5
    passed = guard.target_faults(limit, clock, least, most, low, high, allowed) == Fault.NONE
    sets_limit, sets_clock = passed & (limit != -1), passed & (clock != -1)
    assert 1000 < sets_limit.sum() < n / 10
    assert allowed[passed].all()
    assert (least[sets_limit] == 200).all()
    assert (most[sets_limit] == 700).all()
    assert ((limit[sets_limit] >= 200) & (limit[sets_limit] <= 700)).all()
    assert ((clock[sets_clock] >= 200) & (clock[sets_clock] <= 700)).all()


def test_each_fault_has_its_name():
    faults = guard.target_faults(
        [300, 800, 300, 300, -1],
        [-1, -1, 5000, -1, -1],
        [200, 200, 200, -1, -1],
        [700] * 5,
        [200] * 5,
        [1980] * 5,
        [1, 1, 1, 1, 0],
    )
    assert faults.tolist() == [Fault.NONE, Fault.LIMIT_RANGE, Fault.CLOCK_RANGE, Fault.UNKNOWN_LIMITS, Fault.NOT_ALLOWED]


def test_limits_in_milliwatts_are_seen_and_unknown_ones_are_not():
    assert guard.in_milliwatts([700, 700_000], [700, 700])
    assert not guard.in_milliwatts([700, 700_000], [700, -1])


def test_samples_that_cannot_be_measurements_do_not_fit():
    power = [300, -1, 841, 840, 140737488355328.0, np.nan, 9000, 3.7e12]
    assert guard.plausible(power, [700] * 6 + [-1, 700]).tolist() == [True, False, False, True, False, False, True, False]


def test_readings_age():
    assert guard.ages([0, 5, 5.1, 30, 31], 0, stale_s=5, lost_s=30).tolist() == [
        Age.FRESH,
        Age.FRESH,
        Age.STALE,
        Age.STALE,
        Age.LOST,
    ]


def test_three_samples_in_a_row_that_cannot_be_measurements_make_a_gpu_stale():
    assert guard.ages([0, 0, 0, 40], [0, 2, 3, 3], stale_s=5, lost_s=30).tolist() == [0, 0, 1, 2]


def test_a_counter_that_falls_or_is_blank_gains_nothing():
    before = np.array([100, 100, 100, 2**64 - 1], np.uint64)
    now = np.array([150, 20, 2**63, 60], np.uint64)
    gained, reset = guard.counter_gains(before, now)
    assert (gained.tolist(), reset.tolist()) == ([50, 0, 0, 0], [False, True, False, False])


def test_an_energy_counter_of_a_whole_module_does_not_agree_with_its_gpu():
    assert guard.energy_agrees([3000, 4000], [10, 10], [290, 290]).tolist() == [True, False]


def test_heat_and_hardware_slowdown_are_seen_and_a_power_cap_is_not():
    assert guard.too_hot([0, 0x4, 0x8, 0x20, 0x40, 0x80, 0x84, 1]).tolist() == [False, False, True, True, True, True, True, False]


def test_only_a_higher_fence_or_version_is_newer():
    assert guard.is_newer(1, 0, (0, 9))
    assert guard.is_newer(1, 3, (1, 2))
    assert not guard.is_newer(1, 2, (1, 2))
    assert not guard.is_newer(0, 9, (1, 2))


def pace(wanted, applied, before, changed_s, *, now_s=100, forced=False, job=None):
    arrays = [np.array(values, np.float64) for values in (wanted, applied, before)]
    changed = np.array(changed_s, np.int64) * S
    given = {"forced": np.full(len(wanted), forced), "job": None if job is None else np.array(job)}
    return guard.paced(*arrays, changed, now_s * S, dwell_s=10, deadband_w=25, max_lowered=0.25, **given).tolist()


def test_targets_keep_still_within_the_deadband_and_rise_at_once():
    assert pace([390, 420, 500], [400, 400, 400], [700] * 3, [99] * 3) == [400, 400, 500]


def test_a_target_is_lowered_only_some_time_after_its_last_change_unless_a_budget_forces_it():
    assert pace([300], [400], [700], [95]) == [400]
    assert pace([300], [400], [700], [90]) == [300]
    assert pace([300], [400], [700], [95], forced=True) == [300]


def test_a_target_does_not_return_within_a_minute():
    assert pace([300], [400], [300], [50]) == [400]
    assert pace([300], [400], [300], [39]) == [300]


def test_few_are_lowered_at_once_those_that_fall_most_first():
    assert pace([300, 200, 390, 350], [400] * 4, [700] * 4, [0] * 4) == [400, 200, 400, 400]


def test_a_job_is_lowered_whole_or_not_at_all():
    job, applied, before = [0, 0, -1, 1, 1, -1, -1, -1], [400.0] * 8, [700.0] * 8
    wanted = [300.0, 300, 350, 200, 200, 400, 400, 400]
    assert pace(wanted, applied, before, [0] * 8, job=job) == [400, 400, 400, 200, 200, 400, 400, 400]
    assert pace(wanted, applied, before, [0, 99, 0, 99, 0, 0, 0, 0], job=job) == [400, 400, 350, 400, 400, 400, 400, 400]
    assert pace([300.0] * 4, [400.0] * 4, [700.0] * 4, [0] * 4, job=[0] * 4) == [300] * 4  # however large it is


def test_ranks_of_one_job_get_the_highest_of_their_targets():
    out = guard.one_per_job(np.array([300.0, 400, 250, 350]), np.array([0, 0, -1, 1]))
    assert out.tolist() == [400, 400, 250, 350]


@pytest.mark.parametrize(
    ("wanted", "out"),
    [
        ((300, 300), (350, 350)),
        ((500, 500), (450, 450)),
        ((200, 600), (200, 600)),
        ((200, 700), (200, 700)),
        ((0, 500), (200, 500)),
    ],
)
def test_the_sum_of_targets_changes_no_faster_than_the_ramp(wanted, out):
    found = guard.ramped(np.array(wanted, float), np.array([400.0, 400.0]), ramp_w_s=50, elapsed_s=2)
    assert found.tolist() == pytest.approx(out)


def test_what_goes_down_comes_before_what_goes_up():
    down, up = guard.decreases_first(np.array([300.0, 500, 400, -1, 350]), np.array([400.0, 400, 400, 400, -1]))
    assert (down.tolist(), up.tolist()) == ([0, 4], [1, 3])
