"""The public functions of energy are as documented: names, order and defaults of arguments, kinds and shapes of answers."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from qstream import energy, node
from qstream.energy import formats
from schemas.energy import EnergyAck, EnergyPlan
from schemas.power import GpuTelemetry, PowerTopology

# What a caller may write; arguments that follow are only by name and have defaults.
SIGNATURES = {
    energy.Sweep: "(gpu, levels, time_s, power_w, knob='power_limit_w')",
    energy.fit_prior: "(sweeps)",
    energy.default_prior: "(knob)",
    energy.next_cap: "(levels, visited, time_s, power_w, *, prior=None, gpu='', max_slowdown=0.05, max_probes=4, seed=0)",
    energy.best_cap: "(levels, visited, time_s, power_w, *, max_slowdown=0.05)",
    energy.allocate: "(power_w, value, domain, budget_w, *, group=None)",
    energy.TaskWindow: "(slots, duration, power_w, release, latest, edges=(), base_w=None, together=())",
    energy.schedule: "(window, *, options=None, deadline_s=None, seed=0)",
    energy.select_nodes: "(window, gpus, free_gpus, idle_w, *, seed=0)",
    energy.forecast_series: "(watts, horizon_s, *, coverage=0.95)",
    energy.plan_active: "(asked, capacity, most)",
    energy.plan_energy: "(topology, telemetry, *, budgets=(), options=None, seed=0)",
    formats.read_telemetry: "(path, *, domain, node=None, zone=None)",
    node.FakeNvml: "(gpus=8, *, node='node-0', model='h100', seed=0)",
    node.FakeNvml.load: "(self, uuid, beta, activity)",
    node.FakeNvml.advance: "(self, seconds)",
    node.FakeNvml.telemetry: "(self, domain)",
    node.FakeNvml.fail: "(self, uuid, knob, how)",
    node.Actuator: "(device, *, domain, node, mode='dry_run', allow=(), state_path=None)",
    node.Actuator.take: "(self, plan, now_ns)",
    node.Actuator.tick: "(self, now_ns)",
    node.Actuator.close: "(self)",
}
FIELDS = {
    energy.Allocation: ("level", "planned_w", "value", "bound", "status"),
    energy.WindowPlan: ("start", "mode", "peak_w", "bound_w", "simple_peak_w", "status", "solver"),
    energy.NodeSelection: ("node_of_task", "active", "plan"),
}


def parameters(text):
    """Name, kind and default of each parameter of ``(a, *, b=1)``."""
    space = {}
    exec(f"def documented{text}: ...", space)
    return list(inspect.signature(space["documented"]).parameters.values())


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_a_function_takes_its_documented_arguments_and_what_else_it_takes_has_a_default(function):
    documented = parameters(SIGNATURES[function])
    found = {p.name: p.replace(annotation=inspect.Parameter.empty) for p in inspect.signature(function).parameters.values()}
    assert [found.get(p.name) for p in documented] == documented
    more = set(found) - {p.name for p in documented}
    assert all(found[name].default is not inspect.Parameter.empty for name in more)
    by_place = [[p.name for p in some if p.kind is p.POSITIONAL_OR_KEYWORD] for some in (documented, found.values())]
    assert by_place[1][: len(by_place[0])] == by_place[0]


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_an_answer_begins_with_its_documented_fields(kind):
    assert tuple(inspect.signature(kind).parameters)[: len(FIELDS[kind])] == FIELDS[kind]


def test_allocation_has_a_level_a_gpu_and_watts_a_budget():
    power = np.array([[100.0, 200.0], [100.0, np.nan]])
    found = energy.allocate(power, power / 200, [[0, 1], [0, -1]], [350.0, 300.0], group=[0, 1])
    assert (found.level.dtype, found.level.shape) == (np.int64, (2,))
    assert (found.planned_w.dtype, found.planned_w.shape) == (np.float64, (2,))
    assert (type(found.value), type(found.bound), found.status) == (float, float, "optimal")
    assert -1 in energy.allocate(power, power / 200, [[0], [0]], [150.0]).level  # parked


def test_windows_take_a_duration_a_task_or_one_a_mode_and_name_the_solver():
    for duration, watts in (([2, 2], [5.0, 5.0]), ([[2, 3], [2, 3]], [[5.0, 4.0], [5.0, 4.0]])):
        plan = energy.schedule(energy.TaskWindow(6, duration, watts, [0, 0], [3, 3]))
        assert (plan.start.dtype, plan.start.shape, plan.mode.shape) == (np.int64, (2,), (2,))
        assert plan.bound_w <= plan.peak_w <= plan.simple_peak_w
        assert (plan.status, plan.solver.solver) == ("optimal", "list")
    chosen = energy.select_nodes(energy.TaskWindow(6, [2, 2], [5.0, 5.0], [0, 0], [3, 3]), [1, 1], [1, 1], [9.0, 9.0])
    assert (chosen.node_of_task.shape, len(chosen.active), chosen.plan.status) == ((2,), 1, "optimal")


def test_caps_are_indices_or_none_and_priors_are_of_sweeps():
    sweep = energy.Sweep("V100", [100, 150, 200], [1.2, 1.05, 1.0], [100, 140, 170])
    assert (sweep.levels.dtype, sweep.knob) == (np.float64, "power_limit_w")
    assert isinstance(energy.fit_prior([sweep] * 3), energy.CapPrior)
    assert isinstance(energy.default_prior("sm_clock_mhz"), energy.CapPrior)
    assert type(energy.next_cap(sweep.levels, [2], [1.0], [170.0])) is int
    assert energy.next_cap(sweep.levels, [2, 1, 0], [1.0, 1.05, 1.2], [170.0, 140.0, 100.0]) is None
    assert type(energy.best_cap(sweep.levels, [2, 1], [1.0, 1.04], [170.0, 140.0])) is int


def test_series_and_counts_have_a_value_for_each_second_or_window():
    mean, bound = energy.forecast_series(np.linspace(100.0, 200.0, 60), 5, coverage=0.9)
    assert (mean.dtype, mean.shape, bound.dtype, bound.shape) == (np.float64, (60,), np.float64, (60,))
    active = energy.plan_active([3.0, 5.0, 1.0], 2.0, 8)
    assert (active.dtype, active.shape) == (np.int64, (3,))


def test_a_fake_node_is_read_limited_and_broken_by_uuid(tmp_path):
    fake = node.FakeNvml(2, node="n", seed=3)
    assert fake.uuids == node.FakeNvml(2, node="n", seed=3).uuids
    one = fake.uuids[0]
    fake.load(one, 0.2, 0.5)
    fake.advance(1.5)
    frame = fake.telemetry("d")
    assert isinstance(frame, GpuTelemetry)
    assert (frame.domain, frame.node, frame.uuid) == ("d", "n", fake.uuids)
    least, most, default = fake.limits_w(one)
    assert least < default <= most
    assert (fake.power_limit_w(one), fake.sm_clock_cap_mhz(one), fake.writes) == (default, None, [])
    for how in ("denied", "ignored", "clamped", "lost", "none"):
        fake.fail(one, "power_limit_w", how)
    limit = np.full(2, default, np.float32)
    topology = PowerTopology(
        domain="d", budget_w=800.0, node=("n",), uuid=fake.uuids, node_of_gpu=np.zeros(2, np.int32),
        limit_min_w=limit * 0 + least, limit_max_w=limit, limit_default_w=limit, opt_in=np.ones(2, np.uint8),
    )  # fmt: skip
    plan = energy.plan_energy(topology, frame, options=energy.EnergyOptions(mode="apply"))
    assert isinstance(plan, EnergyPlan)
    actuator = node.Actuator(fake, domain="d", node="n", mode="apply", allow=fake.uuids, state_path=tmp_path / "state.json")
    ack = actuator.take(plan, plan.ts_ns)
    assert isinstance(ack, EnergyAck)
    assert ack.result == ("ok", "ok")
    assert fake.writes[0] == (one, "power_limit_w", float(plan.power_limit_w[0]))
    assert isinstance(actuator.tick(plan.ts_ns + int(60e9)), EnergyAck)  # the plan is over
    assert fake.power_limit_w(one) == default
    actuator.close()


def test_equal_calls_with_equal_seeds_give_equal_answers():
    assert energy.EnergyOptions.recommended("training", "available").qaoa
    window = energy.TaskWindow(12, [2, 3, 2, 4], [5.0, 4.0, 6.0, 3.0], [0] * 4, [8] * 4)
    first, second = (energy.schedule(window, seed=7) for _ in range(2))
    assert first.start.tolist() == second.start.tolist()
