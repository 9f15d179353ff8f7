"""The slots of one device: who may use its processes, for how long, and what an answer or its absence means."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from qstream.quantum.devices.breaker import Breaker
from qstream.quantum.devices.channel import ChannelClosed, receive, send
from qstream.quantum.devices.circuits import Circuit, Rotations, Samples
from qstream.quantum.devices.pool import DeviceSpec
from qstream.quantum.devices.sample import INSTALL
from qstream.quantum.record import Refused, Remaining
from schemas.solver import Reason

# What the keeper does with a slot: waits until it is ready, for an answer that no caller awaits, for a probe's; or kills it.
Errand = Literal["start", "abandoned", "probe", "kill"]
_SMOOTHING = 0.2


@dataclass(eq=False)
class Slot:
    """One process of a device and the channel to it, used by one thread at a time; `ended` when the channel is closed."""

    channel: socket.socket
    pid: int | None = None
    ended: bool = False


@dataclass
class Counts:
    """What a device has done since the runtime began."""

    answered: int = 0
    timeouts: int = 0
    crashes: int = 0
    faults: int = 0
    started: int = 0


class Slots:
    """Processes of one device, `spec.slots` in use at most and one spare. Thread-safe.

    `errand` hands a slot to the keeper, with the moment at which it has to be done; `wake` makes the keeper look at the
    breaker.
    """

    def __init__(self, spec: DeviceSpec, errand: Callable[[Slots, Slot, Errand, float], None], wake: Callable[[], None]) -> None:
        self.spec = spec
        self.breaker = Breaker(**spec.breaker.model_dump(), clock=time.monotonic)
        self.counts = Counts()
        self.fault: Refused | None = None
        self._errand = errand
        self._wake = wake
        self._changed = threading.Condition()
        self._starting: set[Slot] = set()
        self._idle: list[Slot] = []
        self._busy: set[Slot] = set()
        self._waiting = 0
        self._closed = False
        self._wait_s = 0.0
        self._service_s = 0.0
        if importlib.util.find_spec("pennylane") is None:
            self.fault = Refused(Reason.NOT_INSTALLED, f"PennyLane is not installed: {INSTALL}")

    def sample(self, circuit: Circuit | Rotations, remaining_s: Remaining) -> tuple[Samples, float]:
        """Samples of a circuit, and the seconds that it waited for a slot.

        A device that takes longer than its own timeout is killed; one that only takes longer than the request may wait is
        left to finish, and its answer is dropped. `Refused` says what happened.
        """
        asked = time.monotonic()
        slot, begun = self._hand_over(circuit, remaining_s)
        limit = begun + self.spec.timeout_ms / 1e3
        reply = self._await(slot, min(limit, begun + remaining_s()), limit)
        with self._changed:
            self._wait_s += _SMOOTHING * (begun - asked - self._wait_s)
            self._service_s += _SMOOTHING * (time.monotonic() - begun - self._service_s)
        self.put_back(slot)
        return self.judged(reply), begun - asked

    def judged(self, reply: object) -> Samples:
        """The samples that a process sent; `Refused`, and a failure for the breaker, if it sent something else."""
        if isinstance(reply, Samples):
            self._count("answered")
            return reply
        self._count("faults")
        self.breaker.failed()
        self._wake()
        reason, detail = reply if isinstance(reply, tuple) else (Reason.INVALID_OUTPUT, str(reply)[:200])
        raise Refused(Reason(reason), detail)

    def hung(self, slot: Slot) -> None:
        """Count a process that took longer than the device's timeout, and let it go."""
        self._count("timeouts")
        self.breaker.failed()
        self._let_go(slot)

    def crashed(self, slot: Slot) -> None:
        """Count a process that ended instead of answering, and let it go."""
        self._count("crashes")
        self.breaker.failed()
        self._let_go(slot)

    def started(self, slot: Slot) -> None:
        """A process begins to open the device."""
        with self._changed:
            self._starting.add(slot)
            self.counts.started += 1

    def ready(self, slot: Slot) -> None:
        """A process has opened the device."""
        self.fault = None
        self.put_back(slot)

    def unready(self, slot: Slot, fault: Refused) -> None:
        """A process could not open the device; no failure for the breaker, which judges answers alone."""
        self.down(fault)
        self._let_go(slot)

    def down(self, fault: Refused) -> None:
        """Why there is no process, until one is ready."""
        with self._changed:
            self.fault = fault
            self._changed.notify_all()

    def put_back(self, slot: Slot) -> None:
        """Make a slot free for the next request."""
        with self._changed:
            self._starting.discard(slot)
            self._busy.discard(slot)
            if not (closed := self._closed):
                self._idle.append(slot)
            self._changed.notify_all()
        if closed:
            self._errand(self, slot, "kill", 0.0)

    def take_idle(self) -> Slot | None:
        """A slot for a probe, if one is free."""
        with self._changed:
            if not self._idle or len(self._busy) >= self.spec.slots:
                return None
            self._busy.add(slot := self._idle.pop())
            return slot

    def lost(self, pid: int | None) -> None:
        """Forget a process that ended while idle, None for all; who waits for a busy one learns it from the channel."""
        with self._changed:
            gone = [slot for slot in self._idle if pid is None or slot.pid == pid]
            self._idle = [slot for slot in self._idle if slot not in gone]
        for slot in gone:
            self._errand(self, slot, "kill", 0.0)

    def missing(self) -> int:
        """How many processes are to be started."""
        with self._changed:
            present = len(self._starting) + len(self._idle) + len(self._busy)
            return 0 if self._closed else self.spec.slots + (self.spec.mode == "slot") - present

    def wait_ready(self, due: float) -> bool:
        """Whether a slot is ready before `due`; False at once if the device cannot be opened."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._idle or self._busy or self.fault or self._closed, _left(due - time.monotonic())
            ) and bool(self._idle or self._busy)

    def close(self) -> None:
        """Refuse from now on, and wake all that wait for a slot or an answer."""
        with self._changed:
            self._closed = True
            free = [*self._starting, *self._idle]
            self._starting.clear()
            self._idle.clear()
            for slot in self._busy:
                # The thread that reads this channel finds its end there, and lets it go.
                with contextlib.suppress(OSError):
                    slot.channel.shutdown(socket.SHUT_RDWR)
            self._changed.notify_all()
        for slot in free:
            self._errand(self, slot, "kill", 0.0)

    def health(self) -> dict[str, object]:
        """The state as plain data."""
        with self._changed:
            return {
                "mode": self.spec.mode,
                "breaker": self.breaker.state,
                "idle": len(self._idle),
                "busy": len(self._busy),
                "starting": len(self._starting),
                "waiting": self._waiting,
                "wait_ms": 1e3 * self._wait_s,
                "service_ms": 1e3 * self._service_s,
                "fault": self.fault and str(self.fault),
                "pids": sorted(slot.pid for slot in (*self._idle, *self._busy) if slot.pid),
                **asdict(self.counts),
            }

    def _hand_over(self, circuit: Circuit | Rotations, remaining_s: Remaining) -> tuple[Slot, float]:
        """The slot that has the circuit now, and when it got it."""
        while True:
            slot, begun = self._take(remaining_s), time.monotonic()
            if remaining_s() <= 0:
                self.put_back(slot)
                raise Refused(Reason.TIMEOUT, "no time was left for the device")
            try:
                send(slot.channel, circuit, begun + self.spec.timeout_ms / 1e3)
            except ChannelClosed:
                # It ended while idle, which is not a fault of this request: take the next one.
                self._let_go(slot)
            except TimeoutError:
                self.hung(slot)
                raise self._too_long() from None
            else:
                return slot, begun

    def _await(self, slot: Slot, due: float, limit: float) -> object:
        try:
            return receive(slot.channel, due)
        except ChannelClosed:
            self.crashed(slot)
            raise Refused(Reason.ERROR, "the process of the device ended") from None
        except TimeoutError:
            if due < limit:
                self._errand(self, slot, "abandoned", limit)
                raise Refused(Reason.TIMEOUT, "no answer within the deadline of the request") from None
            self.hung(slot)
            raise self._too_long() from None

    def _too_long(self) -> Refused:
        return Refused(Reason.TIMEOUT, f"no answer in {self.spec.timeout_ms:g} ms, the process is killed")

    def _take(self, remaining_s: Remaining) -> Slot:
        with self._changed:
            self._check_up()
            if not self._is_free():
                self._join_queue(remaining_s)
            self._busy.add(slot := self._idle.pop())
            return slot

    def _is_free(self) -> bool:
        return bool(self._idle) and len(self._busy) < self.spec.slots

    def _join_queue(self, remaining_s: Remaining) -> None:
        """Wait for a slot with `_changed` held, unless the queue or what is known of it leaves no time."""
        if self._waiting >= self.spec.queue_limit:
            raise Refused(Reason.OVERLOADED, f"{self._waiting} requests wait for the device")
        expected = self._wait_s + self._service_s
        if expected > remaining_s():
            raise Refused(Reason.OVERLOADED, f"{1e3 * expected:.1f} ms of waiting and work are more than remain")
        self._waiting += 1
        try:
            while not self._is_free():
                left = remaining_s() - self._service_s
                if left <= 0 or not self._changed.wait(_left(left)):
                    raise Refused(Reason.OVERLOADED, "no slot became free in time")
                self._check_up()
        finally:
            self._waiting -= 1

    def _check_up(self) -> None:
        if self._closed:
            raise Refused(Reason.UNAVAILABLE, "the runtime is closed")
        if self.breaker.state != "closed":
            raise Refused(Reason.BREAKER_OPEN, f"{self.breaker.state} after {self.spec.breaker.failures} failures")
        if not self._idle and not self._busy:
            raise self.fault or Refused(Reason.NOT_READY, "no process of the device is ready yet")

    def _count(self, what: Literal["answered", "timeouts", "crashes", "faults"]) -> None:
        with self._changed:
            setattr(self.counts, what, getattr(self.counts, what) + 1)

    def _let_go(self, slot: Slot) -> None:
        with self._changed:
            self._starting.discard(slot)
            self._busy.discard(slot)
            self._changed.notify_all()
        self._errand(self, slot, "kill", 0.0)


def _left(seconds: float) -> float | None:
    """Seconds as ``Condition.wait`` takes them."""
    return None if seconds == math.inf else max(0.0, seconds)
