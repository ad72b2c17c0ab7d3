"""What a recipe found, seed by seed, as a table: all tasks together, each alone, and the paired difference.

    python benchmarks/recipe_table.py runs/speech/results.json

Means over the seeds with 95 % intervals of Student's t; differences are seed by seed, together minus alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lepton.insight import Estimate


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--part", default="test")
    told = parser.parse_args()
    seeds = json.loads(told.results.read_text())["seeds"]
    print(
        f"{len(seeds)} seeds; process time of all tasks together: {[round(s['together']['seconds']) for s in seeds]} s"
    )
    print("| task | metric | together | alone | difference |\n|---|---|---|---|---|")
    for task, scores in seeds[0]["together"]["scores"][told.part].items():
        for metric in scores:
            print(row(task, metric, seeds, told.part))
    for found in seeds:
        further = {key: value for key, value in found.items() if key not in ("seed", "together", "alone")}
        if further:
            print(found["seed"], json.dumps(further))


def row(task: str, metric: str, seeds: list[dict[str, Any]], part: str) -> str:
    """Return one row of the table."""
    together = [found["together"]["scores"][part][task][metric] for found in seeds]
    alone = [found["alone"].get(task, {}).get(part, {}).get(metric) for found in seeds]
    if None in alone:
        return f"| {task} | {metric} | {written(together)} | | |"
    difference = [one - other for one, other in zip(together, alone, strict=True)]
    return f"| {task} | {metric} | {written(together)} | {written(alone)} | {written(difference, sign=True)} |"


def written(values: list[float], *, sign: bool = False) -> str:
    """Return the mean and half of its interval."""
    found = Estimate.of(values)
    mean = f"{found.mean:+.4g}" if sign else f"{found.mean:.4g}"
    return f"{mean} ± {found.half_width:.2g}"


if __name__ == "__main__":
    main()
