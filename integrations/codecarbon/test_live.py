"""The probe ``codecarbon``, with the real CodeCarbon, offline."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import runcast
from runcast.probes import CodeCarbon

HERE = Path(__file__).parent
ENERGY, EMISSIONS = "codecarbon/energy_kwh", "codecarbon/emissions_kg"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def measured():
    """A probe that was started, and is stopped in the end."""
    started = []

    def start(probe):
        probe.start()
        started.append(probe)
        return probe

    yield start
    for probe in started:
        probe.stop()


def run_with(probe, points=0):
    """A run that ends when the probe has measured that often."""
    with runcast.start_run(report_to="console", dir="runs", probes=probe) as run:
        run.log({"loss": 1.0}, step=5)
        deadline = time.monotonic() + 60
        while len(runcast.read_run(run.dir).metrics.get(ENERGY, [])) < points:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    return runcast.read_run(run.dir)


def test_energy_and_emissions_grow_and_the_summary_has_all_of_them():
    """Points on the way, and in the summary what it came to; the parts make the whole."""
    record = run_with(CodeCarbon("FRA", interval=0.2), points=3)
    energy = [point.value for point in record.metrics[ENERGY]]
    assert len(energy) >= 3
    assert 0 < energy[0]
    assert energy == sorted(energy)
    assert record.summary[ENERGY] >= energy[-1]
    parts = [record.metrics[f"codecarbon/{part}_energy_kwh"][-1].value for part in ("cpu", "gpu", "ram")]
    assert sum(parts) == pytest.approx(energy[-1])
    assert record.summary["codecarbon/duration_seconds"] > 0
    assert record.summary["codecarbon/country"] == "FRA"
    assert {point.step for point in record.metrics[EMISSIONS]} <= {0, 5}


@pytest.mark.parametrize("country", ["FRA", "POL", None])
def test_emissions_are_those_of_the_country(country, measured):
    """The kilograms are CodeCarbon's own for that energy, in that country; without one, a world's average."""
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    probe = measured(CodeCarbon(country))
    time.sleep(0.3)
    values = probe.measure()
    where = GeoMetadata(country_iso_code=country, country_name=country)
    energy = Energy.from_energy(kWh=values[ENERGY])
    assert values[EMISSIONS] == pytest.approx(Emissions(DataSource()).get_private_infra_emissions(energy, where))
    assert values[EMISSIONS] > 0


def test_totals_are_those_that_codecarbon_ends_with():
    """The summary is what CodeCarbon itself calls the final data."""
    probe = CodeCarbon("DEU")
    probe.start()
    summary = probe.stop()
    final = probe._tracker.final_emissions_data
    assert summary == {
        ENERGY: final.energy_consumed,
        EMISSIONS: final.emissions,
        "codecarbon/duration_seconds": final.duration,
        "codecarbon/country": "DEU",
    }


def test_nothing_is_written_beside_the_run(tmp_path):
    """No CSV, no lock, nothing at home; also where CodeCarbon is configured to write."""
    before = set(Path(os.environ["HOME"]).rglob("*"))
    Path(".codecarbon.config").write_text("[codecarbon]\nsave_to_file = true\noutput_dir = elsewhere\n")
    run_with(CodeCarbon())
    assert {path.name for path in tmp_path.iterdir()} == {"runs", ".codecarbon.config"}
    assert set(Path(os.environ["HOME"]).rglob("*")) == before


def test_no_network_is_asked(monkeypatch, tmp_path):
    """No name is looked up and no connection made, also where a token and a server are configured."""
    asked = []

    def refuse(*arguments, **options):
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("CODECARBON_ELECTRICITYMAPS_API_TOKEN", "a-token")
    monkeypatch.setenv("CODECARBON_CO2_SIGNAL_API_TOKEN", "a-token")
    monkeypatch.setenv("CODECARBON_SAVE_TO_API", "true")
    monkeypatch.setenv("CODECARBON_OUTPUT_METHODS", "api,prometheus")
    monkeypatch.setenv("CODECARBON_EMISSIONS_ENDPOINT", "http://127.0.0.1:9/")
    record = run_with(CodeCarbon("FRA", interval=0.2), points=2)
    assert record.summary[EMISSIONS] > 0
    assert asked == []


def test_settings_of_codecarbon_count(monkeypatch):
    """Its environment says the country where the probe doesn't."""
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "SWE")
    assert run_with("codecarbon").summary["codecarbon/country"] == "SWE"


def test_process_stays_untouched(capfd):
    """Nothing on the terminal, signals and logging as they were, no thread left."""
    import codecarbon  # its import alone sets up its logger

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    log = logging.getLogger("codecarbon")
    level, threads = log.level, threading.active_count()
    capfd.readouterr()
    probe = CodeCarbon("FRA", interval=0.1)
    probe.start()
    probe.measure()
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    probe.stop()
    assert capfd.readouterr() == ("", "")
    assert log.level == level
    deadline = time.monotonic() + 30
    while threading.active_count() > threads:
        assert time.monotonic() < deadline, codecarbon.__name__
        time.sleep(0.01)


def test_importing_is_left_to_the_probe():
    """Neither `import runcast` nor naming the probe imports CodeCarbon; the run does, in its own thread."""
    code = (
        "import sys, runcast; from runcast.probe import resolve_probes; resolve_probes('codecarbon'); "
        "assert 'codecarbon' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_start_of_a_run_does_not_wait_for_codecarbon():
    """It takes seconds to get ready; the run has begun by then."""
    ready = threading.Event()

    class Slow(CodeCarbon):
        def start(self):
            assert ready.wait(30)
            super().start()

    with runcast.start_run(report_to="console", dir="runs", probes=Slow()) as run:
        run.log({"loss": 1.0})
        ready.set()
    assert runcast.read_run(run.dir).summary[ENERGY] >= 0


def test_failure_of_codecarbon_is_said(caplog, monkeypatch):
    """It keeps its errors to itself; that there are no numbers is seen all the same, once."""
    import codecarbon

    def fail(self):
        raise OSError("no counters here")

    monkeypatch.setattr(codecarbon.OfflineEmissionsTracker, "_prepare_emissions_data", fail)
    with caplog.at_level(logging.WARNING, "runcast"):
        record = run_with(CodeCarbon(interval=0.05))
    words = [entry.getMessage() for entry in caplog.records if "codecarbon" in entry.getMessage()]
    assert words == [
        "probe 'codecarbon' ends: RuntimeError: CodeCarbon measured nothing; CODECARBON_LOG_LEVEL=debug says why"
    ]
    assert record.status == "completed"


def test_country_is_told_or_found_out():
    """Not both."""
    with pytest.raises(ValueError, match="not both"):
        CodeCarbon("FRA", online=True)


def test_example_runs(tmp_path):
    """As its first line says."""
    command = [sys.executable, str(HERE / "example.py"), str(tmp_path / "runs")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert " kWh, " in result.stdout.splitlines()[-1]
