"""Caps: only measured ones are accepted, probes stop and stay within the limit, and the prior knows unseen curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qstream.energy import Sweep, best_cap, default_prior, fit_prior, next_cap, predict_levels
from qstream.energy.caps import next_caps
from qstream.energy.priors.make import measured, modelled, packed
from qstream.errors import ProblemError
from tests.benchmarks.stick import DATA

NAN = float("nan")
GPU = ("v100", "another")


def probed(sweep: Sweep, **options: Any) -> list[int]:
    """Levels that are measured in turn."""
    visited: list[int] = []
    index: int | None = len(sweep.levels) - 1
    while index is not None:
        visited.append(index)
        index = next_cap(sweep.levels, visited, sweep.time_s[visited], sweep.power_w[visited], **options)
    return visited


def test_probes_find_most_of_what_an_oracle_saves_and_few_are_slow() -> None:
    prior, saved, oracle, slowest, visits = default_prior("sm_clock_mhz"), [], [], [], []
    for sweep in modelled(40, seed=11, clocks=12):
        visited = probed(sweep, prior=prior)
        assert len(visited) == len(set(visited)) <= 5
        best = best_cap(sweep.levels, visited, sweep.time_s[visited], sweep.power_w[visited])
        assert best in visited
        energy, slow = sweep.time_s * sweep.power_w, sweep.time_s / sweep.time_s[-1] - 1
        assert slow[best] <= 0.05 + 1e-6
        saved.append(1 - energy[best] / energy[-1])
        oracle.append(1 - (energy / energy[-1])[slow <= 0.05].min())
        slowest.append(slow[visited].max())
        visits.append(len(visited))
    assert np.mean(saved) > 0.95 * np.mean(oracle)
    assert np.quantile(slowest, 0.95) < 0.115
    assert np.mean(visits) < 3.8


def test_the_least_energy_of_what_is_not_too_slow_is_accepted_and_never_what_was_not_measured() -> None:
    levels, time_s, power_w = [100.0, 150.0, 200.0, 250.0], [1.0, 1.2, 1.04], [200.0, 120.0, 180.0]
    assert best_cap(levels, [3, 0, 2], time_s, power_w) == 2
    assert best_cap(levels, [3, 0, 2], time_s, power_w, max_slowdown=0.2) == 0
    assert best_cap(levels, [3], [1.0], [200.0]) == 3


def test_a_gpu_with_one_level_has_nothing_to_measure_next() -> None:
    assert next_cap([250.0], [0], [60.0], [230.0]) is None
    assert best_cap([250.0], [0], [60.0], [230.0]) == 0
    with pytest.raises(ProblemError, match="levels must be of 2 to 1024 levels, the default last, got 1 levels"):
        Sweep("v100", [250.0], [60.0], [230.0])


def test_probing_stops_at_its_limit_and_when_every_level_was_measured() -> None:
    sweep = Sweep("v100", [100.0, 150.0, 200.0, 250.0], [1.01, 1.0, 1.0, 1.0], [90.0, 140.0, 180.0, 200.0])
    assert len(probed(sweep, max_probes=2)) <= 3
    assert probed(sweep, max_probes=0) == [3]
    assert next_cap(sweep.levels, [3, 2, 1, 0], [1.0] * 4, [200.0, 180.0, 140.0, 90.0], max_probes=9) is None
    assert probed(sweep, seed=3) == probed(sweep, seed=3)


def test_jobs_that_are_asked_at_once_get_the_answers_that_each_gets_alone() -> None:
    rng = np.random.default_rng(0)
    for knob in ("sm_clock_mhz", "power_limit_w"):
        prior, sweeps = default_prior(knob), modelled(45, seed=3, clocks=12)
        levels = np.stack([sweep.levels for sweep in sweeps])
        times, draws = np.full(levels.shape, -1.0), np.full(levels.shape, -1.0)
        alone = []
        for row, (sweep, count) in enumerate(zip(sweeps, rng.integers(0, 6, len(sweeps)), strict=True)):
            visited = [11, *rng.choice(11, count, replace=False).tolist()]
            times[row, visited], draws[row, visited] = sweep.time_s[visited], sweep.power_w[visited]
            alone.append(
                next_cap(levels[row], visited, sweep.time_s[visited], sweep.power_w[visited], prior=prior, gpu=GPU[row % 2])
            )
        together = next_caps(levels, times, draws, [GPU[row % 2] for row in range(45)], prior=prior, max_slowdown=0.05)
        assert [None if level < 0 else level for level in together.tolist()] == alone
        assert len(set(alone)) > 3


def test_a_prior_of_sweeps_predicts_levels_that_were_not_measured() -> None:
    prior = fit_prior(modelled(60, seed=1))
    errors = []
    for sweep in modelled(20, seed=2):
        visited = [12, 6, 0]
        time_s, power_w, deviation = predict_levels(
            sweep.levels, visited, sweep.time_s[visited], sweep.power_w[visited], prior=prior
        )
        assert (time_s[visited] == sweep.time_s[visited]).all()
        assert (power_w[visited] == sweep.power_w[visited]).all()
        assert (deviation[visited] == 0).all()
        assert (np.delete(deviation, visited) > 0).all()
        errors += [abs(time_s / sweep.time_s - 1).mean(), abs(power_w / sweep.power_w - 1).mean()]
    assert np.mean(errors) < 0.01


def test_both_bundled_priors_are_what_the_script_makes() -> None:
    for knob, sweeps in (("power_limit_w", 164), ("sm_clock_mhz", 200)):
        prior = default_prior(knob)
        assert prior.knob == knob
        assert prior.curves.shape[:2] == (sweeps, 2)
    assert np.allclose(default_prior("sm_clock_mhz").curves, fit_prior(modelled(200, seed=0)).curves, atol=1e-6)
    if not (DATA / "energy").exists():
        pytest.skip("summary_power_v100.csv was not found: set QSTREAM_DATA")
    made = fit_prior(measured(DATA / "energy"))
    assert np.allclose(default_prior("power_limit_w").curves, made.curves, atol=1e-6)
    assert packed(made) == packed(made)


ONE: dict[str, Any] = {"levels": [100.0, 200.0], "visited": [1], "time_s": [1.0], "power_w": [150.0]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"levels": []}, "levels must be of 1 to 1024 levels, the default last, got 0 levels"),
        ({"levels": [200.0, 100.0]}, "levels must be finite, above 0 and ascending"),
        ({"visited": [0]}, "visited must be the default's index, 1, first"),
        ({"visited": [1, 1], "time_s": [1.0, 1.0], "power_w": [1.0, 1.0]}, "visited must be different indices from 0 to 1"),
        ({"time_s": [NAN]}, "time_s must be finite and above 0"),
        ({"power_w": [150.0, 140.0]}, "power_w must be of 1 numbers, one for each level, got 2 numbers"),
        ({"max_slowdown": -0.1}, "max_slowdown must be a number from 0 to 10, got -0.1"),
        ({"max_probes": 1.5}, "max_probes must be a whole number from 0 to 1024, got 1.5"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value_and_rule(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        next_cap(**(ONE | changed))


def test_unknown_knobs_and_mixed_sweeps_are_refused() -> None:
    with pytest.raises(ProblemError, match="knob must be one of power_limit_w, sm_clock_mhz, got 'fan'"):
        default_prior("fan")
    with pytest.raises(ProblemError, match="sweeps must be 1 or more sweeps of one knob, got 0 sweeps"):
        fit_prior([])
    mixed = [Sweep("a", [1.0, 2.0], [1.0, 1.0], [1.0, 1.0], knob) for knob in ("power_limit_w", "sm_clock_mhz")]
    with pytest.raises(ProblemError, match="sweeps must be 1 or more sweeps of one knob, got 2 sweeps"):
        fit_prior(mixed)
