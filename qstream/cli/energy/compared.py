"""A plan from recordings next to default and uniform limits: the table, and the facts below it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from qstream.cli.energy.recordings import Read
from qstream.cli.output import counted, solver_text
from qstream.energy.compare import Row, compare, probes_wanted
from qstream.energy.offline import Offline, plan_recorded
from qstream.energy.options import EnergyOptions
from qstream.energy.view import IDLE_PART
from schemas.energy import RELEASED
from schemas.power import GpuTelemetry, PowerBudget, PowerTopology

HEAD: Final = ("limits", "at most", "over budget", "expected", "saved", "speed", "slowest", "GPUs capped", "probes wanted")


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """A plan and the rows of the table; `probes` are the caps to be measured next, by uuid."""

    source: str
    read: Read
    offline: Offline
    rows: list[Row]
    probes: dict[str, float]

    @property
    def topology(self) -> PowerTopology:
        """The GPUs and their budgets."""
        return self.offline.memory.now.topology

    def cells(self) -> list[tuple[str, ...]]:
        """The rows of the table as texts."""
        return [
            (
                row.name,
                f"{row.at_most_w:,.0f} W",
                f"{row.over_w:,.0f} W",
                f"{row.expected_w:,.0f} W",
                f"{row.saved_w:,.0f} W",
                f"{100 * row.speed:.1f} %",
                f"{100 * row.slowdown:.1f} %",
                f"{row.capped}" if not row.parked else f"{row.capped}, {row.parked} parked",
                f"{len(self.probes)}" if row.name == "planned" else "-",
            )
            for row in self.rows
        ]

    def facts(self) -> list[str]:
        """The lines below the table."""
        plan = self.offline.plan
        gpus = f"{len(plan.uuid)} of {counted(len(self.topology.uuid), 'GPU')} may be given targets"
        lines = [f"{counted(self.read.frames, 'record')}; {gpus}; {solver_text(plan.solver)}"]
        if plan.status == "infeasible":
            parked = ", ".join(plan.parked) or "none"
            lines.append(f"infeasible: {plan.missing_w:,.0f} W are missing even at the least limits; parked: {parked}")
            if plan.parked and self.topology.parked_w is None and self.topology.idle_w is None:
                charge = f"{IDLE_PART:.0%}".replace("%", " %")
                lines.append(
                    f"the topology says neither parked_w nor idle_w: parked GPUs are charged {charge} of their default limit"
                )
        if not plan.uuid:
            lines.append("no target: no GPU of the topology has opted in, with known limits")
            return lines
        if plan.state is not None and (released := int((plan.state == RELEASED).sum())):
            lines.append(
                f"{counted(released, 'GPU')} not heard at the end of the recording (--set lost_s), charged at the default"
            )
        if plan.progress == 0:
            lines.append("no GPU reports progress: caps that save cannot be measured; budgets are planned by past sweeps")
        return lines

    def as_data(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {
            "plan": self.offline.plan.model_dump(mode="json"),
            "compared": [row.scores() for row in self.rows],
            "probes": self.probes,
            "frames": self.read.frames,
            "skipped": sum(self.read.skipped.values()),
        }


def compared(
    source: str,
    topology: PowerTopology,
    frames: Iterable[GpuTelemetry],
    budgets: Iterable[PowerBudget],
    options: EnergyOptions,
    read: Read,
) -> Compared:
    """The plan of frames that come in the order of time."""
    found = plan_recorded(topology, frames, budgets=budgets, options=options, seed=options.seed)
    return Compared(source, read, found, compare(found), probes_wanted(found, options))
