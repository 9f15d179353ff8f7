"""One thread that starts, watches, probes and kills the processes of all devices, so that no request has to."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from qstream.quantum.devices.channel import ChannelClosed, receive, send
from qstream.quantum.devices.circuits import PROBE
from qstream.quantum.devices.nursery import PACKET
from qstream.quantum.devices.pool import DeviceSpec
from qstream.quantum.devices.slot import Errand, Slot, Slots
from qstream.quantum.record import Refused
from schemas.solver import Reason

START_S = 60.0
_END_S = 5.0
# Idle threads of a BLAS spin and make its small products ten times slower on a shared machine.
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM")}


@dataclass(eq=False)
class Nursery:
    """The process that forks devices; `spawned` are slots whose pid it has not sent yet."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    spawned: deque[Slot] = field(default_factory=deque)


class Keeper:
    """Keeps devices alive from `add` to `close`."""

    def __init__(self) -> None:
        self._errands: deque[tuple[Slots, Slot, Errand, float]] = deque()
        self._devices: list[Slots] = []
        self._retry_at: dict[Slots, float] = {}
        self._watched: dict[Slot, tuple[Slots, Errand, float]] = {}
        self._nursery: Nursery | None = None
        self._selector = selectors.DefaultSelector()
        self._awake, self._alarm = socket.socketpair()
        self._awake.setblocking(False)
        self._alarm.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ)
        self._closing = self._ended = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, spec: DeviceSpec) -> Slots:
        """Start the processes of a device."""
        slots = Slots(spec, self.errand, self._wake)
        with self._lock:
            if self._closing:
                slots.close()
                return slots
            self._devices.append(slots)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="qstream devices", daemon=True)
                self._thread.start()
        self._wake()
        return slots

    def errand(self, slots: Slots, slot: Slot, errand: Errand, due: float) -> None:
        """Take over a slot from the thread that used it."""
        with self._lock:
            if ended := self._ended:
                slot.channel.close()
            else:
                self._errands.append((slots, slot, errand, due))
        if not ended:
            self._wake()

    def close(self) -> None:
        """End all processes and the thread; callers that wait for an answer are informed."""
        with self._lock:
            self._closing = True
        for slots in self._devices:
            slots.close()
        self._wake()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with contextlib.suppress(OSError):
            self._selector.close()
            self._awake.close()
            self._alarm.close()

    def _wake(self) -> None:
        # A full or closed alarm means that the thread is awake already, or gone.
        with contextlib.suppress(OSError):
            self._alarm.send(b"!")

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(self._seconds_to_next()):
                if key.fileobj is self._awake:
                    with contextlib.suppress(BlockingIOError):
                        self._awake.recv(4096)
                elif isinstance(key.data, Slot):
                    self._arrived(key.data)
                else:
                    self._take_message()
            self._run_errands()
            now = time.monotonic()
            for slot, (_, _, due) in list(self._watched.items()):
                if due <= now:
                    self._overdue(slot)
            for slots in list(self._devices):
                self._fill(slots, now)
                self._probe(slots, now)
            self._run_errands()
        self._end_nursery()
        with self._lock:
            self._ended = True
        self._run_errands()
        for slot in list(self._watched):
            self._kill(slot)

    def _seconds_to_next(self) -> float | None:
        moments = [due for _, _, due in self._watched.values()] + list(self._retry_at.values())
        moments += [at for slots in self._devices if (at := slots.breaker.probe_at()) is not None]
        moments = [at for at in moments if at < math.inf]
        if not moments:
            return None
        # A probe that is due but finds no free slot is tried again soon.
        return max(0.02, min(moments) - time.monotonic())

    def _run_errands(self) -> None:
        while self._errands:
            slots, slot, errand, due = self._errands.popleft()
            if errand == "kill":
                self._kill(slot)
            elif not slot.ended:
                self._watch(slots, slot, errand, due)

    def _watch(self, slots: Slots, slot: Slot, errand: Errand, due: float) -> None:
        self._watched[slot] = (slots, errand, due)
        self._selector.register(slot.channel, selectors.EVENT_READ, slot)

    def _unwatch(self, slot: Slot) -> tuple[Slots, Errand]:
        slots, errand, _ = self._watched.pop(slot)
        self._selector.unregister(slot.channel)
        return slots, errand

    def _arrived(self, slot: Slot) -> None:
        """A watched process has said something, or ended."""
        if slot not in self._watched:
            return
        slots, errand = self._unwatch(slot)
        try:
            reply = receive(slot.channel, time.monotonic() + 1.0)
        except (ChannelClosed, TimeoutError):
            if errand == "start":
                self._failed_start(slots, slot, Refused(Reason.UNAVAILABLE, "its process ended while it opened the device"))
            else:
                slots.crashed(slot)
            return
        if errand == "start":
            if reply == "ready":
                slots.ready(slot)
            else:
                self._failed_start(slots, slot, Refused(Reason(reply[0]), reply[1]))
            return
        with contextlib.suppress(Refused):
            slots.judged(reply)
            if errand == "probe":
                slots.breaker.succeeded()
        slots.put_back(slot)

    def _overdue(self, slot: Slot) -> None:
        slots, errand = self._unwatch(slot)
        if errand == "start":
            self._failed_start(slots, slot, Refused(Reason.UNAVAILABLE, f"it did not open in {START_S:g} s"))
        else:
            slots.hung(slot)

    def _failed_start(self, slots: Slots, slot: Slot, fault: Refused) -> None:
        wait_s = math.inf if fault.reason is Reason.NOT_INSTALLED else slots.spec.probe_s
        self._retry_at[slots] = time.monotonic() + wait_s
        slots.unready(slot, fault)

    def _fill(self, slots: Slots, now: float) -> None:
        if slots.fault is not None and slots.fault.reason is Reason.NOT_INSTALLED:
            return
        if now < self._retry_at.get(slots, -math.inf):
            return
        self._retry_at.pop(slots, None)
        for _ in range(slots.missing()):
            if not self._spawn(slots):
                return

    def _spawn(self, slots: Slots) -> bool:
        try:
            if self._nursery is None:
                self._nursery = self._start_nursery()
            ours, theirs = socket.socketpair()
        except OSError as exc:
            return self._cannot_spawn(slots, exc)
        with theirs:
            packet = json.dumps({"spawn": slots.spec.model_dump(mode="json")}).encode()
            try:
                socket.send_fds(self._nursery.control, [packet], [theirs.fileno()])
            except OSError as exc:
                ours.close()
                return self._cannot_spawn(slots, exc)
        slots.started(slot := Slot(ours))
        self._nursery.spawned.append(slot)
        self._watch(slots, slot, "start", time.monotonic() + START_S)
        return True

    def _cannot_spawn(self, slots: Slots, exc: OSError) -> bool:
        self._retry_at[slots] = time.monotonic() + slots.spec.probe_s
        slots.down(Refused(Reason.UNAVAILABLE, f"no process could be started: {exc}"))
        return False

    def _probe(self, slots: Slots, now: float) -> None:
        at = slots.breaker.probe_at()
        if at is None or at > now or (slot := slots.take_idle()) is None:
            return
        if not slots.breaker.take_probe():
            slots.put_back(slot)
            return
        due = now + slots.spec.timeout_ms / 1e3
        if slots.spec.mode == "late":
            # A probe circuit would be a job in somebody's queue: that the device opened again is all that can be known.
            slots.breaker.succeeded()
            slots.put_back(slot)
            return
        try:
            send(slot.channel, PROBE, due)
        except (ChannelClosed, TimeoutError):
            slots.crashed(slot)
            return
        self._watch(slots, slot, "probe", due)

    def _kill(self, slot: Slot) -> None:
        if slot.ended:
            return
        slot.ended = True
        if slot in self._watched:
            self._unwatch(slot)
        slot.channel.close()
        if slot.pid is not None:
            self._tell({"kill": slot.pid})

    def _tell(self, request: dict[str, int]) -> None:
        if self._nursery is not None:
            with contextlib.suppress(OSError):
                self._nursery.control.send(json.dumps(request).encode())

    def _start_nursery(self) -> Nursery:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "qstream.quantum.devices.nursery", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._selector.register(ours, selectors.EVENT_READ)
        return Nursery(process, ours)

    def _take_message(self) -> None:
        """Read one packet of the nursery."""
        nursery = self._nursery
        if nursery is None:
            return
        try:
            packet = nursery.control.recv(PACKET)
        except OSError:
            packet = b""
        if not packet:
            self._lost_nursery()
            return
        message = json.loads(packet)
        if "pid" in message:
            slot = nursery.spawned.popleft()
            slot.pid = message["pid"]
            if slot.ended:
                self._tell({"kill": message["pid"]})
        elif "gone" in message:
            for slots in self._devices:
                slots.lost(message["gone"])

    def _lost_nursery(self) -> None:
        """The nursery died, and with it all its processes, whose channels say so: start another after a pause."""
        self._end_nursery()
        for slots in self._devices:
            self._retry_at[slots] = time.monotonic() + slots.spec.probe_s
            slots.lost(None)

    def _end_nursery(self) -> None:
        if (nursery := self._nursery) is None:
            return
        self._nursery = None
        with contextlib.suppress(KeyError):
            self._selector.unregister(nursery.control)
        nursery.control.close()
        try:
            nursery.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            nursery.process.kill()
            nursery.process.wait()
