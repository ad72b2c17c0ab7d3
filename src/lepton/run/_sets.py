"""Several sources with labels for different tasks: one table of all, and batches that mix their rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lepton.config import Config
from lepton.data import (
    LabelRule,
    Loader,
    Mixture,
    OrderedLoader,
    Split,
    SplitRule,
    StreamSets,
    read_table,
    split_groups,
)
from lepton.errors import ConfigurationError, DataError, nearest
from lepton.run._encoding import pads_of
from lepton.run._own_parts import held_out
from lepton.run._rows import labelled_rows, make_loader

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.run._prepare import Prepared

__all__ = [
    "SET",
    "divide_sets",
    "joined_tables",
    "joint_table",
    "label_columns",
    "missing_pixels",
    "read_sets",
    "set_tasks",
    "training_loader",
    "with_other_sources",
    "without_sets",
]

SET = "lepton.set"
"""The column that says which source a row is from."""


def read_sets(config: Config) -> pa.Table:
    """Return the rows of all sources in one table: a column that a source lacks is missing in its rows.

    The labels of a task that a source is told not to have are missing in its rows, too.

    Args:
        config: the configuration.

    Raises:
        DataError: a source cannot be read, or two have a column of one name and different types.
        ConfigurationError: a source names a task that there is not.
    """
    assert config.data.sources is not None
    set_tasks(config)
    return joint_table(config, {name: _limited(config, told.source) for name, told in config.data.sources.items()})


def joint_table(config: Config, tables: Mapping[str, pa.Table]) -> pa.Table:
    """Return the rows of tables in one, with the column `SET`.

    Args:
        config: says which tasks each has.
        tables: name of the source -> rows.
    """
    import pyarrow as pa

    told = set_tasks(config)
    own = []
    for name, table in tables.items():
        others = [column for task in config.tasks if task not in told[name] for column in label_columns(config, task)]
        kept = [column for task in told[name] for column in label_columns(config, task)]
        table = table.drop_columns([c for c in table.column_names if c in others and c not in kept])
        own.append(table.append_column(SET, pa.array([name] * table.num_rows, pa.string())))
    return joined_tables(own, list(tables))


def divide_sets(config: Config, rule: SplitRule, table: pa.Table) -> Split:
    """Return the parts of the rows of several sources, of which each has its share of every part.

    Args:
        config: the configuration: says what shares the sources have, where they are not all alike.
        rule: how rows are divided.
        table: the rows, with the column `SET`.
    """
    told = {name: held_out(config, name) for name in config.data.sources or {}}
    if all(one.shares == {"val": rule.val, "test": rule.test} for one in told.values()):
        return dataclasses.replace(rule, targets=[SET, *rule.targets]).apply(table)
    rows = set_rows(table)
    groups = []
    for name, own in rows.items():
        val, test = told[name].shares["val"], told[name].shares["test"]
        groups.append((own, dataclasses.replace(rule, val=val, test=test)))
    return split_groups(table, groups)


def with_other_sources(config: Config, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Return the rows of each part, with those from elsewhere that are the validation or the test of a source.

    Args:
        config: the configuration, with several sources.
        tables: part -> rows of the sources themselves.
    """
    found = dict(tables)
    for part in ("val", "test"):
        others = {name: held_out(config, name).others.get(part) for name in config.data.sources or {}}
        read = {name: _limited(config, source) for name, source in others.items() if source is not None}
        if read:
            own = tables.get(part, tables["train"].slice(0, 0))
            found[part] = joined_tables([own, joint_table(config, read)], [part, *read])
    return found


def _limited(config: Config, source: str) -> pa.Table:
    table, limit = read_table(source), config.data.limit
    return table if limit is None else table.slice(0, limit)


def joined_tables(tables: Sequence[pa.Table], names: Sequence[str]) -> pa.Table:
    """Return the rows of tables in one, with every column that one of them has.

    Args:
        tables: the rows.
        names: of the sources, for the message.

    Raises:
        DataError: two have a column of one name and different types.
    """
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        words = str(error).split("\n")[0]
        raise DataError(
            f"the sources {list(names)} have a column of one name and different types: {words}. Name it differently, "
            "or write it alike."
        ) from error


def without_sets(table: pa.Table) -> pa.Table:
    """Return a table without the column `SET`."""
    return table.drop_columns([SET]) if SET in table.column_names else table


