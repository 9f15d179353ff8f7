"""Arms: what never wins is hardly used, what wins is found, the kill switch works, and equal windows give equal bytes."""

import numpy as np
import pytest

from qstream.energy import arms, regime
from qstream.energy.train_meta import train_meta
from qstream.errors import LearnError
from qstream.learn.evolve import evolve
from qstream.learn.model import to_bytes
from qstream.learn.version import Used
from tests.unit.energy.windows_played import gaps, play, schedules


@pytest.mark.parametrize("proven", [0.0, 0.6, 0.95])
def test_after_a_hundred_windows_at_most_one_in_twenty_goes_to_arms_that_never_win(proven):
    played = play(gaps(200, 7, proven), lambda category, arm: 0.0, seed=7)
    assert played.share("qaoa") + played.share("hqc") <= 0.05


def test_an_arm_that_wins_in_a_kind_of_window_is_found_there_and_only_there():
    def gain(category, arm):
        return 0.1 if arm == "qaoa" and category.startswith("small") else 0.0

    played = play([0.1] * 400, gain)
    assert 0.3 < played.share("qaoa") < 0.6
    assert played.state.choice.bandit.reward_sum > 0.03 * 0.3 * 400


def test_choosing_that_loses_is_switched_off_for_fifty_windows():
    played = play([0.1] * 120, lambda category, arm: 0.0, explore=1.0)
    assert played.state.watch.held > 0
    switched = next(at for at in range(len(played.used)) if set(played.used[at : at + 50]) == {"list"})
    assert arms.WINDOWS - 5 < switched <= arms.WINDOWS


def test_what_was_retired_never_chooses_and_begins_again_when_it_is_reset():
    state = arms.start()
    retired = evolve(state, watch=evolve(state.watch, promoted=False, retired=True))
    assert set(play([0.1] * 60, lambda category, arm: 0.0, explore=1.0, state=retired).used) == {"list"}
    reset = evolve(state, watch=evolve(state.watch, promoted=False))
    assert len(set(play([0.1] * 20, lambda category, arm: 0.0, explore=1.0, state=reset).used)) == 3


def test_the_kill_switch_of_the_options_leaves_the_classical_arm_and_the_state():
    state = arms.start()
    off = play(gaps(20, 0), lambda category, arm: 0.05, learn="off", state=state)
    assert set(off.used) == {"list"}
    assert off.state == state
    assert set(play(gaps(20, 0), lambda category, arm: 0.05, learn="shadow").used) == {"list"}


def test_equal_windows_give_equal_bytes_however_the_state_was_stored():
    whole = play(gaps(60, 0), lambda category, arm: 0.0)
    again = play(gaps(60, 0), lambda category, arm: 0.0, state=arms.MetaState.decode(arms.start().encode()))
    assert whole.state.encode() == again.state.encode()
    assert whole.used == again.used


def bursts(count):
    """Three windows in twelve are far from their bound."""
    noise = np.random.default_rng(0).random(count)
    return [float(0.3 * x if n % 12 < 3 else 0.01 * x) for n, x in enumerate(noise)]


def test_a_trained_network_foresees_bursts_better_than_the_running_mean_and_noise_hardly_better():
    recorded = schedules(bursts(400))
    model, report = train_meta(recorded, seed=0, deadline_s=600, rounds=120)
    assert report.beats_twin
    assert report.held_out == 100
    again, _ = train_meta([*recorded, recorded[5]], seed=0, deadline_s=600, rounds=120)
    assert to_bytes(again) == to_bytes(model)
    _, other = train_meta(schedules(gaps(400, 0)), seed=0, deadline_s=600, rounds=120)
    assert other.gain.value < 0.01 < report.gain.low

    played = play(bursts(150), lambda category, arm: 0.0, used=Used(model, False, "meta@0"))
    assert played.state.said_by == 0
    assert not played.state.answers
    assert arms.context("small/free/train", played.state)[-1] == played.state.errors.rate
    answering = evolve(played.state, answers=True)
    assert arms.context("small/free/train", answering)[-1] == played.state.said


def test_windows_of_too_few_domains_are_not_trained_on():
    with pytest.raises(LearnError, match="80 or more solved EnergySchedules of one domain, got 79 at most"):
        train_meta(schedules([0.0] * 79), seed=0, deadline_s=1)


@pytest.mark.parametrize("gap", [0.0, 1e300, 5e-324])
def test_no_gap_leaves_a_state_that_cannot_be_stored(gap):
    state = regime.start()
    for each in (gap, 0.0, gap, gap):
        state, seen = regime.observe(state, each)
        assert np.isfinite(seen.features).all()
    assert regime.RegimeState.decode(state.encode()).encode() == state.encode()
