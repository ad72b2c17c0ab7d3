"""Where a training step's time goes: a step of `lepton train` on the Adult table, on digit scenes, on texts.

The step is profiled (cProfile, process time), so that what runs in Python looks dearer than it is: the share that is
not the model's is an upper bound.

    python benchmarks/step_parts.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from adult import write_table
from texts import sentences

from lepton.balance import CAGrad
from lepton.config import check_config
from lepton.data import TensorLoader
from lepton.recipes.digits import make_model, make_scenes
from lepton.run import build_model, make_loaders, make_trainer, prepare
from lepton.train import Trainer

PARTS = {
    "loader": ("_position.py", "__iter__"),
    "trunk and heads": ("nn/_model.py", "forward"),
    "loss": ("_criterion.py", "forward"),
    "backward": ("graph.py", "_engine_run_backward"),
    "of which fork": ("gradients/_fork.py", "backward"),
    "norm": ("_step.py", "_norm"),
    "clip": ("_step.py", "_clip"),
    "optimiser": ("_step.py", "_move"),
    "checkpoint": ("_loop.py", "_write_last"),
    "all": ("_loop.py", "_epoch"),
}
"""Name of a part -> the file and function that does it."""
MODEL = ("trunk and heads", "loss", "backward", "norm", "clip", "optimiser")
"""What a loop by hand has, too."""

Fit = Callable[[], object]


def adult(data: Path, folder: Path) -> Fit:
    """16 384 rows of UCI Adult, two tasks, with everything as `lepton.fit` would choose it."""
    write_table(data / "adult" / "adult.data.gz", folder / "adult.csv")
    tasks = ["income", "never_married"]
    told = {"source": str(folder / "adult.csv"), "ignore": ["marital-status", "relationship"], "limit": 20_000}
    return _run({"tasks": tasks, "data": told, "training": {"batch_size": 256}})


def texts(data: Path, folder: Path) -> Fit:
    """4000 sentences as tokens for a Transformer of width 128 and depth 2; genre and length."""
    path = data / "ud_ewt" / "en_ewt-ud-train.conllu.gz"
    rows = [(text, genre) for _, _, genre, text in sentences(path)][:4000]
    table = {"text": [text for text, _ in rows], "genre": [genre for _, genre in rows]}
    table["length"] = [len(text.split()) for text, _ in rows]
    content = {"tasks": ["genre", "length"], "data": {"inputs": {"text": {"kind": "tokens"}}}}
    return _run({**content, "training": {"batch_size": 64}}, table)


def digits(data: Path, folder: Path) -> Fit:
    """4096 scenes of two digits, four tasks, balanced by CAGrad."""
    del data
    scenes = make_scenes(4096, 64, seed=0)

    def fit() -> None:
        model = make_model(("left", "right", "pixels", "sum"), CAGrad(), seed=0)
        model.task("sum").fit_statistics(scenes.train.targets["sum"])
        Trainer(model, max_epochs=1, folder=folder / "digits").fit(TensorLoader(scenes.train, 64, shuffle=True))

    return fit


def _run(content: dict[str, Any], rows: Any = None) -> Fit:
    content["data"] = {**content.get("data", {}), "split": {"test": 0.0}}
    content["training"] |= {"max_epochs": 1, "num_workers": 0}
    prepared = prepare(check_config(content), rows)

    def fit() -> None:
        model = build_model(prepared.config, prepared.encoder, prepared.rules)
        train, _ = make_loaders(prepared)
        with tempfile.TemporaryDirectory() as place:
            make_trainer(prepared.config, model, Path(place)).fit(train)

    return fit


def parts_of(fit: Fit) -> tuple[dict[str, float], int]:
    """Return the milliseconds that the parts of a step take, and the number of steps."""
    profile = cProfile.Profile(time.process_time)
    profile.runcall(fit)
    found: dict[str, float] = {}
    steps = 0
    for (file, _, function), (_, calls, _, total, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if file.endswith("train/_step.py") and function == "__call__":
            steps = calls
        for part, (name, does) in PARTS.items():
            if function == does and file.endswith(name):
                found[part] = max(found.get(part, 0.0), total)
    return {part: 1e3 * seconds / steps for part, seconds in found.items()}, steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    data = parser.parse_args().data
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, process time under cProfile, milliseconds a step")
    names = [part for part in PARTS if part != "all"]
    print("\n| | " + " | ".join(names) + " | all else | share of what a loop by hand has, too |")
    print("|---" * (len(names) + 3) + "|")
    for make in (adult, digits, texts):
        with tempfile.TemporaryDirectory() as place:
            fit = make(data, Path(place))
            fit()
            found, _ = parts_of(fit)
        own = sum(found[part] for part in MODEL) + found["loader"]
        rest = found["all"] - own - found["checkpoint"]
        cells = [f"{found.get(part, 0.0):.2f}" for part in names]
        print(f"| {make.__name__} | " + " | ".join(cells) + f" | {rest:.2f} | {own / found['all']:.3f} |")


if __name__ == "__main__":
    main()
