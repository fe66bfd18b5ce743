"""Reports a run to the Azure ML job that this is: submit it as the job's command."""

import math

import runcast

config = {"model": {"layers": 2}, "lr": 3e-4}

with runcast.start_run("azureml", project="example", config=config, tags=["demo"]) as run:
    for step in range(100):
        run.log({"train/loss": math.exp(-step / 30), "train/lr": 3e-4 * (1 - step / 100)}, step=step)
    run.set_summary({"best_step": 99})

for tracker in run.deliveries():
    print(f"{tracker.name}: {tracker.delivered} of {tracker.total} events. Look at them at: {tracker.where}")
