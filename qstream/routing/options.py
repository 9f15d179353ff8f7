"""The toggles of routing; read by `plan` and `processor` only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from qstream.errors import OptionError
from qstream.learn.options import Learn
from qstream.module.options import LearnOptions, PortfolioOptions, Range, Row
from schemas.wording import must_be

PlacementTier = Literal["off", "fast", "scenario"]
Dispatch = Literal["even", "nearest"]
Quantum = Literal["online", "none", "overloaded"]
Goal = Literal["latency", "throughput", "balanced", "robustness"]

_DETERMINISTIC: Final[Mapping[str, Any]] = {}
_QAOA: Final = {"qaoa": True, "circuit_layers": 2, "deadline_ms": 200.0}
_HQC: Final = {"hqc": True, "deadline_ms": 200.0}
_QAOA_HQC: Final = {"qaoa": True, "hqc": True, "deterministic": False, "deadline_ms": 50.0}
_ALL: Final = {"qaoa": True, "hqc": True, "deterministic": True, "deadline_ms": 1000.0}
# What a plan of 26 layers of 64 experts costs, ms: a step of annealing, a gate an amplitude, a sample; and the turns of hqc.
_STEP_MS: Final = 0.0085
_GATE_MS: Final = 0.026
_SHOT_MS: Final = 0.8
_TURNS: Final = 4
_SMALL: Final = Range(0, 1_000)  # tokens a batch
_MEDIUM: Final = Range(1_000, 10_000)
_LARGE: Final = Range(10_000)


class RoutingOptions(PortfolioOptions, LearnOptions):
    """How the routing agent plans. Every field can be changed while it runs: ``qstream control routing --set name=value``."""

    module: ClassVar[str] = "routing"
    situations: ClassVar[Mapping[str, tuple[str, ...] | Range]] = {
        "tokens": Range(),  # of a batch
        "quantum": get_args(Quantum),  # devices or simulators
        "goal": get_args(Goal),
    }
    recommendations: ClassVar[tuple[Row, ...]] = (
        Row({"tokens": _SMALL, "quantum": "online", "goal": "latency"}, _QAOA_HQC),
        Row({"tokens": _SMALL, "quantum": "none", "goal": "latency"}, _DETERMINISTIC),
        Row({"tokens": _MEDIUM, "quantum": "online", "goal": "balanced"}, _QAOA),
        Row({"tokens": _MEDIUM, "quantum": "overloaded", "goal": "throughput"}, _HQC),
        Row({"tokens": _LARGE, "goal": "robustness"}, _ALL),
        # What the table above does not say: no circuits where there is nothing to run them, none where time is short.
        Row({"quantum": "none"}, _DETERMINISTIC),
        Row({"quantum": "overloaded", "goal": "latency"}, _DETERMINISTIC),
        Row({"quantum": "overloaded"}, _HQC),
        Row({"goal": "robustness"}, _ALL),
        Row({"goal": "balanced"}, _QAOA),
        Row({}, _DETERMINISTIC),
    )

    learn: Learn = Field(
        default="on",
        description="on: shares are mixed by what was learnt, and plans say what to expect of the next window; shadow: both go on"
        " learning, but shares are those of the newest tokens alone and plans say no more than without; off: as shadow, and what"
        " was learnt stands still",
    )
    placement: PlacementTier = Field(
        default="scenario",
        description="'fast' packs the newest window, 'scenario' anneals over the ring of windows, 'off' plans no placement",
    )
    routing_plans: bool = Field(default=True, description="publish a routing plan for every token batch")
    window_tokens: int = Field(default=8192, ge=1, le=1 << 30, description="tokens a layer in one window of the history")
    windows: int = Field(default=16, ge=1, le=64, description="windows in the ring, the scenarios of a plan")
    labels: int = Field(
        default=16, ge=0, le=64, description="labels whose counts are kept separately, the last one for all others; 0 keeps none"
    )
    colocate: bool = Field(
        default=False,
        description="experts that serve the same tokens share a node: less traffic between nodes, less even GPUs; "
        "models with layers * experts**2 above 2**24 do without",
    )
    dispatch: Dispatch = Field(
        default="even",
        description="how the engine chooses a replica: 'even' all alike, 'nearest' the one on its own GPU, else on its node, as"
        " SGLang does with an all-to-all backend; placements are planned and scored for it",
    )
    steps: int = Field(default=10_000, ge=0, le=1_000_000, description="annealing steps a layer of the scenario tier")
    shares_tokens: int = Field(
        default=2048, ge=0, le=1 << 30, description="tokens a layer between two dispatch shares; 0 publishes none"
    )
    smooth_shares: bool = Field(
        default=True,
        description="shares are mixed from even ones and from those of loads smoothed over a shorter or longer past, by what"
        " would have suited the tokens that came; off, or where learn is not on: those of the newest tokens alone",
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
        default=False, description="a routing plan also says on which node each request of the batch should run"
    )
    queues: bool = Field(default=False, description="a routing plan also gives each expert's queue of tokens")
    min_gain: float = Field(default=0.003, ge=0, le=1, description="balancedness that a new placement must win to be published")
    move_cost: float = Field(
        default=0.001, ge=0, le=10, description="price of one moved expert, in mean GPU loads of its layer; 0 moves freely"
    )
    slack: float = Field(default=0.05, ge=0, le=10, description="room above the even share of an expert, for tokens without gate")
    ttl_s: float = Field(default=600.0, gt=0, le=86_400, description="seconds for which a placement plan may be applied")
    qaoa: bool = Field(default=False, description="windows of a placement are rearranged by QAOA circuits; else by enumeration")
    hqc: bool = Field(default=False, description="windows are tried turn after turn, until the expectation no longer improves")
    circuit_slots: int = Field(
        default=10, ge=2, le=16, multiple_of=2, description="slots that a window rearranges, half of each of two GPUs"
    )

    def work_ms(self) -> Mapping[str, float]:
        """Of 26 layers of 64 experts, as measured on one core; circuits on a device cost its time, not the agent's."""
        parts = {"steps": _STEP_MS * self.steps if self.placement == "scenario" else 0.0}
        if self.qaoa and self.device is None and self.placement != "off":
            turns = _TURNS if self.hqc else 1
            amplitudes, samples = _GATE_MS * 2**self.circuit_slots * (4 + self.circuit_layers), _SHOT_MS * self.shots
            scale = min(1.0, (self.deadline_ms or math.inf) / (turns * (amplitudes + samples)))
            parts |= {"circuit_slots": turns * amplitudes * scale, "shots": turns * samples * scale}
        return parts

    @model_validator(mode="after")
    def _placements_to_improve(self) -> Self:
        for name in ("qaoa", "hqc"):
            if getattr(self, name) and self.placement == "off":
                raise OptionError(must_be(f"option {name}", "false while placement is off: there is nothing to improve", True))
            if getattr(self, name) and self.dispatch == "nearest":
                raise OptionError(
                    must_be(f"option {name}", "false with dispatch 'nearest': its windows split loads evenly", True)
                )
        return self
