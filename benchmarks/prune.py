"""Pruning: size and each task's score before, after pruning, after fine-tuning, beside the same small network alone.

nice -n 5 python benchmarks/prune.py digits --ratios 0.62 --seeds 3
nice -n 5 python benchmarks/prune.py adult --data ../shared/data/adult --ratios 0.62
nice -n 5 python benchmarks/prune.py tagging --data ../shared/data/ud_ewt --ratios 0.62 --epochs 4

A table has the network as it was trained; pruned and fine-tuned; and the pruned one's architecture from scratch, for
as many epochs as training and fine-tuning together; for the digits also the same network trained on, as long as the
pruned one is fine-tuned, and the pruned one before that. All by the same schedule, each from its beginning.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from adult import write_table
from torch import Tensor

import lepton
from lepton.balance import CAGrad
from lepton.compress import prune, quantise_onnx
from lepton.config import check_config, content_of
from lepton.data import TensorData, TensorLoader, hide_labels
from lepton.evaluate import evaluate
from lepton.nn import LeptonModel
from lepton.recipes.digits import DigitsConfig, Scenes, make_model, make_scenes, make_tasks
from lepton.recipes.nlp import RecipeConfig, recipe_config
from lepton.run import Run, override_config, train_run
from lepton.run._prepare import encode_rows
from lepton.run._rows import make_loader
from lepton.run.compress import pruned_run
from lepton.train import Trainer

Scores = dict[str, float]
"""Task and metric -> the value."""

TASKS = ("left", "right", "pixels", "sum")


@dataclass
class Row:
    """One line of a table; kilobytes of its ONNX graph, where there is one."""

    what: str
    parameters: int
    scores: Scores
    kilobytes: float | None = None


def show(title: str, rows: list[Row]) -> None:
    """Print a table."""
    names = rows[0].scores
    print(f"\n{title}\n| network | parameters | ONNX kB | {' | '.join(names)} |\n|---|---|---|{'---|' * len(names)}")
    for row in rows:
        values = " | ".join(f"{value:.4f}" for value in row.scores.values())
        size = "" if row.kilobytes is None else f"{row.kilobytes:.1f} ({smallest(rows) / row.kilobytes:.1f})"
        print(f"| {row.what} | {row.parameters} | {size} | {values} |", flush=True)


def smallest(rows: list[Row]) -> float:
    """Return the size that the others are held against: the first that is known."""
    return next(row.kilobytes for row in rows if row.kilobytes is not None)


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def primary(model: LeptonModel, results: dict[str, Any]) -> Scores:
    """Return the primary metric of each task, and of a language model also how many tokens it guesses."""
    wanted = {task: {model.task(task).primary_metric, "token_accuracy"} for task in results}
    return {
        f"{task} {name}": value
        for task, found in results.items()
        for name, value in found.metrics.items()
        if name in wanted[task]
    }


# -- in eight bits ----------------------------------------------------------------------------------------------------
class Outputs(torch.nn.Module):
    """A model's outputs by the names of its inputs."""

    def __init__(self, model: LeptonModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> list[Tensor]:
        inputs: Any = dict(zip(self.names, tensors, strict=True)) if self.names else tensors[0]
        return list(self.model.outputs_of(inputs, self.model.task_names).values())


def write_onnx(model: LeptonModel, inputs: Any, path: Path) -> float:
    """Write a model as ONNX, and return its size in kB."""
    names = list(inputs) if isinstance(inputs, dict) else []
    tensors = tuple(inputs.values()) if names else (inputs,)
    auto = tuple(dict.fromkeys(range(tensor.ndim), torch.export.Dim.AUTO) for tensor in tensors)
    torch.onnx.export(
        Outputs(model.eval(), names),
        tensors,
        path,
        dynamo=True,
        dynamic_shapes=(auto,),
        input_names=names or ["input"],
        external_data=False,
        verbose=False,
    )
    return path.stat().st_size / 1000


def in_eight_bits(model: LeptonModel, inputs: Any, folder: Path) -> tuple[LeptonModel, float]:
    """Return a model that computes by its quantised graph, and the graph's size in kB."""
    import onnxruntime

    write_onnx(model, inputs, folder / "float.onnx")
    found = quantise_onnx(folder / "float.onnx", folder / "int8.onnx")
    session = onnxruntime.InferenceSession(folder / "int8.onnx")
    read = [port.name for port in session.get_inputs()]
    (folder / "float.onnx").unlink()
    (folder / "int8.onnx").unlink()

    def forward(inputs: Any) -> tuple[dict[str, Tensor], None]:
        given = inputs if isinstance(inputs, dict) else {"input": inputs}
        outputs = session.run(None, {name: given[name].numpy() for name in read})
        return {name: torch.from_numpy(value) for name, value in zip(model.task_names, outputs, strict=True)}, None

    served = copy.deepcopy(model)
    served.forward = forward  # type: ignore[assignment, method-assign]
    return served, found.bytes / 1000


# -- the demonstration ------------------------------------------------------------------------------------------------
class Digits:
    """The demonstration's scenes, and trainings on them."""

    def __init__(self, seed: int) -> None:
        self.config = DigitsConfig()
        self.seed = seed
        scenes = make_scenes(self.config.train_scenes, self.config.test_scenes, seed=seed)
        kinds = {task.name: task for task in make_tasks(TASKS)}
        hidden = hide_labels(scenes.train.targets, kinds, self.config.missing, seed=seed)
        self.scenes = Scenes(TensorData(scenes.train.inputs, hidden), scenes.val, scenes.test)

    def trained(self, model: LeptonModel, epochs: int) -> LeptonModel:
        """Train a model, and return it with the weights that were best on the validation scenes."""
        loader = TensorLoader(self.scenes.train, self.config.batch_size, shuffle=True, seed=self.seed, drop_last=True)
        trainer = Trainer(model, max_epochs=epochs, learning_rate=self.config.learning_rate)
        trainer.fit(loader, TensorLoader(self.scenes.val, 500))
        return model

    def row(self, what: str, model: LeptonModel) -> Row:
        found = evaluate(model, TensorLoader(self.scenes.test, 500))
        return Row(what, parameters(model), primary(model, found))


def digits(
    ratios: list[float], seed: int, epochs: int | None, options: dict[str, Any]
) -> Iterator[tuple[str, list[Row]]]:
    """Prune the demonstration's network."""
    data = Digits(seed)
    once = epochs or data.config.epochs
    model = data.trained(make_model(TASKS, CAGrad(), seed=seed), once)
    longer = data.trained(copy.deepcopy(model), once)
    inputs, _ = next(iter(TensorLoader(data.scenes.train, 64)))
    for ratio in ratios:
        pruned = prune(model, inputs, ratio, **options)
        rows = [data.row("as trained", model), data.row("trained on", longer), data.row("pruned", pruned.model)]
        rows.append(data.row("pruned, fine-tuned", data.trained(pruned.model, once)))
        with tempfile.TemporaryDirectory() as place:
            rows[0].kilobytes = write_onnx(model, inputs, Path(place) / "first.onnx")
            served, size = in_eight_bits(pruned.model, inputs, Path(place))
            rows.append(dataclasses.replace(data.row("the same in int8", served), kilobytes=size))
        small = make_model(TASKS, CAGrad(), seed=seed, sizes=pruned.options, heads=pruned.heads)
        rows.append(data.row("from scratch", data.trained(small, 2 * once)))
        yield f"digits, seed {seed}, ratio {pruned.ratio:.3f}: {pruned.options}, {pruned.heads}", rows


# -- runs -------------------------------------------------------------------------------------------------------------
def run_rows(what: str, run: Run, part: str = "test") -> Row:
    return Row(what, parameters(run.model), primary(run.model, run.results[part]))


def some_rows(run: Run, part: str) -> list[Any]:
    table = run.tables()[part]
    rows = encode_rows(run.config, run.encoder, run.rules, table, [], part)
    return list(make_loader(rows, run.config))


def quantised(run: Run, folder: Path, part: str) -> Row:
    batches = some_rows(run, part)
    served, size = in_eight_bits(run.model, batches[0][0], folder)
    return Row("the same in int8", parameters(run.model), primary(run.model, evaluate(served, batches)), size)


def of_run(
    run: Run, folder: Path, ratios: list[float], epochs: int | None, options: dict[str, Any]
) -> Iterator[tuple[str, list[Row]]]:
    """Prune a trained run, fine-tune it, and train its architecture from scratch."""
    once = epochs or len(run.history)
    part = "test" if "test" in run.results else "val"
    for ratio in ratios:
        tuned = pruned_run(run, ratio, folder / "pruned", epochs=once, quiet=True, **options)
        print(f"pruned and fine-tuned: {run_rows('', tuned, part)}", flush=True)
        content = content_of(tuned.config)
        content["training"] |= {"max_epochs": once + len(run.history), "patience": None}
        alone = train_run(check_config(content), folder / "alone", quiet=True)
        rows = [
            run_rows("as trained", run, part),
            run_rows("pruned, fine-tuned", tuned, part),
            quantised(tuned, folder, part),
            run_rows("from scratch", alone, part),
        ]
        rows[0].kilobytes = write_onnx(run.model, some_rows(run, part)[0][0], folder / "first.onnx")
        ratio = 1 - rows[1].parameters / rows[0].parameters
        yield f"{run.folder.name}, ratio {ratio:.3f}: {content['trunk']}", rows


def adult_run(data: Path, folder: Path, seed: int) -> Run:
    write_table(data / "adult.data.gz", folder / "train.csv")
    write_table(data / "adult.test.gz", folder / "test.csv")
    return lepton.fit(
        folder / "train.csv",
        ["income", "never_married"],
        ignore=["relationship", "marital-status"],
        test=folder / "test.csv",
        seed=seed,
        folder=folder / "adult",
        quiet=True,
    )


def recipe_run(name: str, data: Path, folder: Path, seed: int, epochs: int | None) -> Run:
    config = recipe_config(name, RecipeConfig(data, folder, epochs=epochs))
    return train_run(override_config(config, [f"seed={seed}"]), folder / name, quiet=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["digits", "adult", "tagging", "translation"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.62])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="of training and of fine-tuning; by default the recipe's own")
    parser.add_argument("--importance", default="magnitude")
    parser.add_argument("--spread", default="global")
    parser.add_argument("--run", type=Path, help="a trained run to prune, instead of a training")
    told = parser.parse_args()
    torch.set_num_threads(1)
    options = {"importance": told.importance, "spread": told.spread}
    makers: dict[str, Callable[[Path, int], Run]] = {
        "adult": lambda place, seed: adult_run(told.data, place, seed),
        "tagging": lambda place, seed: recipe_run("tagging", told.data, place, seed, told.epochs),
        "translation": lambda place, seed: recipe_run("translation", told.data, place, seed, told.epochs),
    }
    for seed in range(told.seeds):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            if told.what == "digits":
                found = digits(told.ratios, seed, told.epochs, options)
            else:
                run = lepton.load(told.run) if told.run else makers[told.what](folder, seed)
                found = of_run(run, folder, told.ratios, told.epochs, options)
            for title, rows in found:
                show(title, rows)


if __name__ == "__main__":
    main()
