"""The process that masks what a courier's SDK prints."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import pytest

from runcast.testing.couriers import PATIENCE

# The kernel itself refuses the bytes: beyond the limit on a file's size, as where no block is left. Of what is printed
# meanwhile at most a pipe's content and what one read takes are not yet refused when `write` returns.
SDK = """
import os, resource, sys
import psutil
from runcast.masking import mask_output

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
mask_output(["plain-secret"])
(masking,) = psutil.Process().children()
os.write(1, b"while there is room: plain-secret\\n")
for number in range(1000):
    sys.stdout.write(f"{number} " + "x" * 1000 + "\\n")
sys.stdout.flush()
resource.prlimit(masking.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for number in range(1000):
    sys.stdout.write("y" * 1000 + "\\n")
print("there is room again: plain-secret", flush=True)
"""


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="changes another process's limit")
def test_full_disk_costs_what_is_printed_meanwhile(tmp_path):
    """No print of the SDK fails, and what is printed when there is room again is in the log, masked."""
    log = tmp_path / "log"
    with log.open("ab") as file:
        done = subprocess.run(
            [sys.executable, "-c", SDK], stdout=file, stderr=subprocess.PIPE, check=False, timeout=PATIENCE
        )
    assert done.returncode == 0, log.read_text()[-2000:]
    deadline = time.monotonic() + PATIENCE
    while "there is room again" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()[-200:]
        time.sleep(0.02)
    text = log.read_text()
    assert text.startswith("while there is room: ***")
    assert "plain-secret" not in text
    assert "\n500 x" not in text
