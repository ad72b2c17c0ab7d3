"""Training what a configuration describes, and going on with a training that was interrupted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import lepton
from lepton.config import Config
from lepton.data import Loader, SequenceEncoder, without_nan
from lepton.errors import CheckpointError, DataError
from lepton.evaluate import evaluate
from lepton.nn import LeptonModel, plain_trunk
from lepton.run._adapters import layer_learning_rates
from lepton.run._build import initial_model
from lepton.run._device import training_device
from lepton.run._folder import (
    check_vocabulary,
    new_folder,
    read_rules,
    read_run_config,
    read_split,
    write_architecture,
    write_json,
    write_rules,
    write_run,
    write_split,
)
from lepton.run._generation import SearchScores, with_search_scores
from lepton.run._prepare import Prepared, prepare
from lepton.run._replay import keep_training_rows
from lepton.run._rows import make_loader
from lepton.run._run import Run
from lepton.run._sets import training_loader
from lepton.run._streaming import keep_quarantine, quarantine_note
from lepton.run._summary import columns_table, count_parameters, metrics_table, plan_table, score_notes
from lepton.run._voices import write_voices
from lepton.run.report import write_card, write_data
from lepton.train import (
    Callback,
    Trainer,
    from_first_process,
    holds_share,
    is_first_process,
    job_note,
    save_checkpoint,
    share_of,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "held_out_results",
    "make_loaders",
    "make_trainer",
    "person_console",
    "print_table",
    "resume_run",
    "steps_per_epoch",
    "train_prepared",
    "train_run",
]

OWN_TRAINING_KEYS = {"batch_size", "num_workers", "device"}

Procedure: TypeAlias = Callable[[Trainer], object]
"""Takes part in a training."""


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

    In a job of several processes that torchrun starts anew, it goes on with the run that the job had begun.

    Args:
        config: the configuration.
        folder: where the run is written; a number is added if it is taken.
        source: rows in memory, instead of `config.data.source`.
        trust: whether classes that the configuration names may be imported.
        quiet: print nothing.
        plain: no colours, frames or moving bars.
        callbacks: further listeners.

    """
    begun = from_first_process(_begun_before)
    if begun is not None:
        return resume_run(begun, source=source, trust=trust, quiet=quiet, plain=plain, callbacks=callbacks)
    prepared = prepare(config, source)
    model = initial_model(prepared, trust=trust)
    return train_prepared(prepared, model, folder, quiet=quiet, plain=plain, callbacks=callbacks)


def train_prepared(
    prepared: Prepared,
    model: LeptonModel,
    folder: Path,
    *,
    quiet: bool = False,
    plain: bool = False,
    callbacks: Sequence[Callback] = (),
    procedures: Sequence[Procedure] = (),
) -> Run:
    """Train a model on rows that are ready, and write its run.

    Args:
        prepared: configuration, rules and rows.
        model: as its configuration describes it.
        folder: where the run is written; a number is added if it is taken.
        quiet: as in `train_run`, like the rest.
        plain: see there.
        callbacks: see there.
        procedures: each is called with the trainer before the first step, such as one that attaches a penalty.
    """

    def begin() -> Path:
        place = new_folder(folder)
        write_run(place, prepared.config, lepton.__version__, prepared.encoder.fingerprint)
        write_rules(place, prepared.encoder, prepared.rules)
        write_architecture(place, plain_trunk(model.trunk))
        write_split(place, prepared.split)
        job_note(str(place.absolute()))
        return place

    place = from_first_process(begin)
    return _train(prepared, model, place, _console(quiet, plain), callbacks, procedures, resume=False)


def _begun_before() -> Path | None:
    """Return the run that this job had begun before torchrun started it anew, if one can be gone on with."""
    noted = job_note()
    if noted is None or not (Path(noted) / "checkpoints" / "last").is_dir():
        return None
    return Path(noted)


def _console(quiet: bool, plain: bool) -> Console | None:
    """Return where a person reads; nothing in all processes but the first."""
    return None if quiet or not is_first_process() else person_console(plain)


