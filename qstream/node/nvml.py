"""NVML: the GPUs of this machine by NVIDIA's driver. Anyone may read; to set needs root, or CAP_SYS_ADMIN in a container."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from qstream.energy.formats.recording import Sample
from qstream.errors import ConfigError
from qstream.node.device import DeviceDenied, DeviceLost
from qstream.node.telemetry import Source, SourceFault
from schemas.power import GpuTelemetry
from schemas.wording import Shown, must_be

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
POWER_INSTANT, MEMORY_TEMP = 186, 82  # NVML_FI_DEV_POWER_INSTANT, NVML_FI_DEV_MEMORY_TEMP
UNKNOWN: Final = -1.0
Answer = TypeVar("Answer")


class NvmlGpus:
    """The GPUs that the driver has, by uuid: a `Device`, and with `nvml_source` a source.

    NVML is in mW and mJ, here all is in W and mJ. It cannot say which cap of the clock is set: `sm_clock_cap_mhz` is NaN, for
    unknown, until this object has set one. A GPU in MIG mode has no known limits, since it belongs to several tenants.

    Parameters
    ----------
    library
        A module with the functions of ``pynvml``, which is imported without.

    Raises
    ------
    ConfigError
        No driver or no GPU was found.
    """

    def __init__(self, library: Any = None) -> None:
        self.library = importlib.import_module("pynvml") if library is None else library
        self.error: type[Exception] = self.library.NVMLError
        try:
            self.library.nvmlInit()
            count = self.library.nvmlDeviceGetCount()
        except self.error as exc:
            raise ConfigError(must_be("NVML", "there, with NVIDIA's driver and a GPU", Shown(str(exc)))) from exc
        self.handles: dict[str, Any] = {}
        for index in range(count):
            with suppress(self.error):  # a GPU that is lost has no name; the others are served
                handle = self.library.nvmlDeviceGetHandleByIndex(index)
                self.handles[_text(self.library.nvmlDeviceGetUUID(handle))] = handle
        if not self.handles:
            self.close()
            raise ConfigError(must_be("NVML", "there, with a GPU that answers", Shown(f"{count} GPUs that do not")))
        self._caps: dict[str, float | None] = dict.fromkeys(self.handles, math.nan)

    @property
    def uuids(self) -> Sequence[str]:
        """The GPUs."""
        return tuple(self.handles)

    def limits_w(self, uuid: str) -> tuple[float, float, float]:
        """Lowest, highest and default power limit; -1 each of a GPU that cannot be limited or is partitioned."""
        if self._partitioned(uuid):
            return UNKNOWN, UNKNOWN, UNKNOWN
        least, most = self._get(uuid, "nvmlDeviceGetPowerManagementLimitConstraints", (UNKNOWN, UNKNOWN))
        default = self._get(uuid, "nvmlDeviceGetPowerManagementDefaultLimit", UNKNOWN)
        return _watts(least), _watts(most), _watts(default)

    def power_limit_w(self, uuid: str) -> float:
        """The power limit that is enforced now."""
        return _watts(self._get(uuid, "nvmlDeviceGetEnforcedPowerLimit", UNKNOWN))

    def clocks_mhz(self, uuid: str) -> tuple[float, float]:
        """Lowest and highest supported SM clock; -1 each where they cannot be set."""
        memory: list[int] = self._get(uuid, "nvmlDeviceGetSupportedMemoryClocks", [])
        if not memory or self._partitioned(uuid):
            return UNKNOWN, UNKNOWN
        clocks: list[int] = self._get(uuid, "nvmlDeviceGetSupportedGraphicsClocks", [], max(memory))
        return (float(min(clocks)), float(max(clocks))) if clocks else (UNKNOWN, UNKNOWN)

    def sm_clock_cap_mhz(self, uuid: str) -> float | None:
        """The cap that was set here; NaN if none was."""
        self._get(uuid, "nvmlDeviceGetEnforcedPowerLimit", UNKNOWN)  # raises for a lost GPU
        return self._caps[uuid]

    def set_power_limit_w(self, uuid: str, watts: float) -> None:
        """Set the power limit."""
        self._set(uuid, "nvmlDeviceSetPowerManagementLimit", round(watts * 1000))

    def set_sm_clock_cap_mhz(self, uuid: str, mhz: float | None) -> None:
        """Lock the clocks between the lowest one and the cap, or unlock them."""
        self._caps[uuid] = math.nan
        if mhz is None:
            self._set(uuid, "nvmlDeviceResetGpuLockedClocks")
        else:
            self._set(uuid, "nvmlDeviceSetGpuLockedClocks", int(self.clocks_mhz(uuid)[0]), int(mhz))
        self._caps[uuid] = mhz

    def readings(self, uuid: str) -> dict[str, float]:
        """What the driver says of a GPU now, by our names; what it does not say is left out."""
        lib = self.library
        found = {
            "power_w": _watts(self._get(uuid, "nvmlDeviceGetPowerUsage", UNKNOWN)),
            "power_instant_w": _watts(self._field(uuid, POWER_INSTANT)),
            "power_limit_w": _watts(self._get(uuid, "nvmlDeviceGetPowerManagementLimit", UNKNOWN)),
            "power_limit_enforced_w": self.power_limit_w(uuid),
            "sm_clock_mhz": float(self._get(uuid, "nvmlDeviceGetClockInfo", UNKNOWN, lib.NVML_CLOCK_SM)),
            "sm_clock_max_mhz": float(self._get(uuid, "nvmlDeviceGetMaxClockInfo", UNKNOWN, lib.NVML_CLOCK_SM)),
            "mem_clock_mhz": float(self._get(uuid, "nvmlDeviceGetClockInfo", UNKNOWN, lib.NVML_CLOCK_MEM)),
            "temp_c": float(self._get(uuid, "nvmlDeviceGetTemperature", UNKNOWN, lib.NVML_TEMPERATURE_GPU)),
            "mem_temp_c": self._field(uuid, MEMORY_TEMP),
            "energy_mj": float(self._get(uuid, "nvmlDeviceGetTotalEnergyConsumption", UNKNOWN)),
            "clock_event_reasons": float(self._get(uuid, "nvmlDeviceGetCurrentClocksThrottleReasons", UNKNOWN)),
        }
        least, most, default = self.limits_w(uuid)
        found |= {"power_limit_min_w": least, "power_limit_max_w": most, "power_limit_default_w": default}
        used = self._get(uuid, "nvmlDeviceGetUtilizationRates", None)
        found["gpu_util"] = UNKNOWN if used is None else float(used.gpu)
        return {name: value for name, value in found.items() if value >= 0}

    def close(self) -> None:
        """Let go of the driver, if it is held."""
        with suppress(self.error):
            self.library.nvmlShutdown()

    def _partitioned(self, uuid: str) -> bool:
        return bool(self._get(uuid, "nvmlDeviceGetMigMode", (0, 0))[0])

    def _field(self, uuid: str, number: int) -> float:
        values: Sequence[Any] = self._get(uuid, "nvmlDeviceGetFieldValues", (), [number])
        return float(values[0].value.uiVal) if values and not values[0].nvmlReturn else UNKNOWN

    def _get(self, uuid: str, name: str, otherwise: Answer, *arguments: object) -> Answer:
        """The answer of a question; `otherwise` if the GPU does not know it, `DeviceLost` if it does not answer."""
        question: Callable[..., Answer] | None = getattr(self.library, name, None)
        if question is None:  # the library is of another version
            return otherwise
        try:
            return question(self.handles[uuid], *arguments)
        except self.error as exc:
            if self._unknown(exc):
                return otherwise
            raise DeviceLost(f"{uuid} does not answer: {exc}") from exc

    def _set(self, uuid: str, name: str, *arguments: int) -> None:
        try:
            getattr(self.library, name)(self.handles[uuid], *arguments)
        except self.error as exc:
            if getattr(exc, "value", None) == self.library.NVML_ERROR_GPU_IS_LOST:
                raise DeviceLost(f"{uuid} does not answer: {exc}") from exc
            raise DeviceDenied(f"{uuid}: {exc}") from exc

    def _unknown(self, exc: Exception) -> bool:
        lib = self.library
        known = (lib.NVML_ERROR_NOT_SUPPORTED, lib.NVML_ERROR_INVALID_ARGUMENT, lib.NVML_ERROR_NO_PERMISSION)
        return getattr(exc, "value", None) in (*known, lib.NVML_ERROR_FUNCTION_NOT_FOUND)


def nvml_source(gpus: NvmlGpus, domain: str, node: str) -> Source:
    """Reads all GPUs; one that does not answer is left out, and if none does the driver is opened again for the next time."""
    seq, boot_id = 0, BOOT_ID.read_text().strip() if BOOT_ID.exists() else ""
    opened = gpus

    def read(now_ns: int) -> Sequence[GpuTelemetry]:
        nonlocal seq, opened
        sample = Sample(node, now_ns)
        why = "no GPU"
        for uuid in opened.uuids:
            try:
                sample.readings[uuid] = opened.readings(uuid)
            except DeviceLost as exc:
                why = str(exc)
        if not sample.readings:
            try:
                opened.close()
                opened = NvmlGpus(opened.library)
            except ConfigError as exc:
                why = str(exc)
            raise SourceFault(why)
        seq += 1
        return [sample.frame(domain, seq).model_copy(update={"boot_id": boot_id})]

    return read


def _text(text: str | bytes) -> str:
    return text.decode() if isinstance(text, bytes) else text


def _watts(milliwatts: float) -> float:
    return UNKNOWN if milliwatts == UNKNOWN else milliwatts / 1000
