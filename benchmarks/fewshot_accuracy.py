"""Accuracy against training time of the few-shot trainer's strategies, batch shapes and losses, and of SetFit.

Each line of the results is one training: a process of its own, the same few examples for every row of a seed, tested on
all of the test texts. Wall time depends on what else the machine does, so the table has the process' CPU time; with one
thread (the default) that is what the training would take on a core of its own. The accuracy is that of logistic regressions
of several C on the same trained body: SetFit's is C=1. `fewshot_trainings.py` says what the tasks are and what the
environments need.

    python benchmarks/fewshot_accuracy.py banking77/ --seeds 1 2 3 4 5 --rows batch --tasks banking77-8
    python benchmarks/fewshot_accuracy.py banking77/ --rows setfit --setfit-python venv/bin/python
    python benchmarks/fewshot_accuracy.py banking77/ --table

What is in the results file already isn't run again, so the benchmark can be run in pieces; `--table` only prints.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
from pathlib import Path

from fewshot_trainings import HEADS, TASKS, Results, spread

LOSSES = (
    *("contrastive", "supervised_contrastive"),
    *("triplet_all", "triplet_hard", "triplet_semi_hard", "triplet_hard_soft_margin"),
)


def batch(classes: int, examples: int, steps: int, **more: object) -> tuple[str, dict[str, object]]:
    """A training of so many steps on so many classes times so many examples."""
    shape = {"classes_per_batch": classes, "examples_per_class": examples}
    return "runcast", {"sampling_strategy": "batch", **shape, "max_steps": steps, "loss": "cosine", **more}


def pairs(strategy: str, **more: object) -> tuple[str, dict[str, object]]:
    """A training on one epoch of pairs."""
    return "runcast", {"sampling_strategy": strategy, "loss": "cosine", **more}


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
    **{
        f"batch 16×2, 40 steps, {name}, learning rate {rate}": batch(16, 2, 40, loss=name, learning_rate=rate)
        for name, rate in itertools.product(("cosine", "supervised_contrastive", "triplet_all"), (5e-5, 1e-4))
    },
    **{
        f"batch {classes}×{examples}, {steps} steps, supervised_contrastive": batch(
            classes, examples, steps, loss="supervised_contrastive"
        )
        for classes, examples, steps in [(16, 2, 20), (16, 2, 80), (8, 4, 40), (32, 2, 20), (32, 2, 40)]
    },
}


def table(found: dict[tuple[str, str], list[dict]]) -> str:
    """The results of each task and row as Markdown, a table a task; accuracy as mean ± standard deviation over the seeds."""
    lines = []
    for task in TASKS:
        rows = {row: found[task, row] for row in ROWS if found.get((task, row))}
        if not rows:
            continue
        lines += [
            "",
            f"### {task}",
            "",
            f"| training | {' | '.join(f'C={C}' for C in HEADS)} | seeds | steps | CPU s |",
        ]
        lines += ["|---" * (len(HEADS) + 4) + "|"]
        for row, of_seeds in rows.items():
            accuracies = [spread([result["heads"][str(C)] for result in of_seeds]) for C in HEADS]
            steps, seconds = (statistics.mean(result[key] for result in of_seeds) for key in ("steps", "cpu_s"))
            lines.append(f"| {row} | {' | '.join(accuracies)} | {len(of_seeds)} | {steps:.0f} | {seconds:.0f} |")
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
    results = Results(options.results, options.data, options.threads, options.setfit_python)
    rows = [row for row in ROWS if re.search(options.rows, row)]
    found: dict[tuple[str, str], list[dict]] = {}
    for seed, task, row in itertools.product(options.seeds, options.tasks, rows):
        runner, how = ROWS[row]
        training = {"task": task, "runner": runner, "options": how, "seed": seed, "heads": True}
        result = results.get(**training) if options.table else results.run(**training)
        if result:
            found.setdefault((task, row), []).append(result)
    print(table(found))


if __name__ == "__main__":
    main()
