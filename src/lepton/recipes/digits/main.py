"""The demonstration: every task alone, then together, with four ways to weigh them, and what came of it."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

import lepton.balance
from lepton.balance import Balancer, Equal, Fixed, GradientBalancer, LogSum
from lepton.data import TensorData, TensorLoader, hide_labels
from lepton.errors import ConfigurationError, import_extra, nearest
from lepton.evaluate import evaluate
from lepton.insight import (
    Caption,
    Chart,
    Comparison,
    MaskPanel,
    MetricInfo,
    RunResult,
    Section,
    TaskScore,
    comparison_sections,
    comparison_table,
    plot_comparison,
    plot_scenes,
    png_of,
    summary_sentences,
    write_report,
)
from lepton.nn import LeptonModel
from lepton.recipes.digits.config import DigitsConfig
from lepton.recipes.digits.data import PIXEL_CLASSES, Scenes, make_scenes
from lepton.recipes.digits.model import make_model, make_tasks
from lepton.run import new_folder
from lepton.train import Callback, Progress, Trainer, write_atomically

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DemoResults", "Listener", "run_demo", "show_demo"]

TASKS = ("left", "right", "pixels", "sum")
ALONE = "alone"
BATCH = 500

Listener = Callable[[str, int, int], Sequence[Callback]]
"""Told what is trained, which training of how many it is; returns the callbacks of that training."""


@dataclass
class DemoResults:
    """What the demonstration found.

    Attributes:
        config: its settings.
        baselines: every task trained alone, one run for each task and seed.
        methods: the shared models, one run for each method and seed.
        metrics: what is compared, with the score of a predictor that does not look at the picture.
        pictures: test scenes, and what the last balanced model predicts for them.
    """

    config: DigitsConfig
    baselines: list[RunResult] = field(default_factory=list)
    methods: list[RunResult] = field(default_factory=list)
    metrics: dict[str, list[MetricInfo]] = field(default_factory=dict)
    pictures: dict[str, Tensor] = field(default_factory=dict)


def run_demo(config: DigitsConfig, listener: Listener | None = None) -> Iterator[DemoResults]:
    """Train everything, yielding the growing results after each training, so that an interruption loses none.

    Every model sees the same scenes, the same missing labels, the same order and the same number of steps; its
    weights are selected on the validation scenes, its scores come from the test scenes.

    Args:
        config: settings.
        listener: is told of each training before it begins.
    """
    balancer_class(config.balancer)
    make_tasks()[0].metrics()  # loads torchmetrics, whose seconds belong to no training
    results = DemoResults(config)
    runs = itertools.count(1)
    total = config.seeds * (len(TASKS) + 4 + config.candidates)

    def listen(label: str) -> Sequence[Callback]:
        return () if listener is None else listener(label, next(runs), total)

    for seed in range(config.seeds):
        scenes = _scenes(config, seed)
        results.metrics = results.metrics or chance_levels(scenes.test)
        for task in TASKS:
            run, _ = _train(config, scenes, (task,), Equal(), ALONE, seed, listen(f"{task} alone"))
            results.baselines.append(run)
            yield results
        for name, make in _methods(config, scenes, seed, listen):
            balancer, notes, spent = make()
            run, model = _train(config, scenes, TASKS, balancer, name, seed, listen(name), notes, spent)
            results.methods.append(run)
            if isinstance(balancer, GradientBalancer):
                results.pictures = predict_pictures(model, scenes.test, 6)
            yield results


def balancer_class(name: str) -> type[GradientBalancer]:
    """Return the gradient balancer of a name.

    Raises:
        ConfigurationError: there is none.
    """
    public = {key: getattr(lepton.balance, key) for key in lepton.balance.__all__}
    known = {
        key: value
        for key, value in public.items()
        if isinstance(value, type) and issubclass(value, GradientBalancer) and value is not GradientBalancer
    }
    by_lower = {key.lower(): value for key, value in known.items()}
    if name.lower() not in by_lower:
        raise ConfigurationError(f"balancer must be one of {sorted(known)}, but it is {name!r}.{nearest(name, known)}")
    return by_lower[name.lower()]


# -- the methods --------------------------------------------------------------------------------------------------
Made = tuple[Balancer, str, float]
"""A balancer, a note on how it came about, and the seconds that this took."""


def _methods(
    config: DigitsConfig, scenes: Scenes, seed: int, listen: Callable[[str], Sequence[Callback]]
) -> Iterator[tuple[str, Callable[[], Made]]]:
    yield "equal", lambda: (Equal(), "", 0.0)
    yield "log-sum", lambda: (LogSum(), "", 0.0)
    yield "tuned fixed", lambda: _tune_weights(config, scenes, seed, listen)
    chosen = balancer_class(config.balancer)
    yield chosen.__name__, lambda: (chosen(), "", 0.0)


def _tune_weights(config: DigitsConfig, scenes: Scenes, seed: int, listen: Callable[[str], Sequence[Callback]]) -> Made:
    """Try random fixed weights in short trainings that together take about one long one; keep the best."""
    random = np.random.default_rng([seed, 77])
    epochs = max(1, config.epochs // config.candidates)
    best: tuple[float, list[float]] | None = None
    start = time.perf_counter()
    for number in range(config.candidates):
        weights = np.exp(random.uniform(-1.5, 1.5, len(TASKS)))
        weights = (weights * len(TASKS) / weights.sum()).round(3)
        callbacks = listen(f"tuned fixed, try {number + 1}")
        model = make_model(TASKS, Fixed(weights.tolist()), seed=seed)
        state = _trainer(config, model, epochs, callbacks).fit(*_loaders(config, scenes, TASKS, seed))
        assert state.best_value is not None
        if best is None or state.best_value < best[0]:
            best = state.best_value, weights.tolist()
    assert best is not None
    shown = ", ".join(f"{task} {weight:.2f}" for task, weight in zip(TASKS, best[1], strict=True))
    note = f"best of {config.candidates} random weightings, tried for {epochs} epochs each; seed {seed}: {shown}"
    return Fixed(best[1]), note, time.perf_counter() - start


# -- one training -------------------------------------------------------------------------------------------------
def _scenes(config: DigitsConfig, seed: int) -> Scenes:
    """Return the scenes of a seed, with training labels missing."""
    scenes = make_scenes(config.train_scenes, config.test_scenes, seed=seed)
    kinds = {task.name: task for task in make_tasks(TASKS)}
    hidden = hide_labels(scenes.train.targets, kinds, config.missing, seed=seed)
    return Scenes(TensorData(scenes.train.inputs, hidden), scenes.val, scenes.test)


def _loaders(
    config: DigitsConfig, scenes: Scenes, names: Sequence[str], seed: int
) -> tuple[TensorLoader, TensorLoader]:
    train = TensorLoader(scenes.train.only(*names), config.batch_size, shuffle=True, seed=seed, drop_last=True)
    return train, TensorLoader(scenes.val.only(*names), BATCH)


def _trainer(config: DigitsConfig, model: LeptonModel, epochs: int, callbacks: Sequence[Callback]) -> Trainer:
    return Trainer(model, max_epochs=epochs, learning_rate=config.learning_rate, callbacks=callbacks)


def _train(
    config: DigitsConfig,
    scenes: Scenes,
    names: Sequence[str],
    balancer: Balancer,
    method: str,
    seed: int,
    callbacks: Sequence[Callback],
    notes: str = "",
    spent: float = 0.0,
) -> tuple[RunResult, LeptonModel]:
    model = make_model(names, balancer, seed=seed)
    start = time.perf_counter()
    state = _trainer(config, model, config.epochs, callbacks).fit(*_loaders(config, scenes, names, seed))
    seconds = time.perf_counter() - start
    found = evaluate(model, TensorLoader(scenes.test.only(*names), BATCH))
    scores = {name: TaskScore(result.metrics, int(result.n_labels)) for name, result in found.items()}
    shared = sum(p.numel() for p in model.trunk.parameters())
    private = sum(p.numel() for p in model.heads.parameters())
    run = RunResult(
        method=method,
        seed=seed,
        tasks=scores,
        history=state.history,
        seconds_per_step=state.seconds / state.step,
        seconds=seconds + spent,
        parameters={"shared": shared, "private": private, "total": shared + private},
        notes=notes,
    )
    return run, model


# -- what the scores are held against -----------------------------------------------------------------------------
def chance_levels(test: TensorData) -> dict[str, list[MetricInfo]]:
    """Return the compared metrics, each with the score of the best constant prediction on the test scenes."""
    found: dict[str, list[MetricInfo]] = {}
    for side in ("left", "right"):
        share = test.targets[side].bincount().max().item() / len(test)
        found[side] = [MetricInfo("accuracy", True, share)]
    background = (test.targets["pixels"] == 0).float().mean().item()
    found["pixels"] = [
        MetricInfo("miou", True, background / len(PIXEL_CLASSES)),
        MetricInfo("pixel_accuracy", True, background),
    ]
    sums = test.targets["sum"]
    found["sum"] = [
        MetricInfo("mae", False, (sums - sums.median()).abs().mean().item()),
        MetricInfo("rmse", False, sums.std(correction=0).item()),
    ]
    return found


@torch.no_grad()
def predict_pictures(model: LeptonModel, test: TensorData, count: int) -> dict[str, Tensor]:
    """Return the first test scenes with targets and predictions, by name."""
    rows = test.rows(torch.arange(count))
    model.eval()
    assert isinstance(rows.inputs, Tensor)
    outputs, _ = model(rows.inputs)
    found = {"inputs": rows.inputs, **rows.targets}
    for name, output in outputs.items():
        predicted = model.task(name).predict(output)
        found[f"{name}/predicted"] = predicted.get("label", predicted.get("value", output))
    return found


def save_results(results: DemoResults, folder: Path) -> None:
    """Write `results.json`, whole or not at all."""
    content = {
        "config": {**asdict(results.config), "folder": str(results.config.folder)},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "baselines": [asdict(run) for run in results.baselines],
        "methods": [asdict(run) for run in results.methods],
    }
    write_atomically(folder / "results.json", json.dumps(content, indent=1).encode())


# -- what a person sees -------------------------------------------------------------------------------------------
def show_demo(config: DigitsConfig) -> int:
    """Run the demonstration with live progress; print the table and write the report.

    Returns:
        0, or 130 if it was interrupted; what was trained by then is reported as far as it can be compared.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Display

    console = Console()
    for module in ("matplotlib", "sklearn.datasets"):
        import_extra(module, "demo", "the demonstration")
    balancer_class(config.balancer)
    folder = new_folder(config.folder)
    console.print(f"Four tasks on scenes of two real handwritten digits, {config.seeds} seed(s). Results: {folder}/")
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results, interrupted, start = DemoResults(config), False, time.perf_counter()
    with Display(*columns, console=console, transient=True) as display:
        whole = display.add_task("all trainings", total=None)

        def listener(label: str, number: int, total: int) -> Sequence[Callback]:
            display.update(whole, total=total, completed=number - 1)
            return [Progress(display, label)]

        try:
            for found in run_demo(config, listener):
                results = found
                save_results(results, folder)
        except KeyboardInterrupt:
            interrupted = True
    _present(console, results, folder)
    if interrupted:
        kept = len(results.baselines) + len(results.methods)
        words = f"The {kept} finished trainings are in {folder}/results.json" if kept else "No training was finished."
        console.print(f"Interrupted. {words}")
        if not kept:
            folder.rmdir()
        return 130
    console.print(f"{time.perf_counter() - start:.0f} seconds. Open {folder}/report.html in a browser.")
    return 0


