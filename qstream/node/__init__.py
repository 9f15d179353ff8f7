"""Node: what runs on a GPU node: readings of its GPUs, and the actuator that sets what plans ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.lazy import lazy_names

if TYPE_CHECKING:
    from qstream.node.actuator import Actuator as Actuator
    from qstream.node.device import Device as Device
    from qstream.node.fake import FakeNvml as FakeNvml

__all__ = ["Actuator", "Device", "FakeNvml"]

__getattr__, __dir__ = lazy_names(__name__, {"Actuator": ".actuator", "Device": ".device", "FakeNvml": ".fake"})
