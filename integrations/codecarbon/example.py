"""What training takes, with CodeCarbon, offline: python integrations/codecarbon/example.py [folder for runs]."""

import sys
import time

import runcast
from runcast.probes import CodeCarbon

folder = sys.argv[1] if len(sys.argv) > 1 else "runs"
probes = ["system", CodeCarbon(country="FRA", interval=1.0)]

with runcast.start_run(report_to="console", project="example", dir=folder, probes=probes) as run:
    end = time.monotonic() + 3
    for step in range(1_000_000):
        if time.monotonic() > end:
            break
        run.log({"train/loss": 1 / (step + 1)}, step=step) if step % 100_000 == 0 else sum(range(100))

summary = runcast.read_run(run.dir).summary
energy, emissions = summary["codecarbon/energy_kwh"], summary["codecarbon/emissions_kg"]
print(f"{energy:.6f} kWh, {1000 * emissions:.6f} g of CO2 equivalents")
