"""Where couriers run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import runcast
from runcast import registry
from runcast.hosts import InlineHost, ProcessHost, ThreadHost, host_for, portable
from runcast.reporter import Reporter
from runcast.reporters.console import ConsoleReporter

TEN_LINES = """
import os, runcast
@runcast.register_reporter
class Mine(runcast.Reporter):
    name = "mine"
    def __init__(self, api_key=None): self.key = api_key
    def open(self, run, attach):
        self.file = open(run.dir / "mine.txt", "a")
        return runcast.NativeRun(id=run.run_id)
    def log_metrics(self, metrics, step, time): print(os.getpid(), step, metrics["loss"], file=self.file, flush=True)
"""


class Local(Reporter):
    name = "local"

    def log_metrics(self, metrics, step, time):
        pass


def test_host_follows_mode_and_reporter(tmp_path, monkeypatch):
    """Inline and thread on request; the console and unregistered reporters in a thread; registered ones in a process."""
    monkeypatch.setattr(registry, "_registered", {})
    assert isinstance(host_for(Local(), tmp_path, "inline"), InlineHost)
    assert isinstance(host_for(Local(), tmp_path, "process"), ThreadHost)
    assert isinstance(host_for(ConsoleReporter(), tmp_path, "process"), ThreadHost)
    assert not portable(Local())
    registry.register_reporter(Local)
    assert portable(Local())
    assert isinstance(host_for(Local(), tmp_path, "process"), ProcessHost)
    assert isinstance(host_for(Local(), tmp_path, "thread"), ThreadHost)


WAYS = {
    "by instance": "import mine; report_to = mine.Mine()",
    "by class": "import mine; report_to = mine.Mine",
    "by registered name": "import mine; report_to = 'mine'",
    "by mapping": "import mine; report_to = {'mine': {'api_key': 'plain-secret'}}",
    "defined in the script itself": TEN_LINES + "report_to = Mine",
}


@pytest.mark.parametrize("way", WAYS)
def test_ten_line_reporter_works(way, python, tmp_path):
    """A custom reporter gets every point, in order, whichever way it is asked for."""
    (tmp_path / "mine.py").write_text(TEN_LINES)
    code = (
        f"{WAYS[way]}\n"
        "import os, runcast\n"
        "with runcast.start_run(report_to) as run:\n"
        "    for step in range(5): run.log({'loss': step / 2}, step=step)\n"
        "print(os.getpid()); print(open(run.dir / 'mine.txt').read())\n"
    )
    result = python(code, PYTHONPATH=str(tmp_path))
    own_pid, *lines = result.stdout.strip().splitlines()
    assert [line.split()[1:] for line in lines] == [[str(n), str(n / 2)] for n in range(5)], result.stderr
    in_process_of_its_own = {line.split()[0] for line in lines} != {own_pid}
    assert in_process_of_its_own == (way != "defined in the script itself")


def test_secret_option_is_neither_in_files_nor_in_the_process_list(python, tmp_path):
    """It travels through the courier's standard input alone."""
    (tmp_path / "mine.py").write_text(TEN_LINES)
    code = (
        "import mine, psutil, runcast, json\n"
        "run = runcast.start_run({'mine': {'api_key': 'plain-secret'}})\n"
        "run.wait_started()\n"
        "children = psutil.Process().children()\n"
        "print(json.dumps([[c.cmdline(), c.environ()] for c in children]))\n"
        "run.log({'loss': 1.0}, step=0)\n"
        "run.finish()\n"
        "print(run.dir)\n"
    )
    result = python(code, PYTHONPATH=str(tmp_path))
    listed, run_dir = result.stdout.strip().splitlines()
    assert len(json.loads(listed)) == 1, result.stderr
    assert "plain-secret" not in listed
    written = b"".join(path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file())
    assert run_dir.startswith(str(tmp_path))
    assert b"plain-secret" not in written


