"""Segmentation and presence on CamVid at 160x120: together, and each alone with the same trunk and budget.

python benchmarks/camvid.py --data ../shared/data/camvid --seeds 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from lepton.config import Config, read_config
from lepton.run import train_run

CONFIG = Path(__file__).parent.parent / "examples" / "camvid.yaml"
T_975 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78}
"""Quantiles of Student's t by degrees of freedom, for intervals over few seeds."""


def configured(data: Path, seed: int, tasks: list[str], overrides: list[str]) -> Config:
    places = [f"data.source={data / 'train'}", f"data.test={data / 'val'}", f"seed={seed}", "training.num_workers=0"]
    config = read_config(CONFIG, [*places, *overrides])
    return config.model_copy(update={"tasks": {name: config.tasks[name] for name in tasks}})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data/camvid"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/camvid"))
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(arguments.seeds):
        for name, tasks in (("together", ["surface", "presence"]), ("alone", ["surface"]), ("alone", ["presence"])):
            config = configured(arguments.data, seed, tasks, arguments.overrides)
            start = time.process_time()
            folder = arguments.folder / f"{name}-{'-'.join(tasks)}-{seed}"
            run = train_run(config, folder, quiet=True)
            for task, result in run.results["test"].items():
                row = {"seed": seed, "seconds": time.process_time() - start, **result.metrics}
                found.setdefault(f"{task} {name}", []).append(row)
                print(json.dumps({"model": f"{task} {name}", **row}), flush=True)
    print("\n| task | model | metric | mean of seeds, 95 % interval |\n|---|---|---|---|")
    for task, metric in (("surface", "miou"), ("presence", "average_precision")):
        for name in ("alone", "together"):
            print(f"| {task} | {name} | {metric} | {interval([row[metric] for row in found[f'{task} {name}']])} |")


def interval(values: list[float]) -> str:
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    half = T_975.get(len(values) - 1, 2.0) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.4f} ± {half:.4f}"


if __name__ == "__main__":
    main()
