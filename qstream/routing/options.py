"""The toggles of routing; read by `plan` and `processor` only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qstream.errors import OptionError

PlacementTier = Literal["off", "fast", "scenario"]
Quantum = Literal["online", "none", "overloaded"]
Goal = Literal["latency", "throughput", "balanced", "robustness"]

_DETERMINISTIC: Final[Mapping[str, Any]] = {}
_QAOA: Final = {"qaoa": True, "layers": 2, "deadline_ms": 200.0}
_HQC: Final = {"hqc": True, "deadline_ms": 200.0}
_QAOA_HQC: Final = {"qaoa": True, "hqc": True, "deterministic": False, "deadline_ms": 50.0}
_ALL: Final = {"qaoa": True, "hqc": True, "deterministic": True, "deadline_ms": 1000.0}
# Tokens a batch from and below, quantum and goal (None: any), what to change; the first row that fits is recommended.
RECOMMENDED: Final[tuple[tuple[float, float, Quantum | None, Goal | None, Mapping[str, Any]], ...]] = (
    (0, 1_000, "online", "latency", _QAOA_HQC),
    (0, 1_000, "none", "latency", _DETERMINISTIC),
    (1_000, 10_000, "online", "balanced", _QAOA),
    (1_000, 10_000, "overloaded", "throughput", _HQC),
    (10_000, math.inf, None, "robustness", _ALL),
    # What the table above does not say: no circuit that nobody can run, none where time is short.
    (0, math.inf, "none", None, _DETERMINISTIC),
    (0, math.inf, "overloaded", "latency", _DETERMINISTIC),
    (0, math.inf, "overloaded", None, _HQC),
    (0, math.inf, None, "robustness", _ALL),
    (0, math.inf, None, "balanced", _QAOA),
    (0, math.inf, None, None, _DETERMINISTIC),
)


class RoutingOptions(BaseModel):
    """How the routing agent plans. Every field can be changed while it runs: ``qstream control routing --set name=value``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    placement: PlacementTier = Field(
        default="scenario",
        description="'fast' packs the newest window, 'scenario' anneals over the ring of windows, 'off' plans no placement",
    )
    routing_plans: bool = Field(default=True, description="publish a routing plan for every token batch")
    window_tokens: int = Field(default=8192, ge=1, le=1 << 30, description="tokens a layer in one window of the history")
    windows: int = Field(default=16, ge=1, le=64, description="windows in the ring, the scenarios of a plan")
    labels: int = Field(
        default=16, ge=0, le=64, description="labels whose counts are kept apart, the last one for all others; 0 keeps none"
    )
    colocate: bool = Field(
        default=False, description="experts that serve the same tokens share a node: less traffic between nodes, less even GPUs"
    )
    steps: int = Field(default=10_000, ge=0, le=1_000_000, description="annealing steps a layer of the scenario tier")
    shares_tokens: int = Field(
        default=2048, ge=0, le=1 << 30, description="tokens a layer between two dispatch shares; 0 publishes none"
    )
    acknowledge: bool = Field(
        default=False, description="a placement is in force only when a consumer has acknowledged it, not when it is published"
    )
    plan_ms: float = Field(
        default=500.0,
        ge=0,
        le=600_000,
        description="ms of the records' time that planning a placement may take; 0: records wait for the plan",
    )
    plan_every_s: float = Field(
        default=1.0, ge=0, le=86_400, description="seconds of the records' time between two placements at least; 0: one a window"
    )
    capacity_factor: float | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="an expert takes at most so many times its even share of a batch, tokens beyond go to others than their gate"
        " chose, which changes the output of a model; none: the gate is obeyed",
    )
    request_nodes: bool = Field(
        default=False, description="a routing plan tells on which node each request of the batch should run as well"
    )
    queues: bool = Field(default=False, description="a routing plan tells each expert's queue of tokens as well")
    min_gain: float = Field(default=0.003, ge=0, le=1, description="balancedness that a new placement must win to be published")
    move_cost: float = Field(
        default=0.001, ge=0, le=10, description="price of one moved expert, in mean GPU loads of its layer; 0 moves freely"
    )
    slack: float = Field(default=0.05, ge=0, le=10, description="room above the even share of an expert, for tokens without gate")
    ttl_s: float = Field(default=600.0, gt=0, le=86_400, description="how long a placement plan may be applied")
    seed: int = Field(default=0, ge=0, lt=2**32)
    qaoa: bool = Field(default=False, description="windows of a placement are rearranged by QAOA circuits; else by enumeration")
    hqc: bool = Field(default=False, description="windows are tried turn after turn, until the expectation no longer improves")
    deterministic: bool = Field(
        default=True, description="the classical plan answers where no window can; off: then the placement in force is kept"
    )
    layers: int = Field(default=2, ge=1, le=16, description="layers of a circuit")
    shots: int = Field(default=32, ge=1, le=100_000, description="samples of a circuit")
    window: int = Field(
        default=10, ge=2, le=14, multiple_of=2, description="slots that a window rearranges, half of each of two GPUs"
    )
    device: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="device of the pool that runs circuits; none: they are simulated",
    )
    deadline_ms: float | None = Field(
        default=None, gt=0, le=3_600_000, description="for the windows of one plan; none: a fixed amount of work, reproducible"
    )

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if not (self.deterministic or self.qaoa or self.hqc):
            raise OptionError("option deterministic: False with qaoa and hqc off, allowed is True: nothing would plan")
        if self.device is not None and not self.qaoa:
            raise OptionError(f"option device: {self.device!r} with qaoa off, allowed is none: only QAOA runs circuits")
        for name in ("qaoa", "hqc"):
            if getattr(self, name) and self.placement == "off":
                raise OptionError(f"option {name}: True with placement off, allowed is False: there is no placement to improve")
        return self

    @classmethod
    def recommended(cls, tokens: int, quantum: Quantum = "online", goal: Goal = "latency") -> Self:
        """Options for batches of so many tokens, for what is to be had of quantum devices or simulators, and for a goal.

        Raises
        ------
        OptionError
            An argument is none of those allowed.
        """
        for name, value, allowed in (("quantum", quantum, Quantum), ("goal", goal, Goal)):
            if value not in (names := get_args(allowed)):
                raise OptionError(f"option {name}: {value!r}, allowed are {', '.join(names)}")
        if tokens < 0:
            raise OptionError(f"option tokens: {tokens!r}, allowed are 0 and more")
        fits = (
            row[-1] for row in RECOMMENDED if row[0] <= tokens < row[1] and row[2] in (None, quantum) and row[3] in (None, goal)
        )
        return cls().changed(next(fits))

    def changed(self, options: Mapping[str, object]) -> Self:
        """These options with some replaced; `OptionError` names the option, the value and what is allowed."""
        unknown = sorted(options.keys() - type(self).model_fields.keys())
        if unknown:
            known = ", ".join(type(self).model_fields)
            raise OptionError(f"routing has no option {unknown[0]!r}, allowed are {known}")
        for name, value in options.items():
            if isinstance(value, bool) and type(self).model_fields[name].annotation is not bool:
                raise OptionError(f"option {name}: {value}, allowed is no truth value")
        # A toggle that is off by default is switched off again by its name for that.
        fields = type(self).model_fields
        given = {name: None if value == "none" and fields[name].default is None else value for name, value in options.items()}
        try:
            return self.model_validate(self.model_dump() | given)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            raise OptionError(f"option {first['loc'][0]}: {first['msg']}, got {first['input']!r}") from exc
