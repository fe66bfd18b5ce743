"""A run in Trackio: python integrations/trackio/example.py [folder for runs]."""

import math
import sys

import runcast

folder = sys.argv[1] if len(sys.argv) > 1 else "runs"
config = {"optimizer": {"name": "adam", "lr": 3e-5}, "epochs": 5}

with runcast.start_run(report_to="trackio", project="example", dir=folder, config=config, tags=["demo"]) as run:
    for step in range(100):
        run.log({"train/loss": math.exp(-step / 30), "train/lr": 3e-5 * (1 - step / 100)}, step=step)
    run.log_table("predictions", ["text", "label"], [["great", "positive"], ["dull", "negative"]])
    run.log_histogram("weights", [math.sin(i) for i in range(1000)])
    run.set_summary({"best_step": 99})

for tracker in run.deliveries():
    print(f"{tracker.name}: {tracker.delivered} of {tracker.total} events. Look at them with: {tracker.where}")
