"""The device runtime of a worker: solvers and the devices of the configured pool, one for all modules, made when first used."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from qstream.config import Settings

if TYPE_CHECKING:
    from qstream.quantum.devices.pool import DevicePool
    from qstream.quantum.runtime import QuantumRuntime


def quantum_runtime(settings: Settings) -> Callable[[], QuantumRuntime]:
    """What gives the runtime of the settings' devices; the pool is read now, so that a fault in its file ends the start.

    Raises
    ------
    ConfigError
        The file of ``settings.devices`` cannot be read, or a field of it is wrong.
    """
    if settings.devices is not None:
        _pool(settings.devices)
    return functools.partial(_runtime, settings.devices)


@functools.cache
def _pool(devices: str | None) -> DevicePool:
    from qstream.quantum.devices.pool import DEFAULT_POOL, load_pool

    return DEFAULT_POOL if devices is None else load_pool(devices)


@functools.cache
def _runtime(devices: str | None) -> QuantumRuntime:
    from qstream.quantum.runtime import QuantumRuntime

    runtime = QuantumRuntime(_pool(devices))
    atexit.register(runtime.close)
    return runtime
