"""Recordings of GPU power as other tools write them, as telemetry frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.energy.formats.read import read_telemetry as read_telemetry
    from qstream.energy.formats.recording import Recording as Recording

__all__ = ["Recording", "read_telemetry"]

__getattr__, __dir__ = lazy_names(__name__, {"Recording": ".recording", "read_telemetry": ".read"})
