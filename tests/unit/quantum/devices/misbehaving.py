"""PennyLane devices that go wrong on demand: a file says how, so that a test can change it while they run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from pennylane.devices import Device


class Misbehaving(Device):
    """Answers all zeros, except that the file at `orders` may say: hang, crash, raise, nan, short, alien, slow, stop.

    "slow" lasts as long as the file says so. `spares` is the number of wires up to which it behaves, so that a warm-up or a
    probe passes.
    """

    name = "misbehaving"

    def __init__(self, wires: int, orders: str, spares: int = 2) -> None:
        super().__init__(wires=wires)
        self._orders = Path(orders)
        self._spares = spares

    def execute(self, circuits: Any, execution_config: Any = None) -> Any:
        scripts = list(circuits) if isinstance(circuits, (list, tuple)) else [circuits]
        return tuple(self._one(script) for script in scripts)

    def _one(self, script: Any) -> Any:
        wires, shots = len(self.wires), script.shots.total_shots
        how = self._order() if wires > self._spares else ""
        if how == "hang":
            time.sleep(3600)
        elif how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif how == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "raise":
            raise ZeroDivisionError("the cryostat is warm")
        elif how == "nan":
            return np.full(2**wires, np.nan)
        elif how == "short":
            return {"0" * (wires - 1): shots}
        elif how == "alien":
            return {"0" * wires: float("nan")}
        while how == "slow":
            time.sleep(0.01)
            how = self._order()
        return {"0" * wires: shots}

    def _order(self) -> str:
        try:
            return self._orders.read_text().strip()
        except FileNotFoundError:
            return ""


class Unopened(Device):
    """Fails to open while the file at `orders` exists."""

    def __init__(self, wires: int, orders: str) -> None:
        super().__init__(wires=wires)
        if Path(orders).exists():
            raise ConnectionError("no route to the cryostat")

    def execute(self, circuits: Any, execution_config: Any = None) -> Any:
        return tuple({"0" * len(self.wires): script.shots.total_shots} for script in circuits)


class Slow(Device):
    """Does not open while the file at `orders` exists."""

    def __init__(self, wires: int, orders: str) -> None:
        super().__init__(wires=wires)
        while Path(orders).exists():
            time.sleep(0.01)

    def execute(self, circuits: Any, execution_config: Any = None) -> Any:
        return tuple({"0" * len(self.wires): script.shots.total_shots} for script in circuits)
