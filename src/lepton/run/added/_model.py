"""The model with more tasks: what was learned taken over, and which part of it learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lepton.config import AddedTasks, Config, check_config, content_of
from lepton.data import LabelRule
from lepton.errors import ConfigurationError
from lepton.nn import AdaptedTrunk, Adapter, LeptonModel, LoRA, freeze, plain_trunk
from lepton.run._build import build_model
from lepton.run._folder import read_architecture
from lepton.run._prepare import Prepared
from lepton.run._run import Run
from lepton.run._tensor_files import plain_names
from lepton.tasks import Regression

__all__ = ["FROZEN", "added_config", "model_with_more", "train_only"]

FROZEN = ("head", "lora", "adapter")
"""Methods that leave the old tasks' outputs as they are, bit for bit."""


def added_config(run: Run, new: Prepared, config: AddedTasks, source: str, part_column: str) -> Config:
    """Return the configuration of all tasks together: what the new run's folder says.

    Args:
        run: the old run.
        new: the new rows.
        config: the new tasks, and how they are learned.
        source: the table of all rows.
        part_column: its column that says which part a row is in.
    """
    content, added = content_of(run.config), content_of(new.config)
    keep = ("inputs", "date_formats", "image_size", "augment", "sample_rate", "max_seconds", "trim")
    kept = {key: content["data"][key] for key in (*keep, "vocabulary", "max_length") if key in content["data"]}
    content["data"] = {**kept, "source": source, "split": {"method": "column", "column": part_column}}
    tasks = dict(added["tasks"])
    if config.method.type in FROZEN:
        adapter = content_of(config.method)
        tasks = {name: {**section, "adapter": adapter} for name, section in tasks.items()}
        if config.training.learning_rates is None:  # a low one for a pre-trained trunk is none for what is new in it
            added["training"].pop("learning_rates", None)
    content["tasks"] |= tasks
    return check_config(content | {"balance": added["balance"], "training": added["training"], "seed": config.seed})


def model_with_more(run: Run, config: Config, new: Prepared, rules: Sequence[LabelRule], trust: bool) -> LeptonModel:
    """Return the model of all tasks with what the old one learned, and the new tasks with the statistics of their rows.

    Args:
        run: the old run.
        config: of all tasks.
        new: the new rows.
        rules: of all tasks.
        trust: whether classes may be imported.

    Raises:
        ConfigurationError: the new tasks change the trunk itself.
    """
    architecture = read_architecture(run.folder)
    model = build_model(config, run.encoder, rules, trust=trust, architecture=architecture)
    take_over(run.model, model)
    for name in new.config.tasks:
        task = model.task(name)
        if isinstance(task, Regression):
            task.fit_statistics(new.data["train"].targets[name])
    return model


@torch.no_grad()
def take_over(old: LeptonModel, model: LeptonModel) -> None:
    """Copy trunk, heads and statistics of a model into one with more tasks; their adapters, too.

    Raises:
        ConfigurationError: the trunk is another one.
    """
    there, here = old.trunk.state_dict(), model.trunk.state_dict()
    names = plain_names(here, nested=isinstance(model.trunk, AdaptedTrunk))
    for name, key in plain_names(there, nested=isinstance(old.trunk, AdaptedTrunk)).items():
        place = names.pop(name, None)
        if place is None or here[place].shape != there[key].shape:
            raise ConfigurationError(
                f"the new tasks would change the trunk: {name!r} is {list(there[key].shape)} in the old run, and "
                f"{'not there' if place is None else list(here[place].shape)} with them. Train all tasks anew."
            )
        here[place].copy_(there[key])
    lacking = [name for name in names if ".adapters." not in name]
    if lacking:
        raise ConfigurationError(
            f"the new tasks need parts of the trunk that the old run has not, such as {lacking[0]!r}: train all anew."
        )
    for name in old.task_names:
        for (new, new_rows), (learned, rows) in zip(model.head_state(name), old.head_state(name), strict=True):
            new[new_rows] = learned[rows]
        for new_buffer, buffer in zip(model.heads[name].buffers(), old.heads[name].buffers(), strict=True):
            new_buffer.copy_(buffer)
        model.task(name).load_state_dict(old.task(name).state_dict())


def train_only(model: LeptonModel, new: Sequence[str]) -> None:
    """Let nothing learn but the heads and adapters of the new tasks.

    Raises:
        ConfigurationError: the heads are one parameter, of which a part cannot be held still.
    """
    if hasattr(model, "stacked_heads"):
        raise ConfigurationError(
            f"with {len(model.task_names)} tasks their linear heads are one parameter, of which the old rows cannot be "
            f"held still: choose another method than {list(FROZEN)}."
        )
    trunk = plain_trunk(model.trunk)
    freeze(trunk)
    for found in trunk.modules():
        if isinstance(found, (LoRA, Adapter)):
            for name in new:
                if name in found.adapters:
                    found.adapters[name].requires_grad_(True)
    for name in model.task_names:
        if name not in new:
            model.heads[name].requires_grad_(False)
