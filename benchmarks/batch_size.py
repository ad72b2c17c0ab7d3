"""Which batch size suits small tables: everything else as `lepton.fit` plans it, judged on rows that select nothing.

python benchmarks/batch_size.py --data ../shared/data/adult --seeds 5
"""

from __future__ import annotations

import argparse
import gzip
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adult import COLUMNS
from sklearn import datasets

import lepton

FEW = 200
"""With fewer rows that judge a table gets twice the seeds: its results scatter more."""

SIZES = (8, 16, 32, 64, 128, 256)
BASE = 32
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Job:
    """A table with its targets, and how many of its rows there are to train, select and judge."""

    name: str
    rows: Columns
    targets: tuple[str, ...]
    parts: tuple[int, int, int]

    @property
    def sizes(self) -> list[int]:
        """The batch sizes whose fewest epochs, 5, are no more than half a training too long."""
        return [size for size in SIZES if 5 * self.parts[0] / size <= 2500]

    def parted(self, seed: int) -> tuple[Columns, Columns]:
        """Return the rows of training and selection, with a column that says which, and those that judge."""
        order = np.random.default_rng(seed).permutation(len(self.rows[self.targets[0]]))
        train, val, judged = self.parts
        first, last = order[: train + val], order[train + val : train + val + judged]
        seen = {name: [values[row] for row in first] for name, values in self.rows.items()}
        return seen | {"part": ["train"] * train + ["val"] * val}, {
            name: [values[row] for row in last] for name, values in self.rows.items()
        }


def scikit_learn() -> Iterator[Job]:
    """Yield the tables that scikit-learn brings along: 70 % to train, 15 % to select, 15 % to judge."""
    for name, more in [("iris", "petal width (cm)"), ("wine", "alcohol"), ("diabetes", "bmi"), ("breast_cancer", "")]:
        found = getattr(datasets, f"load_{name}")()
        rows = {str(column): found.data[:, place].tolist() for place, column in enumerate(found.feature_names)}
        whole = name == "diabetes"
        rows["y"] = found.target.tolist() if whole else [f"class {label}" for label in found.target]
        yield _whole(name, rows, ("y", more) if more else ("y",))
    digits = datasets.load_digits()
    rows = {f"pixel {place}": digits.data[:, place].tolist() for place in range(64)}
    rows |= {"digit": [f"d{label}" for label in digits.target], "odd": [bool(label % 2) for label in digits.target]}
    yield _whole("digits", rows, ("digit", "odd"))
    gym = datasets.load_linnerud()
    rows = {name: gym.data[:, place].tolist() for place, name in enumerate(gym.feature_names)}
    rows |= {name: gym.target[:, place].tolist() for place, name in enumerate(gym.target_names)}
    yield _whole("linnerud", rows, tuple(gym.target_names))


def _whole(name: str, rows: Columns, targets: tuple[str, ...]) -> Job:
    n_rows = len(rows[targets[0]])
    held = round(0.15 * n_rows)
    return Job(name, rows, targets, (n_rows - 2 * held, held, held))


def adult(folder: Path, sizes: Sequence[int]) -> Iterator[Job]:
    """Yield parts of the training file of UCI Adult, judged on 10 000 others of its rows; its test file is not read."""
    with gzip.open(folder / "adult.data.gz", "rt") as file:
        lines = [[cell.strip() for cell in line.split(",")] for line in file if line.strip()]
    rows: Columns = {name: [line[place] for line in lines] for place, name in enumerate(COLUMNS)}
    rows["never_married"] = ["yes" if word == "Never-married" else "no" for word in rows.pop("marital-status")]
    del rows["relationship"]
    for n_rows in sizes:
        val = round(0.15 * n_rows)
        yield Job(f"adult {n_rows}", rows, ("income", "never_married"), (n_rows - val, val, 10_000))


def trained(job: Job, seed: int, batch_size: int, folder: Path) -> tuple[float, float, float]:
    """Return the relative loss and the score on the rows that judge, and the seconds of the training.

    The relative loss is the mean over the tasks of what is left of the loss of the best constant; the score is the
    mean of accuracy and R2.
    """
    seen, judged = job.parted(seed)
    kinds = {name: "classification" if isinstance(seen[name][0], (str, bool)) else "regression" for name in job.targets}
    start = time.process_time()
    run = lepton.fit(
        seen,
        kinds,
        split={"method": "column", "column": "part"},
        training={"batch_size": batch_size},
        seed=seed,
        folder=folder / "run",
        quiet=True,
    )
    seconds = time.process_time() - start
    losses, scores = [], []
    for name, result in run.evaluate(judged).items():
        if kinds[name] == "regression":
            losses.append(1 - result.metrics["r2"])
            scores.append(result.metrics["r2"])
        else:
            losses.append(result.loss / _constant_loss(seen[name][: job.parts[0]], judged[name]))
            scores.append(result.metrics["accuracy"])
    return statistics.fmean(losses), statistics.fmean(scores), seconds


def _constant_loss(train: list[Any], judged: list[Any]) -> float:
    counts = Counter(train)
    return statistics.fmean(-math.log(max(1, counts[word]) / len(train)) for word in judged)


def row(job: Job, found: dict[int, list[tuple[float, float, float]]], column: int) -> str:
    """Return means; the standard error is that of the difference to `BASE` on the same rows."""
    cells = []
    for size in SIZES:
        values = [run[column] for run in found.get(size, [])]
        if not values:
            cells.append("")
            continue
        mean = statistics.fmean(values)
        if column == 2:
            cells.append(f"{mean:.1f}")
            continue
        gaps = [value - base[column] for value, base in zip(values, found[BASE], strict=True)]
        error = statistics.stdev(gaps) / math.sqrt(len(gaps))
        cells.append(f"{mean:.3f}" if size == BASE else f"{mean:.3f} ±{error:.3f}")
    return f"| {job.name}, {job.parts[0]} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data/adult"))
    parser.add_argument(
        "--seeds", type=int, default=5, help="trainings of each size; twice as many where few rows judge"
    )
    parser.add_argument("--adult", type=int, nargs="*", default=[300, 1000, 3000, 10_000])
    parser.add_argument("--only", nargs="*", help="names of tables")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tables: list[list[str]] = [[], [], []]
    jobs = [*scikit_learn(), *(adult(arguments.data, arguments.adult) if arguments.data.is_dir() else ())]
    with tempfile.TemporaryDirectory() as place:
        for job in [job for job in jobs if not arguments.only or job.name in arguments.only]:
            found: dict[int, list[tuple[float, float, float]]] = {size: [] for size in job.sizes}
            for seed in range(arguments.seeds * (2 if job.parts[2] < FEW else 1)):
                for size in job.sizes:
                    found[size].append(trained(job, seed, size, Path(place)))
            for column, lines in enumerate(tables):
                lines.append(row(job, found, column))
                print(lines[-1], flush=True)
    head = "".join(f" {size} |" for size in SIZES)
    for title, lines in zip(["relative loss", "accuracy and R2", "seconds"], tables, strict=True):
        print(f"\n### {title}\n\n| table, training rows |{head}\n|---|{'---|' * len(SIZES)}", *lines, sep="\n")


if __name__ == "__main__":
    main()
