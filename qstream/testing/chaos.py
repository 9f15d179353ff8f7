"""Chaos: a seeded schedule of faults, and its application to worker processes and to the servers that they need."""

from __future__ import annotations

import heapq
import itertools
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from qstream.embedded.child import Child, end_child, log_end, start_child

Action = Literal["kill", "terminate", "pause", "add", "remove", "broker", "store"]

# Weights, and for how many seconds the thing stays down or stopped.
WEIGHTS: Final[Mapping[Action, int]] = {
    "kill": 5,
    "terminate": 3,
    "pause": 3,
    "add": 2,
    "remove": 1,
    "broker": 2,
    "store": 2,
}
LASTS_S: Final[Mapping[Action, tuple[float, float]]] = {
    "kill": (0.0, 1.5),
    "terminate": (0.0, 1.0),
    "pause": (0.3, 6.0),
    "add": (0.0, 0.0),
    "remove": (0.0, 0.0),
    "broker": (0.0, 1.0),
    "store": (0.2, 3.0),
}
_RESTART_S: Final = 0.5
_TURN_S: Final = 0.05


class Server(Protocol):
    """A server that may be killed and started again on its address with its data."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when, what, for how long; `pick` chooses among the workers that run then."""

    at_s: float
    action: Action
    pick: int
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.at_s:5.1f} s {self.action} ({self.lasts_s:.1f} s)"


def schedule(
    seed: int, duration_s: float, weights: Mapping[Action, int] = WEIGHTS, gap_s: tuple[float, float] = (1.0, 3.0)
) -> list[Fault]:
    """Draw faults that follow each other by `gap_s` seconds, the first after one gap; the same for the same seed."""
    rng = random.Random(seed)
    faults: list[Fault] = []
    at_s = rng.uniform(*gap_s)
    while at_s < duration_s:
        action = rng.choices(list(weights), list(weights.values()))[0]
        faults.append(Fault(at_s, action, rng.randrange(1 << 16), rng.uniform(*LASTS_S[action])))
        at_s += rng.uniform(*gap_s)
    return faults


