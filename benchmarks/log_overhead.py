"""What one `run.log` of five values costs the training thread, with 0, 1 and 5 trackers, beside transformers' callbacks.

Each row is a process of its own: a training loop on one core, whose step is a small matrix product (so that caches are as
cold as training leaves them), with a call of five values after each; couriers have the other cores. Everything is offline
or local. Run it where the extra `demo` is installed:

    python benchmarks/log_overhead.py [--steps 1000] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

from children import give, measured, nothing_left

TRACKERS = ("tensorboard", "wandb", "mlflow", "comet", "clearml")
ROWS: list[tuple[str, tuple[str, ...]]] = [
    ("write(2)", ()),
    ("runcast", ()),
    ("runcast", ("mlflow",)),
    ("runcast", TRACKERS),
    *[("transformers", (tracker,)) for tracker in TRACKERS],
    ("transformers", TRACKERS),
]


def loop(log: Callable[[dict[str, float], int], object], steps: int) -> list[float]:
    """Seconds that each call of `log` took."""
    import numpy as np

    matrix = np.random.default_rng(0).random((192, 192))
    took = []
    for step in range(1, steps + 1):
        matrix = matrix @ matrix / np.linalg.norm(matrix)
        values = {f"metric_{n}": float(matrix[n, n]) for n in range(5)}
        start = time.perf_counter()
        log(values, step)
        took.append(time.perf_counter() - start)
    return took


def with_write(trackers: tuple[str, ...], steps: int) -> dict[str, object]:
    """The loop with one bare `os.write` of as many bytes: what no journal that survives SIGKILL can beat."""
    assert not trackers
    line = b"x" * 190
    descriptor = os.open("floor.txt", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    return {"took": loop(lambda _values, _step: os.write(descriptor, line), steps), "started": 0.0, "complete": []}


def with_runcast(trackers: tuple[str, ...], steps: int) -> dict[str, object]:
    """The loop with a run that is reported to these trackers."""
    import runcast

    class Nothing(runcast.Reporter):
        """Stands for no tracker at all: the journal alone."""

        name = "nothing"

        def log_metrics(self, metrics, step, time):  # type: ignore[no-untyped-def]
            """Takes the numbers and does nothing."""

    runcast.resolve_report_to("all")  # a process resolves names once; that is no part of starting a run
    start = time.perf_counter()
    run = runcast.start_run(list(trackers) if trackers else Nothing(), project="benchmark", config={"lr": 1e-3})
    started = time.perf_counter() - start
    if trackers:
        run.wait_started()
    else:
        run.remove_reporter("nothing")
    took = loop(run.log, steps)
    run.finish()
    complete = [row.name for row in run.deliveries() if row.done]
    return {"took": took, "started": started, "complete": complete}


def with_transformers(trackers: tuple[str, ...], steps: int) -> dict[str, object]:
    """The loop with transformers' own callbacks for these trackers."""
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments
    from transformers.integrations import integration_utils
    from transformers.trainer_callback import CallbackHandler

    classes = [integration_utils.INTEGRATION_TO_CALLBACK[{"comet": "comet_ml"}.get(name, name)] for name in trackers]
    model = torch.nn.Linear(2, 2)
    arguments = TrainingArguments(output_dir="output", report_to="none")
    state, control = TrainerState(), TrainerControl()
    handler = CallbackHandler([cls() for cls in classes], model, None, None, None)
    start = time.perf_counter()
    handler.on_train_begin(arguments, state, control)
    started = time.perf_counter() - start

    def log(values: dict[str, float], step: int) -> None:
        state.global_step = step
        handler.on_log(arguments, state, control, values)

    took = loop(log, steps)
    return {"took": took, "started": started, "complete": list(trackers)}


def measured_row(kind: str, trackers: tuple[str, ...], steps: int) -> dict[str, object]:
    """One row, measured in a process and folder of its own."""
    result = measured(__file__, kind, ",".join(trackers), str(steps), OMP_NUM_THREADS="1")
    if sorted(result["complete"]) != sorted(trackers):
        sys.exit(f"{kind} {trackers}: only {result['complete']} got everything")
    took = sorted(result["took"])
    return {
        "with": kind,
        "trackers": len(trackers),
        "names": ", ".join(trackers)
        if len(trackers) == 1
        else "all five"
        if trackers
        else "journal alone"
        if kind == "runcast"
        else "none",
        "median_us": statistics.median(took) * 1e6,
        "p99_us": took[int(len(took) * 0.99)] * 1e6,
        "start_ms": result["started"] * 1e3,
    }


def main() -> None:
    """Measures every row, and prints them with their ratio to `runcast` with the same number of trackers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        kind, names, steps = arguments.child
        functions = {"write(2)": with_write, "runcast": with_runcast, "transformers": with_transformers}
        give(functions[kind](tuple(filter(None, names.split(","))), int(steps)))
    with nothing_left():
        rows = [measured_row(kind, trackers, arguments.steps) for kind, trackers in ROWS]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    base = {row["trackers"]: float(row["median_us"]) for row in rows if row["with"] == "runcast"}  # type: ignore[arg-type]
    print(f"{'with':13} {'trackers':14} {'median µs':>10} {'99th pct µs':>12} {'× runcast':>10} {'start ms':>9}")
    for row in rows:
        ratio = float(row["median_us"]) / base[row["trackers"]]  # type: ignore[arg-type, index]
        print(
            f"{row['with']:13} {row['names']:14} {row['median_us']:10.1f} {row['p99_us']:12.1f} {ratio:10.1f} "
            f"{row['start_ms']:9.1f}"
        )


if __name__ == "__main__":
    main()
