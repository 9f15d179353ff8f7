"""Devices in worker processes: what they do wrong is named, costs one process, and is over when they recover."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from qstream.quantum.devices.circuits import Circuit, circuit_of
from qstream.quantum.devices.keeper import Keeper
from qstream.quantum.devices.lanes import Lanes
from qstream.quantum.devices.pool import DEFAULT_POOL, BreakerSpec, DeviceSpec
from qstream.quantum.devices.sample import sample
from qstream.quantum.devices.slot import Slots
from qstream.quantum.ising import IsingProblem
from qstream.quantum.record import Answer, Refused, Remaining
from schemas.solver import Reason

FILE = Path(__file__).with_name("misbehaving.py")
START_S = 180.0
ANSWER = Answer(np.ones(1, np.int8), 0.0, "search")


@pytest.fixture(scope="module")
def keeper(of_others: set[object]) -> Iterator[Keeper]:
    keeper = Keeper()
    try:
        yield keeper
    finally:
        keeper.close()


def circuit(n: int = 4, shots: int = 64) -> Circuit:
    rng = np.random.default_rng(n)
    problem = IsingProblem(n, np.triu(rng.normal(size=(n, n)), 1), rng.normal(size=n))
    return circuit_of(problem, np.array([0.3]), np.array([-0.5]), shots, seed=3)


def misbehaving(
    orders: Path, timeout_ms: float = 1500.0, failures: int = 1000, cooldown_s: float = 0.2, **more: object
) -> DeviceSpec:
    """A device that does what the file at `orders` says."""
    breaker = BreakerSpec(failures=failures, cooldown_s=cooldown_s)
    kwargs = {"orders": str(orders), **more.pop("kwargs", {})}  # type: ignore[dict-item]
    given = {"name": "bad", "pennylane": f"{FILE}:Misbehaving", "kwargs": kwargs, "timeout_ms": timeout_ms, "breaker": breaker}
    return DeviceSpec.model_validate(given | more)


def add(keeper: Keeper, spec: DeviceSpec) -> Slots:
    slots = keeper.add(spec)
    assert slots.wait_ready(time.monotonic() + START_S), slots.health()
    return slots


def within(seconds: float) -> Remaining:
    due = time.monotonic() + seconds
    return lambda: due - time.monotonic()


def reason_of(slots: Slots, seconds: float = 120.0) -> Reason | None:
    """Why a request is refused; None if it is answered."""
    try:
        slots.sample(circuit(), within(seconds))
    except Refused as refused:
        return refused.reason
    return None


def pids_of(slots: Slots) -> list[int]:
    pids = slots.health()["pids"]
    assert isinstance(pids, list)
    return pids


def eventually(holds: Callable[[], bool], seconds: float = 120.0) -> bool:
    due = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > due:
            return False
        time.sleep(0.01)
    return True


def test_a_process_gives_the_samples_that_this_one_gives(keeper: Keeper):
    spec = DEFAULT_POOL.device("lightning.qubit")
    found, _ = add(keeper, spec).sample(circuit(), within(120))
    here = sample(spec, circuit())
    assert (found.spins.tobytes(), found.counts.tobytes()) == (here.spins.tobytes(), here.counts.tobytes())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("hang", Reason.TIMEOUT),
        ("stop", Reason.TIMEOUT),
        ("crash", Reason.ERROR),
        ("raise", Reason.ERROR),
        ("nan", Reason.INVALID_OUTPUT),
        ("short", Reason.INVALID_OUTPUT),
        ("alien", Reason.INVALID_OUTPUT),
    ],
)
def test_what_goes_wrong_is_named_and_over_when_the_device_recovers(keeper: Keeper, tmp_path: Path, how: str, reason: Reason):
    orders = tmp_path / "orders"
    slots = add(keeper, misbehaving(orders, timeout_ms=1500.0 if reason is Reason.TIMEOUT else 60_000.0))
    assert eventually(lambda: reason_of(slots) is None)
    orders.write_text(how)
    assert reason_of(slots) is reason
    orders.unlink()
    assert eventually(lambda: reason_of(slots) is None)
    slots.close()


def test_a_killed_process_is_replaced_and_its_start_is_no_failure(keeper: Keeper, tmp_path: Path):
    orders = tmp_path / "orders"
    slots = add(keeper, misbehaving(orders, failures=3))
    assert eventually(lambda: slots.health()["idle"] == 2)
    orders.write_text("hang")
    for _ in range(2):
        assert reason_of(slots) is Reason.TIMEOUT
        assert eventually(lambda: slots.health()["idle"] == 2)
    orders.unlink()
    assert (reason_of(slots), slots.breaker.state, slots.counts.timeouts, slots.counts.started) == (None, "closed", 2, 4)
    slots.close()


def test_the_breaker_opens_and_only_a_probe_in_the_background_closes_it(keeper: Keeper, tmp_path: Path):
    orders = tmp_path / "orders"
    # The probe has two wires, so that this device fails it as well.
    slots = add(keeper, misbehaving(orders, timeout_ms=60_000.0, failures=2, cooldown_s=0.3, kwargs={"spares": 1}))
    orders.write_text("raise")
    assert [reason_of(slots) for _ in range(4)] == [Reason.ERROR, Reason.ERROR, Reason.BREAKER_OPEN, Reason.BREAKER_OPEN]
    asked = slots.counts.faults
    assert eventually(lambda: slots.counts.faults >= asked + 2)
    assert reason_of(slots) is Reason.BREAKER_OPEN
    orders.unlink()
    assert eventually(lambda: slots.breaker.state == "closed")
    assert eventually(lambda: reason_of(slots) is None)
    slots.close()


def test_a_request_that_cannot_wait_does_not_kill_a_device_that_is_only_slow(keeper: Keeper, tmp_path: Path):
    orders = tmp_path / "orders"
    slots = add(keeper, misbehaving(orders, timeout_ms=120_000))
    orders.write_text("slow")
    assert reason_of(slots, seconds=0.05) is Reason.TIMEOUT
    assert slots.health()["busy"] == 1
    orders.unlink()
    assert eventually(lambda: slots.health()["busy"] == 0)
    assert (slots.counts.timeouts, slots.counts.crashes, slots.counts.answered) == (0, 0, 1)
    assert reason_of(slots) is None
    slots.close()


def test_a_full_queue_refuses_at_once_and_a_hopeless_wait_is_refused(keeper: Keeper, tmp_path: Path):
    orders = tmp_path / "orders"
    slots = add(keeper, misbehaving(orders, timeout_ms=120_000, queue_limit=1))
    orders.write_text("slow")
    found: list[Reason | None] = []
    users = [threading.Thread(target=lambda: found.append(reason_of(slots))) for _ in range(2)]
    users[0].start()
    assert eventually(lambda: slots.health()["busy"] == 1)
    users[1].start()
    assert eventually(lambda: slots.health()["waiting"] == 1)
    assert reason_of(slots) is Reason.OVERLOADED
    time.sleep(0.2)  # so long the work took at least
    orders.unlink()
    for user in users:
        user.join()
    assert found == [None, None]
    # What was waited and worked tells the next, while somebody is inside.
    orders.write_text("slow")
    inside = threading.Thread(target=lambda: found.append(reason_of(slots)))
    inside.start()
    assert eventually(lambda: slots.health()["busy"] == 1)
    assert reason_of(slots, seconds=0.01) is Reason.OVERLOADED
    orders.unlink()
    inside.join()
    slots.close()


def test_a_device_that_is_slow_to_open_is_not_ready_until_then(keeper: Keeper, tmp_path: Path):
    orders = tmp_path / "orders"
    orders.touch()
    slots = keeper.add(DeviceSpec(name="slow", pennylane=f"{FILE}:Slow", kwargs={"orders": str(orders)}))
    assert eventually(lambda: slots.health()["starting"] == 2)
    assert reason_of(slots) is Reason.NOT_READY
    orders.unlink()
    assert slots.wait_ready(time.monotonic() + START_S)
    assert reason_of(slots) is None
    assert (slots.breaker.state, slots.counts.timeouts, slots.fault) == ("closed", 0, None)
    slots.close()


def test_a_device_that_is_missing_is_not_installed(keeper: Keeper):
    slots = keeper.add(DeviceSpec(name="missing", pennylane="nobody.qpu"))
    assert not slots.wait_ready(time.monotonic() + START_S)
    assert reason_of(slots) is Reason.NOT_INSTALLED


def test_a_device_that_does_not_open_is_tried_again(keeper: Keeper, tmp_path: Path):
    orders = tmp_path / "orders"
    orders.touch()
    spec = DeviceSpec(name="cold", pennylane=f"{FILE}:Unopened", kwargs={"orders": str(orders)}, probe_s=0.1)
    slots = keeper.add(spec)
    assert not slots.wait_ready(time.monotonic() + START_S)
    assert reason_of(slots) is Reason.UNAVAILABLE
    orders.unlink()
    assert eventually(lambda: reason_of(slots) is None)
    slots.close()


def test_processes_that_die_idle_are_no_request_s_fault(keeper: Keeper, tmp_path: Path):
    slots = add(keeper, misbehaving(tmp_path / "orders"))
    assert eventually(lambda: slots.health()["idle"] == 2)
    pids = pids_of(slots)
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert eventually(lambda: reason_of(slots) is None)
    assert slots.counts.crashes == 0
    slots.close()


def test_ten_thousand_calls_leave_threads_and_processes_as_they_were(keeper: Keeper, tmp_path: Path):
    slots = add(keeper, misbehaving(tmp_path / "orders"))
    lanes = Lanes(threads=2, queue_limit=8)
    small = circuit(1, shots=1)

    def call(times: int) -> None:
        for _ in range(times):
            lanes.run(lambda _: ANSWER, lambda: math.inf, 0.0)
        for _ in range(times // 10):
            slots.sample(small, lambda: math.inf)

    call(100)
    assert eventually(lambda: slots.health()["idle"] == 2)
    me = psutil.Process()
    before = threading.active_count(), len(me.children(recursive=True)), me.num_fds()
    call(10_000)

    def as_before() -> bool:
        now = threading.active_count(), len(me.children(recursive=True)), me.num_fds()
        return all(after <= first for first, after in zip(before, now, strict=True))

    assert eventually(as_before)  # what other tests began may end, and their clients may just be connecting
    assert not [child for child in me.children(recursive=True) if child.status() == psutil.STATUS_ZOMBIE]
    lanes.close()
    slots.close()


def test_a_lane_is_left_at_the_deadline_and_told_to_stop():
    lanes = Lanes(threads=1, queue_limit=0)
    ended = threading.Event()

    def work(left_s: Remaining) -> Answer:
        while left_s() > -0.2:
            time.sleep(0.001)
        ended.set()
        return ANSWER

    def obstinate(_: Remaining) -> Answer:
        ended.wait(120)
        return ANSWER

    with pytest.raises(Refused) as refused:
        lanes.run(obstinate, within(0.05), 0.0)
    assert refused.value.reason is Reason.TIMEOUT
    with pytest.raises(Refused) as refused:
        lanes.run(work, within(10), 0.0)
    assert refused.value.reason is Reason.OVERLOADED
    ended.set()
    assert eventually(lambda: lanes.health()["inside"] == 0)
    ended.clear()
    left: list[float] = []
    with pytest.raises(Refused):
        lanes.run(lambda left_s: (ended.wait(120), left.append(left_s()), ANSWER)[2], within(0.05), 0.0)
    ended.set()
    lanes.close()
    assert left == [0.0]


def test_a_lane_hands_over_what_its_solver_raises():
    lanes = Lanes(threads=1, queue_limit=0)

    def late(_: Remaining) -> Answer:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        lanes.run(late, lambda: math.inf, 0.0)
    lanes.close()
    with pytest.raises(Refused) as refused:
        lanes.run(lambda _: ANSWER, lambda: math.inf, 0.0)
    assert refused.value.reason is Reason.UNAVAILABLE


_OWNER = f"""
import time
from qstream.quantum.devices.keeper import Keeper
from qstream.quantum.devices.pool import DeviceSpec
import psutil
slots = Keeper().add(DeviceSpec(name="a", pennylane="{FILE}:Misbehaving", kwargs={{"orders": "/nonexistent"}}))
assert slots.wait_ready(time.monotonic() + 180)
print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
time.sleep(600)
"""


def test_nothing_outlives_an_owner_that_is_killed():
    with subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        children = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(children) >= 2
        owner.kill()
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive


def test_the_loss_of_the_process_that_forks_devices_is_healed_and_nothing_is_left_at_the_end(
    keeper: Keeper, of_others: set[object], tmp_path: Path
):
    orders = tmp_path / "orders"
    slots = add(keeper, misbehaving(orders, probe_s=0.1))
    psutil.Process(pids_of(slots)[0]).parent().kill()
    assert eventually(lambda: reason_of(slots) is not None)
    assert eventually(lambda: reason_of(slots) is None, seconds=START_S)
    orders.write_text("hang")
    user = threading.Thread(target=lambda: reason_of(slots))
    user.start()
    children = [child for child in psutil.Process().children(recursive=True) if child not in of_others]
    assert len(children) >= 2
    keeper.close()
    user.join()
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive
    left = {thread for thread in threading.enumerate() if thread.name.startswith("qstream")} - of_others
    assert eventually(lambda: not any(thread.is_alive() for thread in left))
    assert reason_of(slots) is Reason.UNAVAILABLE
