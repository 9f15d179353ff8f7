"""The runtime answers by the deadline with the deterministic plan and the exact reason, whatever goes wrong."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from prometheus_client import REGISTRY

from qstream.errors import ProblemError
from qstream.quantum.devices.pool import DEFAULT_POOL, BreakerSpec, DevicePool, DeviceSpec
from qstream.quantum.ising import IsingProblem
from qstream.quantum.onehot import OneHotProblem
from qstream.quantum.record import SolveRequest, SolveResult
from qstream.quantum.runtime import QuantumRuntime
from qstream.quantum.solvers import solve
from schemas.solver import Reason

FILE = Path(__file__).parent / "devices/misbehaving.py"
# Far above the deadlines here, so that only a request that was not ended by its deadline breaks it.
MARGIN_MS = 30_000.0
DEADLINE_S = 0.4


def problem(n: int = 6, seed: int = 0) -> IsingProblem:
    rng = np.random.default_rng(seed)
    return IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))


def device(name: str, orders: Path, **more: object) -> DeviceSpec:
    given = {"name": name, "pennylane": f"{FILE}:Misbehaving", "kwargs": {"orders": str(orders / name)}, "timeout_ms": 5000.0}
    return DeviceSpec.model_validate(given | {"breaker": BreakerSpec(failures=2, cooldown_s=0.3)} | more)


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="module")
def runtime(orders: Path, of_others: set[object]) -> Iterator[QuantumRuntime]:
    simulated = [spec for spec in DEFAULT_POOL.devices if spec.name == "lightning.qubit"]
    inline = DeviceSpec(name="inline", pennylane="lightning.qubit", seeded=True, mode="inline", max_wires=8)
    devices = [
        device("bad", orders),
        device("brief", orders, timeout_ms=250.0),
        device("late", orders, mode="late", timeout_ms=2000.0),
    ]
    missing = DeviceSpec(name="missing", pennylane="nobody.qpu")
    with QuantumRuntime(DevicePool(devices=(*simulated, inline, *devices, missing)), late_jobs=1) as runtime:
        assert runtime.prepare("lightning.qubit", "inline", "bad", "brief", "late", "missing") == {
            "lightning.qubit": True,
            "inline": True,
            "bad": True,
            "brief": True,
            "late": True,
            "missing": False,
        }
        yield runtime


def request(deadline_s: float = DEADLINE_S, **terms: object) -> SolveRequest:
    return replace(SolveRequest(problem(), deadline_s=deadline_s, seed=5), **terms)  # type: ignore[arg-type]


def eventually(holds: Callable[[], bool], seconds: float = 120.0) -> bool:
    due = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > due:
            return False
        time.sleep(0.01)
    return True


def plan(result: SolveResult) -> tuple[bytes, str]:
    return result.solution.tobytes(), str(result.solution.dtype)


def reason(result: SolveResult) -> Reason | None:
    assert result.meta.deadline_ms is None or result.meta.wall_ms <= result.meta.deadline_ms + MARGIN_MS
    return None if result.meta.fallback is None else result.meta.fallback.reason


@pytest.mark.parametrize("solver", ["auto", "greedy", "exact", "sa", "dsb", "qaoa", "rqaoa"])
def test_solvers_of_this_process_answer_as_without_the_runtime(runtime: QuantumRuntime, solver: str):
    found, expected = runtime.solve(request(math.inf), solver), solve(request(math.inf), solver)
    assert (plan(found), found.energy, found.meta.solver) == (plan(expected), expected.energy, expected.meta.solver)
    assert found.meta.fallback is None


@pytest.mark.parametrize("name", ["lightning.qubit", "inline"])
def test_a_simulated_device_finds_the_optimum_and_says_what_it_is(runtime: QuantumRuntime, name: str):
    result = runtime.solve(request(math.inf), f"device:{name}")
    assert result.energy == pytest.approx(problem().diagonal().min())
    assert (result.meta.execution, result.meta.device, result.meta.path) == ("simulated-statevector", name, "quantum")
    assert result.counts is not None
    assert result.counts.sum() == 256
    again = runtime.solve(request(math.inf), f"device:{name}")
    assert (again.samples.tobytes(), again.counts.tobytes()) == (result.samples.tobytes(), result.counts.tobytes())  # type: ignore[union-attr]


def test_without_a_runtime_a_device_runs_in_this_process_with_the_same_samples(runtime: QuantumRuntime):
    there = runtime.solve(request(math.inf), "device:lightning.qubit")
    here = solve(request(math.inf), "device:lightning.qubit")
    assert here.counts is not None
    assert there.counts is not None
    assert (here.counts.tobytes(), here.meta.fallback) == (there.counts.tobytes(), None)


def test_a_request_may_name_its_device(runtime: QuantumRuntime):
    result = runtime.solve(request(math.inf, device="lightning.qubit"))
    assert (result.meta.requested, result.meta.fallback) == ("device:lightning.qubit", None)


def test_one_hot_problems_run_on_devices(runtime: QuantumRuntime):
    rng = np.random.default_rng(3)
    pair = {(i, j): rng.normal(size=(3, 3)) for i in range(3) for j in range(i + 1, 3)}
    levels = OneHotProblem((3, 3, 3), pair=pair)
    result = runtime.solve(SolveRequest(levels), "device:lightning.qubit")
    assert result.meta.fallback is None
    assert result.energy == pytest.approx(levels.diagonal().min())
    assert result.counts is not None
    assert result.counts.sum() == 256


@pytest.mark.parametrize(
    ("solver", "terms", "expected"),
    [
        ("device:nobody", {}, Reason.UNAVAILABLE),
        ("device:missing", {}, Reason.NOT_INSTALLED),
        ("device:late", {}, Reason.DEADLINE_INSUFFICIENT),
        ("device:lightning.qubit", {"noise": 0.1}, Reason.UNSUPPORTED),
        ("device:lightning.qubit", {"schedule": "optimize"}, Reason.UNSUPPORTED),
        ("device:inline", {"problem": problem(9)}, Reason.TOO_LARGE),
        ("device:lightning.qubit", {"problem": problem(18), "p": 1024}, Reason.DEADLINE_INSUFFICIENT),
    ],
)
def test_what_a_device_cannot_serve_is_refused_and_answered_otherwise(
    runtime: QuantumRuntime, solver: str, terms: dict[str, object], expected: Reason
):
    result = runtime.solve(request(**terms), solver)
    assert reason(result) is expected
    assert result.meta.path == "classical"


def test_an_unknown_solver_is_an_error(runtime: QuantumRuntime):
    with pytest.raises(ProblemError, match="nobody"):
        runtime.solve(request(), "nobody")
    with pytest.raises(ProblemError, match="nobody"):
        runtime.submit(request(), "nobody")


@pytest.mark.parametrize(
    ("name", "how", "expected"),
    [
        ("bad", "hang", Reason.TIMEOUT),
        ("brief", "hang", Reason.TIMEOUT),
        ("bad", "crash", Reason.ERROR),
        ("bad", "raise", Reason.ERROR),
        ("bad", "nan", Reason.INVALID_OUTPUT),
    ],
)
def test_the_answer_of_a_failing_device_is_the_deterministic_plan(
    runtime: QuantumRuntime, orders: Path, name: str, how: str, expected: Reason
):
    assert eventually(lambda: reason(runtime.solve(request(60.0), f"device:{name}")) is None)
    (orders / name).write_text(how)
    deadline_s = DEADLINE_S if (name, how) == ("bad", "hang") else 60.0
    result = runtime.solve(request(deadline_s), f"device:{name}")
    (orders / name).unlink()
    assert reason(result) is expected
    assert plan(result) == plan(solve(request(math.inf), "auto"))
    assert eventually(lambda: reason(runtime.solve(request(60.0), f"device:{name}")) is None)


def test_an_open_breaker_answers_and_closes_after_the_cooldown(runtime: QuantumRuntime, orders: Path):
    assert eventually(lambda: reason(runtime.solve(request(60.0), "device:bad")) is None)
    before = fallbacks("device:bad", "breaker_open")
    (orders / "bad").write_text("raise")
    seen = [reason(runtime.solve(request(60.0), "device:bad")) for _ in range(4)]
    assert seen[-1] is Reason.BREAKER_OPEN
    assert set(seen) == {Reason.ERROR, Reason.BREAKER_OPEN}
    assert fallbacks("device:bad", "breaker_open") - before == seen.count(Reason.BREAKER_OPEN)
    (orders / "bad").unlink()
    assert eventually(lambda: reason(runtime.solve(request(60.0), "device:bad")) is None)


def test_jumps_of_the_wall_clock_change_nothing(runtime: QuantumRuntime, orders: Path, monkeypatch: pytest.MonkeyPatch):
    real, jumps = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 86_400)
    assert eventually(lambda: reason(runtime.solve(request(60.0), "device:bad")) is None)
    (orders / "bad").write_text("hang")
    assert reason(runtime.solve(request(), "device:bad")) is Reason.TIMEOUT
    (orders / "bad").unlink()
    assert runtime.solve(request(60.0), "qaoa").meta.fallback is None


def test_a_late_answer_is_applied_only_while_its_problem_is_in_force_and_it_is_better(runtime: QuantumRuntime):
    best = problem().diagonal().min()
    before = {outcome: late("device:late", outcome) for outcome in ("applied", "stale", "worse")}
    for in_force, energy, applied in ((problem(), 0.0, True), (problem(seed=1), 0.0, False), (problem(), best, False)):
        ticket = runtime.submit(request(math.inf), "device:late")
        assert ticket.wait(120)
        result = ticket.take(in_force, energy)
        assert (result is not None) is applied
        if result is not None:
            assert result.energy == pytest.approx(best)
            assert result.meta.execution == f"device:{result.meta.device}"
        assert ticket.take(in_force, math.inf) is None
        assert eventually(lambda: runtime.health()["late"] == {"jobs": 0, "limit": 1})
    assert {outcome: late("device:late", outcome) - before[outcome] for outcome in before} == {
        "applied": 1,
        "stale": 1,
        "worse": 1,
    }


def test_late_jobs_are_bounded_and_an_early_look_takes_nothing(runtime: QuantumRuntime, orders: Path):
    (orders / "late").write_text("hang")
    ticket = runtime.submit(request(math.inf), "device:late")
    refused = runtime.submit(request(math.inf), "device:late").refused
    assert refused is not None
    assert refused.reason is Reason.OVERLOADED
    assert ticket.take(problem(), 0.0) is None
    assert ticket.wait(120)
    (orders / "late").unlink()
    before = late("device:late", "failed")
    assert ticket.take(problem(), 0.0) is None
    assert late("device:late", "failed") - before == 1


def test_many_threads_are_all_answered(runtime: QuantumRuntime):
    found: list[SolveResult] = []
    users = [
        threading.Thread(target=lambda seed=seed: found.append(runtime.solve(request(60.0, seed=seed), "device:lightning.qubit")))
        for seed in range(16)
    ]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert len(found) == 16
    assert {reason(result) for result in found} <= {None, Reason.OVERLOADED}
    assert {plan(result) for result in found} == {plan(solve(request(math.inf), "exact"))}


def at_rest(runtime: QuantumRuntime) -> bool:
    """Whether no device starts or works."""
    devices: Any = runtime.health()["devices"]
    return not any(slots["starting"] or slots["busy"] for slots in devices.values())


def test_requests_leave_threads_and_processes_as_they_were(runtime: QuantumRuntime):
    small = SolveRequest(problem(2), p=1, shots=1)
    solvers = ("auto", "qaoa", "device:lightning.qubit", "device:missing", "device:nobody")
    for name in solvers:
        runtime.solve(small, name)
    me = psutil.Process()
    assert eventually(lambda: at_rest(runtime))  # what other tests killed has its successor
    before = threading.active_count(), len(me.children(recursive=True))
    for turn in range(200):
        runtime.solve(small, solvers[turn % len(solvers)])
    assert eventually(lambda: at_rest(runtime))
    now = threading.active_count(), len(me.children(recursive=True))
    assert all(after <= first for first, after in zip(before, now, strict=True)), (before, now)  # what other tests began may end
    assert eventually(lambda: not [child for child in me.children(recursive=True) if child.status() == psutil.STATUS_ZOMBIE])


def test_after_its_end_it_still_answers_and_nothing_is_left(runtime: QuantumRuntime, of_others: set[object], orders: Path):
    (orders / "late").write_text("hang")
    ticket = runtime.submit(request(math.inf), "device:late")
    children = [child for child in psutil.Process().children(recursive=True) if child not in of_others]
    runtime.close()
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive
    assert ticket.done
    left = {thread for thread in threading.enumerate() if thread.name.startswith("qstream")} - of_others
    assert eventually(lambda: not any(thread.is_alive() for thread in left))
    for name in ("device:lightning.qubit", "device:inline", "qaoa"):
        assert reason(runtime.solve(request(), name)) is Reason.UNAVAILABLE
    refused = runtime.submit(request(), "qaoa").refused
    assert refused is not None
    assert refused.reason is Reason.UNAVAILABLE
    assert runtime.health()["closed"] is True


def fallbacks(solver: str, because: str) -> float:
    return REGISTRY.get_sample_value("qstream_quantum_fallbacks_total", {"solver": solver, "reason": because}) or 0.0


def late(solver: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("qstream_quantum_late_total", {"solver": solver, "outcome": outcome}) or 0.0


def test_a_problem_with_terms_is_solved_as_its_request_is(runtime: QuantumRuntime):
    found = runtime.solve(problem(), "exact", seed=5)
    assert found.energy == runtime.solve(request(math.inf), "exact").energy
    assert found.meta.seed == 5
    with pytest.raises(ProblemError, match=r"problem must be .*got type str"):
        runtime.solve("glass")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": 1.5}, {"queue_limit": -1}, {"late_jobs": None}, {"pool": 3}])
def test_a_runtime_of_wrong_numbers_is_not_begun(wrong: dict[str, object]):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ProblemError, match=next(iter(wrong))):
        QuantumRuntime(**wrong)  # type: ignore[arg-type]
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)  # clients of other tests may just be connecting


def test_a_closed_runtime_says_so_to_late_requests():
    runtime = QuantumRuntime(DevicePool())
    runtime.close()
    refused = runtime.submit(request()).refused
    assert refused is not None
    assert (refused.reason, refused.detail) == (Reason.UNAVAILABLE, "the runtime is closed")


FORKED = """
import os, sys
import numpy as np
from qstream.quantum import IsingProblem, QuantumRuntime
from qstream.quantum.record import Refused
problem = IsingProblem(4, np.triu(np.ones((4, 4)), 1))
with QuantumRuntime() as runtime:
    child = os.fork()
    if child == 0:
        reasons = [runtime.solve(problem, solver).meta.fallback.reason for solver in ("qaoa", "device:lightning.qubit")]
        try:
            runtime.prepare("lightning.qubit")
        except Refused as refused:
            reasons.append(refused.reason)
        reasons.append(runtime.submit(problem, "qaoa").refused.reason)
        runtime.close()
        print(*reasons, runtime.solve(problem).energy, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(runtime.solve(problem, "qaoa").meta.fallback)
"""


def test_a_forked_child_gets_classical_answers_and_leaves_its_parents_devices_alone():
    found = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["unavailable"] * 4 + ["-2.0", "None"]
