"""A run with more classes or fewer tasks: its rules, its configuration and its model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lepton.config import Config, check_config, content_of
from lepton.data import LabelRule
from lepton.errors import ConfigurationError, nearest
from lepton.nn import AdaptedTrunk, LeptonModel
from lepton.run._build import build_model
from lepton.run._folder import read_architecture
from lepton.run._run import Run
from lepton.run._tensor_files import plain_names

__all__ = ["changed_config", "changed_model", "changed_rules", "check_retired"]

GROWING = ("classification", "multi_label")
"""Kinds of task that can get more classes."""


def check_retired(run: Run, retired: Sequence[str]) -> None:
    """Refuse tasks that the run does not have, and all of those that it has."""
    for name in retired:
        if name not in run.tasks:
            raise ConfigurationError(
                f"there is no task {name!r} to retire; tasks: {run.tasks}.{nearest(name, run.tasks)}"
            )
    if set(retired) == set(run.tasks):
        raise ConfigurationError(f"all tasks, {run.tasks}, would be retired: nothing would be left to predict.")


def changed_rules(run: Run, added: Mapping[str, Sequence[str]], retired: Sequence[str]) -> list[LabelRule]:
    """Return the run's rules with classes added behind the old ones, whose numbers stay, and without retired tasks.

    Raises:
        ConfigurationError: classes for a kind of task whose head cannot grow.
    """
    found = []
    for rule in run.rules:
        if rule.task in retired:
            continue
        new = tuple(added.get(rule.task, ()))
        if new and rule.kind not in GROWING:
            raise ConfigurationError(
                f"task {rule.task!r} is a {rule.kind}, which cannot get more classes: {list(new)[:8]} are not among "
                f"those that it was trained on. Kinds that can are {list(GROWING)}; for others train anew on all rows."
            )
        found.append(dataclasses.replace(rule, classes=(*rule.classes, *new)))
    return found


def changed_config(run: Run, rules: Sequence[LabelRule], source: str | None, training: Mapping[str, Any]) -> Config:
    """Return the configuration of the new run.

    Args:
        run: the old run.
        rules: of the new one.
        source: where the new rows are; None for rows in memory.
        training: options of the section `training` that are laid out anew; None leaves one out.
    """
    content = content_of(run.config)
    for key in ("val", "test"):  # they are of the old rows
        content["data"].pop(key, None)
    content["data"]["source"] = source
    content.pop("output", None)
    content["tasks"] = {rule.task: _task(content["tasks"][rule.task], rule) for rule in rules}
    told = {**content["training"], **training}
    content["training"] = {key: value for key, value in told.items() if value is not None}
    return check_config(content)


def _task(section: Mapping[str, Any], rule: LabelRule) -> dict[str, Any]:
    named = {"classification": "classes", "multi_label": "labels"}.get(rule.kind)
    return {**section, named: list(rule.classes)} if named else dict(section)


def changed_model(run: Run, config: Config, rules: Sequence[LabelRule], *, trust: bool) -> LeptonModel:
    """Return a model for the new rules with the weights of the old one.

    A head with more classes keeps its rows, and each new row begins as the mean of the old ones: the logit of a new
    class is the mean of the others, and the probabilities of the old classes keep their ratios, exactly.

    Args:
        run: the old run.
        config: that of the new run.
        rules: of the new run.
        trust: whether classes that the configuration names may be imported.

    Raises:
        ConfigurationError: a head that is no linear layer would have to grow, or the trunk depends on a retired task.
    """
    if rules == run.rules:
        return copy.deepcopy(run.model)
    old = run.model
    model = build_model(config, run.encoder, rules, trust=trust, architecture=read_architecture(run.folder))
    _take_over_trunk(old, model, run)
    for name in model.task_names:
        _take_over_task(old.task(name), model.task(name))
        _take_over_head(old, model, name)
    if model.task_names == old.task_names:
        model.balancer.load_state_dict(old.balancer.state_dict())
    return model.to(old.device).eval()


def _take_over_trunk(old: LeptonModel, model: LeptonModel, run: Run) -> None:
    """Copy the trunk, with the adapters of the tasks that are left."""
    learned, state = old.trunk.state_dict(), model.trunk.state_dict()
    there = plain_names(learned, nested=isinstance(old.trunk, AdaptedTrunk))
    here = plain_names(state, nested=isinstance(model.trunk, AdaptedTrunk))
    strange = next((name for name in here if name not in there), None)
    strange = strange or next((name for name in there if name not in here and ".adapters." not in name), None)
    alike = {name: state[key].shape == learned[there[name]].shape for name, key in here.items() if name in there}
    strange = strange or next((name for name, same in alike.items() if not same), None)
    if strange is not None:
        raise ConfigurationError(
            f"the trunk of {str(run.folder)!r} is built for its tasks {run.tasks} and would be another one for "
            f"{list(model.task_names)}: {strange!r} differs. Train these tasks anew."
        )
    for name, key in here.items():
        state[key].copy_(learned[there[name]])


def _take_over_task(old: nn.Module, new: nn.Module) -> None:
    """Copy a task's statistics, such as the mean of a regression's targets."""
    there = new.state_dict()
    for key, value in old.state_dict().items():
        if key in there and there[key].shape == value.shape:
            there[key].copy_(value)


@torch.no_grad()
def _take_over_head(old: LeptonModel, model: LeptonModel, name: str) -> None:
    pairs = list(zip(model.head_state(name), old.head_state(name), strict=True))
    grown = any(new[rows].shape != before[own].shape for (new, rows), (before, own) in pairs)
    head = old.heads[name]
    if grown and not hasattr(head, "out_features"):
        raise ConfigurationError(
            f"the head of {name!r} is a {type(head).__name__}, not a linear layer: it cannot get more classes."
        )
    for (new, rows), (before, own) in pairs:
        kept = before[own]
        target = new[rows]
        target[: len(kept)] = kept
        target[len(kept) :] = kept.mean(0)
    for key, buffer in model.heads[name].named_buffers():
        buffer.copy_(old.heads[name].get_buffer(key))
