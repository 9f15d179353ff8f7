"""The solvers' runtime: lateness of answers when a device hangs, cost of an open breaker, of a slot and of a new process."""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from qstream.quantum.devices.pool import DEFAULT_POOL, BreakerSpec, DevicePool, DeviceSpec
from qstream.quantum.devices.solver import device_solver
from qstream.quantum.ising import IsingProblem
from qstream.quantum.record import SolveRequest, SolveResult
from qstream.quantum.runtime import QuantumRuntime
from schemas.solver import Reason
from tests.benchmarks.clock import median_ms

Row = tuple[str, float, str, str]
_MISBEHAVING = f"{Path(__file__).parents[1] / 'unit/quantum/devices/misbehaving.py'}:Misbehaving"
_HUNG_CALLS = 200
_DEADLINE_S = 0.05


def rows() -> list[Row]:
    """What was measured, its value, unit and target ("-" for none)."""
    with TemporaryDirectory() as folder, QuantumRuntime(_pool(Path(folder))) as runtime:
        runtime.prepare(*(device.name for device in _pool(Path(folder)).devices))
        return [
            *slot_rows(runtime),
            *engine_rows(runtime),
            *size_rows(runtime),
            *hung_rows(runtime, Path(folder)),
            *breaker_rows(runtime, Path(folder)),
            *restart_rows(runtime),
            *growth_rows(runtime),
        ]


def hung_rows(runtime: QuantumRuntime, folder: Path) -> list[Row]:
    """A device that hangs at every request: killed by its own timeout, or left at the deadline of the request."""
    found: list[Row] = []
    for name, what in (("killed", "killed at 20 ms"), ("left", "left at the deadline")):
        (folder / name).write_text("hang")
        late_ms, wall_ms, timeouts = [], [], 0
        for _ in range(_HUNG_CALLS):
            _until(lambda name=name: _idle(runtime, name) >= 1)  # type: ignore[misc]
            result = runtime.solve(_request(12, _DEADLINE_S), f"device:{name}")
            timeouts += _reason(result) is Reason.TIMEOUT
            wall_ms.append(result.meta.wall_ms)
            late_ms.append(result.meta.wall_ms - 1e3 * _DEADLINE_S)
        (folder / name).unlink()
        found += [
            (f"hung device {what}, 50 ms deadline: lateness p99", max(0.0, float(np.quantile(late_ms, 0.99))), "ms", "<= 20"),
            ("  wall time, median", statistics.median(wall_ms), "ms", "-"),
            ("  answers whose reason is timeout", timeouts / _HUNG_CALLS, "", "1"),
        ]
    return found


def breaker_rows(runtime: QuantumRuntime, folder: Path) -> list[Row]:
    """What an open breaker adds to the answer that is given without the device."""
    (folder / "broken").write_text("raise")
    request = _request(8)
    while _reason(runtime.solve(request, "device:broken")) is not Reason.BREAKER_OPEN:
        pass
    adds = [_arm_ms(runtime.solve(request, "device:broken")) for _ in range(300)]
    return [
        ("open breaker adds, median", statistics.median(adds), "ms", "<= 1"),
        ("  p99", float(np.quantile(adds, 0.99)), "ms", "-"),
    ]


def engine_rows(runtime: QuantumRuntime) -> list[Row]:
    """Engines in lanes that have more to do than the deadline allows."""
    found = []
    for n in (12, 16, 20):
        late_ms = [_late_ms(runtime.solve(_request(n, _DEADLINE_S, seed), "qaoa")) for seed in range(60)]
        found.append(
            (f"qaoa, {n} spins, 50 ms deadline: lateness p99", max(0.0, float(np.quantile(late_ms, 0.99))), "ms", "<= 20")
        )
    return found


