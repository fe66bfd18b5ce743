"""What the probe ``system`` says of the machine."""

from __future__ import annotations

import logging
import mmap
import os
import threading
import tomllib
from importlib import metadata
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement as Line

import runcast
from runcast.probes import CodeCarbon, SystemMetrics
from runcast.probes._gpus import Gpus, Reading, metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture
def system():
    probe = SystemMetrics()
    probe.start()
    yield probe
    probe.stop()


def test_memory_of_the_process_is_measured(system):
    """A hundred megabytes more are a hundred megabytes more."""
    before = system.measure()["system/process_memory_mb"]
    with mmap.mmap(-1, 100_000_000) as block:  # what Python frees, it may have again without asking the system
        block.write(b"x" * len(block))
        after = system.measure()["system/process_memory_mb"]
    assert 90 < after - before < 300


def test_processor_time_of_the_process_is_measured(system):
    """As much as the process took since the last measurement."""
    system.measure()
    clock, used = os.times().elapsed, sum(psutil.Process().cpu_times()[:2])
    while sum(psutil.Process().cpu_times()[:2]) < used + 0.5:
        pass
    percent = system.measure()["system/process_cpu_percent"]
    share = 100 * (sum(psutil.Process().cpu_times()[:2]) - used) / (os.times().elapsed - clock)
    assert percent == pytest.approx(share, rel=0.3)


def test_values_are_in_their_ranges(system):
    """Percentages of the machine are at most a hundred; traffic counts from the start of the run."""
    values = system.measure()
    for name in ("cpu_percent", "memory_percent"):
        assert 0 <= values[f"system/{name}"] <= 100
    for name in ("disk_read_mb", "disk_written_mb", "network_received_mb", "network_sent_mb"):
        assert 0 <= values.get(f"system/{name}", 0) < 100_000
    assert all(name.startswith("system/") and type(value) is float for name, value in values.items())


def test_machine_that_tells_nothing_of_its_disks_or_network_is_measured(monkeypatch):
    """In some containers there is no such file; the other metrics are there."""
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "net_io_counters", lambda: None)
    probe = SystemMetrics()
    probe.start()
    names = set(probe.measure())
    assert {"system/cpu_percent", "system/process_memory_mb"} <= names
    assert not [name for name in names if "disk" in name or "network" in name]


def test_run_has_the_metrics():
    """By its name alone."""
    with runcast.start_run(report_to="console", probes="system") as run:
        run.log({"loss": 1.0}, step=3)
    record = runcast.read_run(run.dir)
    (point,) = record.metrics["system/cpu_percent"]
    assert point.step == 3
    assert record.summary == {}


def test_nothing_stays_behind(system):
    """Neither a thread nor an open file."""
    files, threads = psutil.Process().num_fds(), threading.active_count()
    for _ in range(3):
        with runcast.start_run(report_to="console", probes=SystemMetrics(interval=0.01)):
            pass
    assert (psutil.Process().num_fds(), threading.active_count()) == (files, threads)


# -- GPUs --------------------------------------------------------------------------------------------------------------


def test_reading_of_a_gpu_becomes_metrics_in_their_units():
    """Bytes and milliwatts become megabytes, percent and watts."""
    assert metrics(2, Reading(93, 20_000_000_000, 80_000_000_000, 412_500, 61)) == {
        "system/gpu_2_percent": 93.0,
        "system/gpu_2_memory_mb": 20_000.0,
        "system/gpu_2_memory_percent": 25.0,
        "system/gpu_2_power_watts": 412.5,
        "system/gpu_2_temperature_celsius": 61.0,
    }


def test_what_a_gpu_does_not_tell_is_left_out():
    """Zero is a value; not to be known is none."""
    assert metrics(0, Reading(None, None, None, None, None)) == {}
    assert metrics(0, Reading(0, 0, None, None, None)) == {"system/gpu_0_percent": 0.0, "system/gpu_0_memory_mb": 0.0}


def test_machine_without_a_gpu_is_measured_without(caplog):
    """Said once, in the debug log: with or without the package, there is nothing to measure."""
    if _driver_is_there():
        pytest.skip("this machine has a driver of NVIDIA's")
    with caplog.at_level(logging.DEBUG, "runcast"):
        gpus = Gpus()
        assert gpus.measure() == gpus.measure() == {}
        gpus.close()
        gpus.close()
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "no NVIDIA GPU is measured" in caplog.text


def test_gpus_are_those_that_the_driver_tells_of():
    """Each has its memory measured, the one thing that all of them tell."""
    pynvml = pytest.importorskip("pynvml")
    if not _driver_is_there():
        pytest.skip("no driver of NVIDIA's")
    pynvml.nvmlInit()
    count = pynvml.nvmlDeviceGetCount()
    pynvml.nvmlShutdown()
    gpus = Gpus()
    names = set(gpus.measure())
    gpus.close()
    assert {f"system/gpu_{index}_memory_mb" for index in range(count)} <= names


def _driver_is_there():
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return False
    pynvml.nvmlShutdown()
    return True


# -- packaging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("need", [CodeCarbon.requires, Gpus.requires], ids=lambda need: need.extra)
def test_extra_is_what_the_probe_requires(need):
    """The distribution's metadata asks for what the probe asks for."""
    lines = [Line(text) for text in metadata.requires("runcast")]
    (line,) = [line for line in lines if line.name == need.distribution]
    assert line.marker is not None
    assert line.marker.evaluate({"extra": need.extra})
    assert str(line.specifier) == f">={need.oldest}"


def test_probes_are_declared():
    """Each entry point is the class of that name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"]["runcast.probes"]
    assert {name: metadata.EntryPoint(name, value, "").load().name for name, value in declared.items()} == {
        name: name for name in declared
    }
