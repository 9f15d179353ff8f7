"""The toggles of routing; read by `plan` and `processor` only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qstream.errors import OptionError

PlacementTier = Literal["off", "fast", "scenario"]


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
    steps: int = Field(default=3000, ge=0, le=1_000_000, description="annealing steps a layer of the scenario tier")
    shares_tokens: int = Field(
        default=2048, ge=0, le=1 << 30, description="tokens a layer between two dispatch shares; 0 publishes none"
    )
    acknowledge: bool = Field(
        default=False, description="a placement is in force only when a consumer has acknowledged it, not when it is published"
    )
    min_gain: float = Field(default=0.01, ge=0, le=1, description="balancedness that a new placement must win to be published")
    move_cost: float = Field(
        default=0.0005, ge=0, le=10, description="price of one moved expert, in mean GPU loads of its layer; 0 moves freely"
    )
    slack: float = Field(default=0.05, ge=0, le=10, description="room above the even share of an expert, for tokens without gate")
    ttl_s: float = Field(default=600.0, gt=0, le=86_400, description="how long a placement plan may be applied")
    seed: int = Field(default=0, ge=0, lt=2**32)

    def changed(self, options: Mapping[str, object]) -> Self:
        """These options with some replaced; `OptionError` names the option, the value and what is allowed."""
        unknown = sorted(options.keys() - type(self).model_fields.keys())
        if unknown:
            known = ", ".join(type(self).model_fields)
            raise OptionError(f"routing has no option {unknown[0]!r}, allowed are {known}")
        try:
            return self.model_validate(self.model_dump() | dict(options))
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            raise OptionError(f"option {first['loc'][0]}: {first['msg']}, got {first['input']!r}") from exc
