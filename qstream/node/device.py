"""Device: what an actuator needs of the GPUs of a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

from qstream.errors import QstreamError

Knob = Literal["power_limit_w", "sm_clock_mhz"]
LIMIT: Final[Knob] = "power_limit_w"
CLOCK: Final[Knob] = "sm_clock_mhz"


class DeviceDenied(QstreamError):
    """The driver refuses to set a value: no right, not supported, or locked."""


class DeviceLost(QstreamError):
    """The GPU does not answer any more."""


class Device(Protocol):
    """GPUs by uuid. Every method may raise `DeviceLost`; those that set raise `DeviceDenied` too."""

    @property
    def uuids(self) -> Sequence[str]:
        """The GPUs of the node, in no order that lasts."""
        ...

    def limits_w(self, uuid: str) -> tuple[float, float, float]:
        """Lowest, highest and default power limit; -1 each where unknown."""
        ...

    def power_limit_w(self, uuid: str) -> float:
        """The power limit that is enforced now."""
        ...

    def clocks_mhz(self, uuid: str) -> tuple[float, float]:
        """Lowest and highest supported SM clock; -1 each where unknown."""
        ...

    def sm_clock_cap_mhz(self, uuid: str) -> float | None:
        """The cap of the SM clock, None without one, NaN where it cannot be read."""
        ...

    def set_power_limit_w(self, uuid: str, watts: float) -> None:
        """Set the power limit."""
        ...

    def set_sm_clock_cap_mhz(self, uuid: str, mhz: float | None) -> None:
        """Cap the SM clock, which snaps down to a supported one; None takes the cap away."""
        ...
