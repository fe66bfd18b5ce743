"""CodeCarbon's estimate of the energy that training takes, and of what the generation of that emits."""

from __future__ import annotations

import inspect
import logging
import os
from typing import Any, ClassVar

from runcast.probe import Probe
from runcast.reporter import Requirement


class CodeCarbon(Probe):
    """Measures energy and emissions with CodeCarbon, from the moment at which this process began its part of the run.

    | metric | meaning |
    |---|---|
    | ``codecarbon/emissions_kg`` | kilograms of CO₂ equivalents so far |
    | ``codecarbon/energy_kwh`` | kilowatt hours so far, the sum of the next three |
    | ``codecarbon/cpu_energy_kwh``, ``codecarbon/gpu_energy_kwh``, ``codecarbon/ram_energy_kwh`` | of which |

    In the end the summary has ``codecarbon/emissions_kg``, ``codecarbon/energy_kwh``, ``codecarbon/duration_seconds``, and
    ``codecarbon/country`` where CodeCarbon knows it.

    CodeCarbon's own settings count (``~/.codecarbon.config``, ``./.codecarbon.config``, ``CODECARBON_*``), but not those for
    files, servers and several instances: it writes no file, sends nothing, and handles no signal.

    Args:
        country: Three letters of ISO 3166, ``"FRA"`` say: where the electricity is from. Default: CodeCarbon's own setting,
            else an average of the world.
        online: True: CodeCarbon asks a server on the internet for the machine's location instead.
        interval: Seconds between two measurements.

    Raises:
        ValueError: Both, `country` and `online`.
    """

    name: ClassVar[str] = "codecarbon"
    requires: ClassVar[Requirement] = Requirement("codecarbon", "codecarbon", "3.0.0", "3.3.2", extra="codecarbon")

    def __init__(self, country: str | None = None, *, online: bool = False, interval: float = 15.0) -> None:
        super().__init__(interval)
        if online and country is not None:
            raise ValueError("CodeCarbon is told the country (country=), or finds it out (online=True): not both")
        self.country = country
        self.online = online

    def start(self) -> None:
        import codecarbon

        self._logger = logging.getLogger("codecarbon")
        self._level = self._logger.level
        level = os.environ.get("CODECARBON_LOG_LEVEL", "error")
        self._logger.setLevel(level.upper())  # its constructor already has something to say
        self._totals = _totals()
        options = {
            "output_handlers": [self._totals],
            "output_dir": ".",  # nothing is written there, but one that is configured would have to exist
            "measure_power_secs": self.interval,
            "api_call_interval": -1,  # totals come when they are asked for
            "log_level": level,
            "allow_multiple_runs": True,  # else it makes a lock file, and handles signals
        }
        options |= _without_outputs()
        if self.online:
            self._tracker: Any = codecarbon.EmissionsTracker(**options)
        else:
            country = {} if self.country is None else {"country_iso_code": self.country}
            self._tracker = codecarbon.OfflineEmissionsTracker(**options, **_without_token(), **country)
        self._tracker.start()

    def measure(self) -> dict[str, float]:
        self._tracker.flush()
        total = self._total()
        return {
            "codecarbon/emissions_kg": total.emissions,
            "codecarbon/energy_kwh": total.energy_consumed,
            "codecarbon/cpu_energy_kwh": total.cpu_energy,
            "codecarbon/gpu_energy_kwh": total.gpu_energy,
            "codecarbon/ram_energy_kwh": total.ram_energy,
        }

    def stop(self) -> dict[str, Any]:
        self._tracker.stop()
        self._logger.setLevel(self._level)
        total = self._total()
        values = {
            "codecarbon/emissions_kg": total.emissions,
            "codecarbon/energy_kwh": total.energy_consumed,
            "codecarbon/duration_seconds": total.duration,
        }
        return values | ({"codecarbon/country": total.country_iso_code} if total.country_iso_code else {})

    def _total(self) -> Any:
        """What CodeCarbon last measured; it keeps its errors to itself."""
        if self._totals.last is None:
            raise RuntimeError("CodeCarbon measured nothing; CODECARBON_LOG_LEVEL=debug says why")
        return self._totals.last


def _totals() -> Any:
    """An output of CodeCarbon's that remembers the last totals."""
    from codecarbon.output_methods.base_output import BaseOutput

    class Totals(BaseOutput):  # type: ignore[misc]  # it has no types
        last: Any = None

        def out(self, total: Any, delta: Any) -> None:
            self.last = total

        def exit(self) -> None:
            """Older versions have none."""

    return Totals()


def _without_outputs() -> dict[str, Any]:
    """The options by which CodeCarbon, of the version that is installed, writes and sends nothing by itself."""
    known = _options()
    off: dict[str, Any] = {"emissions_endpoint": False}
    if "output_methods" in known:
        return {**off, "output_methods": []}
    return off | {name: False for name in known if name.startswith("save_to_")}


def _without_token() -> dict[str, Any]:
    """The option by which CodeCarbon asks no server how clean the electricity is just now."""
    return {"electricitymaps_api_token" if "electricitymaps_api_token" in _options() else "co2_signal_api_token": ""}


def _options() -> list[str]:
    import codecarbon

    return list(inspect.signature(codecarbon.EmissionsTracker.__init__).parameters)
