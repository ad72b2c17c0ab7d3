"""UCI Adult with `lepton.fit` and nothing tuned by the user: income and never-married, on the official test file.

python benchmarks/adult.py --data ../shared/data/adult --seeds 3
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import tempfile
import time
from pathlib import Path

import torch

import lepton

HEADER = (
    "age,workclass,fnlwgt,education,education-num,marital-status,occupation,relationship,race,sex,capital-gain,"
    "capital-loss,hours-per-week,native-country,income"
)
COLUMNS = HEADER.split(",")


def write_table(source: Path, target: Path) -> None:
    """Give the official file a header and the column never_married."""
    with gzip.open(source, "rt") as file, target.open("w") as out:
        out.write(",".join([*COLUMNS, "never_married"]) + "\n")
        for line in file:
            cells = [cell.strip() for cell in line.rstrip(".\n").split(",")]
            if len(cells) == len(COLUMNS):
                never = "yes" if cells[COLUMNS.index("marital-status")] == "Never-married" else "no"
                out.write(",".join([*cells, never]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data/adult"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print("| seed | income AUC | never-married AUC | seconds |\n|---|---|---|---|")
    scores: dict[str, list[float]] = {"income": [], "never_married": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_table(arguments.data / "adult.data.gz", folder / "train.csv")
        write_table(arguments.data / "adult.test.gz", folder / "test.csv")
        for seed in range(arguments.seeds):
            start = time.perf_counter()
            run = lepton.fit(
                folder / "train.csv",
                ["income", "never_married"],
                ignore=["relationship", "marital-status"],
                test=folder / "test.csv",
                seed=seed,
                folder=folder / "run",
                quiet=True,
            )
            found = {task: result.metrics["auroc"] for task, result in run.results["test"].items()}
            for task, score in found.items():
                scores[task].append(score)
            seconds = time.perf_counter() - start
            print(f"| {seed} | {found['income']:.4f} | {found['never_married']:.4f} | {seconds:.0f} |", flush=True)
    means = " | ".join(f"{statistics.mean(values):.4f}" for values in scores.values())
    print(f"| mean | {means} | |")


if __name__ == "__main__":
    main()
