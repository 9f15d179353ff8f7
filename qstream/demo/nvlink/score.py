"""Score: what each window's bytes take under the plans in force, which knew only the windows before, and under the usual ways."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from qstream.demo.latency import percentiles
from qstream.demo.nvlink.exchange import exchange_ms, least_fullest, nic_over_bound
from qstream.demo.nvlink.held import Held
from qstream.nvlink.links import fullest, wcmp
from schemas.fabric import FabricPlan

Floats = NDArray[np.float64]
Phase = Literal["healthy", "slow uplink", "server gone"]
PHASES: Final[tuple[Phase, ...]] = ("healthy", "slow uplink", "server gone")
WAYS: Final = ("usual", "placement", "rails", "plan")  # each with what the one before has
RECOVERED: Final = 1.15  # of the optimum: the fullest link counts as recovered


@dataclass(frozen=True, slots=True)
class Window:
    """A window's bytes in the model. `planned`: they ran where the agent had said, or had let them stay.

    `exchange_ms` by `WAYS`; J (`cost_us`) linear and planned; the fullest NIC over the bound, each byte on its receiver's rail,
    and planned; the fullest link over the optimum: WCMP, WCMP that knows of the slow uplink, and planned.
    """

    number: int
    phase: Phase
    planned: bool
    exchange_ms: tuple[float, float, float, float]
    cost_us: tuple[float, float]
    nic: tuple[float, float]
    link: tuple[float, float, float]


@dataclass(slots=True)
class Score:
    """All figures of a run, from windows, plans and shares.

    `stood_still` are windows in which the job had lost GPUs; `shares_due` are topologies and windows that shares answer;
    `healthy` is the plan of the same job on a fabric of one tier.
    """

    windows: list[Window] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    stood_still: int = 0
    shares: int = 0
    shares_due: int = 0
    plans: list[FabricPlan] = field(default_factory=list)
    healthy: FabricPlan | None = None
    dead_letters: int = 0
    shares_ms: list[float] = field(default_factory=list)
    plans_ms: list[float] = field(default_factory=list)

    def window(self, number: int, phase: Phase, held: Held, nbytes: Floats) -> Window | None:
        """Score a window's bytes [n, n] by what is in force; None if the job stands still."""
        if held.gpus is None:
            self.stood_still += 1
            return None
        self.windows.append(scored(number, phase, held, held.gpus, nbytes))
        return self.windows[-1]

    def means(self, name: str, phase: Phase | None = None) -> tuple[float, ...] | None:
        """Means of a figure over the windows that ran on a plan, of one phase or of all; None if there is none."""
        found = [getattr(each, name) for each in self.windows if each.planned and phase in (None, each.phase)]
        return tuple(np.mean(found, axis=0).tolist()) if found else None

    def recovered(self, which: int) -> int | None:
        """Windows from the uplink's fall until the fullest link is near the optimum, WCMP (0) or planned (2); None: never."""
        after = [each.link[which] for each in self.windows if each.phase == "slow uplink"]
        return next((at for at, ratio in enumerate(after) if ratio <= RECOVERED), None)

    @property
    def railed(self) -> bool:
        """Whether any plan said which rails carry which bytes."""
        return any(plan.piece_rail is not None for plan in self.plans)

    @property
    def left_out(self) -> int:
        """Topologies and windows that got no shares."""
        return max(0, self.shares_due - self.shares)

    def figures(self, seconds: float, lost: int, repeated: int) -> dict[str, Any]:
        """What was measured, for JSON; empty where no window ran on a plan. Times and ratios are modelled, latencies are not."""
        costs, nics = self.means("cost_us"), self.means("nic")
        if costs is None or nics is None:
            return {}
        seen = [phase for phase in PHASES if self.means("link", phase) is not None]
        return {
            "modelled": True,
            "seconds": round(seconds, 3),
            "tokens": self.tokens,
            "loss": {"first": round(self.losses[0], 4), "last": round(self.losses[-1], 4)},
            "windows": len(self.losses),
            "windows_on_plans": sum(each.planned for each in self.windows),
            "exchange_ms": {phase: _named(WAYS, self.means("exchange_ms", phase)) for phase in seen},
            "cost_us": _named(("linear", "plan"), costs, 1),
            "nic_over_bound": {"pxn": round(nics[0], 4), "plan": round(nics[1], 4) if self.railed else None},
            "link_over_optimum": {phase: _named(("wcmp", "wcmp_told", "plan"), self.means("link", phase)) for phase in seen},
            "windows_until_recovered": {
                "uplink": self.recovered(2),
                "uplink_wcmp": self.recovered(0),
                "server": self.stood_still if "server gone" in seen else None,
            },
            "single_tier": self.single_tier,
            "plans": sum(plan.skip_reason is None for plan in self.plans),
            "plans_skipped": sum(plan.skip_reason is not None for plan in self.plans),
            "shares": self.shares,
            "latency_ms": percentiles(self.shares_ms),
            "plan_latency_ms": percentiles(self.plans_ms),
            "dead_letters": self.dead_letters,
            "lost": lost,
            "repeated": repeated,
        }

    @property
    def single_tier(self) -> dict[str, Any]:
        """What the same job gains on a healthy fabric of one tier."""
        plan = self.healthy
        if plan is None:
            return {"gain": None, "reason": None}
        return {"gain": 0.0 if plan.score is None else plan.score.gain, "reason": plan.skip_reason}


def scored(number: int, phase: Phase, held: Held, gpus: NDArray[np.int32], nbytes: Floats) -> Window:
    """A window under what is in force, and under the usual ways."""
    fabric = held.fabric
    linear = fabric.linear(len(nbytes))
    usual, placed = held.placed(nbytes, linear), held.placed(nbytes, gpus)
    rail, untold = held.rails(placed), wcmp(fabric.up_gb_s, fabric.down_gb_s)
    links = fabric.true_up_gb_s, fabric.down_gb_s
    demand = placed.demand
    optimum = least_fullest(demand, *links)
    return Window(
        number=number,
        phase=phase,
        planned=held.answered,
        exchange_ms=(
            exchange_ms(usual, usual.pxn, untold, *links),
            exchange_ms(placed, placed.pxn, untold, *links),
            exchange_ms(placed, rail, untold, *links),
            exchange_ms(placed, rail, held.share, *links),
        ),
        cost_us=(fabric.cost_us(nbytes, linear), fabric.cost_us(nbytes, gpus)),
        nic=(nic_over_bound(placed, placed.pxn), nic_over_bound(placed, rail)),
        link=(
            fullest(untold, demand, *links) / optimum,
            fullest(wcmp(*links), demand, *links) / optimum,
            fullest(held.share, demand, *links) / optimum,
        ),
    )


def _named(names: Iterable[str], values: tuple[float, ...] | None, digits: int = 4) -> dict[str, float] | None:
    return None if values is None else {name: round(value, digits) for name, value in zip(names, values, strict=True)}
