"""`check`: everything that a training would do, and what looks odd about it, without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lepton.config import Config, content_of
from lepton.data import Column, without_nan
from lepton.run._build import build_model
from lepton.run._prepare import Prepared, prepare
from lepton.run._rows import in_memory, labelled_rows
from lepton.run._summary import columns_table, count_parameters, plan_table
from lepton.run._train import steps_per_epoch
from lepton.run.look._findings import Finding, label_findings, row_findings
from lepton.run.look._giveaways import giveaway_findings

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["TaskPlan", "Validation", "check"]

MANY_PARAMETERS = 100
"""Parameters per label from which a training is told to watch its validation loss."""


@dataclass(frozen=True)
class TaskPlan:
    """What is to be learned about one task.

    Attributes:
        name: the task.
        kind: its kind.
        columns: where its labels are.
        classes: their names; none for numbers.
        labels: part -> rows with a label.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    labels: dict[str, int]


@dataclass(frozen=True)
class Validation:
    """What a training would do. `console.print(validation)` shows it.

    Attributes:
        config: the resolved configuration.
        columns: what each column was taken for.
        tasks: what is to be learned.
        parts: part -> rows.
        how: how they were divided.
        parameters: `shared` and `heads` -> how many.
        steps_per_epoch: optimiser steps of an epoch.
        max_steps: where the training ends at the latest.
        findings: what looks odd, the most severe first.
        prepared: rows and rules, for what comes next.
    """

    config: Config
    columns: tuple[Column, ...]
    tasks: tuple[TaskPlan, ...]
    parts: dict[str, int]
    how: str
    parameters: dict[str, int]
    steps_per_epoch: int
    max_steps: int
    findings: tuple[Finding, ...]
    prepared: Prepared = dataclasses.field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether nothing forbids the training; warnings do not."""
        return all(finding.severity != "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; null where a number is not finite."""
        content = {
            "passed": self.passed,
            "config": content_of(self.config),
            "columns": [dataclasses.asdict(column) for column in self.columns],
            "tasks": [dataclasses.asdict(task) for task in self.tasks],
            "parts": self.parts,
            "how": self.how,
            "parameters": self.parameters,
            "steps_per_epoch": self.steps_per_epoch,
            "max_steps": self.max_steps,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }
        return without_nan(content)  # type: ignore[no-any-return]

    def __rich__(self) -> RenderableType:
        """Return what a terminal shows."""
        from rich.console import Group
        from rich.text import Text

        steps = f"{self.steps_per_epoch} steps in an epoch, at most {self.max_steps} altogether"
        return Group(
            columns_table(self.prepared),
            plan_table(self.prepared, self.parameters),
            Text(f"{steps}; {self._labels()}"),
            *(_shown(finding) for finding in self.findings),
        )

    def _labels(self) -> str:
        shown = [f"{task.name} {task.labels['train']}" for task in self.tasks]
        return f"labels in the training rows: {', '.join(shown)}"


def _shown(finding: Finding) -> RenderableType:
    from rich.text import Text

    style = {"error": "bold red", "warning": "yellow", "note": "dim"}[finding.severity]
    return Text.assemble((f"{finding.severity:>7} ", style), finding.words)


def check(config: Config | Prepared, source: Any = None, *, trust: bool = False) -> Validation:
    """Do everything up to the first training step, and look for what would spoil the results.

    Columns that give a target away are found by predicting each target from each column alone, by the means of bins
    of its values, on training rows that the means were not made from; see `lepton.insight.explained_share`. What only
    two columns together give away is not found, nor what a text or a picture says.

    Args:
        config: the configuration, or what `prepare` made of it.
        source: rows in memory, instead of `config.data.source`.
        trust: whether classes that the configuration names may be imported.

    Raises:
        DataError: nothing can be learned from the rows.
        ConfigurationError: the configuration does not fit them.

    Example:
        >>> from lepton.run import make_config
        >>> rows = {"size": list(range(200)), "copy": ["a", "b"] * 100, "kind": ["x", "y"] * 100}
        >>> config = make_config(source=None, targets=["kind"], data={}, rest={})
        >>> [finding.about for finding in check(config, rows).findings if finding.kind == "leak"]
        [('copy', 'kind')]
    """
    prepared = config if isinstance(config, Prepared) else prepare(config, source)
    with torch.random.fork_rng():
        model = build_model(prepared.config, prepared.encoder, prepared.rules, trust=trust)
    parameters = count_parameters(model)
    steps = steps_per_epoch(prepared)
    training = prepared.config.training
    order = ("error", "warning", "note")
    looked_at = dataclasses.replace(prepared, data={part: in_memory(rows) for part, rows in prepared.data.items()})
    findings = [*_findings(looked_at, parameters)]
    return Validation(
        prepared.config,
        tuple(prepared.columns),
        tuple(_task_plans(prepared)),
        {part: len(rows) for part, rows in prepared.data.items()},
        prepared.split.how,
        parameters,
        steps,
        training.max_steps or training.max_epochs * steps,
        tuple(sorted(findings, key=lambda finding: order.index(finding.severity))),
        prepared,
    )


def _task_plans(prepared: Prepared) -> Iterator[TaskPlan]:
    for rule in prepared.rules:
        shares = {part: labelled_rows(rows, rule.task).double().mean() for part, rows in prepared.data.items()}
        labels = {part: round(float(share) * len(prepared.data[part])) for part, share in shares.items()}
        yield TaskPlan(rule.task, rule.kind, rule.columns, rule.classes, labels)


def _findings(prepared: Prepared, parameters: dict[str, int]) -> Iterator[Finding]:
    yield from giveaway_findings(prepared)
    yield from row_findings(prepared)
    yield from label_findings(prepared)
    yield from _plan_findings(prepared, parameters)
    for note in prepared.notes:
        yield Finding("prepared", "note", (), note)


def _plan_findings(prepared: Prepared, parameters: dict[str, int]) -> Iterator[Finding]:
    rows, total = len(prepared.data["train"]), sum(parameters.values())
    if total > MANY_PARAMETERS * rows:
        words = (
            f"{total:,} parameters for {rows} training rows, {total / rows:.0f} for each: it will learn them by heart; "
            "the weights of the best epoch are kept, but a smaller trunk (width, depth) may do better."
        )
        yield Finding("parameters", "note", (), words, {"parameters": total, "rows": rows})
    training = prepared.config.training
    steps = steps_per_epoch(prepared)
    planned = training.max_steps or training.max_epochs * steps
    if planned < 100:
        words = f"the whole training has {planned} steps: too few to learn much. Raise max_epochs or lower batch_size."
        yield Finding("steps", "warning", (), words, {"steps": planned})
    if steps == 0:
        words = (
            f"gradient_accumulation_steps is {training.gradient_accumulation_steps}, but an epoch has fewer batches: "
            "no step would be taken."
        )
        yield Finding("steps", "error", (), words, {"steps": 0})
    if len(prepared.rules) == 1:
        words = "there is one task: nothing is shared and nothing to balance."
        yield Finding("one_task", "note", (prepared.rules[0].task,), words)