def _present(console: Console, results: DemoResults, folder: Path) -> None:
    """Print and write what can be compared: seeds in which every task was trained alone."""
    complete = [
        seed
        for seed in range(results.config.seeds)
        if sum(run.seed == seed for run in results.baselines) == len(TASKS)
        and any(run.seed == seed for run in results.methods)
    ]
    methods = [run for run in results.methods if run.seed in complete]
    if not methods:
        return
    baselines = [run for run in results.baselines if run.seed in complete]
    comparison = Comparison.of(methods, baselines, results.metrics)
    console.print(comparison_table(comparison, reference="equal"))
    for sentence in summary_sentences(comparison):
        console.print(f"- {sentence}", markup=False, highlight=False)
    write_demo_report(results, comparison, methods, baselines, folder)


def write_demo_report(
    results: DemoResults,
    comparison: Comparison,
    methods: Sequence[RunResult],
    baselines: Sequence[RunResult],
    folder: Path,
) -> None:
    """Write `report.html`, and the figure of the comparison as `comparison.png`."""
    sections = comparison_sections(comparison, methods, baselines, reference="equal")
    if results.pictures:
        sections.insert(1, _picture_section(results.pictures))
    sections.append(Section("How this was made", _about(results)))
    write_report(folder / "report.html", "Lepton demo: two overlapping digits, four tasks", sections)
    (folder / "comparison.png").write_bytes(png_of(plot_comparison(comparison)))


