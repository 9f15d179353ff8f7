"""Actuator: nothing unsafe is ever set, and the defaults come back however it ends."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qstream.errors import ConfigError
from qstream.node import Actuator, FakeNvml
from qstream.node.lease import sole_owner
from tests.unit.node.plans import S, applying, limits, plan_for


@pytest.fixture
def gpus():
    return FakeNvml(4, seed=1)


def test_an_unknown_mode_is_refused(gpus):
    with pytest.raises(ConfigError, match="mode must be dry_run or apply, got 'yes'"):
        Actuator(gpus, domain="d", node="n", mode="yes")


def test_by_default_nothing_is_set(gpus):
    ack = Actuator(gpus, domain="d", node="node-0", allow=gpus.uuids).take(plan_for(gpus.uuids, 300), 1 * S)
    assert (ack.dry_run, ack.result, gpus.writes) == (True, ("ok",) * 4, [])
    assert ack.enforced_limit_w.tolist() == [700] * 4


def test_a_plan_that_is_a_dry_run_sets_nothing(gpus, tmp_path):
    ack = applying(gpus, tmp_path).take(plan_for(gpus.uuids, 300, mode="dry_run"), 1 * S)
    assert (ack.dry_run, gpus.writes) == (True, [])


def test_a_plan_is_set_and_read_back(gpus, tmp_path):
    ack = applying(gpus, tmp_path).take(plan_for(gpus.uuids[:2], 300, clock=1600), 1 * S)
    assert (ack.dry_run, ack.result, limits(gpus)) == (False, ("ok", "ok"), [300, 300, 700, 700])
    assert ack.enforced_limit_w.tolist() == ack.applied_limit_w.tolist() == [300, 300]
    assert gpus.sm_clock_cap_mhz(gpus.uuids[0]) == 1590  # the supported clock below


@pytest.mark.parametrize(("watts", "clock"), [(199, -1), (701, -1), (300, 100), (300, 5000)])
def test_what_is_out_of_range_is_refused_and_not_clamped(gpus, tmp_path, watts, clock):
    ack = applying(gpus, tmp_path).take(plan_for(gpus.uuids, watts, clock=clock), 1 * S)
    assert (set(ack.result), gpus.writes) == ({"refused"}, [])


def test_only_gpus_of_the_allow_list_are_set(gpus, tmp_path):
    ack = applying(gpus, tmp_path, gpus.uuids[:1]).take(plan_for(gpus.uuids, 300), 1 * S)
    assert ack.result == ("ok", "refused", "refused", "refused")
    assert {uuid for uuid, _, _ in gpus.writes} == {gpus.uuids[0]}


def test_gpus_are_known_by_uuid_whatever_their_order(gpus, tmp_path):
    first = gpus.uuids[0]
    actuator = applying(gpus, tmp_path)
    gpus.reboot()
    actuator.take(plan_for([first, "GPU-of-another-node"], 300), 1 * S)
    assert (gpus.uuids[-1], limits(gpus)) == (first, [700, 700, 700, 300])


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"version": 1}, "refused"),  # once
        ({"fence": 0, "version": 9}, "refused"),
        ({"version": 2, "domain": "another"}, "refused"),
        ({"version": 2, "at_s": 5}, "expired"),
    ],
)
def test_a_plan_that_is_old_or_not_for_this_node_changes_nothing(gpus, tmp_path, fields, result):
    actuator = applying(gpus, tmp_path)
    actuator.take(plan_for(gpus.uuids, 400, at_s=40), 41 * S)
    ack = actuator.take(plan_for(gpus.uuids, 300, **{"at_s": 40} | fields), 42 * S)
    assert (set(ack.result), limits(gpus)) == ({result}, [400] * 4)


def test_what_goes_down_is_set_before_what_goes_up(gpus, tmp_path):
    actuator = applying(gpus, tmp_path)
    actuator.take(plan_for(gpus.uuids, [300, 300, 600, 600]), 1 * S)
    gpus.writes.clear()
    actuator.take(plan_for(gpus.uuids, [500, 600, 300, 250], version=2), 2 * S)
    assert [watts for _, _, watts in gpus.writes] == [300, 250, 500, 600]


@pytest.mark.parametrize(
    ("how", "result"), [("denied", "denied"), ("ignored", "denied"), ("clamped", "clamped"), ("lost", "lost")]
)
def test_nothing_goes_up_if_something_did_not_go_down(gpus, tmp_path, how, result):
    actuator = applying(gpus, tmp_path)
    actuator.take(plan_for(gpus.uuids, [300, 600, 600, 600]), 1 * S)
    gpus.fail(gpus.uuids[3], "power_limit_w", how)
    ack = actuator.take(plan_for(gpus.uuids, [600, 600, 600, 300], version=2), 2 * S)
    assert ack.result == ("refused", "ok", "ok", result)
    assert gpus.power_limit_w(gpus.uuids[0]) == 300
    assert ack.enforced_limit_w[3] == {"denied": 600, "ignored": 600, "clamped": 500, "lost": -1}[how]


def test_a_limit_that_the_driver_rounds_down_to_whole_watts_is_as_asked(gpus, tmp_path):
    set_limit = gpus.set_power_limit_w
    gpus.set_power_limit_w = lambda uuid, watts: set_limit(uuid, float(int(watts)))
    actuator = applying(gpus, tmp_path)
    ack = actuator.take(plan_for(gpus.uuids, 300.98), 1 * S)
    assert (set(ack.result), set(ack.enforced_limit_w.tolist())) == ({"ok"}, {300})
    actuator.take(plan_for(gpus.uuids, 300.98, version=2), 2 * S)
    assert len(gpus.writes) == 4  # it is not set again


def test_what_a_plan_does_not_name_any_more_goes_back_to_its_default(gpus, tmp_path):
    actuator = applying(gpus, tmp_path)
    actuator.take(plan_for(gpus.uuids, 300, clock=1590), 1 * S)
    actuator.take(plan_for(gpus.uuids[:1], 300, version=2), 2 * S)
    assert limits(gpus) == [300, 700, 700, 700]
    assert [gpus.sm_clock_cap_mhz(uuid) for uuid in gpus.uuids] == [None] * 4


def test_defaults_come_back_when_the_plan_is_over(gpus, tmp_path):
    actuator = applying(gpus, tmp_path)
    actuator.take(plan_for(gpus.uuids, 300, clock=1590), 1 * S)
    assert actuator.tick(30 * S) is None
    ack = actuator.tick(31 * S)
    assert (ack.plan_id, ack.result, limits(gpus)) == ("p1", ("expired",) * 4, [700] * 4)
    assert actuator.tick(32 * S) is None


def test_a_default_that_cannot_be_put_back_is_tried_again(gpus, tmp_path):
    actuator = applying(gpus, tmp_path)
    actuator.take(plan_for(gpus.uuids, 300), 1 * S)
    gpus.fail(gpus.uuids[0], "power_limit_w", "denied")
    assert actuator.tick(31 * S).result == ("denied", "expired", "expired", "expired")
    gpus.fail(gpus.uuids[0], "power_limit_w", "none")
    assert actuator.tick(32 * S).result == ("expired",)
    assert limits(gpus) == [700] * 4


def test_defaults_come_back_when_the_clock_goes_backwards(gpus, tmp_path):
    actuator = applying(gpus, tmp_path)
    actuator.take(plan_for(gpus.uuids, 300, at_s=100), 101 * S)
    assert actuator.tick(50 * S).result == ("expired",) * 4
    assert limits(gpus) == [700] * 4


def test_defaults_come_back_at_the_end_and_no_plan_is_taken_after_it(gpus, tmp_path):
    actuator = applying(gpus, tmp_path)
    actuator.take(plan_for(gpus.uuids, 300), 1 * S)
    actuator.close()
    ack = actuator.take(plan_for(gpus.uuids, 300, version=2), 2 * S)
    assert (limits(gpus), set(ack.result)) == ([700] * 4, {"refused"})


def test_a_killed_actuator_puts_the_defaults_back_when_it_starts_again(gpus, tmp_path):
    applying(gpus, tmp_path).take(plan_for(gpus.uuids, 300), 1 * S)
    again = applying(gpus, tmp_path)
    assert limits(gpus) == [700] * 4
    assert set(again.take(plan_for(gpus.uuids, 300), 2 * S).result) == {"refused"}  # a plan once, also after a restart


@pytest.mark.parametrize("killed_at", range(8))
def test_a_kill_between_two_settings_leaves_nothing_behind(gpus, tmp_path, killed_at):
    actuator, set_limit, set_cap, calls = (
        applying(gpus, tmp_path),
        gpus.set_power_limit_w,
        gpus.set_sm_clock_cap_mhz,
        iter(range(99)),
    )

    def killed(write):
        def call(uuid, value):
            if next(calls) == killed_at:
                raise KeyboardInterrupt
            write(uuid, value)

        return call

    gpus.set_power_limit_w, gpus.set_sm_clock_cap_mhz = killed(set_limit), killed(set_cap)
    with pytest.raises(KeyboardInterrupt):
        actuator.take(plan_for(gpus.uuids, 300, clock=1590), 1 * S)
    gpus.set_power_limit_w, gpus.set_sm_clock_cap_mhz = set_limit, set_cap
    applying(gpus, tmp_path)
    assert limits(gpus) == [700] * 4
    assert [gpus.sm_clock_cap_mhz(uuid) for uuid in gpus.uuids] == [None] * 4


def test_the_state_is_on_the_disk_before_anything_is_set(gpus, tmp_path):
    actuator, seen = applying(gpus, tmp_path), []
    write = gpus.set_power_limit_w

    def watched(uuid, watts):
        seen.append(uuid in json.loads((tmp_path / "state.json").read_bytes())["touched"])
        write(uuid, watts)

    gpus.set_power_limit_w = watched
    actuator.take(plan_for(gpus.uuids, 300), 1 * S)
    assert seen == [True] * 4


@pytest.mark.parametrize("content", [b"", b"{", b'{"domain": "d", "node": "another"}'])
def test_with_an_unreadable_state_file_nothing_is_touched(gpus, tmp_path, content):
    (tmp_path / "state.json").write_bytes(content)
    actuator = applying(gpus, tmp_path)
    ack = actuator.take(plan_for(gpus.uuids, 300), 1 * S)
    actuator.close()
    assert (set(ack.result), gpus.writes) == ({"refused"}, [])
    assert "state file" in ack.detail
    assert ack.detail == actuator.fault


def test_a_state_file_that_cannot_be_written_stops_the_plan(gpus, tmp_path):
    actuator = Actuator(gpus, domain="d", node="n", mode="apply", allow=gpus.uuids, state_path=tmp_path / "no" / "folder")
    ack = actuator.take(plan_for(gpus.uuids, 300), 1 * S)
    assert (set(ack.result), gpus.writes) == ({"refused"}, [])
    assert "writable" in ack.detail


def test_a_storm_of_plans_and_faults_sets_nothing_unsafe(tmp_path):
    rng = np.random.default_rng(7)
    gpus = FakeNvml(8, seed=7)
    allow = frozenset(gpus.uuids[:6])
    actuator, now_s = applying(gpus, tmp_path, allow), 0
    for version in range(1, 400):
        now_s += int(rng.integers(1, 20))
        watts = rng.choice([-1, 1e-3, 150, 200, 350, 699, 700, 701, 4e5], 8)
        clock = rng.choice([-1, 1, 345, 1234.5, 1980, 1995, 1e9], 8)
        fields = {"version": int(rng.integers(0, version + 1)), "fence": int(rng.integers(0, 3)), "at_s": max(0, now_s - 5)}
        actuator.take(plan_for(gpus.uuids, watts, clock=clock, ttl_s=float(rng.choice([1, 10, 30])), **fields), now_s * S)
        if rng.random() < 0.3:
            knob, how = (
                rng.choice(["power_limit_w", "sm_clock_mhz"]),
                rng.choice(["denied", "ignored", "clamped", "lost", "none"]),
            )
            gpus.fail(str(rng.choice(gpus.uuids)), str(knob), str(how))
        if rng.random() < 0.1:
            actuator = applying(gpus, tmp_path, allow)  # killed and started again
        actuator.tick(now_s * S)
    assert {uuid for uuid, _, _ in gpus.writes} <= allow
    assert all(200 <= value <= 700 for _, knob, value in gpus.writes if knob == "power_limit_w")
    assert all(value is None or 345 <= value <= 1980 for _, knob, value in gpus.writes if knob == "sm_clock_mhz")
    for uuid in gpus.uuids:
        gpus.fail(uuid, "power_limit_w", "none")
        gpus.fail(uuid, "sm_clock_mhz", "none")
    actuator.close()
    assert limits(gpus) == [700] * 8


def test_defaults_that_cannot_be_put_back_are_tried_less_and_less_often(gpus, tmp_path):
    actuator = applying(gpus, tmp_path)
    actuator.take(plan_for(gpus.uuids, 300), 1 * S)
    for uuid in gpus.uuids:
        gpus.fail(uuid, "power_limit_w", "denied")
    tried = [second for second in range(31, 400) if actuator.tick(second * S) is not None]
    assert tried == [31, 32, 34, 38, 46, 62, 94, 154, 214, 274, 334, 394]


def test_after_a_kill_what_could_not_be_put_back_is_tried_again_although_the_plan_is_not_over(gpus, tmp_path):
    applying(gpus, tmp_path).take(plan_for(gpus.uuids, 300, ttl_s=3600.0), 1 * S)
    gpus.fail(gpus.uuids[0], "power_limit_w", "denied")
    again = applying(gpus, tmp_path)
    assert (again.restored.result, again.touched) == (("denied", "expired", "expired", "expired"), gpus.uuids[:1])
    gpus.fail(gpus.uuids[0], "power_limit_w", "none")
    assert again.tick(2 * S).result == ("expired",)
    assert limits(gpus) == [700] * 4


def test_what_was_denied_stays_in_the_lease_since_it_may_be_set_late(gpus, tmp_path):
    actuator = applying(gpus, tmp_path)
    gpus.fail(gpus.uuids[0], "power_limit_w", "ignored")
    actuator.take(plan_for(gpus.uuids, 300), 1 * S)
    gpus.fail(gpus.uuids[0], "power_limit_w", "none")
    gpus.set_power_limit_w(gpus.uuids[0], 300)  # by a daemon that was slow
    actuator.tick(40 * S)
    assert limits(gpus) == [700] * 4


def test_what_was_set_is_read_back_and_what_another_has_changed_is_acknowledged_once(gpus, tmp_path):
    actuator = applying(gpus, tmp_path)
    actuator.take(plan_for(gpus.uuids[:3], 300, clock=1590, ttl_s=3600.0), 1 * S)
    gpus.set_power_limit_w(gpus.uuids[0], 500)
    gpus.set_sm_clock_cap_mhz(gpus.uuids[1], None)
    assert actuator.tick(30 * S) is None
    ack = actuator.tick(31 * S)
    assert (ack.plan_id, ack.result, ack.enforced_limit_w.tolist()) == ("p1", ("clamped", "clamped", "ok"), [500, 300, 300])
    assert (ack.applied_limit_w.tolist(), ack.detail) == ([300] * 3, "read back: not all is as it was set")
    assert actuator.tick(62 * S) is None  # nothing new
    gpus.fail(gpus.uuids[2], "power_limit_w", "lost")
    gpus.set_power_limit_w(gpus.uuids[0], 300)
    assert actuator.tick(93 * S).result == ("ok", "clamped", "lost")
    actuator.take(plan_for(gpus.uuids[:2], 300, clock=1590, ttl_s=3600.0, version=2), 94 * S)
    assert gpus.sm_clock_cap_mhz(gpus.uuids[1]) == 1590


def test_time_between_two_readings_back_is_above_0(gpus):
    with pytest.raises(ConfigError, match="verify_s must be above 0, got 0"):
        Actuator(gpus, domain="d", node="n", verify_s=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"allow": "GPU-x"}, "allow must be several uuids, such as a list of them, got 'GPU-x'"),
        ({"node": ""}, "node must be 1 to 200 printable characters, got ''"),
        ({"domain": ""}, "domain must be 1 to 200 printable characters, got ''"),
    ],
)
def test_a_wrong_argument_is_named(gpus, wrong, message):
    with pytest.raises(ConfigError, match=message):
        Actuator(gpus, **{"domain": "d", "node": "n"} | wrong)


def test_one_actuator_a_state_file(tmp_path):
    path = tmp_path / "folder" / "state.json"
    taken = pytest.raises(ConfigError, match=r"--state must be of one actuator, got .*state\.json, which another one has")
    with sole_owner(path), taken, sole_owner(path):
        pass
    with sole_owner(path):
        pass
    (tmp_path / "file").touch()
    unfit = pytest.raises(ConfigError, match="--state must be a file in a folder that can be written")
    with unfit, sole_owner(tmp_path / "file" / "x"):
        pass


def test_in_a_dry_run_it_is_known_what_a_killed_actuator_has_left(gpus, tmp_path):
    applying(gpus, tmp_path).take(plan_for(gpus.uuids[:2], 300), 1 * S)
    dry = Actuator(gpus, domain="d", node="node-0", allow=gpus.uuids, state_path=tmp_path / "state.json")
    assert (dry.touched, dry.restored, dry.tick(99 * S), dry.close()) == (gpus.uuids[:2], None, None, None)
    assert limits(gpus) == [300, 300, 700, 700]
