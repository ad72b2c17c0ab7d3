"""What became of every task, and what two other ways to learn them give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lepton.config import Config, check_config, content_of
from lepton.evaluate import TaskResult, to_device
from lepton.nn import LeptonModel
from lepton.run._build import initial_model
from lepton.run._prepare import Prepared
from lepton.run._rows import held_out_part, make_loader
from lepton.run._run import Run
from lepton.run._train import make_loaders, make_trainer
from lepton.run.added._result import AddedScore
from lepton.run.added._rows import OldRows
from lepton.run.baselines import train_alone

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Others", "other_ways", "same_outputs", "scores_of"]

COMPARED_BATCHES = 4
"""Batches of old and of new rows whose outputs are compared bit by bit."""

Results = Mapping[str, TaskResult]


@dataclasses.dataclass(frozen=True)
class Others:
    """Models that learned from scratch, and why one of them was not trained.

    Attributes:
        alone: new task -> a model of it alone.
        retrained: one of all tasks; None if it was not trained.
        notes: sentences about those that were not.
    """

    alone: Mapping[str, LeptonModel] = dataclasses.field(default_factory=dict)
    retrained: LeptonModel | None = None
    notes: tuple[str, ...] = ()


def other_ways(
    run: Run, whole: Prepared, old: OldRows, new: Prepared, trust: bool, say: Callable[[str], None]
) -> Others:
    """Train each new task alone on the new rows, and all tasks together on all rows, each from scratch.

    Args:
        run: the old run.
        whole: all rows.
        old: the old rows.
        new: the new rows.
        trust: whether classes may be imported.
        say: told what is under way.
    """
    folder = getattr(run.config.trunk, "folder", None)
    if folder is not None and not Path(folder).exists():
        return Others(notes=(f"Nothing was trained from scratch: the pre-trained trunk {folder!r} is not there.",))
    alone = {}
    for task in new.config.tasks:
        say(f"for comparison: {task} alone, from scratch")
        alone[task], _ = train_alone(new, task, new.config.seed, trust=trust)
    if not old.tables:
        return Others(alone, notes=(f"Nothing was retrained on all rows: {old.reason}",))
    say("for comparison: all tasks together, from scratch")
    together = dataclasses.replace(whole, config=_from_scratch(run, whole.config), notes=[])
    with torch.random.fork_rng():
        model = initial_model(together, trust=trust)
        make_trainer(together.config, model, None).fit(*make_loaders(together))
    return Others(alone, model)


def _from_scratch(run: Run, config: Config) -> Config:
    """Return the configuration of all tasks together with the old run's training and balancing, and no adapter."""
    content, before = content_of(config), content_of(run.config)
    content.pop("start", None)
    for section in content["tasks"].values():
        section.pop("adapter", None)
    return check_config(content | {"training": before["training"], "balance": before["balance"]})


def scores_of(run: Run, after: Run, old: OldRows, new: Prepared, others: Others) -> tuple[AddedScore, ...]:
    """Return every task's metrics on held-out rows of its own: the old tasks on the old run's, the new on the new ones.

    Args:
        run: the old run.
        after: the new run.
        old: the old rows.
        new: the new rows.
        others: models that learned from scratch.
    """
    found: list[AddedScore] = []
    part = held_out_part(old.tables)
    if part is not None:
        rows = old.tables[part]
        before, now = _results(run, run, rows), _results(run, after, rows)
        again = None if others.retrained is None else _results(run, _as_run(after, others.retrained), rows)
        found += [_score(after, task, part, before=before, after=now, retrained=again) for task in run.tasks]
    part = held_out_part(new.tables)
    if part is not None:
        as_new = Run(after.folder, new.config, new.encoder, new.rules, new.split, after.model)
        rows = new.tables[part]
        now = _results(as_new, after, rows)
        again = None if others.retrained is None else _results(as_new, _as_run(after, others.retrained), rows)
        for rule in new.rules:
            model = others.alone.get(rule.task)
            only = Run(after.folder, new.config, new.encoder, [rule], new.split, model) if model is not None else None
            alone = None if only is None else only.evaluate(rows)
            found.append(_score(after, rule.task, part, new=True, after=now, alone=alone, retrained=again))
    return tuple(found)


def _as_run(like: Run, model: LeptonModel) -> Run:
    return Run(like.folder, like.config, like.encoder, like.rules, like.split, model)


def _results(told: Run, by: Run, rows: pa.Table) -> dict[str, TaskResult]:
    """Return the results of the tasks of one run by the model of another, on rows with their labels."""
    return Run(told.folder, told.config, told.encoder, told.rules, told.split, by.model).evaluate(rows)


def _score(run: Run, task: str, part: str, *, new: bool = False, **results: Results | None) -> AddedScore:
    kind = run.model.task(task)
    metric = kind.primary_metric
    better = {**kind.higher_is_better, **kind.search_metrics}[metric]
    metrics: dict[str, Any] = {name: None if found is None else found[task].metrics for name, found in results.items()}
    return AddedScore(task, new, metric, better, part, **metrics)


@torch.no_grad()
def same_outputs(run: Run, after: Run, old: OldRows, new: Prepared) -> tuple[dict[str, bool], int]:
    """Return for each old task whether two runs give the same outputs bit for bit, and on how many real rows.

    Args:
        run: the old run.
        after: the new run, as it was loaded.
        old: the old rows.
        new: the new rows.
    """
    equal, rows = dict.fromkeys(run.tasks, True), 0
    for data in (old.data, new.data):
        part = held_out_part(data) or next(iter(data), None)
        if part is None:
            continue
        for _, (inputs, _) in zip(range(COMPARED_BATCHES), make_loader(data[part], run.config), strict=False):
            inputs = to_device(inputs, run.model.device)
            before, now = run.model(inputs)[0], after.model(inputs)[0]
            for task in run.tasks:
                equal[task] &= torch.equal(before[task], now[task])
            rows += len(before[run.tasks[0]])
    return equal, rows
