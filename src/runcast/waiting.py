"""Waiting for the couriers of one run: what `Run.finish` does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from runcast.delivery import Delivery, deliveries
from runcast.display import Bar, DeliveryProgress
from runcast.folder import sync_folder
from runcast.hosts import Host
from runcast.journal import FILE_NAME, Journal

_TICK = 0.05


def wait_for(hosts: Sequence[Host], run_dir: Path, timeout: float) -> list[Delivery]:
    """Waits until the run is safely on the disk and the couriers are through, with progress.

    Ctrl-C ends the wait and leaves them at work.

    Args:
        timeout: Seconds to wait at most.

    Returns:
        How far each tracker is.
    """
    names = [host.name for host in hosts]
    total = Journal(run_dir / FILE_NAME).count()
    deadline = time.monotonic() + timeout
    with contextlib.suppress(KeyboardInterrupt), DeliveryProgress() as progress:
        sync_folder(run_dir, deadline)
        while (busy := [host for host in hosts if host.alive()]) and time.monotonic() < deadline:
            for host in busy:
                host.wait(_TICK / len(busy))
            if progress.shown:
                rows = deliveries(run_dir, names, total)
                progress.update([Bar(row.name, row.delivered, row.total, row.state) for row in rows])
    return deliveries(run_dir, names, total)
