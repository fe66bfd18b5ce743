"""A run in TensorBoard: python integrations/tensorboard/example.py [folder for runs]."""

import math
import sys

import runcast

folder = sys.argv[1] if len(sys.argv) > 1 else "runs"
config = {"optimizer": {"name": "adam", "lr": 3e-5}, "epochs": 5}

with runcast.start_run(report_to="tensorboard", project="example", dir=folder, config=config) as run:
    for step in range(100):
        run.log({"train/loss": math.exp(-step / 30), "train/lr": 3e-5 * (1 - step / 100)}, step=step)
    run.log_table("predictions", ["text", "label"], [["great", "positive"], ["dull", "negative"]])
    run.log_histogram("weights", [math.sin(i) for i in range(1000)])
    run.set_summary({"best_step": 99})

print(f"Look at it with: tensorboard --logdir {folder}")
