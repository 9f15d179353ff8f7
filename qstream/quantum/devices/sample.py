"""Run one circuit on a PennyLane device in this process: the guard that turns whatever a device does into a reason."""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

from qstream.install import install_hint
from qstream.quantum.devices.circuits import Circuit, Rotations, Samples, samples_of, script_of
from qstream.quantum.devices.pool import DeviceSpec
from qstream.quantum.record import Refused
from schemas.solver import Reason

INSTALL = install_hint("quantum")


def sample(spec: DeviceSpec, circuit: Circuit | Rotations) -> Samples:
    """Measure a circuit; a simulator with a seed gives the same samples each time, as each circuit gets a new device.

    Raises
    ------
    Refused
        The device is not installed, cannot be opened, fails, or gives something other than samples.
    """
    device = open_device(spec, circuit.n, circuit.seed)
    try:
        result = _execute(spec, device, circuit)
    except Exception as exc:  # the device guard: a device may raise anything
        raise Refused(Reason.ERROR, f"{type(exc).__name__}: {str(exc)[:200]}") from exc
    return samples_of(result, circuit)


def open_device(spec: DeviceSpec, wires: int, seed: int) -> Any:
    """A new device; `Refused` if it is not installed or does not open."""
    if importlib.util.find_spec("pennylane") is None:
        raise Refused(Reason.NOT_INSTALLED, f"PennyLane is not installed: {INSTALL}")
    import pennylane as qml  # noqa: PLC0415 slow to import, and not always installed

    kwargs = {**spec.kwargs, "wires": wires, **({"seed": seed} if spec.seeded else {})}
    try:
        if ":" in spec.pennylane:
            return _device_class(spec.pennylane)(**kwargs)
        return qml.device(spec.pennylane, **kwargs)
    except Exception as exc:  # the device guard: a constructor may raise anything
        missing = isinstance(exc, ImportError) or "Make sure the required plugin is installed" in str(exc)
        reason = Reason.NOT_INSTALLED if missing else Reason.UNAVAILABLE
        raise Refused(reason, f"{type(exc).__name__}: {str(exc)[:200]}") from exc


def _execute(spec: DeviceSpec, device: Any, circuit: Circuit | Rotations) -> object:
    script = script_of(circuit)
    if spec.pennylane.startswith("lightning."):
        # All gates are native: the preprocessing, which costs as much as the circuit, would change nothing.
        return device.execute([script])
    import pennylane as qml  # noqa: PLC0415 slow to import, and not always installed

    return qml.execute([script], device)


@lru_cache(maxsize=64)
def _device_class(path: str) -> Any:
    """The class that ``module:Class`` or ``FILE.py:Class`` names."""
    where, _, name = path.rpartition(":")
    if not where.endswith(".py"):
        return getattr(importlib.import_module(where), name)
    found = importlib.util.spec_from_file_location(Path(where).stem, where)
    if found is None or found.loader is None:
        raise ImportError(f"{where} is not a Python file")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return getattr(module, name)
