"""The rows that a run was trained on: from its source, or those that it keeps in its folder."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lepton.data import LabelRule, Rows, StreamRows, StreamSets, TensorData
from lepton.errors import ConfigurationError, DataError
from lepton.nn import LeptonModel
from lepton.run._encoding import encode_rows
from lepton.run._folder import read_json
from lepton.run._replay import has_kept_rows, read_kept_rows, remember, rows_fit, rows_in
from lepton.run._run import Run
from lepton.tasks import MultiLabel
from lepton.transfer import Replay

__all__ = ["OldRows", "old_rows"]

MEMORY_BYTES = 512 << 20
"""Memory for the old rows that are replayed, where the source is there."""


@dataclass
class OldRows:
    """What is at hand of the rows that a run was trained on.

    Attributes:
        origin: where they come from, in words; empty where there are none.
        train: training rows, as many of each task and class; None where there are none.
        rows: all training rows, where their source is there.
        held_out: `val` and `test` -> rows that did not train.
        samples: `val` and `test` -> these rows as the memory that they come from, if they do.
        missing: why there are none.
    """

    origin: str = ""
    train: Replay | None = None
    rows: Rows | None = None
    held_out: dict[str, Rows] = field(default_factory=dict)
    samples: dict[str, Replay] = field(default_factory=dict)
    missing: str = ""


def old_rows(run: Run, model: LeptonModel, capacity: int) -> OldRows:
    """Return the old rows of a run, with labels for a model that may have more classes or fewer tasks.

    A run that was continued itself has seen more than its source: its own folder comes first then.

    Args:
        run: the old run.
        model: what is going to learn.
        capacity: training rows that are replayed.

    Raises:
        CheckpointError: the rows in the run's folder are damaged.
    """
    continued = bool(read_json(run.folder / "continued.json").get("earlier_rows"))
    kept = has_kept_rows(run.folder)
    reason = ""
    if not (continued and kept):
        try:
            return _from_source(run, model, capacity)
        except (ConfigurationError, DataError) as error:
            reason = str(error)
    if not kept:
        return OldRows(missing=f"{reason} And {str(run.folder)!r} keeps no rows: data.replay is 0 there, or it is old.")
    found = read_kept_rows(run.folder, [run.model.task(name) for name in run.tasks])
    samples = {part: fitted_memory(memory, model) for part, memory in found.held_out.items()}
    return OldRows(
        f"the rows that {str(run.folder)!r} keeps",
        fitted_memory(found.train, model),
        None,
        {part: rows for part, memory in samples.items() if (rows := rows_in(memory)) is not None},
        samples,
    )


def _from_source(run: Run, model: LeptonModel, capacity: int) -> OldRows:
    tables = run.tables()
    rules = [rule for rule in run.rules if rule.task in model.task_names and _held_by(tables["train"], rule)]
    data: dict[str, Rows] = {
        part: fitted_rows(encode_rows(run.config, run.encoder, rules, table, [], part), model)
        for part, table in tables.items()
    }
    train = data.pop("train")
    tasks = [model.task(name) for name in model.task_names]
    replay = remember(tasks, train, capacity, seed=run.config.seed, limit=MEMORY_BYTES) if rows_fit(train) else None
    return OldRows(
        f"the training rows of {run.config.require_source() if run.config.has_source else 'the table in memory'}",
        replay,
        train,
        data,
    )


def _held_by(table: object, rule: LabelRule) -> bool:
    return set(rule.columns) <= set(getattr(table, "column_names", ()))


def fitted_memory(memory: Replay, model: LeptonModel) -> Replay:
    """Return a memory with the labels of a model, as `fitted_rows`; rows without any other label are gone."""
    found = Replay([model.task(name) for name in model.task_names], memory.capacity, balanced=memory.balanced)
    rows = rows_in(memory)
    if rows is None:
        return found
    fitted = fitted_rows(rows, model)
    assert isinstance(fitted, TensorData)
    if set(rows.targets) == set(fitted.targets):
        found.load_state_dict({**memory.state_dict(), "targets": dict(fitted.targets)})
    else:
        found.add(fitted.inputs, fitted.targets)
    return found


def fitted_rows(rows: Rows, model: LeptonModel) -> Rows:
    """Return rows with the labels of a model that may have fewer tasks, or more labels: these are missing there."""
    targets = {name: _wide(rows.targets[name], model, name) for name in rows.targets if name in model.task_names}
    if isinstance(rows, TensorData):
        return type(rows)(**{**vars(rows), "targets": targets})
    assert not isinstance(rows, (StreamRows, StreamSets)), "of streamed rows the sample is what is kept"
    rows.targets = targets
    return rows


def _wide(target: Tensor, model: LeptonModel, name: str) -> Tensor:
    task = model.task(name)
    if not isinstance(task, MultiLabel) or target.shape[1] >= task.labels:
        return target
    unknown = target.new_full((len(target), task.labels - target.shape[1]), torch.nan)
    return torch.cat([target, unknown], 1)
