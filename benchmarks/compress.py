"""Three trained models in eight bits beside themselves: bytes, latency at batch 1, 32 and 256, and each task's metric.

The demonstration's model on scenes of digits, an MLP on UCI Adult, and the tagging recipe's Transformer on UD
English-EWT, each trained here from a seed, exported, quantised, and timed in turns with float32 torch on one thread.

python benchmarks/compress.py --data ../shared/data --folder runs/compress
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adult import write_table
from PIL import Image
from safetensors.torch import save
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import lepton
from lepton.balance import Equal
from lepton.compress import Inference, bytes_of, measured_together, quantise_onnx, quantise_torch, to_bf16
from lepton.data import InputEncoder, LabelRule, TensorData, TensorLoader, describe_columns, hide_labels, read_table
from lepton.export import ExportedModel, export_model
from lepton.nn import LeptonModel
from lepton.recipes.digits import DigitsConfig, make_model, make_scenes, make_tasks
from lepton.recipes.digits.data import PIXEL_CLASSES
from lepton.recipes.nlp import RecipeConfig, recipe_config
from lepton.run import Run, train_run
from lepton.train import Trainer

SIZES = (1, 32, 256)
DIFFERENT = 16
"""Batches of each size."""

Scores = dict[str, float]


@dataclass
class Subject:
    """A trained model, its exported folder, and how its predictions are judged.

    Attributes:
        model: in torch.
        exported: in float32.
        rows: test rows.
        score: predictions of the rows -> task -> percent, more is better.
    """

    model: LeptonModel
    exported: ExportedModel
    rows: Any
    score: Callable[[Any], Scores]


# -- the demonstration's model ------------------------------------------------------------------------------------
class Pictures(nn.Module):
    """The demonstration's trunk, reading files of pictures: bytes [B, 3, 10, 14]."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, image: Tensor) -> Tensor:
        return self.trunk(image[:, :1].float() / 255)


def digits(data: Path, folder: Path, seed: int) -> Subject:
    del data  # scikit-learn brings them
    config, names = DigitsConfig(), ("left", "right", "pixels", "sum")
    scenes = make_scenes(config.train_scenes, config.test_scenes, seed=seed)
    kinds = {task.name: task for task in make_tasks(names)}
    train = TensorData(scenes.train.inputs, hide_labels(scenes.train.targets, kinds, config.missing, seed=seed))
    model = make_model(names, Equal(), seed=seed)
    loader = TensorLoader(train, config.batch_size, shuffle=True, seed=seed, drop_last=True)
    trainer = Trainer(model, max_epochs=config.epochs, learning_rate=config.learning_rate)
    trainer.fit(loader, TensorLoader(scenes.val, 500))
    model.trunk = Pictures(model.trunk)
    table = read_table({"scene": pictures(scenes.test.inputs, folder / "scenes")})
    ten = tuple(map(str, range(10)))
    rules = [LabelRule(side, "classification", (side,), ten) for side in ("left", "right")]
    rules += [LabelRule("pixels", "segmentation", ("pixels",), PIXEL_CLASSES), LabelRule("sum", "regression", ("sum",))]
    encoder = InputEncoder.fit(table, describe_columns(table))
    export_model(model, encoder, rules, table.slice(0, 256), folder / "float32", image_size=(10, 14))
    truth = {name: value.numpy() for name, value in scenes.test.targets.items()}

    def score(said: Any) -> Scores:
        found = {side: share(said[side].astype(int) == truth[side]) for side in ("left", "right")}
        found["pixels"] = share(np.stack(list(said["pixels"])) == truth["pixels"])
        error = np.square(said["sum"] - truth["sum"]).mean() / truth["sum"].var()
        return found | {"sum": 100 * (1 - float(error))}

    return Subject(model, ExportedModel(folder / "float32", threads=1), table.to_pandas(), score)


def pictures(scenes: Any, folder: Path) -> list[str]:
    folder.mkdir(parents=True)
    paths = [str(folder / f"{row}.png") for row in range(len(scenes))]
    for path, scene in zip(paths, scenes, strict=True):
        Image.fromarray((scene[0] * 255).round().byte().numpy()).save(path)
    return paths


def share(right: Any) -> float:
    return 100 * float(np.mean(right))


# -- runs ---------------------------------------------------------------------------------------------------------
def adult(data: Path, folder: Path, seed: int) -> Subject:
    folder.mkdir(parents=True)
    for part, name in (("train", "adult.data.gz"), ("test", "adult.test.gz")):
        write_table(data / "adult" / name, folder / f"{part}.csv")
    tasks = ["income", "never_married"]
    run = lepton.fit(
        folder / "train.csv",
        tasks,
        ignore=["relationship", "marital-status"],
        test=folder / "test.csv",
        seed=seed,
        folder=folder / "run",
        quiet=True,
    )
    rows = run.tables()["test"].to_pandas()
    words = {task: rows[task].astype(str).str.strip() for task in tasks}

    def score(said: Any) -> Scores:
        found = {task: share(said[task].astype(str).to_numpy() == words[task].to_numpy()) for task in tasks}
        for task in tasks:
            last = said.columns[said.columns.str.startswith(f"{task}_probability_")][-1]
            right = words[task] == last.removeprefix(f"{task}_probability_")
            found[f"{task} AUROC"] = 100 * float(roc_auc_score(right, said[last]))
        return found

    return subject(run, folder, rows, score)


