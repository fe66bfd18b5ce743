"""Events a second that reach each tracker through `runcast`, beside that SDK's own one-by-one use.

The same events of five values, on the same backends, in processes of their own that take turns; the table has medians.

    runcast     the courier of a run that is over: from the tracker's start to its end, all delivered and committed
    by hand     what the SDK's quick start shows: one call an event (a value, where the SDK takes only one), then its end
    memory      of the courier's process and its SDK's own ones, at their peak
    CPU         seconds that these use for a thousand events
    idle CPU    of one core, while a run is open and nothing is logged: 20 seconds, after 10 to come to rest

Starting an SDK is in neither time, ending it in both: then everything is with the tracker, or in its offline file.
W&B, Comet and ClearML are offline; MLflow has a SQLite file, and its real server. By hand MLflow is so slow that it gets
a tenth of the events. Run it where the extra `demo` is installed:

    python benchmarks/delivery.py [--events 5000] [--repeats 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from bench_reporters import MARKS, cpu_seconds, used
from children import give, measured, mlflow_server, nothing_left, say

import runcast
from runcast.sync import replay

SERVER = "mlflow server"
TRACKERS = ("tensorboard", "wandb", "mlflow", SERVER, "comet", "clearml")
SETTLE, IDLE = 10.0, 20.0


class ByHand(NamedTuple):
    """How to log one event with an SDK, and how to end."""

    log: Callable[[dict[str, float], int], object]
    finish: Callable[[], object]


def tensorboard() -> ByHand:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(os.environ["TENSORBOARD_LOGGING_DIR"])

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return ByHand(log, writer.close)


def wandb() -> ByHand:
    import wandb

    run = wandb.init(project="benchmark")
    return ByHand(lambda values, step: run.log(values, step=step), run.finish)


def mlflow() -> ByHand:
    import mlflow

    mlflow.set_experiment("benchmark")
    mlflow.start_run()
    return ByHand(lambda values, step: mlflow.log_metrics(values, step=step), mlflow.end_run)


def comet() -> ByHand:
    import comet_ml

    experiment = comet_ml.OfflineExperiment(
        project_name="benchmark", offline_directory=os.environ["COMET_OFFLINE_DIRECTORY"]
    )
    return ByHand(lambda values, step: experiment.log_metrics(values, step=step), experiment.end)


def clearml() -> ByHand:
    from clearml import Task

    # Else its search for a repository, now and then, holds up the end by five minutes.
    options = {"auto_connect_frameworks": {"detect_repository": False}, "auto_connect_arg_parser": False}
    task = Task.init("benchmark", "by hand", **options)
    logger = task.get_logger()

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            title, _, series = name.partition("/")
            logger.report_scalar(title, series, value, step)

    return ByHand(log, task.close)


BY_HAND = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow, "comet": comet, "clearml": clearml}


def values_of(step: int) -> dict[str, float]:
    """The five values of an event."""
    return {f"train/metric_{n}": (step * 31 + n * 17) % 1009 / 7 for n in range(5)}


def by_hand(tracker: str, events: int) -> dict[str, Any]:
    """The SDK's own use."""
    sdk = BY_HAND[tracker]()
    before = used()
    for step in range(events):
        sdk.log(values_of(step), step)
    sdk.finish()
    after = used()
    return {"rate": events / (after["time"] - before["time"]), "cpu": (after["cpu"] - before["cpu"]) / events * 1000}


def by_courier(tracker: str, events: int) -> dict[str, Any]:
    """A courier, from the tracker's start to its end."""

    class Nothing(runcast.Reporter):
        """Makes a journal without any tracker."""

        name = "nothing"

        def log_metrics(self, metrics, step, time):
            """Takes the numbers and does nothing."""

    run = runcast.start_run(Nothing(), project="benchmark", delivery="inline")
    for step in range(events):
        run.log(values_of(step), step)
    run.finish()
    assert run.dir is not None
    (row,) = replay(run.dir, f"marked_{tracker}", timeout=3600)
    assert row.done, f"{row}\n{Path(str(row.log)).read_text()[-2000:]}"
    marks = json.loads((run.dir / MARKS).read_text())
    return {
        "rate": events / marks["seconds"],
        "cpu": marks["cpu"] / events * 1000,
        "memory": marks["memory"] / 2**20,
    }


