"""A library with the functions of pynvml over modelled GPUs: its units, its errors, its handles by index."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml

from qstream.node import FakeNvml
from qstream.node.device import DeviceDenied, DeviceLost


class Library:
    """What the driver of a node says; `mig` are partitioned, `unsupported` functions are not known to its GPUs."""

    def __init__(self, gpus: FakeNvml, *, root: bool = True) -> None:
        self.gpus, self.root = gpus, root
        self.mig: set[str] = set()
        self.unsupported: set[str] = set()
        self.opened = 0

    def __getattr__(self, name: str) -> object:
        if name.startswith("nvmlDevice"):
            return lambda handle, *arguments: self._ask(name, handle, *arguments)
        return getattr(pynvml, name)  # constants and the error

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        if not self.opened:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return self.gpus.uuids[index]

    def _ask(self, name: str, uuid: str, *given: object) -> object:
        if not self.opened:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        if name in self.unsupported:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        if "Set" in name[:14] or "Reset" in name:
            return self._set(name, uuid, *given)
        try:
            limit_w = self.gpus.power_limit_w(uuid)
        except DeviceLost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST) from None
        frame = self.gpus.telemetry("d")
        at = frame.uuid.index(uuid)
        value = dict(zip(frame.metric, frame.value[:, at].tolist(), strict=True))
        count = dict(zip(frame.counter, frame.count[:, at].tolist(), strict=True))
        least, most, default = (round(watts * 1000) for watts in self.gpus.limits_w(uuid))
        lowest, highest = (int(mhz) for mhz in self.gpus.clocks_mhz(uuid))
        answers = {
            "nvmlDeviceGetUUID": uuid,
            "nvmlDeviceGetMigMode": [int(uuid in self.mig), 0],
            "nvmlDeviceGetPowerUsage": round(value["power_w"] * 1000),
            "nvmlDeviceGetPowerManagementLimit": round(limit_w * 1000),
            "nvmlDeviceGetEnforcedPowerLimit": round(limit_w * 1000),
            "nvmlDeviceGetPowerManagementDefaultLimit": default,
            "nvmlDeviceGetPowerManagementLimitConstraints": [least, most],
            "nvmlDeviceGetClockInfo": int(value["sm_clock_mhz"]),
            "nvmlDeviceGetMaxClockInfo": highest,
            "nvmlDeviceGetSupportedMemoryClocks": [1593, 2619],
            "nvmlDeviceGetSupportedGraphicsClocks": list(range(highest, lowest - 1, -15)),
            "nvmlDeviceGetTemperature": int(value["temp_c"]),
            "nvmlDeviceGetTotalEnergyConsumption": count["energy_mj"],
            "nvmlDeviceGetCurrentClocksThrottleReasons": count["clock_event_reasons"],
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=int(value["gpu_util"])),
            "nvmlDeviceGetFieldValues": [SimpleNamespace(nvmlReturn=3, value=None)],
        }
        return answers[name]

    def _set(self, name: str, uuid: str, *given: int) -> None:
        if not self.root:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
        try:
            if name == "nvmlDeviceSetPowerManagementLimit":
                self.gpus.set_power_limit_w(uuid, given[0] / 1000)
            elif name == "nvmlDeviceSetGpuLockedClocks":
                assert given[0] == self.gpus.kind.lowest_mhz
                self.gpus.set_sm_clock_cap_mhz(uuid, given[1])
            elif name == "nvmlDeviceResetGpuLockedClocks":
                self.gpus.set_sm_clock_cap_mhz(uuid, None)
        except DeviceDenied:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT) from None
        except DeviceLost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST) from None