def tagging(data: Path, folder: Path, seed: int, epochs: int) -> Subject:
    config = recipe_config("tagging", RecipeConfig(data / "ud_ewt", folder, epochs, overrides=(f"seed={seed}",)))
    run = lepton.load(folder / "run") if (folder / "run").exists() else train_run(config, folder / "run", quiet=True)
    rows = run.tables()["test"].to_pandas()
    tasks = ("upos", "xpos", "feats")

    def score(said: Any) -> Scores:
        found = {task: share(np.concatenate(list(said[task])) == np.concatenate(list(rows[task]))) for task in tasks}
        perplexity = np.exp(np.log(said["english_perplexity"].to_numpy(float)).mean())
        return found | {"english (-ln perplexity, %)": -100 * float(np.log(perplexity))}

    return subject(run, folder, rows, score)


def subject(run: Run, folder: Path, rows: Any, score: Callable[[Any], Scores]) -> Subject:
    run.export(folder / "float32")
    return Subject(run.model, ExportedModel(folder / "float32", threads=1), rows, score)


# -- what is compared ---------------------------------------------------------------------------------------------
class Said(nn.Module):
    """What a graph gives, by a torch model: each task's `predict`."""

    def __init__(self, model: nn.Module, own: LeptonModel) -> None:
        super().__init__()
        self.model = model
        self.tasks = {name: own.task(name) for name in own.task_names}

    @torch.inference_mode()
    def forward(self, inputs: Mapping[str, Tensor]) -> list[Any]:
        read = {name: value for name, value in inputs.items() if name != "next_tokens"}
        said = self.model(read)
        outputs = said if isinstance(self.model, Inference) else said[0]
        return [
            task.perplexities(outputs[name], inputs["next_tokens"])
            if name == "english"
            else task.predict(outputs[name].float())
            for name, task in self.tasks.items()
        ]


def session(exported: ExportedModel) -> Callable[[Mapping[str, Tensor]], object]:
    return lambda inputs: exported.outputs(inputs)


def candidates(
    found: Subject, batch: Any, folder: Path, compile_: bool
) -> Iterator[tuple[str, Any, int, ExportedModel | None]]:
    """Yield name, predictor, bytes, and the exported model if it is one."""
    model = copy.deepcopy(found.model).eval().requires_grad_(False)
    stored = len(save(model.state_dict()))
    yield "torch float32", Said(model, model), stored, None
    yield "torch bf16", Said(small := to_bf16(model), model), bytes_of(small), None
    if compile_:
        yield "torch float32 compiled", Said(torch.compile(copy.deepcopy(model)), model), stored, None
        int8 = quantise_torch(model, batch)
        yield "torch int8 compiled", Said(int8, model), bytes_of(int8), None
    yield "ONNX float32", session(found.exported), bytes_of(found.exported.folder / "model.onnx"), found.exported
    for name, options in (("ONNX int8", {}), ("ONNX int8 stored only", {"products": False})):
        place = folder / name.replace(" ", "-")
        written = found.exported.rewritten(
            place, lambda old, new, told=options: quantise_onnx(old, new, **told), weights="int8", rows=found.rows[:256]
        )
        exported = ExportedModel(place, threads=1)
        yield name, session(exported), written.sizes["model.onnx"], exported


def batches(found: Subject) -> dict[int, list[Any]]:
    reading, encoder = found.exported.manifest.reading, found.exported.encoder
    made = {}
    for size in SIZES:
        starts = [turn * size % (len(found.rows) - size) for turn in range(DIFFERENT)]
        tables = [found.exported.table_of(found.rows[start : start + size]) for start in starts]
        made[size] = [next(reading.batches(encoder, table, size)) for table in tables]
    return made


def report(name: str, found: Subject, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    made = batches(found)
    all_ = {label: rest for label, *rest in candidates(found, made[32][0], folder, name in arguments.compile)}
    sizes = {label: size for label, (_, size, _) in all_.items()}
    costs = measured_together(
        {label: predict for label, (predict, _, _) in all_.items()},
        made,
        SIZES,
        sizes=sizes,
        seconds=arguments.seconds,
    )
    scores = {label: found.score(exported.predict(found.rows)) for label, (_, _, exported) in all_.items() if exported}
    base = costs["torch float32"]
    print(
        f"\n## {name}\n\n| | bytes | times smaller | "
        + " | ".join(f"p50 / p99 ms, x faster at {s}" for s in SIZES)
        + " |"
    )
    print("|---" * (3 + len(SIZES)) + "|")
    for label, cost in costs.items():
        cells = [
            f"{cost.latency[size].p50:.3f} / {cost.latency[size].p99:.3f}, x{cost.times_faster(base, size):.2f}"
            for size in SIZES
        ]
        print(f"| {label} | {cost.bytes} | {cost.times_smaller(base):.2f} | {' | '.join(cells)} |")
    print()
    for label, score in scores.items():
        print(f"- {label}: " + ", ".join(f"{task} {value:.2f}" for task, value in score.items()), flush=True)
    return {"costs": {label: cost.to_dict() for label, cost in costs.items()}, "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument(
        "--folder", type=Path, required=True, help="a new one; a tagger that is in it is not trained again"
    )
    parser.add_argument("--models", nargs="*", default=["digits", "adult", "tagging"])
    parser.add_argument("--compile", nargs="*", default=["adult"], help="models that torch.compile is tried on")
    parser.add_argument("--epochs", type=int, default=4, help="of the Transformer")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each model, batch size and way")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    makers: dict[str, Callable[[Path], Subject]] = {
        "digits": lambda place: digits(arguments.data, place, arguments.seed),
        "adult": lambda place: adult(arguments.data, place, arguments.seed),
        "tagging": lambda place: tagging(arguments.data, place, arguments.seed, arguments.epochs),
    }
    written = arguments.folder / "results.json"
    results = json.loads(written.read_text()) if written.exists() else {}
    for name in arguments.models:
        place = arguments.folder / name
        results[name] = report(name, makers[name](place), place, arguments)
        written.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
