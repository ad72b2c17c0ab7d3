"""A commented configuration for a table, that trains as it is."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton.config import check_config, dump_yaml, methods, trunks
from lepton.data import SPEECH_KINDS, Column, describe_columns, find_column, infer_task, read_table
from lepton.errors import ConfigurationError
from lepton.run._label_rules import is_transcript
from lepton.run._resolve import planned_training

__all__ = ["commented_config"]

_SHOWN = {
    "data.split": ("method", "val", "test", "seed"),
    "training": (
        "weight_decay",
        "max_grad_norm",
        "gradient_accumulation_steps",
        "precision",
        "monitor",
    ),
}


def commented_config(source: Path, targets: Sequence[str], *, relative_to: Path | None = None) -> str:
    """Return a YAML file for a table, with what was inferred and why beside each line.

    Args:
        source: the table.
        targets: the columns to predict.
        relative_to: the folder from which the command will be run; the path of the source is written relative to it.

    Raises:
        DataError: a target is not there, or cannot be learned.
        ConfigurationError: no target is given.
    """
    table = read_table(source)
    if not targets:
        raise ConfigurationError(
            f"which columns are to be predicted? Give --target; the columns are {table.column_names}."
        )
    for name in targets:
        find_column(table, name)
    columns = {column.name: column for column in describe_columns(table)}
    kinds = {
        name: "speech_recognition" if is_transcript(table, columns[name], columns) else infer_task(table, columns[name])
        for name in targets
    }
    path = os.path.relpath(source, relative_to) if relative_to is not None else str(source)
    lines = [
        "# Everything about one run of Lepton. Train it:  lepton train FILE   Look first:  lepton validate FILE",
        "# Any value can be changed on the command line:  lepton train FILE training.max_epochs=5",
        "",
        *_data(path, table.num_rows, [column for name, column in columns.items() if name not in kinds]),
        *_tasks(kinds, columns),
        *_network(),
        *_training(table.num_rows, {column.kind for column in columns.values()}),
    ]
    text = "\n".join(lines) + "\n"
    _check(text)
    return text


def _check(text: str) -> None:
    import yaml

    check_config(yaml.safe_load(text))


def _scalar(value: Any) -> str:
    return dump_yaml(value).split("\n")[0] if not isinstance(value, list) else dump_yaml([value])[2:].rstrip()


def _data(path: str, n_rows: int, columns: Sequence[Column]) -> Iterator[str]:
    yield "data:"
    yield f"  source: {_scalar(path)}  # {n_rows} rows"
    heard = [column.name for column in columns if column.kind == "audio"][:1]
    yield "  inputs:  # column: number, category, boolean, date, text, image or, alone, audio"
    width = max((len(_scalar(column.name)) for column in columns), default=0)
    for column in columns:
        unread = column.kind in ("ignore", "labels") or column.name not in (heard or [column.name])
        mark, kind = ("# " if unread else "", "category" if column.kind in ("ignore", "labels") else column.kind)
        missing = f", {column.missing:.1%} missing" if column.missing else ""
        head = f"{_scalar(column.name)}:".ljust(width + 1)
        yield f"    {mark}{head} {kind}".ljust(width + 18) + f"  # {column.why}{missing}"
    unclear = [_scalar(column.name) for column in columns if "nothing tells which" in column.why]
    if unclear:
        yield "  # date_formats:  # day or month first; then they are dates above"
        yield from (f'  #   {name}: "%d/%m/%Y"' for name in unclear)
    yield "  split:  # or method: random, group (with column), time (with column), column (that says train, val, test)"
    section = check_config({"data": {}, "tasks": ["a"]}).data.split
    yield from _options("    ", section, _SHOWN["data.split"])
    yield ""


def _tasks(kinds: Mapping[str, str], columns: Mapping[str, Column]) -> Iterator[str]:
    yield "tasks:  # name: kind and options; loss_weight acts before balancing, priority after it"
    for name, kind in kinds.items():
        yield f"  {_scalar(name)}:  # {columns[name].why}"
        yield f"    type: {kind}"
        if kind not in ("regression", *SPEECH_KINDS):
            yield "    label_smoothing: 0.0"
        yield "    loss_weight: 1.0"
        yield "    priority: 1.0"
    yield ""


def _network() -> Iterator[str]:
    yield f"trunk: auto  # or a mapping with type: {', '.join(trunks())}, and their options"
    yield ""
    yield "balance:"
    yield f"  method: equal  # {', '.join(sorted(methods()))}"
    yield "  # gradients: fork_layer  # or features, parameters: which view of a task's gradient is compared"
    yield "  # log: true  # balance the logarithms of the losses"
    yield ""


def _training(n_rows: int, kinds: Collection[str]) -> Iterator[str]:
    config = check_config({"data": {}, "tasks": ["a"]})
    section, split = config.training, config.data.split
    yield "training:  # what is commented out is what these rows give; it changes with them unless it is given"
    yield from _options("  ", section, _SHOWN["training"])
    train_rows = max(1, round(n_rows * (1 - split.val - split.test)))
    for name, value in planned_training(train_rows, pictures="image" in kinds, sequences="audio" in kinds).items():
        yield f"  # {name}: {value}"
    yield ""
    yield "seed: 0"


def _options(indent: str, section: Any, names: Sequence[str]) -> Iterator[str]:
    fields = type(section).model_fields
    for name in names:
        text = (fields[name].description or "").split(";")[0].split(":")[0].split(". ")[0].replace("`", "").rstrip(".")
        yield f"{indent}{name}: {_scalar(getattr(section, name))}  # {text}"
