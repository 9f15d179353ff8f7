"""What a run's figures say, in sentences: what plans gained on windows that they had not seen, and where nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from qstream.demo.nvlink.score import RECOVERED

LEAST_GAIN: Final = 0.01  # relative; less is called no gain


def findings(f: Mapping[str, Any]) -> Iterator[str]:
    """A sentence or two for each decision, and for what happened."""
    cost, nic = f["cost_us"], f["nic_over_bound"]
    yield _part("Placement", cost["linear"], cost["plan"], "J in us", "where all ranks send to all there is little to place")
    if nic["plan"] is None:
        yield f"Rails: no plan had any; PXN fills a NIC {nic['pxn']:.2f} times as full as it need be."
    else:
        yield _part("Rails", nic["pxn"], nic["plan"], "the fullest NIC over the bound", "traffic changes from step to step")
    for phase, link in f["link_over_optimum"].items():
        yield _part(f"Shares, {phase}", link["wcmp"], link["plan"], "the fullest link over the optimum", "WCMP is near it")
    until = f["windows_until_recovered"]
    if "slow uplink" in f["link_over_optimum"]:
        yield (
            f"Uplink: within {RECOVERED:g} of the optimum {_windows(until['uplink'])} after it fell; by WCMP, which is not told, "
            f"{_windows(until['uplink_wcmp'])}."
        )
    if until["server"] is not None:
        yield f"Server: the job stood still for {_windows(until['server'])}, then ran on the servers that are left."
    if f["single_tier"]["gain"] is not None:
        yield f"The same job on a healthy NVL72 rack: gain {f['single_tier']['gain']:.0%}: {f['single_tier']['reason']}."
    yield "Bytes are the routers' real choices, scaled. Servers, links and times are modelled: no hardware was measured."


def _part(name: str, before: float, after: float, what: str, why_not: str) -> str:
    change = f"{what} {before:,.2f} → {after:,.2f}"
    if 1 - after / before < LEAST_GAIN:
        return f"{name}: no gain, {change}: {why_not}."
    return f"{name}: {change}, {1 - after / before:.0%} less."


def _windows(count: int | None) -> str:
    return "never" if count is None else "1 window" if count == 1 else f"{count} windows"
