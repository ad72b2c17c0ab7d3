"""Going on with a run on real data that is otherwise, by every method of `lepton continue`.

python benchmarks/continued.py adult [--seeds 0 1 2]
python benchmarks/continued.py digits [--seeds 0 1 2]

`adult`: a run learns income and whether somebody never married from 4000 people below 40 of UCI Adult, and goes on with
1500 people of 40 and more, from $LEPTON_DATA. `digits`: a run learns 1000 of scikit-learn's digits from 0 to 7, and
goes on with 220 rows of 8 and 9, which become classes. `replay`, `agem` and `ewc` have the old rows at hand; `kept` is
replay where they are gone, with those that the run keeps. Scores are of further rows, of which none trained or
selected.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import lepton
from lepton.run import Run, continue_run, load

ADULT = (
    *("age", "workclass", "fnlwgt", "education", "education_num", "marital", "occupation", "relationship"),
    *("race", "sex", "gain", "loss", "hours", "country", "income"),
)
METHODS = ("none", "lwf", "ewc", "agem", "replay", "kept")
TRAINING: dict[str, Any] = {"max_epochs": 8}
EPOCHS = ["training.max_epochs=8"]
SCORES = {"adult": "auroc", "digits": "accuracy"}


@dataclass
class Setting:
    """A run, new rows, how it goes on, and further rows of both kinds."""

    run: Run
    new: Path
    options: dict[str, Any]
    held_out: dict[str, Any]


def adult(place: Path, seed: int) -> Setting:
    """Return a run on the younger people, and older ones."""
    folder = Path(os.environ["LEPTON_DATA"]) / "adult"
    rows = pd.read_csv(folder / "adult.data.gz", header=None, names=ADULT, skipinitialspace=True)
    rows["never_married"] = (rows["marital"] == "Never-married").map({True: "yes", False: "no"})
    rows = rows.drop(columns=["relationship", "marital", "fnlwgt"]).sample(frac=1, random_state=seed)
    young, older = rows[rows["age"] < 40], rows[rows["age"] >= 40]
    young.iloc[:4000].to_csv(place / "old.csv", index=False)
    older.iloc[:1500].to_csv(place / "new.csv", index=False)
    run = lepton.fit(
        place / "old.csv", ["income", "never_married"], training=TRAINING, seed=seed, folder=place / "run", quiet=True
    )
    return Setting(
        run, place / "new.csv", {"overrides": EPOCHS}, {"old": young.iloc[4000:10000], "new": older.iloc[1500:7500]}
    )


def digits(place: Path, seed: int) -> Setting:
    """Return a run on the digits 0 to 7, and rows of 8 and 9."""
    from sklearn.datasets import load_digits

    rows = load_digits(as_frame=True).frame.rename(columns={"target": "digit"}).sample(frac=1, random_state=seed)
    low, high = rows[rows["digit"] < 8], rows[rows["digit"] >= 8]
    low.iloc[:1000].to_csv(place / "old.csv", index=False)
    high.iloc[:220].to_csv(place / "new.csv", index=False)
    run = lepton.fit(
        place / "old.csv",
        {"digit": "classification"},
        training={"max_epochs": 20},
        seed=seed,
        folder=place / "run",
        quiet=True,
    )
    options = {"new_classes": True, "overrides": ["training.max_epochs=20"]}
    return Setting(run, place / "new.csv", options, {"old": low.iloc[1000:], "new": high.iloc[220:]})


def go_on(setting: Setting, method: str) -> tuple[Run, float]:
    """Go on with a run by a method, and return the new one and the seconds that it took."""
    run = load(setting.run.folder)
    source = Path(run.config.require_source())
    hidden = source.with_name("hidden")
    if method == "kept":
        source.rename(hidden)
    start = time.perf_counter()
    try:
        name = "replay" if method == "kept" else method
        options: dict[str, Any] = {"method": name, "quiet": True, **setting.options}
        found = continue_run(run, setting.new, run.folder.with_name(method), **options)
    finally:
        if method == "kept":
            hidden.rename(source)
    return found.run, time.perf_counter() - start


def measure(name: str, seed: int) -> dict[str, dict[str, float]]:
    """Return method -> what -> score of one seed."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        setting = {"adult": adult, "digits": digits}[name](Path(folder), seed)
        found["before"] = scores(setting.run, setting, SCORES[name])
        for method in METHODS:
            run, seconds = go_on(setting, method)
            found[method] = scores(run, setting, SCORES[name]) | {"seconds": seconds}
    return found


def scores(run: Run, setting: Setting, metric: str) -> dict[str, float]:
    """Return rows and task -> a metric, in percent."""
    every = {rows: run.evaluate(table) for rows, table in setting.held_out.items()}
    return {f"{rows}: {task}": 100 * found[task].metrics[metric] for rows, found in every.items() for task in found}


def main() -> None:
    """Print a table of means and standard deviations over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("setting", choices=list(SCORES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    told = parser.parse_args()
    seeds = [measure(told.setting, seed) for seed in told.seeds]
    names = list(seeds[0]["before"])
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
