"""`data.json`: what a run was trained on in a few numbers, written when its rows are at hand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lepton.data import summarise_column
from lepton.errors import CheckpointError
from lepton.insight import ColumnFacts, DataFacts, LabelFacts
from lepton.run._folder import read_json, write_json
from lepton.run._prepare import Prepared
from lepton.run._profiles import RowProfiles, profile_rows
from lepton.run._rows import in_memory, label_overlap, labelled_rows

__all__ = ["read_data", "read_profiles", "write_data"]

SHOWN_COLUMNS = 200
PROFILES = "profiles"
"""Where the profiles stand in `data.json`."""

MAP_TASKS = 100
"""Tasks between which the shared rows are counted."""


def write_data(folder: Path, prepared: Prepared, profiles: RowProfiles | None = None) -> None:
    """Write `data.json`, with the profiles of the training rows, which new rows are compared with.

    Args:
        folder: the run's folder.
        prepared: the rows.
        profiles: those of all rows that the run has learned from, if these are more than its training rows.
    """
    if profiles is None:
        profiles = profile_rows(prepared.encoder, prepared.rules, prepared.tables["train"])
    write_json(folder / "data.json", {**asdict(_describe_data(prepared)), PROFILES: profiles.to_dict()})


def read_profiles(folder: Path) -> RowProfiles | None:
    """Return the profiles in `data.json`, or None for a run of a version that wrote none.

    Raises:
        CheckpointError: the file is damaged.
    """
    found = read_json(folder / "data.json").get(PROFILES)
    try:
        return None if found is None else RowProfiles.from_dict(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'data.json'} is damaged: {error}.") from error


def read_data(folder: Path) -> DataFacts | None:
    """Return what `write_data` wrote, or None for a run of a version that wrote none.

    Raises:
        CheckpointError: the file is damaged.
    """
    found = read_json(folder / "data.json")
    if not found:
        return None
    found.pop(PROFILES, None)
    try:
        columns = tuple(ColumnFacts(**{**item, "bars": tuple(item["bars"])}) for item in found.pop("columns"))
        labels = tuple(_labels(item) for item in found.pop("labels"))
        overlap = tuple(tuple(row) for row in found.pop("overlap"))
        notes = tuple(found.pop("notes"))
        return DataFacts(**found, columns=columns, labels=labels, overlap=overlap, notes=notes)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'data.json'} is damaged: {error}.") from error


def _labels(item: dict[str, Any]) -> LabelFacts:
    return LabelFacts(**{**item, "counts": {part: tuple(counts) for part, counts in item["counts"].items()}})


def _describe_data(prepared: Prepared) -> DataFacts:
    """Return rows, columns and labels of prepared data in a few numbers each."""
    return DataFacts(
        rows={part: len(rows) for part, rows in prepared.data.items()},
        how=prepared.split.how,
        columns=tuple(_column(prepared, place) for place in range(min(SHOWN_COLUMNS, len(prepared.columns)))),
        n_columns=len(prepared.columns),
        labels=tuple(_label_facts(prepared, rule.task) for rule in prepared.rules),
        overlap=_overlap(prepared),
        notes=tuple(prepared.notes),
    )


def _column(prepared: Prepared, place: int) -> ColumnFacts:
    column = prepared.columns[place]
    tasks = [rule.task for rule in prepared.rules if column.name in rule.columns]
    role = f"target of {', '.join(tasks)}" if tasks else "input"
    if not tasks and column.name not in prepared.encoder.names:
        role = f"not used: {column.why}"
    summary = summarise_column(prepared.tables["train"], column)
    return ColumnFacts(column.name, column.kind, role, column.missing, column.distinct, summary.words, summary.bars)


def _label_facts(prepared: Prepared, task: str) -> LabelFacts:
    rule = next(rule for rule in prepared.rules if rule.task == task)
    present = {part: float(labelled_rows(rows, task).float().mean()) for part, rows in prepared.data.items()}
    counts, mean, std = {}, {}, {}
    for part, rows in prepared.data.items():
        if rule.kind in ("segmentation", "speech_synthesis") or present[part] == 0:
            continue
        target = rows.targets[task]
        if rule.kind == "classification":
            counts[part] = tuple(torch.bincount(target[target >= 0], minlength=len(rule.classes)).tolist())
        elif rule.kind == "multi_label":
            counts[part] = tuple(target.nan_to_num().sum(0).long().tolist())
        elif target.ndim == 1:
            known = target[~target.isnan()].double()
            mean[part], std[part] = float(known.mean()), float(known.std(correction=0))
    return LabelFacts(task, present, counts, mean, std)


def _overlap(prepared: Prepared) -> tuple[tuple[float, ...], ...]:
    train = prepared.data["train"]
    shared = label_overlap(train, [rule.task for rule in prepared.rules[:MAP_TASKS]]) / len(in_memory(train))
    return tuple(tuple(round(share, 4) for share in row) for row in shared.tolist())
