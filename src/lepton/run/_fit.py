"""`fit`: rows and targets to a trained run."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lepton
from lepton.config import Config, Source, check_config, content_of
from lepton.errors import ConfigurationError
from lepton.evaluate import TaskResult, evaluate
from lepton.nn import LeptonModel
from lepton.run._build import build_model
from lepton.run._folder import new_folder, write_json, write_rules, write_run, write_split
from lepton.run._prepare import Prepared, prepare
from lepton.run._rows import Loader, make_loader
from lepton.run._run import Run
from lepton.run._summary import columns_table, metrics_table, plan_table
from lepton.tasks import Regression
from lepton.train import Callback, Progress, Trainer, save_checkpoint

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["default_folder", "fit", "make_config", "make_trainer", "override_config", "train_run"]

log = logging.getLogger("lepton")

OWN_TRAINING_KEYS = {"batch_size", "num_workers"}


def fit(
    source: Any,
    targets: Sequence[str] | Mapping[str, Any],
    *,
    inputs: Mapping[str, str] | None = None,
    ignore: Iterable[str] = (),
    kinds: Mapping[str, str] | None = None,
    split: Mapping[str, Any] | None = None,
    val: Any = None,
    test: Any = None,
    trunk: str | Mapping[str, Any] = "auto",
    balance: str | Mapping[str, Any] = "equal",
    training: Mapping[str, Any] | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    quiet: bool = False,
) -> Run:
    """Train one model that predicts several columns of a table.

    What the columns hold and what kind of task each target is are inferred and said; every decision can be changed.

    Args:
        source: a path to CSV, Parquet or JSON lines, a folder of images, a DataFrame, a pyarrow Table, or a mapping
            of columns; see `lepton.data.read_table`.
        targets: columns to predict; or a mapping from names of tasks to a kind such as `"regression"`, or to options,
            `{"churn": {"type": "classification", "label_smoothing": 0.1}}`.
        inputs: column -> kind, for those to read; by default all that are no targets.
        ignore: columns that are not to be read.
        kinds: column -> kind, where inference is wrong.
        split: options of the split, `{"method": "group", "column": "patient"}`; see `lepton.data.SplitRule`.
        val: path of another table for validation, instead of a share of the rows.
        test: path of another table for the test.
        trunk: the shared part: a name, or a mapping with `type` and options.
        balance: how the tasks are weighed: a name such as `"cagrad"`, or a mapping with `method` and options.
        training: options of the training loop, such as `{"max_epochs": 20, "learning_rate": 1e-3}`; see
            `lepton.Trainer`.
        seed: fixes initial weights and order.
        folder: where the run is written; a number is added if it is taken. By default `runs/` and the source's name.
        quiet: print nothing.

    Returns:
        The run: `run.predict(rows)`, `run.evaluate()`, `run.plot.weights()`.

    Raises:
        DataError: nothing can be learned from the rows, with the reason.
        ConfigurationError: an option that is not allowed.

    Example:
        >>> import tempfile, lepton
        >>> rows = {"size": list(range(60)), "kind": ["a", "b", "c"] * 20}
        >>> rows["price"] = [2.0 * size + 1 for size in rows["size"]]
        >>> with tempfile.TemporaryDirectory() as place:
        ...     run = lepton.fit(rows, ["price", "kind"], training={"max_epochs": 1}, folder=place + "/run", quiet=True)
        ...     list(run.predict({"size": [3]}).columns)[:3]
        ['price', 'kind', 'kind_probability_a']
    """
    config = make_config(
        source=str(source) if isinstance(source, (str, Path)) else None,
        targets=targets,
        data={
            "inputs": None if inputs is None else {str(name): kind for name, kind in inputs.items()},
            "ignore": [ignore] if isinstance(ignore, str) else [str(name) for name in ignore],
            "kinds": {str(name): kind for name, kind in (kinds or {}).items()},
            "split": split,
            "val": val,
            "test": test,
        },
        rest={"trunk": trunk, "balance": balance, "training": dict(training or {}), "seed": seed},
    )
    wanted = Path(folder) if folder is not None else default_folder(config)
    return train_run(config, wanted, source=source, quiet=quiet)


def make_config(
    *, source: str | None, targets: Sequence[str] | Mapping[str, Any], data: Mapping[str, Any], rest: Mapping[str, Any]
) -> Config:
    """Return the checked configuration of arguments; those that are None are left at their defaults."""
    if isinstance(targets, str):
        raise ConfigurationError(f"targets must be a list of columns, [{targets!r}], not one string.")
    targets = targets if isinstance(targets, Mapping) else list(targets)
    if not targets:
        raise ConfigurationError("targets names no column: there is nothing to predict.")
    section = {
        "source": source,
        **{key: str(value) if isinstance(value, Path) else value for key, value in data.items()},
    }
    given = {key: value for key, value in section.items() if value is not None}
    return check_config({"data": given, "tasks": targets, **rest})


def override_config(config: Config, assignments: Sequence[str]) -> Config:
    """Return the configuration with `section.key=value` assignments applied, the later ones winning."""
    if not assignments:
        return config
    source = Source("the configuration", content_of(config), None)
    for assignment in assignments:
        source.override(assignment)
    return check_config(source.content, source)


def default_folder(config: Config) -> Path:
    """Return `runs/` and the name of the source."""
    source = config.data.source
    return Path("runs") / (Path(source).name.split(".")[0] if source else "run")


def train_run(
    config: Config,
    folder: Path,
    *,
    source: Any = None,
    trust: bool = False,
    quiet: bool = False,
    plain: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train what a configuration describes, and write its run.

    Args:
        config: the configuration.
        folder: where the run is written; a number is added if it is taken.
        source: rows in memory, instead of `config.data.source`.
        trust: whether classes that the configuration names may be imported.
        quiet: print nothing.
        plain: no colours, frames or moving bars.
        callbacks: further listeners.
    """
    prepared = prepare(config, source)
    model = build_model(prepared.config, prepared.encoder, prepared.rules, trust=trust)
    _fit_statistics(model, prepared)
    place = new_folder(folder)
    write_run(place, prepared.config, lepton.__version__)
    write_rules(place, prepared.encoder, prepared.rules)
    write_split(place, prepared.split)
    console = None if quiet else _console(plain)
    with _shown(prepared, model, console) as listeners:
        trainer = make_trainer(prepared.config, model, place, [*listeners, *callbacks])
        trainer.fit(*make_loaders(prepared))
    if not (place / "checkpoints" / "best").exists():  # without validation rows nobody told which weights were best
        save_checkpoint(place / "checkpoints" / "best", model, {})
    write_json(place / "results.json", _held_out(model, prepared))
    run = Run(place, prepared.config, prepared.encoder, prepared.rules, prepared.split, model, prepared.notes)
    if console is not None:
        _print_table(console, metrics_table(run, run.results))
    return run


