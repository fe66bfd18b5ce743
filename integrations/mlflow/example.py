"""Reports a run to MLflow without a server, and says where to look."""

import math

import runcast

with runcast.start_run("mlflow", project="example", config={"model": {"layers": 2}, "lr": 3e-4}, tags=["demo"]) as run:
    for step in range(100):
        run.log({"train/loss": math.exp(-step / 30), "train/lr": 3e-4 * (1 - step / 100)}, step=step)
    run.log_table("predictions", ["text", "label"], [["good", 1], ["bad", 0]], step=99)
    run.set_summary({"best_step": 99})

for tracker in run.deliveries():
    print(f"{tracker.name}: {tracker.delivered} of {tracker.total} events. Look at them with: {tracker.where}")
