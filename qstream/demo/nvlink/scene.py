"""The nvlink scene: what the routers of a model that trains would send over a modelled fabric, and an agent that plans for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from rich.console import RenderableType

from qstream.demo.nvlink.fabric import Fabric
from qstream.demo.nvlink.frames import FIRST_PART, WINDOW_NS, elsewhere, profile, report, telemetry
from qstream.demo.nvlink.held import Floats, Held
from qstream.demo.nvlink.score import Phase, Score
from qstream.demo.nvlink.screen import line, panel, tables
from qstream.demo.nvlink.traffic import RANKS, bytes_between, trained
from qstream.demo.scene import Frames, InStepScene
from qstream.nvlink import generate
from qstream.nvlink.warm import warm
from qstream.stream.client import time_of
from schemas.control import Scalar
from schemas.deadletter import DeadLetter
from schemas.fabric import FabricPlan, FabricTopology, JobProfile, RouteShares
from schemas.frame import Frame
from schemas.topics import FABRIC_JOB, FABRIC_REPORT, FABRIC_TELEMETRY, FABRIC_TOPOLOGY

SECOND_NS: Final = 1_000_000_000
# Modelled time begins ahead of the clock, and stays so on the slowest machine: else the agent would take silence for what it is
# not. Agents take a record that is more than an hour ahead for one with a wrong clock.
AHEAD_S: Final = 3000
WINDOWS_A_S: Final = 5  # at most
LEAST_WINDOWS: Final = 32  # so that each phase has some
FIRST_JOB, JOB_EVERY = 4, 12  # windows before the job is described, and between two descriptions of it
JOB_WINDOWS: Final = 16  # that its bytes are the mean of
OPTIONS: Final[Mapping[str, Scalar]] = {"plan_ms": 100.0, "window_ms": WINDOW_NS / 1e6, "restart_us": 1e6}
NEXT: Final = """next
  your fabric    qstream run nvlink;  qstream publish topology.json;  qstream watch routes
  in Python      from qstream.nvlink import read_topology, place_job, plan_splits: no server, numpy in and out
  what it does   qstream/nvlink/README.md: placement, shares over spines, silent faults, and where nothing is to be won"""


class NvlinkScene(InStepScene):
    """A training step is a window of modelled time, which stands still while records are processed.

    Telemetry of a window comes in two parts, of which the first closes the window before: so shares that know all windows before
    serve the rest of it. Half-way an uplink falls to a quarter without a word; at three quarters a server with ranks leaves.
    """

    agent = "nvlink"
    options = OPTIONS
    packages = ("torch", "numba", "networkx")
    next_steps = NEXT

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.fabric = Fabric(seed)
        self.rack = generate("gb200-nvl72")
        self.step_keys = (self.fabric.topology.fabric, self.rack.fabric)
        self.held = Held(self.fabric, RANKS)
        self.score = Score()
        self.phase: Phase = "healthy"
        self._start_ns, self._slow_leaf = 0, -1
        self._recent: deque[Floats] = deque(maxlen=JOB_WINDOWS)
        self._rack_job: JobProfile | None = None
        self._sent_s: dict[int, float] = {}
        self._figures: Mapping[str, Any] = {}

    def first(self) -> Frames:
        now = {"ts_ns": time.time_ns()}
        return [(FABRIC_TOPOLOGY, topology.model_copy(update=now)) for topology in (self.fabric.topology, self.rack)]

    def warm(self) -> None:
        warm()
        self.score.window(0, "healthy", self.held, np.ones((RANKS, RANKS)) - np.eye(RANKS))
        self.score = Score()

    def steps(self, seconds: float) -> Iterator[Frames]:
        """Windows for so many seconds, and no faster; on a slow machine they take longer and measure the same."""
        self._start_ns = (time.time_ns() // SECOND_NS + AHEAD_S) * SECOND_NS
        began_s, windows = time.monotonic(), max(LEAST_WINDOWS, round(seconds * WINDOWS_A_S))
        for step in trained(self.seed, windows):
            self.score.losses.append(step.loss)
            self.score.tokens += len(step.token_id)
            if step.step == windows // 2:
                self._slow_uplink()
            if step.step == windows * 3 // 4:
                yield self._server_leaves(step.step)
            yield from self._window(step.step, bytes_between(step))
            time.sleep(max(0.0, began_s + (step.step + 1) * seconds / windows - time.monotonic()))

    def _window(self, number: int, nbytes: Floats) -> Iterator[Frames]:
        t0_ns = self._start_ns + number * WINDOW_NS
        t1_ns, first_ns = t0_ns + WINDOW_NS, t0_ns + int(FIRST_PART * WINDOW_NS)
        self.score.shares_due += number > 0
        yield [(FABRIC_TELEMETRY, telemetry(self.fabric, number, 0, t0_ns, first_ns, FIRST_PART * self._offered(nbytes)))]
        found = self.score.window(number, self.phase, self.held, nbytes)
        rest = telemetry(self.fabric, number, 1, first_ns, t1_ns, (1 - FIRST_PART) * self._offered(nbytes))
        frames: list[Any] = [(FABRIC_TELEMETRY, rest)]
        if found is not None:
            frames.append((FABRIC_REPORT, report(number, t0_ns, nbytes, found.exchange_ms[-1], self.held.version)))
        self._recent.append(nbytes)
        if number % JOB_EVERY == FIRST_JOB - 1:
            frames += self._described(t1_ns)
        yield frames

    def _offered(self, nbytes: Floats) -> Floats:
        """Bytes [L, L, S] between leaves by spine; none while the job stands still."""
        if self.held.gpus is None:
            return np.zeros_like(self.held.share)
        return self.held.placed(nbytes, self.held.gpus).demand[:, :, None] * self.held.share

    def _described(self, ts_ns: int) -> list[Any]:
        """The job as its last windows were; and, as it was at first, on a healthy fabric of one tier."""
        job = profile(np.mean(self._recent, axis=0), self.held.gpus, ts_ns)
        self._rack_job = (self._rack_job or elsewhere(job, self.rack)).model_copy(update={"ts_ns": ts_ns})
        return [(FABRIC_JOB, job), (FABRIC_JOB, self._rack_job)]

    def _slow_uplink(self) -> None:
        self.phase = "slow uplink"
        self._slow_leaf = self._used_servers()[0]
        self.fabric.slow(self._slow_leaf)

    def _server_leaves(self, number: int) -> Frames:
        self.phase = "server gone"
        self.held.server_gone(next(server for server in self._used_servers() if server != self._slow_leaf))
        ts_ns = self._start_ns + number * WINDOW_NS
        return [(FABRIC_TOPOLOGY, self.fabric.topology.model_copy(update={"ts_ns": ts_ns}))]

    def _used_servers(self) -> list[int]:
        """Those that the job runs on and would run on in linear order too: what happens there happens to both."""
        linear = self.fabric.server[self.fabric.linear(RANKS)].tolist()
        gpus = self.held.gpus
        return [server for server in dict.fromkeys(linear) if gpus is None or server in self.fabric.server[gpus]]

    def published(self, frame: Frame, at_s: float) -> None:
        if isinstance(frame, FabricTopology):
            self.score.shares_due += frame.fabric == self.fabric.topology.fabric
        self._sent_s.setdefault(time_of(frame) or 0, at_s)

    def received(self, frame: Frame, at_s: float) -> Frames:
        if isinstance(frame, RouteShares):
            self.held.share_out(frame)
            self.score.shares += 1
            self._took(self.score.shares_ms, frame.ts_ns, at_s)
        elif isinstance(frame, FabricPlan) and frame.fabric == self.rack.fabric:
            self.score.healthy = frame
        elif isinstance(frame, FabricPlan):
            self.score.plans.append(frame)
            self.held.take(frame)
            self._took(self.score.plans_ms, frame.ts_ns, at_s)
        elif isinstance(frame, DeadLetter):
            self.score.dead_letters += 1
        return ()

    def _took(self, into: list[float], ts_ns: int, at_s: float) -> None:
        """Note how long a plan took since the record that it came with was published."""
        if (sent_s := self._sent_s.get(ts_ns // 1_000_000)) is not None:
            into.append((at_s - sent_s) * 1e3)

    def figures(self, seconds: float, repeated: int) -> Mapping[str, Any]:
        self._figures = self.score.figures(seconds, self.waiting + self.score.left_out, repeated)
        return self._figures

    def line(self, agent_state: str) -> str:
        return line(self.score, self._figures, self.phase, agent_state)

    def panel(self, agent_state: str) -> RenderableType:
        return panel(self.score, self._figures, self.phase, agent_state)

    def report(self) -> Iterator[RenderableType]:
        yield from tables(self._figures)
