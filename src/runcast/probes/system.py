"""What training takes of its machine: processor, memory, disk, network, and NVIDIA's GPUs.

The names begin with ``system/``, by which trackers tell such metrics from the others.
"""

from __future__ import annotations

from typing import Any, ClassVar

from runcast.probe import Probe
from runcast.probes._gpus import Gpus

_MEGABYTE = 1e6


class SystemMetrics(Probe):
    """Measures the machine and the training process.

    | metric | meaning |
    |---|---|
    | ``system/cpu_percent`` | of all cores, since the last measurement |
    | ``system/memory_percent`` | of the machine's memory |
    | ``system/process_cpu_percent`` | of one core, by the training process; more than 100 with several threads |
    | ``system/process_memory_mb`` | resident memory of the training process |
    | ``system/disk_read_mb``, ``system/disk_written_mb`` | of all disks, since the run began |
    | ``system/network_received_mb``, ``system/network_sent_mb`` | of all interfaces, since the run began |
    | ``system/gpu_0_percent``, ``..._memory_mb``, ``..._memory_percent``, ``..._power_watts``, ``..._temperature_celsius`` | \
of each NVIDIA GPU, if ``nvidia-ml-py`` is installed (the extra ``gpu``) |

    What the machine doesn't tell is left out. A megabyte has 10⁶ bytes.

    Args:
        interval: Seconds between two measurements.
    """

    name: ClassVar[str] = "system"

    def __init__(self, interval: float = 10.0) -> None:
        super().__init__(interval)

    def start(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._before = _traffic()
        self._gpus = Gpus()
        psutil.cpu_percent()  # from here on the next call counts
        self._process.cpu_percent()

    def measure(self) -> dict[str, float]:
        import psutil

        values = {
            "system/cpu_percent": psutil.cpu_percent(),
            "system/memory_percent": psutil.virtual_memory().percent,
            "system/process_cpu_percent": self._process.cpu_percent(),
            "system/process_memory_mb": self._process.memory_info().rss / _MEGABYTE,
        }
        for name, size in _traffic().items():
            values[f"system/{name}_mb"] = (size - self._before.get(name, 0)) / _MEGABYTE
        return values | self._gpus.measure()

    def stop(self) -> dict[str, Any]:
        self._gpus.close()
        return {}


def _traffic() -> dict[str, int]:
    """Bytes since the machine started; without what it doesn't tell (in a container, say)."""
    import psutil

    sizes: dict[str, int] = {}
    if (disk := psutil.disk_io_counters()) is not None:
        sizes |= {"disk_read": disk.read_bytes, "disk_written": disk.write_bytes}
    if (network := psutil.net_io_counters()) is not None:
        sizes |= {"network_received": network.bytes_recv, "network_sent": network.bytes_sent}
    return sizes
