"""The device of a module's options, ready before a plan asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qstream.errors import OptionError
from qstream.quantum.record import Refused
from qstream.quantum.runtime import QuantumRuntime
from schemas.wording import must_be

_READY_S: Final = 30.0


def prepare_device(device: str | None, runtime: Callable[[], QuantumRuntime] | None) -> None:
    """Have the device ready before a plan asks for it; each plan's `fallback_reason` says if it is not.

    Raises
    ------
    OptionError
        The device refuses.
    """
    if device is not None and runtime is not None:
        try:
            runtime().prepare(device, timeout_s=_READY_S)
        except Refused as refused:
            raise OptionError(f"{must_be('option device', 'a device that is ready', device)}: {refused.detail}") from refused
