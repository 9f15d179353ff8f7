"""The toggles of plans for fabrics, and the recommended configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from qstream.errors import OptionError
from qstream.module.options import PortfolioOptions, Range, Row
from schemas.wording import must_be

Placement = Literal["off", "fast", "portfolio"]
ScheduleKind = Literal["off", "list", "phases"]
Shares = Literal["off", "wcmp", "mix"]

RECOMMENDED: Final[tuple[Row, ...]] = (
    Row({"static": "yes"}, {"classifier": True, "rl": True}),
    Row({"gpus": Range(0, 8)}, {"classifier": True}),
    Row({"gpus": Range(8, 33)}, {"qaoa": True}),
    Row({}, {"qaoa": True, "rl": True}),
)


class NvlinkOptions(PortfolioOptions):
    """How fabrics are planned. Every field can be changed while the agent runs: ``qstream control nvlink --set name=value``."""

    module: ClassVar[str] = "nvlink"
    situations: ClassVar[Mapping[str, tuple[str, ...] | Range]] = {"static": ("no", "yes"), "gpus": Range(0)}
    recommendations: ClassVar[tuple[Row, ...]] = RECOMMENDED

    placement: Placement = Field(
        default="portfolio",
        description="off: ranks stay; fast: greedy growth only; portfolio: growth, annealing and what is switched on",
    )
    rails: bool = Field(default=True, description="balance what each NIC carries between servers, by relays over NVLink")
    schedule: ScheduleKind = Field(
        default="list", description="order of transfers: off; list: each port as soon as it is free; phases: with barriers"
    )
    relay: bool = Field(default=True, description="GPUs may relay traffic of others in boxes without switches")
    shares: Shares = Field(
        default="mix",
        description="leaf-to-leaf traffic over spines: off; wcmp: by capacity; mix: of learning experts and wcmp",
    )
    qaoa: bool = Field(
        default=False,
        description="circuits rearrange windows of a placement and colour conflict graphs; at best as good as enumeration",
    )
    circuit_layers: int | None = Field(  # type: ignore[assignment]
        default=None, ge=1, le=16, description="layers of a circuit; none: the number of colours, 4 in a window"
    )
    shots: int = Field(default=256, ge=1, le=100_000, description="samples of a circuit")
    circuit_slots: int = Field(
        default=12, ge=2, le=14, multiple_of=2, description="units of ranks that one circuit rearranges at once"
    )
    classifier: bool = Field(
        default=False, description="a model of contention ranks layouts of jobs; worth it for thousands of layouts"
    )
    layouts: int = Field(default=64, ge=1, le=4096, description="layouts that are drawn")
    simulate_top: int = Field(default=5, ge=1, le=256, description="how many of them are simulated")
    rl: bool = Field(default=False, description="a trained policy is one more expert of the mix; needs a model")
    model: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="version of a trained model, as qstream learn models lists it; none: the newest that is published",
    )
    freeze: bool = Field(
        default=False, description="kill switch: learned parts neither answer nor learn, classical plans continue"
    )
    wcmp_floor: float = Field(default=0.2, ge=0, le=1, description="weight that wcmp always keeps in the mix")
    min_gain: float = Field(default=0.01, ge=0, le=1, description="fraction of the modelled time that a new plan must save")
    restart_us: float = Field(default=0.0, ge=0, le=1e12, description="cost of moving one rank, us")
    horizon_s: float = Field(default=3600.0, gt=0, le=31_536_000, description="seconds for which the gain of a move counts")
    plan_ms: float = Field(
        default=500.0, ge=0, le=3_600_000, description="ms by records' time until a job is planned, next to the records"
    )
    window_ms: float = Field(default=250.0, gt=0, le=3_600_000, description="ms of telemetry that make one window")
    stale_s: float = Field(default=5.0, gt=0, le=86_400, description="seconds without telemetry after which shares are wcmp's")
    ttl_s: float = Field(default=600.0, gt=0, le=31_536_000, description="seconds for which a plan may be applied")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rl and self.shares != "mix":
            raise OptionError(must_be("option rl", f"false with shares {self.shares}, where no experts are mixed", True))
        for name in ("classifier", "qaoa", "hqc"):
            if getattr(self, name) and self.placement == "off":
                raise OptionError(must_be(f"option {name}", "false with placement off, which looks for no other layout", True))
        if self.simulate_top > self.layouts:
            raise OptionError(must_be("option simulate_top", f"at most layouts, {self.layouts}", self.simulate_top))
        return self

    @classmethod
    def recommended(cls, gpus: str | float | None = None, static: str | float | bool = False, **situation: str | float) -> Self:
        """The recommended options for a number of GPUs, which must be given, and for traffic whose pattern is static or not.

        They say what may be tried. A single tier has nothing to win, whatever is switched on.
        """
        given = situation if gpus is None else {"gpus": gpus, **situation}
        return super().recommended(static={True: "yes", False: "no"}[static] if isinstance(static, bool) else static, **given)
