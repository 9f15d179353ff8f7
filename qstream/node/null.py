"""Null: a device without GPUs, which tries a node's connection to plans and sets nothing."""

from __future__ import annotations

from collections.abc import Iterable

from qstream.node.device import DeviceDenied


class NullDevice:
    """GPUs by name only: their limits are unknown, so that an actuator answers each of their targets by ``unsupported``."""

    def __init__(self, uuids: Iterable[str] = ()) -> None:
        self.uuids = tuple(uuids)

    def limits_w(self, uuid: str) -> tuple[float, float, float]:
        """Unknown."""
        return -1.0, -1.0, -1.0

    def power_limit_w(self, uuid: str) -> float:
        """Unknown."""
        return -1.0

    def clocks_mhz(self, uuid: str) -> tuple[float, float]:
        """Unknown."""
        return -1.0, -1.0

    def sm_clock_cap_mhz(self, uuid: str) -> float | None:
        """None."""
        return None

    def set_power_limit_w(self, uuid: str, watts: float) -> None:
        """Refused."""
        raise DeviceDenied(f"{uuid} is not a GPU of this node")

    def set_sm_clock_cap_mhz(self, uuid: str, mhz: float | None) -> None:
        """Refused."""
        raise DeviceDenied(f"{uuid} is not a GPU of this node")
