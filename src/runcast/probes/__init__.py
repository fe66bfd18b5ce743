"""The probes that come with runcast, by the names ``system`` and ``codecarbon``."""

from runcast.probes.codecarbon import CodeCarbon
from runcast.probes.system import SystemMetrics

__all__ = ["CodeCarbon", "SystemMetrics"]