def size_rows(runtime: QuantumRuntime) -> list[Row]:
    """Problems of any size, most of them too large for more than one built solution in the time."""
    found: list[Row] = []
    for n in (64, 256, 512, 1024, 2048, 4096):
        repeats = max(8, min(100, 40_000 // n))
        for deadline_s in (0.01, 0.05):
            late_ms = []
            for seed in range(repeats):
                request = _request(n, deadline_s, seed)
                start = time.perf_counter()
                runtime.solve(request)
                late_ms.append(1e3 * (time.perf_counter() - start - deadline_s))
            what = f"auto, {n} spins, {1e3 * deadline_s:.0f} ms deadline: lateness p99"
            found.append((what, max(0.0, float(np.quantile(late_ms, 0.99))), "ms", "<= 20" if n < 4096 else "-"))
    return found


def slot_rows(runtime: QuantumRuntime) -> list[Row]:
    """One circuit of three layers: in this process, and in a device's process; the runtime's record has the latter."""
    found = []
    for n in (8, 12, 16):
        request = _request(n, p=3)
        solver = device_solver("lightning.qubit")
        here = median_ms(lambda solver=solver, request=request: solver.run(request, lambda: 10.0))  # type: ignore[misc]
        slots = [_arm_ms(runtime.solve(request, "device:lightning.qubit")) for _ in range(40)]
        found += [
            (f"lightning.qubit, {n} spins, p = 3, 256 shots: in this process", here, "ms", "-"),
            ("  in its own process", statistics.median(slots), "ms", "-"),
        ]
    return found


def restart_rows(runtime: QuantumRuntime) -> list[Row]:
    """From the death of both processes of a device until one is ready."""
    times = []
    for _ in range(15):
        _until(lambda: _idle(runtime, "restarted") == 2)
        pids = _health(runtime, "restarted")["pids"]
        assert isinstance(pids, list)
        start = time.monotonic()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        _until(lambda pids=pids: bool(set(_pids(runtime, "restarted")) - set(pids)))  # type: ignore[misc]
        times.append(1e3 * (time.monotonic() - start))
    return [("a device's process is replaced, median", statistics.median(times), "ms", "-")]


def growth_rows(runtime: QuantumRuntime) -> list[Row]:
    """Threads, processes and descriptors that ten thousand requests leave behind."""
    names = ("auto", "qaoa", "device:lightning.qubit", "device:broken", "device:nobody")
    request = SolveRequest(IsingProblem(2, np.array([[0.0, 1.0], [0.0, 0.0]])), p=1, shots=1)
    for name in names * 2:
        runtime.solve(request, name)
    me = psutil.Process()
    before = threading.active_count(), len(me.children(recursive=True)), me.num_fds()
    start = time.perf_counter()
    for turn in range(10_000):
        runtime.solve(request, names[turn % len(names)])
    per_call = 1e3 * (time.perf_counter() - start) / 10_000
    after = threading.active_count(), len(me.children(recursive=True)), me.num_fds()
    zombies = sum(child.status() == psutil.STATUS_ZOMBIE for child in me.children(recursive=True))
    return [
        ("10,000 requests of 2 spins to 5 solvers, each", per_call, "ms", "-"),
        ("  threads more than before", after[0] - before[0], "", "0"),
        ("  processes more than before", after[1] - before[1], "", "0"),
        ("  zombies", zombies, "", "0"),
    ]


def _pool(folder: Path) -> DevicePool:
    def device(name: str, timeout_ms: float, failures: int) -> DeviceSpec:
        return DeviceSpec(
            name=name,
            pennylane=_MISBEHAVING,
            kwargs={"orders": str(folder / name)},
            timeout_ms=timeout_ms,
            max_wires=20,
            breaker=BreakerSpec(failures=failures, cooldown_s=3600),
        )

    return DevicePool(
        devices=(
            DEFAULT_POOL.device("lightning.qubit"),
            device("killed", 20, 1000),
            device("left", 60, 1000),
            device("broken", 1000, 2),
            device("restarted", 1000, 2),
        )
    )


def _request(n: int, deadline_s: float = 10.0, seed: int = 0, p: int | None = None) -> SolveRequest:
    rng = np.random.default_rng([n, seed])
    problem = IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))
    return SolveRequest(problem, deadline_s=deadline_s, seed=seed, p=p)


def _reason(result: SolveResult) -> Reason | None:
    return None if result.meta.fallback is None else result.meta.fallback.reason


def _late_ms(result: SolveResult) -> float:
    assert result.meta.deadline_ms is not None
    return result.meta.wall_ms - result.meta.deadline_ms


def _arm_ms(result: SolveResult) -> float:
    return next(arm.wall_ms for arm in result.meta.tried if arm.solver == result.meta.requested)


def _health(runtime: QuantumRuntime, name: str) -> dict[str, object]:
    devices = runtime.health()["devices"]
    assert isinstance(devices, dict)
    found: dict[str, object] = devices[name]
    return found


def _idle(runtime: QuantumRuntime, name: str) -> int:
    idle, busy = _health(runtime, name)["idle"], _health(runtime, name)["busy"]
    return int(str(idle)) if busy == 0 else 0


def _pids(runtime: QuantumRuntime, name: str) -> list[int]:
    pids = _health(runtime, name)["pids"]
    assert isinstance(pids, list)
    return pids


def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.001)
