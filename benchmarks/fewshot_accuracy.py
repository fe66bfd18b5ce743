"""Accuracy against training time of the few-shot trainer's strategies, batch shapes and losses, and of SetFit.

Each line of the results is one training: a process of its own, the same few examples for every row of a seed, tested on
all of the test texts. Wall time depends on what else the machine does, so the process' CPU time and the load stand beside
it; with one thread (the default), CPU time is what the training would take on a core of its own. `fewshot_trainings.py`
says what the tasks are and what the environments need.

    python benchmarks/fewshot_accuracy.py banking77/ --seeds 1 2 3 4 5 --rows batch --tasks banking77-8
    python benchmarks/fewshot_accuracy.py banking77/ --rows setfit --setfit-python venv/bin/python
    python benchmarks/fewshot_accuracy.py banking77/ --table

What is in the results file already isn't run again, so the benchmark can be run in pieces; `--table` only prints.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path

from fewshot_trainings import TASKS, in_process

LOSSES = (
    *("contrastive", "supervised_contrastive"),
    *("triplet_all", "triplet_hard", "triplet_semi_hard", "triplet_hard_soft_margin"),
)


def batch(classes: int, examples: int, steps: int, **more: object) -> tuple[str, dict[str, object]]:
    """A training of so many steps on so many classes times so many examples."""
    shape = {"classes_per_batch": classes, "examples_per_class": examples}
    return "runcast", {"sampling_strategy": "batch", **shape, "max_steps": steps, **more}


def pairs(strategy: str, **more: object) -> tuple[str, dict[str, object]]:
    """A training on one epoch of pairs."""
    return "runcast", {"sampling_strategy": strategy, **more}


ROWS = {
    "untrained body": ("untrained", {}),
    "setfit, num_iterations=5": ("setfit", {"num_iterations": 5}),
    "setfit, num_iterations=20": ("setfit", {"num_iterations": 20}),
    "setfit, oversampling": ("setfit", {}),
    "pairs, num_iterations=5": pairs("oversampling", num_iterations=5),
    "pairs, num_iterations=20": pairs("oversampling", num_iterations=20),
    "pairs, oversampling": pairs("oversampling"),
    "pairs, undersampling": pairs("undersampling"),
    "pairs, unique": pairs("unique"),
    **{
        f"batch {classes}×{examples}, {steps} steps": batch(classes, examples, steps)
        for classes, examples, steps in [
            *((16, 2, 20), (16, 2, 40), (16, 2, 80), (16, 2, 160)),
            *((8, 2, 80), (8, 4, 40), (32, 2, 20), (32, 2, 40), (16, 4, 20), (16, 4, 40)),
        ]
    },
    **{f"batch 16×2, 40 steps, {name}": batch(16, 2, 40, loss=name) for name in LOSSES},
    "batch 16×2, 40 steps, learning rate 5e-5": batch(16, 2, 40, learning_rate=5e-5),
    "batch 16×2, 40 steps, learning rate 1e-4": batch(16, 2, 40, learning_rate=1e-4),
}


def table(results: list[dict]) -> str:
    """The results as Markdown, a table a task; accuracy as mean ± standard deviation (lowest to highest)."""
    lines = []
    for task in TASKS:
        of_row = {row: [r for r in results if r["task"] == task and r["row"] == row] for row in ROWS}
        if not any(of_row.values()):
            continue
        lines += ["", f"### {task}", "", "| training | accuracy | seeds | steps | CPU s | wall s | load |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row, found in of_row.items():
            if found:
                accuracy = [r["accuracy"] for r in found]
                deviation = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
                mean = {key: statistics.mean(r[key] for r in found) for key in ("steps", "cpu_s", "wall_s")}
                load = statistics.mean(value for r in found for value in r["load"])
                lines.append(
                    f"| {row} | {statistics.mean(accuracy):.3f} ± {deviation:.3f} ({min(accuracy):.3f} to "
                    f"{max(accuracy):.3f}) | {len(found)} | {mean['steps']:.0f} | {mean['cpu_s']:.1f} | "
                    f"{mean['wall_s']:.1f} | {load:.1f} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of train.csv and test.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--rows", default=".", help="a regular expression: which rows")
    parser.add_argument("--results", type=Path, default=Path("fewshot_accuracy.jsonl"))
    parser.add_argument("--setfit-python", help="the interpreter that has SetFit")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print what there is")
    options = parser.parse_args()
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    results = [json.loads(line) for line in lines]
    done = {(r["task"], r["row"], r["seed"]) for r in results}
    rows = [row for row in ROWS if re.search(options.rows, row)]
    todo = [(task, row, seed) for seed in options.seeds for task in options.tasks for row in rows]
    for task, row, seed in [] if options.table else todo:
        runner, how = ROWS[row]
        interpreter = options.setfit_python if runner == "setfit" else sys.executable
        if (task, row, seed) in done or interpreter is None:
            continue
        found = in_process(interpreter, options.data, options.threads, task=task, runner=runner, options=how, seed=seed)
        results.append({"task": task, "row": row, "seed": seed, **found})
        print(json.dumps(results[-1]), flush=True)
        with options.results.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