def label_columns(config: Config, task: str) -> Sequence[str]:
    """Return the columns of a task's labels.

    Args:
        config: the configuration.
        task: the task's name.
    """
    section = config.tasks[task]
    return section.columns or [section.column or task]


def set_tasks(config: Config) -> dict[str, list[str]]:
    """Return the tasks that each source may have labels of.

    Raises:
        ConfigurationError: there is no such task, or no source has one.
    """
    found = {}
    for name, told in (config.data.sources or {}).items():
        found[name] = list(config.tasks) if told.tasks is None else told.tasks
        for task in found[name]:
            if task not in config.tasks:
                raise ConfigurationError(
                    f"data.sources.{name} names the task {task!r}; tasks: {list(config.tasks)}."
                    f"{nearest(task, config.tasks)}"
                )
    lost = [task for task in config.tasks if not any(task in tasks for tasks in found.values())]
    if found and lost:
        raise ConfigurationError(f"no source has the task {lost[0]!r}: name it among the tasks of one.")
    return found


def training_loader(prepared: Prepared) -> Loader:
    """Return the loader of the training rows, a mixture where there are several sources.

    Args:
        prepared: the rows.
    """
    config, rows = prepared.config, prepared.data["train"]
    if config.data.sources is None:
        return make_loader(rows, config, training=True)
    if isinstance(rows, StreamSets):
        streams = {
            name: make_loader(one, config, training=True, drop_last=False, seed=config.seed + place)
            for place, (name, one) in enumerate(rows.sets.items())
        }
        return mixture_of(config, streams, rows.tasks, rows.missing, rows.pads)
    numbers = set_rows(prepared.tables["train"])
    seeds = range(config.seed, config.seed + len(numbers))
    sets = {name: _set_loader(prepared, numbers[name], seed) for name, seed in zip(numbers, seeds, strict=True)}
    known = {rule.task: labelled_rows(rows, rule.task) for rule in prepared.rules}
    tasks = {name: [task for task, has in known.items() if has[index].any()] for name, index in numbers.items()}
    return mixture_of(config, sets, tasks, missing_pixels(prepared.rules), pads_of(prepared.encoder))


def missing_pixels(rules: Sequence[LabelRule]) -> dict[str, float]:
    """Return what the pixels of masks hold in rows of a source that has none: task -> number."""
    return {rule.task: rule.missing for rule in rules if rule.kind == "segmentation"}


def mixture_of(
    config: Config,
    sets: Mapping[str, Any],
    tasks: Mapping[str, Sequence[str]],
    missing: Mapping[str, float],
    pads: Mapping[str, float],
) -> Mixture:
    """Return the mixture that a configuration describes.

    Args:
        config: resolved.
        sets: name of the source -> loader of its training rows.
        tasks: name of the source -> tasks that it has labels of.
        missing: task -> what stands for a label that is not there, where that is not the usual value.
        pads: input -> what fills the places beyond the end of a text.
    """
    assert config.data.sources is not None
    lost = [name for name in config.data.sources if name not in sets]
    if lost:
        raise DataError(f"no training row is of the source {lost[0]!r}: leave it out, or give it more rows.")
    size = config.training.batch_size
    options = {} if config.data.mixture is None else config.data.mixture.model_dump()
    weights = {name: told.weight for name, told in config.data.sources.items() if told.weight != 1}
    drop_last = sum(loader.n_rows for loader in sets.values()) > size
    more: dict[str, Any] = {"tasks": tasks, "drop_last": drop_last, "missing": missing, "pads": pads}
    return Mixture(sets, size, **options, weights=weights, seed=config.seed, **more)


def set_rows(table: pa.Table) -> dict[str, Tensor]:
    """Return the row numbers of each source in a table with the column `SET`."""
    import numpy as np

    names = np.asarray(table.column(SET).to_pylist(), dtype=str)
    return {str(name): torch.from_numpy(np.flatnonzero(names == name)) for name in dict.fromkeys(names.tolist())}


def _set_loader(prepared: Prepared, index: Tensor, seed: int) -> Loader:
    loader = make_loader(prepared.data["train"], prepared.config, training=True, drop_last=False, seed=seed)
    assert isinstance(loader, OrderedLoader)
    loader.restrict(index)
    return loader
