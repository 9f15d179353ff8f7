"""FakeNvml: GPUs whose physics is computed, for tests and demonstrations; what can fail, fails when asked to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qstream.arguments import real_number, whole_number
from qstream.errors import ProblemError
from qstream.node.device import CLOCK, LIMIT, DeviceDenied, DeviceLost, Knob
from schemas.power import GpuTelemetry
from schemas.wording import must_be

How = Literal["denied", "ignored", "clamped", "lost", "none"]
CLOCK_STEP_MHZ: Final = 15.0
AVERAGED_S: Final = 1.0  # power readings are means of so long
NOISE: Final = 0.003  # of a power reading, relative
POWER_CAPPED: Final = 0x4  # event reason
TOKENS_S: Final = 1000.0  # progress of a GPU at full speed
METRICS: Final = (
    "power_w",
    "power_limit_w",
    "power_limit_enforced_w",
    "power_limit_min_w",
    "power_limit_max_w",
    "power_limit_default_w",
    "sm_clock_mhz",
    "gpu_util",
    "temp_c",
)
COUNTERS: Final = ("energy_mj", "clock_event_reasons", "progress")


@dataclass(frozen=True, slots=True)
class GpuModel:
    """Limits in W and SM clocks in MHz of one kind of GPU."""

    idle_w: float
    least_w: float
    most_w: float
    lowest_mhz: float
    highest_mhz: float


MODELS: Final = {
    "v100": GpuModel(40, 100, 300, 135, 1530),
    "a100": GpuModel(55, 100, 400, 210, 1410),
    "h100": GpuModel(70, 200, 700, 345, 1980),
    "h200": GpuModel(75, 200, 700, 345, 1980),
    "b200": GpuModel(140, 300, 1000, 120, 1965),
}


class FakeNvml:
    """GPUs of one node with deterministic physics: the same seed and calls give the same readings.

    At SM clock f a GPU works at speed 1 / (beta / x + 1 - beta), x = f over its highest clock, and draws
    idle + activity (most - idle) (.35 x + .65 x^3); a power limit lowers the clock to the highest step of 15 MHz that keeps it.
    `beta` is the part of the work that waits for the SM clock: .15 when decoding, .75 to .9 in training.

    `writes` has what was set or tried, ``(uuid, knob, value)`` with knob ``power_limit_w`` or ``sm_clock_mhz`` (None: no cap).

    >>> gpus = FakeNvml(2, model="h100")
    >>> gpus.load(gpus.uuids[0], beta=0.15, activity=0.3)
    >>> gpus.advance(5)
    >>> round(float(gpus.telemetry("row-1").value[0, 0]) / 259, 1)
    1.0
    """

    def __init__(self, gpus: int = 8, *, node: str = "node-0", model: str = "h100", seed: int = 0) -> None:
        gpus, drawn = whole_number("gpus", gpus, 1, 72), whole_number("seed", seed, 0, 2**63 - 1)
        if model not in MODELS:
            raise ProblemError(must_be("model", f"one of {', '.join(MODELS)}", model))
        self.node, self.model, self.kind = node, model, MODELS[model]
        self.uuids = tuple(f"GPU-{node}-{index}" for index in range(gpus))
        self.writes: list[tuple[str, str, float | None]] = []
        self._at = {uuid: index for index, uuid in enumerate(self.uuids)}
        self._rng = np.random.default_rng(drawn)
        self._now_ns, self._boots, self._seq = 0, 0, 0
        self._beta, self._activity = np.full(gpus, 0.15), np.zeros(gpus)
        self._faults: dict[tuple[str, str], How] = {}
        self._started()

    def _started(self) -> None:
        """As after a start of the node: default limits, counters at 0."""
        gpus = len(self.uuids)
        self._limit_w = np.full(gpus, self.kind.most_w, np.float64)
        self._cap_mhz = np.full(gpus, self.kind.highest_mhz, np.float64)
        self._mean_w = np.full(gpus, self.kind.idle_w, np.float64)
        self._energy_mj, self._progress = np.zeros(gpus), np.zeros(gpus)

    def load(self, uuid: str, beta: float, activity: float) -> None:
        """Give a GPU work: `beta` of it waits for the SM clock, `activity` (0 to 1) scales its power. No activity, no work."""
        for name, value in (("beta", beta), ("activity", activity)):
            if not 0 <= value <= 1:
                raise ProblemError(must_be(name, "0 to 1", value))
        self._beta[self._index(uuid)], self._activity[self._index(uuid)] = beta, activity

    def advance(self, seconds: float) -> None:
        """Let time pass: power averages, energy and progress rise."""
        if not real_number("seconds", seconds) > 0 or math.isinf(seconds):
            raise ProblemError(must_be("seconds", "finite and above 0", seconds))
        power, speed, _, _ = self._physics()
        keep = np.exp(-seconds / AVERAGED_S)
        self._mean_w = keep * self._mean_w + (1 - keep) * power
        self._energy_mj += power * seconds * 1e3
        self._progress += np.where(self._activity > 0, speed, 0.0) * TOKENS_S * seconds
        self._now_ns += int(seconds * 1e9)

    def now(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Watts and speed (0 without work, 1 at the highest clock) of each GPU as they are, not as they are read."""
        power, speed, _, _ = self._physics()
        return power, np.where(self._activity > 0, speed, 0.0)

    def telemetry(self, domain: str) -> GpuTelemetry:
        """The readings now; the time is that which `advance` has let pass, in ns. A lost GPU reports nothing."""
        _, _, clock, capped = self._physics()
        read_w = np.clip(self._mean_w * (1 + NOISE * self._rng.standard_normal(len(self.uuids))), 0, None)
        kind, gpus = self.kind, len(self.uuids)
        limits = [np.full(gpus, watts) for watts in (kind.least_w, kind.most_w, kind.most_w)]
        busy = np.where(self._activity > 0, 99.0, 0.0)
        temp_c = 30 + 45 * self._mean_w / kind.most_w
        value = np.stack([read_w, self._limit_w, self._limit_w, *limits, clock, busy, temp_c]).astype(np.float32)
        events = np.where(capped, POWER_CAPPED, 0)
        count = np.stack([self._energy_mj, events, self._progress]).astype(np.uint64)
        lost = np.array([self._how(uuid, LIMIT) == "lost" for uuid in self.uuids])
        value[:, lost], count[:, lost] = -1, np.iinfo(np.uint64).max
        self._seq += 1
        return GpuTelemetry(
            domain=domain,
            ts_ns=self._now_ns,
            node=self.node,
            boot_id=f"boot-{self._boots}",
            seq=self._seq,
            uuid=self.uuids,
            metric=METRICS,
            counter=COUNTERS,
            progress_unit="tokens",
            value=value,
            count=count,
        )

    def reboot(self) -> None:
        """The node starts again: default limits, counters at 0, GPUs counted in another order, faults gone."""
        self._boots += 1
        self._seq = 0
        order = np.arange(len(self.uuids))[::-1]
        self.uuids = tuple(self.uuids[int(index)] for index in order)
        self._beta, self._activity = self._beta[order], self._activity[order]
        self._at = {uuid: index for index, uuid in enumerate(self.uuids)}
        self._faults.clear()
        self._started()

    def fail(self, uuid: str, knob: str, how: str) -> None:
        """From now on, setting that knob is denied, ignored or clamped, or the whole GPU is lost; ``none`` ends it."""
        if knob not in (LIMIT, CLOCK):
            raise ProblemError(must_be("knob", f"{LIMIT} or {CLOCK}", knob))
        if how not in get_args(How):
            raise ProblemError(must_be("how", f"one of {', '.join(get_args(How))}", how))
        self._index(uuid)
        for name in (LIMIT, CLOCK) if how == "lost" or self._how(uuid, knob) == "lost" else (knob,):
            self._faults[uuid, name] = how  # type: ignore[assignment]  # it was checked above

    def limits_w(self, uuid: str) -> tuple[float, float, float]:
        """Lowest, highest and default power limit."""
        self._index(uuid)
        return self.kind.least_w, self.kind.most_w, self.kind.most_w

    def clocks_mhz(self, uuid: str) -> tuple[float, float]:
        """Lowest and highest SM clock."""
        self._index(uuid)
        return self.kind.lowest_mhz, self.kind.highest_mhz

    def power_limit_w(self, uuid: str) -> float:
        """The power limit that is enforced."""
        return float(self._limit_w[self._answering(uuid)])

    def sm_clock_cap_mhz(self, uuid: str) -> float | None:
        """The cap of the SM clock, None without one."""
        cap = float(self._cap_mhz[self._answering(uuid)])
        return None if cap == self.kind.highest_mhz else cap

    def set_power_limit_w(self, uuid: str, watts: float) -> None:
        """Set the power limit, as NVML does: what is out of range is refused."""
        self.writes.append((uuid, LIMIT, watts))
        index, how = self._answering(uuid), self._how(uuid, LIMIT)
        if how == "denied" or not self.kind.least_w <= watts <= self.kind.most_w:
            raise DeviceDenied(f"{uuid}: the power limit {watts:g} W was refused")
        if how == "clamped":
            watts = (watts + self.kind.most_w) / 2
        if how != "ignored":
            self._limit_w[index] = watts

    def set_sm_clock_cap_mhz(self, uuid: str, mhz: float | None) -> None:
        """Cap the SM clock at the supported one at or below; None takes the cap away."""
        self.writes.append((uuid, CLOCK, mhz))
        index, how = self._answering(uuid), self._how(uuid, CLOCK)
        kind, cap = self.kind, self.kind.highest_mhz if mhz is None else mhz
        if how == "denied" or not kind.lowest_mhz <= cap <= kind.highest_mhz:
            raise DeviceDenied(f"{uuid}: the clock cap {mhz} MHz was refused")
        if how == "clamped":
            cap = (cap + kind.highest_mhz) / 2
        if how != "ignored":
            self._cap_mhz[index] = kind.lowest_mhz + CLOCK_STEP_MHZ * np.floor((cap - kind.lowest_mhz) / CLOCK_STEP_MHZ)

    def _physics(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Watts, speed, SM clock and whether the power limit lowers it, of each GPU."""
        kind, (steps, x, shape) = self.kind, _curve(self.kind)
        power = kind.idle_w + self._activity[:, None] * (kind.most_w - kind.idle_w) * shape
        by_cap = np.searchsorted(steps, self._cap_mhz, side="right") - 1
        by_power = np.maximum((power <= self._limit_w[:, None]).sum(1) - 1, 0)
        step, rows = np.minimum(by_cap, by_power), np.arange(len(by_cap))
        speed = 1 / (self._beta / x[step] + 1 - self._beta)
        return power[rows, step], speed, steps[step], by_power < by_cap

    def _index(self, uuid: str) -> int:
        if uuid not in self._at:
            raise ProblemError(must_be("uuid", f"one of {', '.join(self.uuids)}", uuid))
        return self._at[uuid]

    def _answering(self, uuid: str) -> int:
        index = self._index(uuid)
        if self._how(uuid, LIMIT) == "lost":
            raise DeviceLost(f"{uuid} does not answer")
        return index

    def _how(self, uuid: str, knob: Knob) -> How:
        return self._faults.get((uuid, knob), "none")


@lru_cache(maxsize=len(MODELS))
def _curve(kind: GpuModel) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """SM clocks of a model, each over the highest, and the part of the full power that it draws."""
    steps = np.arange(kind.lowest_mhz, kind.highest_mhz + 1, CLOCK_STEP_MHZ)
    x = steps / kind.highest_mhz
    return steps, x, 0.35 * x + 0.65 * x**3
