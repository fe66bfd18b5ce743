"""User code that the strict type checker must accept. It is checked, not run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import runcast


class Mine(runcast.Reporter):
    name = "mine"
    requires = runcast.Requirement("requests", "requests", "2.0", "2.32")

    def open(self, run: runcast.RunInfo, attach: runcast.NativeRun | None) -> runcast.NativeRun:
        return attach or runcast.NativeRun(id=run.run_id, url="https://example.org")

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        print(step, time, dict(metrics))

    def is_transient(self, error: Exception) -> bool | float:
        return isinstance(error, TimeoutError) and 2.5


runcast.register_reporter(Mine)

with runcast.start_run(
    report_to=["mlflow", Mine, Mine(), {"wandb": {"project": "p"}}, {"comet": None}],
    project="p",
    tags=["a"],
    config={"lr": 1e-5, "nested": {"a": [1, 2]}},
    dir=Path("runs"),
    delivery="thread",
    strict=True,
) as run:
    run.log({"loss": 0.5, "note": "warm"}, step=1)
    run.log_table("t", ["a"], [[1], ["x"]])
    run.log_artifact("model", kind="model", metadata={"k": 1})
    run.set_summary({"best": 0.5})
    run.add_tags("b", "c")
    folder: Path | None = run.dir
    rows: list[runcast.Delivery] = run.deliveries()

runcast.start_run("all").finish("failed")
runcast.start_run(None).finish()

if folder is not None:
    record: runcast.RunRecord = runcast.read_run(folder)
    points: list[runcast.Point] = record.metrics["loss"]
    values: list[float] = [point.value for point in points]

open_run: runcast.Run | None = runcast.current_run()
found: list[runcast.Availability] = runcast.available_reporters()
reporters: list[runcast.Reporter] = runcast.resolve_report_to("wandb,mlflow")
