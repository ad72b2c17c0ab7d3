"""`add_task`: a trained run to a new run with more tasks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import lepton
from lepton.config import AddedTasks, Config, check_added, read_added
from lepton.data import LabelRule, SplitRule, describe_columns, without_nan
from lepton.errors import ConfigurationError
from lepton.nn import LeptonModel, plain_trunk
from lepton.run._encoding import encode_rows
from lepton.run._folder import (
    new_folder,
    read_run_config,
    write_architecture,
    write_json,
    write_rules,
    write_run,
    write_split,
)
from lepton.run._label_rules import check_names
from lepton.run._prepare import Prepared, read_source, split_tables
from lepton.run._run import Run, load
from lepton.run._train import held_out_results, person_console
from lepton.run.added._compare import Others, other_ways, same_outputs, scores_of
from lepton.run.added._model import FROZEN, added_config, model_with_more, train_only
from lepton.run.added._result import Added
from lepton.run.added._rows import OldRows, check_new_rules, joined, new_rows, old_rows, part_column
from lepton.run.added._train import check_method, train_added
from lepton.run.report import write_card, write_data
from lepton.train import Callback, save_checkpoint

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

__all__ = ["add_task"]

ROWS = "rows.parquet"
"""The table of old and new rows in the new run's folder."""


def add_task(
    run: Run | Path | str,
    config: AddedTasks | Mapping[str, Any] | Path | str,
    folder: Path | str | None = None,
    *,
    source: Any = None,
    compare: bool = True,
    trust: bool = False,
    quiet: bool = False,
    plain: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Added:
    """Give a trained run more tasks, and write the result as a new run; the old one is left as it is.

    The new rows are read by the old run's rules of the inputs. With the methods `head`, `lora` and `adapter` the old
    tasks' outputs stay the same bit for bit, which is looked at on real rows with the run that was written and loaded
    again. The new folder holds the old and the new rows in one table, `rows.parquet`, so that it stands by itself.

    Args:
        run: the run, or its folder.
        config: the new rows and tasks and the method: a YAML file, its content, or what `read_added` made of it.
        folder: of the new run; a number is added if it is taken. By default the old one's name and the new tasks'.
        source: new rows in memory, instead of `config.data.source`.
        compare: whether to train, for comparison, each new task alone and all tasks together, both from scratch.
        trust: whether classes that a configuration names may be imported.
        quiet: print nothing.
        plain: no colours or moving bars.
        callbacks: listeners of the training.

    Returns:
        The new run, with every task's metrics before and after.

    Raises:
        ConfigurationError: a task of a name that exists, a method that needs rows that are gone, and the like.
        DataError: a column that the run reads is missing among the new rows, or nothing can be learned from them.
        CheckpointError: the run is damaged.
        OSError: the disk is full; nothing of the new run is left then.

    Example:
        >>> import tempfile, lepton
        >>> from lepton.run import add_task
        >>> rows = {"size": [float(n) for n in range(60)], "price": [2.0 * n for n in range(60)]}
        >>> new = {"size": rows["size"], "large": ["yes" if n > 30 else "no" for n in range(60)]}
        >>> with tempfile.TemporaryDirectory() as place:
        ...     run = lepton.fit(rows, ["price"], training={"max_epochs": 1}, folder=place + "/run", quiet=True)
        ...     config = {"tasks": ["large"], "method": "lora", "training": {"max_epochs": 1}}
        ...     added = add_task(run, config, place + "/more", source=new, compare=False, quiet=True)
        ...     added.run.tasks, added.identical
        (['price', 'large'], {'price': True})
    """
    run = run if isinstance(run, Run) else load(run, trust=trust)
    config = _checked(config)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise ConfigurationError("add-task runs in one process: start it without torchrun.")
    old = old_rows(run)
    check_method(run, old, config.method)
    new = new_rows(run, config, source)
    check_new_rules(run, new.rules)
    rules = [*run.rules, *new.rules]
    check_names(rules)
    column = part_column(run, rules)
    table = joined(run, old, new, column)
    place = new_folder(Path(folder) if folder is not None else _default(run, config))
    try:
        whole = _written(run, new, added_config(run, new, config, ROWS, column), rules, table, place)
        console = None if quiet else person_console(plain)
        learned = _trained(run, config, whole, old, new, trust, place, callbacks, progress=console is not None)
        found = load(place, trust=trust)
        write_json(place / "results.json", without_nan(held_out_results(found.model, whole)))
        others = Others()
        if compare:
            others = other_ways(run, whole, old, new, trust, _teller(console))
        added = _added(run, found, config, old, new, others, learned)
        write_json(place / "added.json", without_nan({"from": str(run.folder), **added.to_dict()}))
        write_card(found)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)  # half a run is none
        raise
    return added