def _fit_statistics(model: LeptonModel, prepared: Prepared) -> None:
    """Give regressions mean and standard deviation of their training labels, without reading the pictures."""
    for rule in prepared.rules:
        task = model.task(rule.task)
        if isinstance(task, Regression):
            task.fit_statistics(prepared.data["train"].targets[rule.task])


def make_loaders(prepared: Prepared) -> tuple[Loader, Loader | None]:
    """Return the loaders of training and validation rows."""
    val = prepared.data.get("val")
    train = make_loader(prepared.data["train"], prepared.config, training=True)
    return train, None if val is None else make_loader(val, prepared.config)


def make_trainer(
    config: Config, model: LeptonModel, folder: Path | None, callbacks: Sequence[Callback] = ()
) -> Trainer:
    """Return the trainer that the section `training` describes."""
    options = {key: value for key, value in config.training.model_dump().items() if key not in OWN_TRAINING_KEYS}
    options = {key: value for key, value in options.items() if value is not None or key not in ("max_epochs", "mode")}
    return Trainer(model, folder=folder, callbacks=callbacks, **options)


def _held_out(model: LeptonModel, prepared: Prepared) -> dict[str, Any]:
    parts = {part: rows for part, rows in prepared.data.items() if part != "train"}
    return {part: _finite(evaluate(model, make_loader(rows, prepared.config))) for part, rows in parts.items()}


def _finite(found: Mapping[str, TaskResult]) -> dict[str, Any]:
    """Return results as JSON can hold them: null where a value is not finite."""
    content: dict[str, Any] = json.loads(
        json.dumps({task: asdict(result) for task, result in found.items()}), parse_constant=lambda _: None
    )
    return content


# -- what a person sees -------------------------------------------------------------------------------------------
@contextmanager
def _shown(prepared: Prepared, model: LeptonModel, console: Console | None) -> Iterator[list[Callback]]:
    """Say what was decided; show a progress bar meanwhile."""
    if console is None:
        yield []
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    _print_table(console, columns_table(prepared))
    _print_table(console, plan_table(prepared, count_parameters(model)))
    show_notes(console, prepared.notes)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Display(*columns, console=console, transient=True) as display:
        yield [Progress(display, "training")]


def show_notes(console: Console, notes: Sequence[str]) -> None:
    """Print the notes, one line each."""
    for note in notes:
        console.print(f"- {note}", markup=False, highlight=False)


def _print_table(console: Console, table: Table) -> None:
    if console.no_color:
        table.box = None
    console.print(table)


def _console(plain: bool) -> Console:
    from rich.console import Console

    return Console(stderr=True, no_color=plain or None, force_terminal=False if plain else None)


def count_parameters(model: LeptonModel) -> dict[str, int]:
    """Return how many parameters are shared, and how many belong to heads."""
    shared = sum(parameter.numel() for parameter in model.trunk.parameters())
    every = sum(parameter.numel() for parameter in model.parameters())
    balancer = sum(parameter.numel() for parameter in model.balancer.parameters())
    return {"shared": shared, "heads": every - shared - balancer}
