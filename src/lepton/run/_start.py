"""Where a training begins: with another run's rules and weights, or a file of tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lepton.config import Config, check_config, content_of
from lepton.data import SPEECH_KINDS, Encoder, LabelRule
from lepton.errors import CheckpointError, ConfigurationError, DataError, nearest
from lepton.nn import AdaptedTrunk, LeptonModel
from lepton.run._adapters import has_adapters
from lepton.run._folder import check_vocabulary, read_rules, read_run_config
from lepton.run._tensor_files import plain_names, read_tensors
from lepton.train import read_checkpoint

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "OldRun",
    "begin_from",
    "check_columns",
    "check_rules",
    "old_order",
    "read_old_run",
    "started_config",
    "take_trunk",
]

LEAST_SHARE = 0.5
"""Share of a trunk's numbers that a file must hold: with fewer, it is another network's."""

OF_THE_ENCODER = ("inputs", "vocabulary", "max_length", "sample_rate", "max_seconds", "trim")
"""Keys of `data` that an encoder was fitted with, so that another run's decides them."""

SHOWN = 4


# -- another run's rules ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class OldRun:
    """What another run's folder says of it, its weights left out.

    Attributes:
        folder: the folder.
        config: resolved.
        encoder: rules of the inputs.
        rules: rules of the labels, one for each task.
    """

    folder: Path
    config: Config
    encoder: Encoder
    rules: list[LabelRule]

    def tensors(self, checkpoint: str = "best") -> dict[str, Tensor]:
        """Return the run's weights by their names.

        Raises:
            CheckpointError: there is no such checkpoint, or it is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        folder = self.folder / "checkpoints" / checkpoint
        try:
            return load(read_checkpoint(folder)["model.safetensors"])
        except (KeyError, SafetensorError) as error:
            raise CheckpointError(f"the checkpoint {folder} cannot be read: {error}.") from error


def read_old_run(folder: Path | str) -> OldRun:
    """Read the rules of a run.

    Raises:
        CheckpointError: the folder is no run, is damaged, or was written by a newer Lepton.
    """
    place = Path(folder)
    if not place.is_dir():
        beside = [item.name for item in place.parent.iterdir()] if place.parent.is_dir() else []
        raise CheckpointError(f"there is no run {str(place)!r} to start from.{nearest(place.name, beside)}")
    config = read_run_config(place)
    encoder, rules = read_rules(place)
    check_vocabulary(place, encoder)
    return OldRun(place, config, encoder, rules)


def started_config(config: Config, old: OldRun) -> Config:
    """Return a configuration with what follows from the run that it starts from: its inputs and its trunk.

    Raises:
        ConfigurationError: it says something else of the inputs.
    """
    content, before = content_of(config), content_of(old.config)
    told, known = content["data"], before["data"]
    for key in OF_THE_ENCODER:
        given = key in config.data.model_fields_set and told.get(key) is not None
        if given and told[key] != known.get(key):
            raise ConfigurationError(
                f"data.{key} is {told[key]!r}, but the run {str(old.folder)!r}, which this one starts from, has "
                f"{known.get(key)!r}, and its weights know no other: leave data.{key} out."
            )
        if key in known:
            told[key] = known[key]
    told["date_formats"] = known.get("date_formats", {}) | told.get("date_formats", {})
    if told.get("image_size") is None and "image_size" in known:
        told["image_size"] = known["image_size"]
    if config.trunk.type == "auto":
        content["trunk"] = before["trunk"]
    return check_config(content)


def check_columns(encoder: Encoder, table: pa.Table, owner: str) -> None:
    """Refuse rows without a column that an encoder reads.

    Args:
        encoder: fitted elsewhere.
        table: the rows.
        owner: whose encoder it is, for the message.

    Raises:
        DataError: a column is missing.
    """
    lacking = [name for name in encoder.names if name not in table.column_names]
    if lacking:
        raise DataError(
            f"{owner} reads {encoder.names[:8]}{' and more' if len(encoder.names) > 8 else ''}, but the rows have no "
            f"column {lacking[0]!r}.{nearest(lacking[0], table.column_names)}"
        )


def check_rules(encoder: Encoder, rules: Sequence[LabelRule], owner: str) -> None:
    """Refuse tasks that an encoder fitted without them cannot make labels for.

    Args:
        encoder: fitted elsewhere.
        rules: rules of the labels.
        owner: whose encoder it is, for the message.

    Raises:
        ConfigurationError: a translation into a language, or a transcript in characters, that it does not know.
    """
    for rule in rules:
        if rule.kind == "translation" and getattr(encoder, "target", None) != rule.columns[0]:
            known = getattr(encoder, "target", None)
            raise ConfigurationError(
                f"task {rule.task!r} translates into the column {rule.columns[0]!r}, but the vocabulary of {owner} was "
                f"learned {'without any' if known is None else f'with {known!r}'}: train anew."
            )
        if rule.kind in SPEECH_KINDS and not getattr(encoder, "characters", ()):
            raise ConfigurationError(f"task {rule.task!r} needs characters, but {owner} has learned none: train anew.")


def old_order(rules: Sequence[LabelRule], old: Sequence[LabelRule], told: Mapping[str, Any]) -> list[LabelRule]:
    """Return the rules with the classes of tasks that another run has, too, in that run's order: its heads' order.

    Args:
        rules: rules of the labels.
        old: those of the other run.
        told: task -> its entry in the configuration.

    Raises:
        ConfigurationError: the configuration gives the same classes in another order.
    """
    before = {(rule.task, rule.kind): rule.classes for rule in old}
    found = []
    for rule in rules:
        known = before.get((rule.task, rule.kind), rule.classes)
        alike = sorted(known) == sorted(rule.classes)
        given = getattr(told[rule.task], "classes", None) or getattr(told[rule.task], "labels", None)
        if alike and isinstance(given, list) and tuple(given) != known:
            raise ConfigurationError(
                f"task {rule.task!r} has the classes {given[:8]}, but the run that it starts from has them in another "
                f"order, {list(known[:8])}, which its head follows: leave them out, or give them in that order."
            )
        found.append(dataclasses.replace(rule, classes=known) if alike else rule)
    return found


# -- weights ------------------------------------------------------------------------------------------------------
def begin_from(model: LeptonModel, config: Config, notes: list[str]) -> set[str]:
    """Fill a new model with the weights that a configuration starts from.

    Args:
        model: as it was built.
        config: resolved.
        notes: sentences about what was taken over, to be completed.

    Returns:
        The tasks whose heads and statistics come from the other run.

    Raises:
        CheckpointError: the run or file is none, is damaged, or is of another architecture.
    """
    start = config.start
    if start is None:
        return set()
    if start.weights is not None:
        owner = f"the file {start.weights!r}"
        found = take_trunk(model.trunk, read_tensors(Path(start.weights)), owner, all_of_it=False)
        _note(notes, found)
    if start.run is None:
        return set()
    old = read_old_run(start.run)
    tensors = old.tensors(start.checkpoint)
    inside = {name.removeprefix("trunk."): t for name, t in tensors.items() if name.startswith("trunk.")}
    named = plain_names(inside, nested=has_adapters(old.config))
    plain = {name: inside[key] for name, key in named.items() if ".adapters." not in name}
    take_trunk(model.trunk, plain, f"the run {str(old.folder)!r}", all_of_it=True)
    taken = {rule.task for rule in old.rules if _take_head(model, rule.task, tensors)}
    heads = f", and the heads of {sorted(taken)}" if taken else ""
    _note(notes, f"the trunk{heads} begin with the weights of the run {str(old.folder)!r}.")
    return taken


def _note(notes: list[str], words: str) -> None:
    if words not in notes:  # a comparison builds the same model again
        notes.append(words)


@torch.no_grad()
def take_trunk(trunk: nn.Module, tensors: Mapping[str, Tensor], owner: str, *, all_of_it: bool) -> str:
    """Copy tensors into a trunk by their names, and return a sentence that says which; adapters stay as they are.

    A common beginning of the names, such as `model.`, does not matter.

    Args:
        trunk: the trunk, with adapters or without.
        tensors: name -> tensor.
        owner: whose they are, for messages.
        all_of_it: whether every tensor of the trunk must be among them; otherwise half of its numbers.

    Raises:
        CheckpointError: too little fits: it is another architecture's.
    """
    state = trunk.state_dict()
    wanted = {
        name: state[key]
        for name, key in plain_names(state, nested=isinstance(trunk, AdaptedTrunk)).items()
        if ".adapters." not in name
    }
    named = _best_prefix(wanted, tensors)
    fitting = {name: t for name, t in named.items() if name in wanted and t.shape == wanted[name].shape}
    whole = sum(tensor.numel() for tensor in wanted.values())
    share = sum(tensor.numel() for tensor in fitting.values()) / max(1, whole)
    left = [name for name in wanted if name not in fitting]
    if (all_of_it and left) or share < LEAST_SHARE:
        raise CheckpointError(
            f"{owner} is of another architecture than this trunk: {len(fitting)} of its {len(wanted)} tensors fit, "
            f"{share:.0%} of its numbers. {_differences(left, wanted, named)} Take the trunk with the options that it "
            "was trained with."
        )
    for name, tensor in fitting.items():
        wanted[name].copy_(tensor)
    unused = [name for name in named if name not in fitting]
    words = f"{len(fitting)} of {len(wanted)} tensors of the trunk ({share:.0%} of its numbers) come from {owner}"
    words += f"; left as drawn: {_some(left)}" if left else ""
    return words + (f"; not used: {_some(unused)}." if unused else ".")


def _best_prefix(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the names that the trunk has, as far as one change of their beginnings does that."""
    best: dict[str, Tensor] = dict(tensors)
    most = -1
    for outer in _beginnings(tensors):
        inner_names = {name.removeprefix(outer): t for name, t in tensors.items() if name.startswith(outer)}
        for own in _beginnings(wanted, depth=1):
            named = {own + name: tensor for name, tensor in inner_names.items()}
            fits = sum(t.numel() for name, t in named.items() if name in wanted and wanted[name].shape == t.shape)
            if fits > most:
                best, most = named, fits
    return best