def idle(tracker: str) -> float:
    """The part of a core that all processes below this one use, while a run is open and nothing happens."""
    run = runcast.start_run(tracker, project="benchmark")
    run.wait_started(600)
    run.log(values_of(0), 0)
    time.sleep(SETTLE)
    family = psutil.Process().children(recursive=True)
    before = cpu_seconds(family)
    start = time.monotonic()
    time.sleep(IDLE)
    used = (cpu_seconds(family) - before) / (time.monotonic() - start)
    assert family, "no courier"
    assert all(process.is_running() for process in family), "a courier was started again"
    run.finish()
    return used


def child(what: str, tracker: str, events: int) -> None:
    """One measurement, handed to the parent."""
    if what == "idle":
        give(idle(tracker))
    give((by_courier if what == "courier" else by_hand)(tracker, events))


def measure(events: int, repeats: int) -> list[dict[str, Any]]:
    """All trackers, taking turns."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    resting: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, nothing_left(), mlflow_server(Path(folder)) as address:
        places = {tracker: {"MLFLOW_TRACKING_URI": address} if tracker == SERVER else {} for tracker in TRACKERS}
        for turn in range(repeats):
            for tracker, place in places.items():
                sdk = tracker.split()[0]
                for what in ("courier", "hand") if turn % 2 else ("hand", "courier"):
                    few = what == "hand" and sdk == "mlflow"
                    result = measured(__file__, what, sdk, str(events // 10 if few else events), **place)
                    found.setdefault((tracker, what), []).append(result)
                    say(f"{turn + 1}/{repeats} {tracker}, {what}: {result['rate']:.0f} events/s")
        for tracker, place in places.items():
            resting[tracker] = measured(__file__, "idle", tracker.split()[0], "0", **place)
            say(f"{tracker}, idle: {resting[tracker]:.2%}")
    return [_row(tracker, found[tracker, "courier"], found[tracker, "hand"], resting[tracker]) for tracker in TRACKERS]


def _row(tracker: str, courier: list[dict[str, Any]], hand: list[dict[str, Any]], resting: float) -> dict[str, Any]:
    ratios = [ours["rate"] / theirs["rate"] for ours, theirs in zip(courier, hand, strict=True)]
    return {
        "tracker": tracker,
        "runcast_per_s": statistics.median(result["rate"] for result in courier),
        "by_hand_per_s": statistics.median(result["rate"] for result in hand),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "memory_mib": max(result["memory"] for result in courier),
        "cpu_s_per_1000": statistics.median(result["cpu"] for result in courier),
        "by_hand_cpu_s_per_1000": statistics.median(result["cpu"] for result in hand),
        "idle_cpu": resting,
    }


def main() -> None:
    """Measures every tracker, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, tracker, events = arguments.child
        child(what, tracker, int(events))
    rows = measure(arguments.events, arguments.repeats)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(
        f"{'tracker':14} {'runcast, events/s':>17} {'by hand':>9} {'ratio':>6} {'(range)':>13} {'memory, MiB':>12} "
        f"{'CPU s/1000':>11} {'by hand':>8} {'idle CPU':>9}"
    )
    for row in rows:
        between = f"{row['lowest']:.1f}-{row['highest']:.1f}"
        print(
            f"{row['tracker']:14} {row['runcast_per_s']:17.0f} {row['by_hand_per_s']:9.0f} {row['ratio']:6.1f} "
            f"{between:>13} {row['memory_mib']:12.0f} {row['cpu_s_per_1000']:11.2f} "
            f"{row['by_hand_cpu_s_per_1000']:8.2f} {row['idle_cpu']:9.2%}"
        )


if __name__ == "__main__":
    main()
