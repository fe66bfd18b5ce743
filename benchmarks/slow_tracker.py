"""How much slower training gets with trackers whose server is 100 ms away.

A small real training loop (PyTorch, a step of a few milliseconds) logs five values after every step, which is more often
than people do and so the worst case. Each row is a process of its own in which the same loop runs three times: without
a tracker, with it, without it again; the speed is that with it over the mean of the two without. The rows take turns,
and the table has their medians. Starting and finishing the trackers is not in the loop; `finish` is in a column.

Two columns say where the speed went, as shares of the loop: "in log", the calls that log; "waiting", while a thread of the
training was ready to run and something else had its core, as Linux counts it, beyond what it is without a tracker. They
are steady from run to run. The speed itself also has what else the machine does meanwhile, and what its cores share.

    server and line   MLflow's real server behind a proxy that keeps each request back for 100 ms. Both stand for other
                      machines: they get the lowest priority, and none of the training's core where there is a free one.
    a free core       training has one thread, on a core of its own; everything else shares the other one with couriers
    two busy cores    training has two threads, on both cores; couriers have what is left
    none              the same without a tracker: what the speed differs by from lap to lap on this machine
    all eight         tensorboard, wandb, comet and clearml (offline), and mlflow four times, each with a courier and an
                      experiment of its own on the same slow server

Couriers are started before training is pinned to its core: pinning is inherited (so `taskset` would pin them as well).
A loop ends after so many steps or 10 seconds. Peers log by their own means: transformers' `MLflowCallback` through its
`CallbackHandler`, Lightning's `MLFlowLogger`, Accelerate's `log`. Every row ends with all points on the server, counted
there. Run it where the extra `demo` is installed, and `lightning` (else that row is left out):

    python benchmarks/slow_tracker.py [--steps 1500] [--repeats 3] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from children import give, measured, mlflow_server, nothing_left, say

from runcast.priority import children_stand_back

LATENCY = 0.1
LIMIT = 10.0
BATCH = 192
WARM_UP = 150
CORES = sorted(os.sched_getaffinity(0))[:2]
FREE, BUSY = "a free core", "two busy cores"
EIGHT = ("tensorboard", "wandb", "mlflow", "comet", "clearml", "mlflow_2", "mlflow_3", "mlflow_4")
ROWS: list[tuple[str, tuple[str, ...], str]] = [
    ("runcast", (), FREE),
    ("runcast", ("mlflow",), FREE),
    ("transformers", ("mlflow",), FREE),
    ("lightning", ("mlflow",), FREE),
    ("accelerate", ("mlflow",), FREE),
    ("runcast", EIGHT, FREE),
    ("runcast", (), BUSY),
    ("runcast", EIGHT, BUSY),
]

Log = Callable[[dict[str, float], int], object]


class Tracker(NamedTuple):
    """How to log to it, and what to call at the end."""

    log: Log
    finish: Callable[[], object]


class Lap(NamedTuple):
    """Some steps of training: how many, the seconds each took, and the shares of their time that went elsewhere."""

    steps: int
    seconds: float
    logging: float
    waited: float


class Training:
    """A small network that learns the sum of some numbers."""

    def __init__(self, setting: str) -> None:
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(1 if setting == FREE else len(CORES))
        self._cores = CORES[:1] if setting == FREE else CORES
        width = 512
        self._model = torch.nn.Sequential(
            torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(),
            torch.nn.Linear(width, 1),
        )  # fmt: skip
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=1e-3)
        self._torch = torch
        self._threads: list[str] = []
        self.loop(WARM_UP)  # which starts PyTorch's threads
        self._threads = [thread.name for thread in Path("/proc/self/task").iterdir()]

    def step(self) -> dict[str, float]:
        """One step of training, and what one wants to know of it."""
        torch = self._torch
        inputs = torch.randn(BATCH, 64)
        wanted = inputs.sum(dim=1, keepdim=True)
        start = time.perf_counter()
        self._optimizer.zero_grad()
        found = self._model(inputs)
        loss = torch.nn.functional.mse_loss(found, wanted)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), 10.0)
        self._optimizer.step()
        return {
            "train/loss": loss.item(),
            "train/error": (found - wanted).abs().mean().item(),
            "train/grad_norm": norm.item(),
            "train/lr": self._optimizer.param_groups[0]["lr"],
            "train/samples_per_second": BATCH / (time.perf_counter() - start),
        }

    def loop(self, steps: int, log: Log = lambda _values, _step: None) -> Lap:
        """Trains on its cores."""
        everywhere = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._cores)  # of this thread alone
        logging, waited = 0.0, self._waited()
        try:
            start = time.perf_counter()
            for step in range(1, steps + 1):
                values = self.step()
                before = time.perf_counter()
                log(values, step)
                after = time.perf_counter()
                logging += after - before
                if after - start > LIMIT:
                    break
        finally:
            os.sched_setaffinity(0, everywhere)
        seconds = after - start
        return Lap(step, seconds / step, logging / seconds, (self._waited() - waited) / seconds)

    def _waited(self) -> float:
        """Seconds that the threads of the training were ready and had no core, up to now."""
        waits = [Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1] for thread in self._threads]
        return sum(map(int, waits)) / 1e9


def with_runcast(trackers: tuple[str, ...], experiment: str) -> Tracker:
    """A run that is reported to these trackers."""
    import bench_reporters  # noqa: F401 -- registers the further ones

    import runcast

    report_to = {
        name: {"experiment_name": experiment + name.removeprefix("mlflow")} if "mlflow" in name else {}
        for name in trackers
    }
    run = runcast.start_run(report_to or "none", project="benchmark", config={"lr": 1e-3})
    run.wait_started(600)

    def finish() -> None:
        run.finish()
        behind = [row for row in run.deliveries() if not row.done]
        assert not behind, behind

    return Tracker(run.log, finish)


def with_transformers(trackers: tuple[str, ...], experiment: str) -> Tracker:
    """Transformers' own callback."""
    import mlflow
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.integrations import MLflowCallback
    from transformers.trainer_callback import CallbackHandler

    os.environ["MLFLOW_EXPERIMENT_NAME"] = experiment
    arguments = TrainingArguments(output_dir="output", report_to="none")
    state, control = TrainerState(), TrainerControl()
    handler = CallbackHandler([MLflowCallback()], torch.nn.Linear(2, 2), None, None, None)
    handler.on_train_begin(arguments, state, control)

    def log(values: dict[str, float], step: int) -> None:
        state.global_step = step
        handler.on_log(arguments, state, control, values)

    def finish() -> None:
        handler.on_train_end(arguments, state, control)
        mlflow.flush_async_logging()

    return Tracker(log, finish)