def resume_run(
    folder: Path,
    *,
    source: Any = None,
    trust: bool = False,
    quiet: bool = False,
    plain: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Go on with a training that was interrupted, in its folder, as if it had not been.

    Args:
        folder: the run's folder.
        source: the same rows, if the run was trained on rows in memory.
        trust: as in `train_run`, like the rest.
        quiet: see there.
        plain: see there.
        callbacks: see there.

    Raises:
        CheckpointError: the folder is no run, or holds no checkpoint to go on from.
        DataError: the rows are not those that the run was trained on.
    """
    config = read_run_config(folder)
    _refuse_to_resume(folder)
    # What a training started from may be gone by now; its rules are in the run's own folder.
    prepared = prepare(config, source, kept=None if config.start is None else read_rules(folder))
    if prepared.split.fingerprint != (kept := read_split(folder)).fingerprint:
        if config.data.stream is True:
            raise DataError(f"the shards of {config.require_source()} are not those that the run was trained on.")
        kept.check(prepared.table, config.require_source() if config.has_source else "the source")
    check_vocabulary(folder, prepared.encoder)  # fitted anew, by a library that may be another version now
    return _train(
        prepared,
        initial_model(prepared, trust=trust, resume=True),
        folder,
        _console(quiet, plain),
        callbacks,
        resume=True,
    )


def _refuse_to_resume(folder: Path) -> None:
    """Refuse a folder that no training can go on from by itself."""
    places = [folder / "checkpoints" / name for name in ("last", ".last.previous")]  # killed between the two
    if (folder / "continued.json").exists():
        raise CheckpointError(
            f"{str(folder)!r} goes on from another run, with rules and rows of that one: continue that one anew, with "
            "lepton continue."
        )
    if (folder / "added.json").exists():
        raise CheckpointError(
            f"{str(folder)!r} was made by lepton add-task, whose training is not gone on with: run that again, or "
            f"train all tasks anew with  lepton train {folder / 'config.yaml'}."
        )
    if not any(place.is_dir() for place in places):
        raise CheckpointError(f"{str(folder)!r} holds no checkpoints/last to go on from: train it anew.")


def _train(
    prepared: Prepared,
    model: LeptonModel,
    place: Path,
    console: Console | None,
    callbacks: Sequence[Callback],
    procedures: Sequence[Procedure] = (),
    *,
    resume: bool,
) -> Run:
    if console is not None:
        _show_plan(console, prepared, model)
    first = is_first_process()
    if first:
        write_data(place, prepared)
        keep_quarantine(prepared.data, place)
    whole = copy.deepcopy(model) if holds_share(prepared.config.training.parallel) else model
    if isinstance(prepared.encoder, SequenceEncoder) and "val" in prepared.tables:
        scores = SearchScores(model, prepared.encoder, prepared.rules, prepared.tables["val"])
        callbacks = [scores, *callbacks]
    trainer = make_trainer(
        prepared.config, model, place, callbacks=callbacks, resume=resume, progress=console is not None
    )
    for procedure in procedures:
        procedure(trainer)
    try:
        trainer.fit(*make_loaders(prepared))
    except KeyboardInterrupt:
        if console is not None:
            console.print(f"Go on with:  lepton train --resume {place}", highlight=False)
        raise
    if whole is not model:
        whole.to(model.device).load_state_dict(trainer.whole_state())
        model = whole
    results = without_nan(held_out_results(model, prepared))
    rows = None if prepared.config.has_source else prepared.tables
    parts = (prepared.config, prepared.encoder, prepared.rules, prepared.split, model, prepared.notes)
    run = Run(place, *parts, rows=rows)
    if first:
        _finish(prepared, run, results, console)
    return run


def _finish(prepared: Prepared, run: Run, results: dict[str, Any], console: Console | None) -> None:
    """Write what a run holds after its training, and show it."""
    place, model = run.folder, run.model
    if not (place / "checkpoints" / "best").exists():  # without validation rows nobody told which weights were best
        save_checkpoint(place / "checkpoints" / "best", model, {})
    write_json(place / "results.json", results)
    keep_training_rows(place, prepared, [model.task(name) for name in model.task_names])
    write_voices(place, model, prepared)
    if unusable := quarantine_note(prepared.data):
        prepared.notes.append(unusable)
        write_data(place, prepared)
    write_card(run)
    if console is not None:
        print_table(console, metrics_table(run, run.results))
        for note in [*score_notes(run.results), *([unusable] if unusable else [])]:
            console.print(note, markup=False, highlight=False, soft_wrap=True)


def make_loaders(prepared: Prepared) -> tuple[Loader, Loader | None]:
    """Return the loaders of training and validation rows."""
    val = prepared.data.get("val")
    train = training_loader(prepared)
    return train, None if val is None else make_loader(val, prepared.config, in_order=False)


def steps_per_epoch(prepared: Prepared) -> int:
    """Return the optimiser steps of an epoch."""
    loader, _ = make_loaders(prepared)
    window: int = prepared.config.training.gradient_accumulation_steps
    return len(loader) // window


def make_trainer(
    config: Config,
    model: LeptonModel,
    folder: Path | None,
    *,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
    progress: bool = False,
) -> Trainer:
    """Return the trainer that the section `training` describes.

    Args:
        config: resolved.
        model: what is trained; it is moved to the section's device.
        folder: where metrics and checkpoints are written; None to write nothing.
        callbacks: listeners.
        resume: go on from the folder's last checkpoint.
        progress: show a bar.
    """
    options = {key: value for key, value in config.training.model_dump().items() if key not in OWN_TRAINING_KEYS}
    options = {key: value for key, value in options.items() if value is not None or key != "max_epochs"}
    options["learning_rates"] = layer_learning_rates(model, config)
    model.to(training_device(config.training.device))
    last = folder / "checkpoints" / "last" if resume and folder is not None else None
    return Trainer(model, folder=folder, callbacks=callbacks, resume_from_checkpoint=last, progress=progress, **options)


def held_out_results(model: LeptonModel, prepared: Prepared) -> dict[str, Any]:
    """Return part -> task -> result of a model on all rows but those for training, as JSON holds it."""
    parts = {part: rows for part, rows in prepared.data.items() if part != "train"}
    found = {part: evaluate(model, share_of(make_loader(rows, prepared.config))) for part, rows in parts.items()}
    if isinstance(prepared.encoder, SequenceEncoder):
        found = {
            part: with_search_scores(model, prepared.encoder, prepared.rules, prepared.tables[part], results)
            for part, results in found.items()
        }
    return {part: {task: asdict(result) for task, result in results.items()} for part, results in found.items()}


# -- what a person sees -------------------------------------------------------------------------------------------
def _show_plan(console: Console, prepared: Prepared, model: LeptonModel) -> None:
    """Say what was decided."""
    print_table(console, columns_table(prepared))
    print_table(console, plan_table(prepared, count_parameters(model)))
    for note in prepared.notes:
        console.print(f"- {note}", markup=False, highlight=False)


def print_table(console: Console, table: Table) -> None:
    """Print a table, without a frame where there are no colours."""
    if console.no_color:
        table.box = None
    console.print(table)


def person_console(plain: bool) -> Console:
    """Return where a person reads what a command is doing: standard error."""
    from rich.console import Console

    return Console(stderr=True, no_color=plain or None, force_terminal=False if plain else None)
