"""A device makes the circuit's last choice by shots, and whatever hinders it is named while the simulated choice goes out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from qstream.hpo import circuit
from qstream.hpo.last_choice import on_device
from qstream.hpo.options import HpoOptions
from qstream.hpo.plan import suggest_from
from qstream.hpo.problem import Observation, Problem, gather
from qstream.hpo.space import SearchSpace
from qstream.quantum.devices.pool import DevicePool, DeviceSpec
from qstream.quantum.runtime import QuantumRuntime
from qstream.quantum.variational.observable import PauliSum, size
from schemas.solver import Reason

SPACE = SearchSpace.load([{"name": name, "type": "float", "low": 0.0, "high": 1.0} for name in "abc"])
OPTIONS = HpoOptions(optimizer="vqc", device="here", deadline_ms=600_000)


@pytest.fixture(scope="module")
def runtime() -> Iterator[QuantumRuntime]:
    here = DeviceSpec(name="here", pennylane="lightning.qubit", seeded=True, mode="inline", shots=100_000)
    small = DeviceSpec(name="small", pennylane="lightning.qubit", seeded=True, mode="inline", max_wires=2)
    late = DeviceSpec(name="late", pennylane="lightning.qubit", seeded=True, mode="late")
    with QuantumRuntime(DevicePool(devices=(here, small, late))) as runtime:
        yield runtime


def bowl() -> Problem:
    unit = SPACE.snap(np.random.default_rng(0).random((15, 3)))
    seen = [Observation(i, SPACE.decode(u), float(((u - 0.3) ** 2).sum())) for i, u in enumerate(unit)]
    return gather(SPACE, seen, {}, 15, 0)


@pytest.mark.parametrize("layers", [0, 2])
def test_what_a_device_measures_is_the_expectation(runtime: QuantumRuntime, layers: int) -> None:
    total = PauliSum(3, np.random.default_rng(1).normal(size=size(3)))
    theta = np.random.default_rng(2).uniform(0, np.pi, (2, 3))
    measure = on_device(OPTIONS.changed({"shots": 100_000}), lambda: runtime, 0)
    assert measure is not None
    energy, execution = measure(total, theta, layers)
    assert energy == pytest.approx(circuit.exact(total, layers).energy(theta), abs=0.15)
    assert execution == "simulated-statevector"


def test_the_choice_of_a_device_is_one_of_the_lowest_end_points_and_is_labelled(runtime: QuantumRuntime) -> None:
    found = suggest_from(bowl(), OPTIONS, runtime=lambda: runtime)
    assert (found.source, found.fallback_reason) == ("vqc", None)
    assert (found.solver.execution, found.solver.variant, found.solver.shots) == ("simulated-statevector", "here", 256)
    assert found.unit.tobytes() == suggest_from(bowl(), OPTIONS, runtime=lambda: runtime).unit.tobytes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"device": "small"}, Reason.TOO_LARGE),
        ({"device": "late"}, Reason.DEADLINE_INSUFFICIENT),
        ({"device": "nowhere"}, Reason.UNAVAILABLE),
    ],
)
def test_a_device_that_cannot_choose_leaves_the_simulated_choice_and_a_reason(
    runtime: QuantumRuntime, options: dict[str, str], expected: Reason
) -> None:
    found = suggest_from(bowl(), OPTIONS.changed(options), runtime=lambda: runtime)
    simulated = suggest_from(bowl(), OPTIONS.changed({"device": "none"}))
    assert found.fallback_reason is expected
    assert found.unit.tobytes() == simulated.unit.tobytes()
    assert (found.solver.execution, found.solver.variant) == ("simulated-product", None)


def test_without_a_runtime_a_named_device_is_missed_aloud() -> None:
    assert suggest_from(bowl(), OPTIONS).fallback_reason is Reason.UNAVAILABLE
