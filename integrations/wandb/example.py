"""A run in Weights & Biases: python integrations/wandb/example.py [folder for runs]. Offline unless you are logged in."""

import math
import sys

import runcast
from runcast.reporters.wandb import WandbReporter

folder = sys.argv[1] if len(sys.argv) > 1 else "runs"
config = {"optimizer": {"name": "adam", "lr": 3e-5}, "epochs": 5}

with runcast.start_run(report_to="wandb", project="example", dir=folder, config=config, tags=["demo"]) as run:
    for step in range(100):
        run.log({"train/loss": math.exp(-step / 30), "train/lr": 3e-5 * (1 - step / 100)}, step=step)
    run.log_table("predictions", ["text", "label"], [["great", "positive"], ["dull", "negative"]])
    run.log_histogram("weights", [math.sin(i) for i in range(1000)])
    run.set_summary({"best_step": 99})

print(f"{WandbReporter.availability().mode}: {run.deliveries()[0].where}")