def _beginnings(names: Iterable[str], depth: int = 3) -> list[str]:
    found = {"": None}
    for name in names:
        parts = name.split(".")[:-1]
        found |= {".".join(parts[:n]) + ".": None for n in range(1, 1 + min(depth, len(parts)))}
    return list(found)


def _differences(left: Sequence[str], wanted: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> str:
    words = []
    for name in left[:SHOWN]:
        here = f"{name!r} is {list(wanted[name].shape)} here"
        words.append(f"{here} and {list(there[name].shape)} there" if name in there else f"{here} and not there")
    strange = [name for name in there if name not in wanted][:SHOWN]
    words += [f"{name!r} {list(there[name].shape)} is there only" for name in strange]
    more = len(left) - SHOWN
    return "; ".join(words) + (f"; and {more} more" if more > 0 else "") + "."


def _some(names: Sequence[str]) -> str:
    return f"{list(names[:SHOWN])}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


@torch.no_grad()
def _take_head(model: LeptonModel, task: str, tensors: Mapping[str, Tensor]) -> bool:
    """Copy the head and the statistics of a task, if this model has one alike, and return whether it does."""
    if task not in model.task_names:
        return False
    pairs = []
    for module, place in ((model.heads[task], f"heads.{task}."), (model.task(task), f"tasks.{task}.")):
        own = module.state_dict()
        there = {name.removeprefix(place): t for name, t in tensors.items() if name.startswith(place)}
        if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in there.items()}:
            return False
        pairs += [(tensor, there[name]) for name, tensor in own.items()]
    if not any(True for _ in model.heads[task].parameters()):
        return False  # one of many heads that are one parameter together
    for new, old in pairs:
        new.copy_(old)
    return True