def _teller(console: Console | None) -> Callable[[str], None]:
    return (lambda words: None) if console is None else (lambda words: console.print(words, highlight=False))


def _added(
    run: Run, found: Run, config: AddedTasks, old: OldRows, new: Prepared, others: Others, learned: int
) -> Added:
    """Return what became of all tasks."""
    identical, compared = same_outputs(run, found, old, new) if config.method.type in FROZEN else ({}, 0)
    sizes = {"before": _size(run.model), "after": _size(found.model), "learned": learned}
    notes = list(others.notes)
    if not old.tables:
        notes.append(f"The old tasks were not measured: {old.reason}")
    scores = scores_of(run, found, old, new, others)
    return Added(found, config.method.type, scores, sizes, identical, compared, tuple(notes))


def _size(model: LeptonModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _checked(config: AddedTasks | Mapping[str, Any] | Path | str) -> AddedTasks:
    if isinstance(config, AddedTasks):
        return config
    return check_added(config) if isinstance(config, Mapping) else read_added(config)


def _default(run: Run, config: AddedTasks) -> Path:
    return run.folder.with_name("-".join([run.folder.resolve().name, *config.tasks]))


def _written(
    run: Run, new: Prepared, config: Config, rules: Sequence[LabelRule], table: pa.Table, place: Path
) -> Prepared:
    """Write what the new run is, its rows included, and return these as its folder describes them."""
    from pyarrow import parquet

    parquet.write_table(table, place / ROWS)
    write_run(place, config, lepton.__version__, run.encoder.fingerprint)
    config = read_run_config(place)  # with the path of its rows
    rows = read_source(config)
    split = SplitRule(method="column", column=config.data.split.column).apply(rows)
    write_rules(place, run.encoder, rules)
    write_split(place, split)
    tables = split_tables(config, rows, split)
    # What the new rows hold is noted already, and what the old ones hold was when they were new.
    data = {part: encode_rows(config, run.encoder, rules, each, [], part) for part, each in tables.items()}
    columns = describe_columns(rows, {}, config.data.date_formats)
    whole = Prepared(config, columns, run.encoder, list(rules), split, data, tables, rows, list(new.notes))
    write_data(place, whole)
    return whole


def _trained(
    run: Run,
    config: AddedTasks,
    whole: Prepared,
    old: OldRows,
    new: Prepared,
    trust: bool,
    place: Path,
    callbacks: Sequence[Callback],
    *,
    progress: bool,
) -> int:
    """Train the new tasks into the new run's folder, and return how many parameters learned."""
    model = model_with_more(run, whole.config, new, whole.rules, trust)
    write_architecture(place, plain_trunk(model.trunk))
    if config.method.type in FROZEN:
        train_only(model, list(config.tasks))
    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    train_added(run, model, whole.config, config.method, old, new, place, callbacks=callbacks, progress=progress)
    if not (place / "checkpoints" / "best").exists():
        save_checkpoint(place / "checkpoints" / "best", model, {})
    return learned
