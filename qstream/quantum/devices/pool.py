"""The pool of devices that a runtime may use: its configuration, checked."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from qstream.errors import ConfigError
from qstream.quantum.record import Refused
from schemas.parse import as_utf8, read_json
from schemas.solver import DEVICE, Execution, Reason
from schemas.wording import Shown, must_be

STATEVECTOR_SIMULATORS = ("default.qubit", "default.tensor", "lightning.", "reference.qubit")
NOISE_SIMULATORS = ("default.mixed",)


class BreakerSpec(BaseModel):
    """So many failures within the window open it; after the cooldown one probe in the background may close it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    failures: int = Field(default=3, ge=1, le=1000)
    window_s: float = Field(default=30.0, gt=0, le=86_400)
    cooldown_s: float = Field(default=10.0, gt=0, le=86_400)


class DeviceSpec(BaseModel):
    """One device: what it is, how large its circuits may be, and how it is run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="its solver is device:<name>")
    pennylane: str = Field(min_length=1, description="PennyLane's name of the device, or 'module:Class' or 'FILE.py:Class'")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="further arguments of its class")
    seeded: bool = Field(default=False, description="its class takes a seed, which makes its samples reproducible")
    max_wires: int = Field(default=16, ge=1, le=4096)
    shots: int = Field(default=1024, ge=1, le=1_000_000, description="most shots of one circuit")
    mode: Literal["inline", "slot", "late"] = Field(
        default="slot", description="in a thread, in a process that is killed when it hangs, or in one that answers late"
    )
    slots: int = Field(default=1, ge=1, le=64, description="circuits at a time; one more process waits as a spare")
    queue_limit: int = Field(default=8, ge=0, le=10_000, description="requests that may wait for a slot")
    timeout_ms: float = Field(default=1000.0, gt=0, le=604_800_000, description="the process is killed if it takes longer")
    probe_s: float = Field(default=5.0, gt=0, le=86_400, description="pause before a device that did not start is tried again")
    breaker: BreakerSpec = Field(default_factory=BreakerSpec)
    simulator: bool | None = Field(default=None, description="by default recognised by PennyLane's name")

    @model_validator(mode="after")
    def _circuits_bring_wires_shots_and_seed(self) -> DeviceSpec:
        for name in ("wires", "shots", "seed"):
            if name in self.kwargs:
                raise ValueError(must_be("kwargs", "without wires, shots and seed, which each circuit brings itself", name))
        return self

    @property
    def takes_noise(self) -> bool:
        """Whether it simulates density matrices, and so depolarising channels."""
        return self.pennylane in NOISE_SIMULATORS

    @property
    def simulates(self) -> bool:
        """Whether it is a simulator and no machine: by `simulator`, or by PennyLane's name."""
        known = self.takes_noise or self.pennylane.startswith(STATEVECTOR_SIMULATORS)
        return known if self.simulator is None else self.simulator

    def execution(self, noise: float | None) -> Execution:
        """The label of its answers."""
        if not self.simulates:
            return f"{DEVICE}{self.name}"
        if self.takes_noise:
            return "simulated-noisy" if noise else "simulated-density"
        return "simulated-statevector"


class DevicePool(BaseModel):
    """Devices by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    devices: tuple[DeviceSpec, ...] = ()

    @model_validator(mode="after")
    def _names_are_distinct(self) -> DevicePool:
        names = [device.name for device in self.devices]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(must_be("names of devices", "distinct", Shown(f"{twice[0]!r} twice")))
        return self

    def device(self, name: str | None) -> DeviceSpec:
        """One device; `Refused` with the known names if there is no such device."""
        for device in self.devices:
            if device.name == name:
                return device
        known = ", ".join(device.name for device in self.devices) or "none"
        raise Refused(Reason.UNAVAILABLE, f"device {name!r} is not in the pool, which has {known}")


DEFAULT_POOL = DevicePool(
    devices=(
        DeviceSpec(name="lightning.qubit", pennylane="lightning.qubit", seeded=True, max_wires=20),
        DeviceSpec(name="default.qubit", pennylane="default.qubit", seeded=True, max_wires=14),
        DeviceSpec(name="default.mixed", pennylane="default.mixed", seeded=True, max_wires=8, timeout_ms=5000),
    )
)


def load_pool(source: Path | str | Mapping[str, Any]) -> DevicePool:
    """A pool from ``{"devices": [{"name": ..., "pennylane": ...}, ...]}``, given as such or as the path of a TOML or JSON file.

    Raises
    ------
    ConfigError
        The file cannot be read, or a field is unknown or out of range: names the field, its value and the rule.
    """
    where = "pool" if isinstance(source, Mapping) else str(source)
    try:
        data = source if isinstance(source, Mapping) else _read(Path(source))
    except (OSError, ValueError) as exc:
        raise ConfigError(must_be("devices", "the path of a TOML or JSON file", Shown(f"{where!r}: {exc}"))) from exc
    try:
        return DevicePool.model_validate(data)
    except ValidationError as exc:
        raise ConfigError(f"{where}: {'; '.join(_fault(error) for error in exc.errors())}") from exc


def _fault(error: ErrorDetails) -> str:
    """pydantic's finding in the house's wording."""
    name, message = ".".join(map(str, error["loc"])), error["msg"]
    if error["type"] == "value_error":
        return ": ".join(filter(None, (name, message.removeprefix("Value error, "))))
    if error["type"] == "extra_forbidden":
        return must_be(name, "the name of a field", error["loc"][-1])
    if error["type"] == "missing":
        return must_be(name, "given", Shown("nothing"))
    rule = re.sub(r"^\w+ should ", "must ", message).replace("must match pattern", "must be text that matches")
    return f"{name} {rule}, got {error['input']!r:.80}"


def _read(path: Path) -> Any:
    text = path.read_bytes()
    return tomllib.loads(as_utf8(text).decode()) if path.suffix == ".toml" else read_json(text)
