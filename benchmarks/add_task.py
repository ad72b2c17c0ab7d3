"""UCI Adult: a run of income and marital status gets the occupation as a third task, from 1000 rows, by every method.

python benchmarks/add_task.py --data ../shared/data/adult --seeds 3
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from adult import COLUMNS

import lepton
from lepton.run import Added, add_task

OLD_ROWS, NEW_ROWS = 30_000, 1_000
TASKS = {"income": "auroc", "marital-status": "accuracy", "occupation": "accuracy"}
METHODS: dict[str, Any] = {
    "head": "head",
    "LoRA": "lora",
    "adapter": "adapter",
    "LwF": "lwf",
    "EWC": {"type": "ewc", "strength": 1e4},
    "replay": "replay",
    "replay, balanced: false": {"type": "replay", "balanced": False},
    "A-GEM": "agem",
    "fine-tuning": "none",
}


def write_tables(source: Path, folder: Path) -> None:
    """Write the first rows without the occupation, the last ones of the file with it, and the test file twice."""
    with gzip.open(source / "adult.data.gz", "rt") as file:
        rows = file.read().splitlines()
    with gzip.open(source / "adult.test.gz", "rt") as file:
        test = [line.rstrip(".") for line in file.read().splitlines()]
    parts = {
        "old": rows[:OLD_ROWS],
        "new": rows[OLD_ROWS : OLD_ROWS + NEW_ROWS],
        "old_test": test,
        "new_test": test,
    }
    for name, lines in parts.items():
        left_out = "occupation" if name.startswith("old") else "marital-status"
        kept = [place for place, column in enumerate(COLUMNS) if column not in ("relationship", left_out)]
        cells = [[cell.strip() for cell in line.split(",")] for line in lines]
        table = [COLUMNS, *(row for row in cells if len(row) == len(COLUMNS))]
        (folder / f"{name}.csv").write_text("".join(",".join(row[k] for k in kept) + "\n" for row in table))


def one_seed(data: Path, seed: int) -> dict[str, dict[str, float]]:
    """Return method -> task -> score on the test file."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_tables(data, folder)
        run = lepton.fit(
            folder / "old.csv",
            ["income", "marital-status"],
            test=folder / "old_test.csv",
            seed=seed,
            folder=folder / "run",
            quiet=True,
        )
        told = {"source": str(folder / "new.csv"), "test": str(folder / "new_test.csv"), "ignore": ["income"]}
        for number, (words, method) in enumerate(METHODS.items()):
            start = time.perf_counter()
            config = {"data": told, "tasks": ["occupation"], "method": method, "seed": seed}
            added = add_task(run, config, folder / f"run-{number}", compare=number == 0, quiet=True)
            if number == 0:  # the same for every method
                found |= beside(added)
            found[words] = {score.task: (score.after or {})[TASKS[score.task]] for score in added.scores}
            found[words]["parameters"] = float(added.parameters["learned"])
            assert all(added.identical.values())
            print(f"seed {seed}, {words}: {found[words]}, {time.perf_counter() - start:.0f} s", flush=True)
    return found


def beside(added: Added) -> dict[str, dict[str, float]]:
    """Return the scores of the old run, of the new task alone, and of everything retrained."""
    rows: dict[str, dict[str, float]] = {"the old run": {}, "occupation alone": {}, "all retrained": {}}
    for score in added.scores:
        for words, scores in zip(rows, (score.before, score.alone, score.retrained), strict=True):
            if scores is not None:
                rows[words][score.task] = scores[TASKS[score.task]]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/adult"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(arguments.seeds):
        for words, scores in one_seed(arguments.data, seed).items():
            for task, score in scores.items():
                values[words][task].append(score)
    print(f"\n| method | {' | '.join(f'{task}, {metric}' for task, metric in TASKS.items())} | learned |")
    print("|---|---|---|---|---|")
    for words, by_task in values.items():
        cells = [_cell(by_task[task]) for task in TASKS]
        learned = f"{by_task['parameters'][0]:,.0f}" if by_task["parameters"] else ""
        print(f"| {words} | {' | '.join(cells)} | {learned} |")


def _cell(scores: list[float]) -> str:
    if not scores:
        return ""
    spread = f" ± {100 * statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{100 * statistics.mean(scores):.1f}{spread}"


if __name__ == "__main__":
    main()
