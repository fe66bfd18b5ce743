"""A run in the status of its TrainJob, inside of one: python integrations/kubeflow/example.py [folder for runs]."""

import math
import sys

import runcast

folder = sys.argv[1] if len(sys.argv) > 1 else "runs"

with runcast.start_run(report_to="kubeflow", project="example", dir=folder, config={"max_steps": 100}) as run:
    for step in range(100):
        run.log({"train/loss": math.exp(-step / 30), "train/lr": 3e-5 * (1 - step / 100)}, step=step)

for tracker in run.deliveries():
    print(f"{tracker.name}: {tracker.delivered} of {tracker.total} events. Look at them with: kubectl get trainjob")
