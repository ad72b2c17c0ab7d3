"""Going on with a run on real data that is otherwise, by every method of `lepton continue`.

python benchmarks/continued.py adult [--seeds 3]
python benchmarks/continued.py mnist [--seeds 3]

`adult`: a run learns income and whether somebody never married from people below 40 of UCI Adult, and goes on with
4000 people of 40 and more. `mnist`: a run learns 8000 pictures of the digits 0 to 7, and goes on with 2000 pictures
of 8 and 9, which become classes. Both are continued with the old rows at hand, with those that the run keeps
(`kept`), and without any. Read from $LEPTON_DATA; official test rows are never looked at.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import lepton
from lepton.run import Continued, Run, continue_run, load

ADULT = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital", "occupation", "relationship"),
    *("race", "sex", "gain", "loss", "hours", "country", "income"),
)
METHODS = ("none", "lwf", "ewc", "agem", "replay", "kept")
SCORES = {"adult": "auroc", "mnist": "accuracy"}


def adult(place: Path, seed: int) -> tuple[Run, Path, dict[str, Any]]:
    """Return a run on the younger people, a file of older ones and how to go on."""
    folder = Path(os.environ["LEPTON_DATA"]) / "adult"
    rows = pd.read_csv(folder / "adult.data.gz", header=None, names=ADULT, skipinitialspace=True)
    rows["never_married"] = (rows["marital"] == "Never-married").map({True: "yes", False: "no"})
    rows = rows.drop(columns=["relationship", "marital", "fnlwgt"]).sample(frac=1, random_state=seed)
    rows[rows["age"] < 40].iloc[:12000].to_csv(place / "old.csv", index=False)
    rows[rows["age"] >= 40].iloc[:4000].to_csv(place / "new.csv", index=False)
    run = lepton.fit(place / "old.csv", ["income", "never_married"], seed=seed, folder=place / "run", quiet=True)
    return run, place / "new.csv", {}


def mnist(place: Path, seed: int) -> tuple[Run, Path, dict[str, Any]]:
    """Return a run on the digits 0 to 7, a folder with 8 and 9 and how to go on."""
    folder = Path(os.environ["LEPTON_DATA"]) / "mnist"
    images = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())
    digits = np.frombuffer(labels, np.uint8, offset=8)
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(len(digits), 28, 28)
    order = np.random.default_rng(seed).permutation(len(digits))
    chosen = {"old": order[digits[order] < 8][:8000], "new": order[digits[order] >= 8][:2000]}
    for name, rows in chosen.items():
        write_pictures(place / name, pixels[rows], digits[rows])
    training = {"max_epochs": 5, "num_workers": 0}
    data = {"augment": False}
    options: dict[str, Any] = {"data": data, "training": training, "seed": seed, "folder": place / "run", "quiet": True}
    run = lepton.fit(place / "old", {"digit": {"column": "label"}}, **options)
    return run, place / "new", {"new_classes": True, "overrides": ["training.max_epochs=5"]}


def write_pictures(folder: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Write a sub-folder of pictures for each class."""
    from PIL import Image

    for row, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / str(label) / f"{row}.png")


def go_on(run: Run, new: Path, method: str, options: Mapping[str, Any]) -> tuple[Continued, float]:
    """Go on with a run by a method, and return what was found and the seconds that it took."""
    run = load(run.folder)
    source = Path(run.config.require_source())
    hidden = source.with_name("hidden")
    if method == "kept":
        source.rename(hidden)
    start = time.perf_counter()
    try:
        name = "replay" if method == "kept" else method
        found = continue_run(run, new, run.folder.with_name(method), method=name, quiet=True, **options)  # type: ignore[arg-type]
    finally:
        if method == "kept":
            hidden.rename(source)
    return found, time.perf_counter() - start


def measure(setting: str, seed: int) -> dict[str, dict[str, float]]:
    """Return method -> what -> score of one seed, on held-out rows that the old run was divided into."""
    found: dict[str, dict[str, float]] = {}
    metric = SCORES[setting]
    with tempfile.TemporaryDirectory() as folder:
        run, new, options = {"adult": adult, "mnist": mnist}[setting](Path(folder), seed)
        held_out = run.tables()["test"]
        for method in METHODS:
            continued, seconds = go_on(run, new, method, options)
            after = {
                "old": continued.run.evaluate(held_out),
                "new": continued.scores["new rows, after"],
            }
            before = {"old": run.evaluate(held_out), "new": continued.scores["new rows, before"]}
            for when, scores in (("before", before), (method, after)):
                found[when] = {
                    f"{rows}: {task}": 100 * scores[rows][task].metrics[metric] for rows in scores for task in run.tasks
                }
            found[method]["seconds"] = seconds
    return found


def main() -> None:
    """Print a table of means and standard deviations over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("setting", choices=list(SCORES))
    parser.add_argument("--seeds", type=int, default=3)
    told = parser.parse_args()
    seeds = [measure(told.setting, seed) for seed in range(told.seeds)]
    names = [name for name in seeds[0]["before"] if name != "seconds"]
    print("| method | " + " | ".join(f"{name}, {SCORES[told.setting]}" for name in names) + " | seconds |")
    print("|---" * (len(names) + 2) + "|")
    for method in ("before", *METHODS):
        cells = []
        for name in [*names, "seconds"]:
            values = [found[method].get(name, float("nan")) for found in seeds]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.1f}" + ("" if name == "seconds" else f" ± {spread:.1f}"))
        print(f"| {method} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