class Fleet:
    """Workers as a supervisor keeps them: each has a slot, whose name is stable over its restarts, and a log.

    A worker that ends by itself is started again after half a second. Every process is ended by its id, at the latest by
    `close` or with this process.

    Parameters
    ----------
    command
        Absolute path of the program and its arguments, for the worker of a slot.
    folder
        Where the workers run and where ``<slot>.log`` is written.
    most
        How many workers `add` goes to; `remove` leaves one.
    grace_s
        How long a worker may take to end after SIGTERM before it is killed.
    """

    def __init__(self, command: Callable[[str], Sequence[str]], folder: Path, most: int = 4, grace_s: float = 20.0) -> None:
        self.folder = folder
        self.most = most
        self.diary: list[str] = []
        self._command = command
        self._grace_s = grace_s
        self._began = time.monotonic()
        self._names = (f"worker-{n}" for n in itertools.count())
        self._workers: dict[str, Child] = {}
        self._paused: set[str] = set()
        self._down: set[str] = set()
        self._gone: list[Child] = []
        self._restart_at: dict[str, float] = {}

    def note(self, text: str) -> None:
        """Add a line to the diary, with the time since the start."""
        self.diary.append(f"{time.monotonic() - self._began:5.1f} s {text}")

    def running(self) -> list[str]:
        """Slots whose worker runs and is not paused."""
        return [s for s, child in self._workers.items() if child.poll() is None and s not in self._paused | self._down]

    def processes(self) -> list[Child]:
        """Every process that was started."""
        return [*self._gone, *self._workers.values()]

    def add(self) -> None:
        """Start a worker in a new slot, if there is room."""
        if len(self._workers) < self.most:
            self.start(next(self._names))

    def start(self, slot: str) -> None:
        """Start the worker of a slot, whose last one has ended."""
        if slot in self._workers:
            self._gone.append(self._workers[slot])
        self._down.discard(slot)
        self._restart_at.pop(slot, None)
        self._workers[slot] = start_child(self._command(slot), self.folder / f"{slot}.log", self.folder)
        self.note(f"{slot} started as {self._workers[slot].pid}")

    def kill(self, slot: str) -> None:
        """SIGKILL; the slot stays empty until `start`."""
        self._down.add(slot)
        self._paused.discard(slot)
        end_child(self._workers[slot])
        self.note(f"{slot} killed")

    def terminate(self, slot: str) -> None:
        """SIGTERM, without waiting; the slot stays empty until `start`."""
        self._down.add(slot)
        self._workers[slot].send_signal(signal.SIGTERM)
        self.note(f"{slot} asked to end")

    def await_end(self, slot: str) -> None:
        """Wait until a terminated worker has ended, and kill it when its grace is over."""
        child = self._workers[slot]
        try:
            self.note(f"{slot} ended with {child.wait(self._grace_s)}")
        except subprocess.TimeoutExpired:
            self.note(f"{slot} did not end in {self._grace_s:.0f} s")
            end_child(child)

    def replace(self, slot: str) -> None:
        """Start the slot of a terminated worker once it has ended."""
        self.await_end(slot)
        self.start(slot)

    def remove(self, slot: str) -> None:
        """Terminate a worker for good, unless it is the last."""
        if len(self._workers) > 1:
            self.terminate(slot)
            self.await_end(slot)
            self._gone.append(self._workers.pop(slot))
            self._down.discard(slot)

    def pause(self, slot: str) -> None:
        """SIGSTOP."""
        self._paused.add(slot)
        self._workers[slot].send_signal(signal.SIGSTOP)
        self.note(f"{slot} stopped")

    def resume(self, slot: str) -> None:
        """SIGCONT, if it is paused."""
        if slot in self._paused:
            self._paused.discard(slot)
            self._workers[slot].send_signal(signal.SIGCONT)
            self.note(f"{slot} continued")

    def supervise(self) -> None:
        """Start again what ended by itself."""
        now = time.monotonic()
        for slot, child in list(self._workers.items()):
            code = child.poll()
            if code is None or slot in self._down:
                continue
            if slot not in self._restart_at:
                self.note(f"{slot} ended by itself with {code}")
                self._restart_at[slot] = now + _RESTART_S
            elif now >= self._restart_at[slot]:
                self.start(slot)

    def log_tail(self, lines: int = 60) -> str:
        """The last lines of each worker's log."""
        parts = []
        for log in sorted(self.folder.glob("*.log")):
            parts += [f"--- {log.name}", *log_end(log, lines)]
        return "\n".join(parts)

    def close(self) -> None:
        """Kill every worker."""
        for child in self._workers.values():
            end_child(child)


def storm(faults: Sequence[Fault], fleet: Fleet, servers: Mapping[Action, Server]) -> None:
    """Apply the faults at their times; when it returns, the servers run and no worker is down or paused.

    A fault that finds nothing to act on is passed over.
    """
    began = time.monotonic()
    down: set[Action] = set()
    order = itertools.count()
    steps: list[tuple[float, int, Fault | Callable[[], None]]] = [(fault.at_s, next(order), fault) for fault in faults]
    heapq.heapify(steps)
    while steps:
        fleet.supervise()
        now_s = time.monotonic() - began
        if steps[0][0] > now_s:
            time.sleep(_TURN_S)
            continue
        step = heapq.heappop(steps)[2]
        if not isinstance(step, Fault):
            step()
            continue
        undo = _begin_server(step, fleet, servers, down) if step.action in servers else _begin_worker(step, fleet)
        if undo is not None:
            heapq.heappush(steps, (now_s + step.lasts_s, next(order), undo))


def _begin_server(fault: Fault, fleet: Fleet, servers: Mapping[Action, Server], down: set[Action]) -> Callable[[], None] | None:
    if fault.action in down:
        return None
    down.add(fault.action)
    servers[fault.action].kill()
    fleet.note(f"{fault.action} killed")

    def start() -> None:
        servers[fault.action].start()
        down.discard(fault.action)
        fleet.note(f"{fault.action} started")

    return start


def _begin_worker(fault: Fault, fleet: Fleet) -> Callable[[], None] | None:
    if fault.action == "add":
        fleet.add()
        return None
    running = fleet.running()
    if not running:
        return None
    slot = running[fault.pick % len(running)]
    if fault.action == "pause":
        fleet.pause(slot)
        return lambda: fleet.resume(slot)
    if fault.action == "kill":
        fleet.kill(slot)
        return lambda: fleet.start(slot)
    if fault.action == "terminate":
        fleet.terminate(slot)
        return lambda: fleet.replace(slot)
    fleet.remove(slot)
    return None