def _picture_section(pictures: dict[str, Tensor]) -> Section:
    captions = [
        [
            _digit_caption("left", pictures, scene),
            _digit_caption("right", pictures, scene),
            Caption("sum", f"{pictures['sum'][scene]:.0f}", f"{pictures['sum/predicted'][scene]:.1f}"),
        ]
        for scene in range(len(pictures["inputs"]))
    ]
    panels = [
        MaskPanel("true pixels", pictures["pixels"].numpy()),
        MaskPanel("predicted", pictures["pixels/predicted"].numpy()),
    ]
    figure = plot_scenes(pictures["inputs"][:, 0].numpy(), panels, captions, classes=PIXEL_CLASSES[1:])
    caption = "Each column is one test scene: the picture, its true pixels, the predicted ones, and truth → prediction."
    alt = "Test scenes of two overlapping digits with true and predicted pixel classes, digits and sums."
    return Section("What the network predicts", (Chart(figure, alt, caption),))


def _digit_caption(side: str, pictures: dict[str, Tensor], scene: int) -> Caption:
    truth, predicted = int(pictures[side][scene]), int(pictures[f"{side}/predicted"][scene])
    return Caption(side, str(truth), str(predicted), truth == predicted)


def _about(results: DemoResults) -> tuple[str, ...]:
    config = results.config
    return (
        f"Scenes are composed of the 1797 handwritten digits that come with scikit-learn; no digit of a test scene "
        f"occurs in a training scene. {config.train_scenes} training scenes, where {config.missing:.0%} of each task's "
        f"labels are missing at random; {config.test_scenes} validation and as many test scenes.",
        f"Every model trains for {config.epochs} epochs with batches of {config.batch_size} and AdamW at "
        f"{config.learning_rate:g}; the weights are those of the best validation epoch. Nothing was tuned for a "
        f"method, except for 'tuned fixed': {config.candidates} random weightings in short trainings that together "
        "take about as long as one training, then the best one for as long as every other method.",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads. Command: lepton demo --seeds {config.seeds} "
        f"--epochs {config.epochs} --scenes {config.train_scenes} --balancer {config.balancer}",
    )
