"""A run as a deck of its Flyte task, executed locally: python integrations/flyte/example.py [folder for runs]."""

import math
import sys

from flytekit import task

import runcast

folder = sys.argv[1] if len(sys.argv) > 1 else "runs"


@task(enable_deck=True)
def train(lr: float) -> float:
    """A training, and its deck."""
    with runcast.start_run(report_to="flyte", name="example", dir=folder, config={"lr": lr}) as run:
        for step in range(100):
            run.log({"train/loss": math.exp(-step / 30), "train/lr": lr * (1 - step / 100)}, step=step)
        run.log_table("predictions", ["text", "label"], [["great", "positive"], ["dull", "negative"]])
    for tracker in run.deliveries():
        print(f"{tracker.name}: {tracker.delivered} of {tracker.total} events. Look at them in: {tracker.where}")
    return lr


train(lr=3e-5)