def test_courier_process_that_dies_is_started_again(python, tmp_path):
    """A segfault in an SDK costs a restart, and the points still arrive."""
    (tmp_path / "mine.py").write_text(
        TEN_LINES.replace(
            "return runcast.NativeRun(id=run.run_id)",
            'died = run.dir / "died"\n        if not died.exists(): died.touch(); os.kill(os.getpid(), 11)\n        return runcast.NativeRun(id=run.run_id)',
        )
    )
    code = (
        "import mine, runcast\n"
        "with runcast.start_run('mine') as run:\n"
        "    for step in range(5): run.log({'loss': step / 2}, step=step)\n"
        "(row,) = run.deliveries(); assert row.done, row\n"
        "print(open(run.dir / 'mine.txt').read())\n"
    )
    result = python(code, PYTHONPATH=str(tmp_path))
    assert len(result.stdout.split("\n")) >= 5, result.stderr
    (log,) = tmp_path.glob("runs/*/trackers/mine.log")
    assert "ended the courier with SIGSEGV in open" in log.read_text()


def test_named_tracker_that_cannot_start_is_an_error_before_training(python, tmp_path):
    """`wait_started` raises for a named tracker, and the message has reason and log."""
    (tmp_path / "mine.py").write_text(
        TEN_LINES.replace("self.file =", 'raise PermissionError("bad key")\n        self.file =')
    )
    code = (
        "import mine, runcast\n"
        "run = runcast.start_run('mine')\n"
        "try: run.wait_started()\n"
        "except runcast.TrackerStartError as error: print(error)\n"
        "run.log({'loss': 1.0}); run.finish()\n"
    )
    result = python(code, PYTHONPATH=str(tmp_path))
    assert "tracker 'mine' can't start: PermissionError: bad key" in result.stdout, result.stderr
    assert "mine.log" in result.stdout


def test_finish_leaves_a_slow_courier_running_and_says_so(python, tmp_path):
    """After `finish_timeout` the courier goes on by itself and delivers everything."""
    (tmp_path / "mine.py").write_text(
        TEN_LINES.replace("print(os.getpid()", "__import__('time').sleep(0.2); print(os.getpid()")
    )
    code = (
        "import mine, runcast\n"
        "with runcast.start_run('mine', finish_timeout=0.5) as run:\n"
        "    for step in range(20): run.log({'loss': step / 2}, step=step)\n"
        "(row,) = run.deliveries(); print(row.done)\n"
        "print(run.dir)\n"
    )
    result = python(code, PYTHONPATH=str(tmp_path))
    done, run_dir = result.stdout.split()
    assert done == "False", result.stderr
    assert "runcast sync" in result.stderr
    from runcast.testing.contract import wait_until_through

    wait_until_through(__import__("pathlib").Path(run_dir), "mine")


def test_two_runs_side_by_side_keep_their_points(monkeypatch):
    """Threads of two runs deliver to two reporters, each its own points."""

    class Keep(Local):
        name = "keep"

        def __init__(self):
            self.seen = []

        def log_metrics(self, metrics, step, time):
            self.seen.append(metrics["x"])

    keeps = [Keep(), Keep()]
    runs = [runcast.start_run(keep, delivery="thread") for keep in keeps]
    for step in range(50):
        for number, run in enumerate(runs):
            run.log({"x": float(number * 1000 + step)}, step=step)
    for run in runs:
        run.finish()
    assert keeps[0].seen == [float(n) for n in range(50)]
    assert keeps[1].seen == [1000.0 + n for n in range(50)]


def test_courier_has_no_terminal_to_ask_at(tmp_path):
    """A process that training starts has training's session, but can neither open its terminal nor get its Ctrl-C."""
    (tmp_path / "asks.py").write_text(
        "import os\n"
        "def ask(spec):\n"
        "    try:\n"
        "        print(f'opened {os.open(\"/dev/tty\", os.O_RDWR)}')\n"
        "    except OSError as error:\n"
        "        print(f'refused {os.getsid(0)} {os.getpgid(0) == os.getpid()}')\n"
    )
    training = (
        "import fcntl, os, subprocess, sys, termios\n"
        "os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.close(os.open('/dev/tty', os.O_RDWR))\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from runcast.hosts import python_process\n"
        "process = python_process('asks:ask', {'sys_path': sys.path}, stdout=subprocess.PIPE)\n"
        "print(os.getsid(0), process.communicate()[0].decode())\n"
    )
    ours, terminal = os.openpty()
    try:
        result = subprocess.run(
            [sys.executable, "-c", training, str(tmp_path)], stdin=terminal, capture_output=True, text=True, check=True
        )
    finally:
        os.close(ours)
        os.close(terminal)
    session, *said = result.stdout.split()
    assert said == ["refused", session, "True"]