def with_lightning(trackers: tuple[str, ...], experiment: str) -> Tracker:
    """Lightning's own logger."""
    from lightning.pytorch.loggers import MLFlowLogger

    logger = MLFlowLogger(experiment, tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    logger.log_hyperparams({"lr": 1e-3})
    return Tracker(logger.log_metrics, lambda: logger.finalize("success"))


def with_accelerate(trackers: tuple[str, ...], experiment: str) -> Tracker:
    """Accelerate's own tracker."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with="mlflow")
    accelerator.init_trackers(experiment, config={"lr": 1e-3})
    return Tracker(accelerator.log, accelerator.end_training)


WITH = {
    "runcast": with_runcast,
    "transformers": with_transformers,
    "lightning": with_lightning,
    "accelerate": with_accelerate,
}


def child(kind: str, names: str, setting: str, experiment: str, steps: int) -> None:
    """One row, once."""
    os.sched_setaffinity(0, CORES)
    training = Training(setting)
    before = training.loop(steps)
    tracker = WITH[kind](tuple(filter(None, names.split(","))), experiment)
    lap = training.loop(steps, tracker.log)
    start = time.perf_counter()
    tracker.finish()
    finish = time.perf_counter() - start
    after = training.loop(steps)
    without = (before.seconds + after.seconds) / 2
    give(
        {
            "without": without,
            "with": lap.seconds,
            "speed": without / lap.seconds,
            "logging": lap.logging,
            "waited": lap.waited - (before.waited + after.waited) / 2,
            "steps": lap.steps,
            "finish": finish,
        }
    )


@contextlib.contextmanager
def slow_server(folder: Path) -> Iterator[tuple[str, str]]:
    """MLflow's server: its address, and that at the other end of the slow line."""
    with mlflow_server(folder) as address:
        command = [sys.executable, __file__, "--line", address.rpartition(":")[2]]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as line:
            assert line.stdout is not None
            slow = line.stdout.readline().strip()
            assert slow, "the slow line did not start"
            _elsewhere()
            try:
                yield address, slow
            finally:
                struck, _ = line.communicate("")
            assert int(struck) > 0, "no request came over the slow line"


def _elsewhere() -> None:
    """Makes server and line disturb training as little as if they were on other machines."""
    children_stand_back()
    for process in psutil.Process().children(recursive=True):
        process.nice(19)
        if others := sorted(set(os.sched_getaffinity(0)) - {CORES[0]}):
            process.cpu_affinity(others)


def slow_line(port: int) -> None:
    """A process that is the line; ends with its input, and says how many requests it kept back."""
    from runcast.testing.proxy import Proxy

    with Proxy(port) as proxy:
        proxy.delay(LATENCY)
        print(proxy.url, flush=True)
        sys.stdin.read()
        print(proxy.struck)


def points(address: str, experiment: str) -> int:
    """How many points of the loss the server has."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    found = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([found.experiment_id])
    return len(client.get_metric_history(run.info.run_id, "train/loss"))


def measure(steps: int, repeats: int) -> list[dict[str, Any]]:
    """All rows, taking turns."""
    rows = [row for row in ROWS if find_spec(row[0])]
    results: list[list[dict[str, Any]]] = [[] for _ in rows]
    with tempfile.TemporaryDirectory() as folder, nothing_left(), slow_server(Path(folder)) as (address, slow):
        for turn in range(repeats):
            for number, (kind, names, setting) in enumerate(rows):
                experiment = f"row-{number}-{turn}"
                result = measured(
                    __file__, kind, ",".join(names), setting, experiment, str(steps), MLFLOW_TRACKING_URI=slow
                )
                for more in (name.removeprefix("mlflow") for name in names if "mlflow" in name):
                    arrived = points(address, experiment + more)
                    if arrived != result["steps"]:
                        sys.exit(f"{kind}: {arrived} of {result['steps']} points in {experiment}{more}")
                say(
                    f"{turn + 1}/{repeats} {kind}, {len(names)} trackers, {setting}: {result['speed']:.3f}, "
                    f"{result['logging']:.2%} in log, {result['waited']:.2%} waiting"
                )
                results[number].append(result)
    return [_row(*row, found) for row, found in zip(rows, results, strict=True)]


def _row(kind: str, names: tuple[str, ...], setting: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    def median(key: str) -> float:
        return statistics.median(result[key] for result in results)

    return {
        "with": kind,
        "trackers": len(names),
        "names": "all eight" if len(names) > 1 else "".join(names) or "none",
        "cores": setting,
        "without_ms": median("without") * 1e3,
        "with_ms": median("with") * 1e3,
        "speed": median("speed"),
        "slowest": min(result["speed"] for result in results),
        "fastest": max(result["speed"] for result in results),
        "logging": median("logging"),
        "waited": median("waited"),
        "steps": min(result["steps"] for result in results),
        "finish_s": median("finish"),
    }


def main() -> None:
    """Measures every row, and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--line", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.line:
        slow_line(arguments.line)
        return
    if arguments.child:
        *row, steps = arguments.child
        child(*row, int(steps))
    rows = measure(arguments.steps, arguments.repeats)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(
        f"{'with':13} {'trackers':10} {'cores':15} {'step, ms':>9} {'with, ms':>9} {'speed':>6} {'(range)':>15} "
        f"{'in log':>7} {'waiting':>8} {'steps':>6} {'finish, s':>9}"
    )
    for row in rows:
        print(
            f"{row['with']:13} {row['names']:10} {row['cores']:15} {row['without_ms']:9.2f} {row['with_ms']:9.2f} "
            f"{row['speed']:6.3f} {row['slowest']:9.3f}-{row['fastest']:.3f} {row['logging']:7.2%} {row['waited']:8.2%} {row['steps']:6} "
            f"{row['finish_s']:9.1f}"
        )


if __name__ == "__main__":
    main()
