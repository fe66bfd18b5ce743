"""NVIDIA's GPUs, through NVML, where its Python package and a driver are installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from runcast.reporter import Requirement

logger = logging.getLogger("runcast")


class Reading(NamedTuple):
    """What NVML says of one GPU; None where it doesn't know.

    Attributes:
        busy: Percent of the time in which a kernel ran.
        memory_used: Bytes, and `memory_total` too.
        power: Milliwatts.
        temperature: Degrees Celsius.
    """

    busy: int | None
    memory_used: int | None
    memory_total: int | None
    power: int | None
    temperature: int | None


def metrics(index: int, reading: Reading) -> dict[str, float]:
    """A reading as metrics of the GPU `index`."""
    values: dict[str, float] = {}
    if reading.busy is not None:
        values["percent"] = float(reading.busy)
    if reading.memory_used is not None:
        values["memory_mb"] = reading.memory_used / 1e6
        if reading.memory_total:
            values["memory_percent"] = 100 * reading.memory_used / reading.memory_total
    if reading.power is not None:
        values["power_watts"] = reading.power / 1000
    if reading.temperature is not None:
        values["temperature_celsius"] = float(reading.temperature)
    return {f"system/gpu_{index}_{name}": value for name, value in values.items()}


class Gpus:
    """All GPUs that NVML sees, in its order; none where there is no NVML, which only debug logs say."""

    requires: ClassVar[Requirement] = Requirement("nvidia-ml-py", "pynvml", "12.535", "13.615.71", extra="gpu")

    def __init__(self) -> None:
        self._handles: list[Any] = []
        self._nvml: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except Exception as error:  # no package, no driver, no permission
            logger.debug("no NVIDIA GPU is measured: %s: %s", type(error).__name__, error)

    def measure(self) -> dict[str, float]:
        """The metrics of all GPUs."""
        values: dict[str, float] = {}
        for index, handle in enumerate(self._handles):
            values |= metrics(index, self._reading(handle))
        return values

    def close(self) -> None:
        """Lets go of NVML, which counts its users."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml, self._handles = None, []

    def _reading(self, handle: Any) -> Reading:
        nvml = self._nvml
        memory = self._asked(nvml.nvmlDeviceGetMemoryInfo, handle)
        busy = self._asked(nvml.nvmlDeviceGetUtilizationRates, handle)
        return Reading(
            busy=None if busy is None else busy.gpu,
            memory_used=None if memory is None else memory.used,
            memory_total=None if memory is None else memory.total,
            power=self._asked(nvml.nvmlDeviceGetPowerUsage, handle),
            temperature=self._asked(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        )

    def _asked(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What NVML answers; None if this GPU doesn't tell."""
        try:
            return call(*arguments)
        except self._nvml.NVMLError:
            return None
