"""Rows of a table as what a loader cuts into batches: tensors, or pictures that workers decode."""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lepton.config import Config
from lepton.data import (
    SPEECH_KINDS,
    AudioLoader,
    AudioRows,
    Augment,
    AugmentAudio,
    ImageLoader,
    ImageRows,
    InputEncoder,
    LabelRule,
    LengthLoader,
    Loader,
    Rows,
    SequenceData,
    StreamRows,
    StreamSets,
    TensorData,
    TensorLoader,
    decode_image,
    decode_mask,
    rows_at_once,
    table_rows,
)
from lepton.errors import ConfigurationError, DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "EVALUATION_SEQUENCES",
    "InTurn",
    "has_label",
    "held_out_part",
    "image_size",
    "in_memory",
    "label_overlap",
    "labelled_rows",
    "labels_of",
    "make_loader",
    "picture_augment",
    "rows_of",
    "sound_augment",
    "what_is_unknown",
]

EVALUATION_SEQUENCES = 64
"""Rows at a time of sequences: a vocabulary of scores for every token is large."""
CACHE_BYTES = 2 << 30
"""Memory for decoded pictures: those that fit are decoded once."""

LARGEST = 224
"""Side of pictures, in pixels, where no size is given and theirs are larger."""


def rows_of(
    config: Config,
    encoder: InputEncoder,
    rules: Sequence[LabelRule],
    table: pa.Table,
    targets: Mapping[str, Tensor],
    *,
    cache_bytes: int = CACHE_BYTES,
) -> TensorData | SequenceData | ImageRows:
    """Return the rows of a table with its inputs.

    Args:
        config: resolved: says the size of pictures.
        encoder: fitted rules of the inputs.
        rules: rules of the labels; those of masks are read from the table, unless there are no targets at all.
        table: the rows.
        targets: the labels that are no masks, name -> [N, ...]; may be empty.
        cache_bytes: memory for decoded pictures.
    """
    masked = [rule for rule in rules if rule.kind == "segmentation" and rule.columns[0] in table.column_names]
    pictures = {
        "image_size": config.data.image_size,
        "one_image": config.trunk.type != "mixed",
        "masks": {rule.task: table.column(rule.columns[0]).to_pylist() for rule in masked},
        "classes": {rule.task: len(rule.classes) for rule in masked},
        "missing": masked[0].missing if masked else 255,
        "cache_bytes": cache_bytes,
    }
    return table_rows(encoder, table, targets, **(pictures if encoder.images else {}))


def labels_of(rule: LabelRule, table: pa.Table, *, strict: bool) -> tuple[Tensor, int]:
    """Return the labels of a task that is no segmentation, and how many values were no class.

    Several labels from a column of masks say which classes occur in each.
    """
    column = table.column(rule.columns[0]) if rule.columns[0] in table.column_names else None
    if rule.kind == "multi_label" and rule.from_masks and column is not None:
        return torch.stack([_presence(path, rule) for path in column.to_pylist()]), 0
    return rule.encode(table, strict=strict)


def what_is_unknown(rule: LabelRule) -> str:
    """Return in words what a label is that training did not have."""
    kinds = {
        "regression": "what is no number",
        "token_classification": "a tag that training has not",
        **dict.fromkeys(SPEECH_KINDS, "a character that training has not"),
    }
    return kinds.get(rule.kind, "a class that training has not")


def in_memory(rows: Rows) -> TensorData | SequenceData | ImageRows | AudioRows:
    """Return the rows that are in memory: all, or of those that are streamed a sample."""
    return rows.sample if isinstance(rows, (StreamRows, StreamSets)) else rows


def labelled_rows(rows: Rows, task: str) -> Tensor:
    """Return bool [N]: which rows have a label of a task; of masks, which rows have one. Of streamed rows, a sample."""
    rows = in_memory(rows)
    if isinstance(rows, AudioRows) and task in rows.front_ends:
        return ~rows.absent[task]
    if isinstance(rows, ImageRows) and task in rows.masks:
        return torch.tensor([path is not None for path in rows.masks[task]])
    if task not in rows.targets:  # new rows of a run need not have labels of all its tasks
        return torch.zeros(len(rows), dtype=torch.bool)
    return has_label(rows.targets[task])


def label_overlap(rows: Rows, tasks: Sequence[str]) -> Tensor:
    """Return [T, T] float64: how many rows have labels of both tasks; on the diagonal, of the task at all."""
    known = torch.stack([labelled_rows(rows, task) for task in tasks]).double()
    return known @ known.T


def held_out_part(parts: Container[str]) -> str | None:
    """Return the part whose results count: the test, the validation where there is none, None without either."""
    return next((part for part in ("test", "val") if part in parts), None)


def has_label(target: Tensor) -> Tensor:
    """Return bool [N]: which rows of labels [N, ...] hold one that is not missing."""
    known = torch.isfinite(target) if target.is_floating_point() else target != -100
    return known.flatten(1).any(1) if known.ndim > 1 else known


def _presence(path: str | None, rule: LabelRule) -> Tensor:
    classes = len(rule.classes)
    if path is None:
        return torch.full((classes,), torch.nan)
    counts = torch.bincount(decode_mask(path).flatten().long(), minlength=classes)
    strange = [number for number in counts.nonzero().flatten().tolist() if number >= classes and number != rule.missing]
    if strange:
        raise DataError(f"{path}: the mask holds {strange[:5]}; {rule.task!r} knows 0 to {classes - 1}.")
    least = max(1.0, rule.min_share * float(counts.sum()))
    return (counts[:classes].double() >= least).float()


def make_loader(
    rows: Rows,
    config: Config,
    *,
    training: bool = False,
    batch_size: int | None = None,
    in_order: bool = True,
    drop_last: bool | None = None,
    seed: int | None = None,
) -> Loader:
    """Return a loader: shuffled, augmented and without a part of a batch for training, in order otherwise.

    Args:
        rows: the rows.
        config: resolved.
        training: see above.
        batch_size: rows at a time, instead of the usual number.
        drop_last: whether a part of a batch is left out; by default in training, where there is more than that.
        seed: of the order, instead of the configuration's.
        in_order: whether it matters, without training, in which order the rows come; sequences are quicker if not.
    """
    size = min(batch_size or (config.training.batch_size if training else rows_at_once(rows)), len(rows))
    left_out = training and len(rows) > size if drop_last is None else drop_last
    order: dict[str, Any] = {
        "shuffle": training,
        "seed": config.seed if seed is None else seed,
        "drop_last": left_out,
    }
    if isinstance(rows, (StreamRows, StreamSets)):
        return rows.loader(size, workers=config.training.num_workers, **order)
    if isinstance(rows, ImageRows):
        augment = picture_augment(config, rows.missing) if training else None
        return ImageLoader(rows, size, augment=augment, workers=config.training.num_workers, **order)
    if isinstance(rows, AudioRows):
        sounds = sound_augment(config) if training else None
        workers = config.training.num_workers if training else 0
        return AudioLoader(rows, size, augment=sounds, workers=workers, by_length=not in_order, **order)
    if isinstance(rows, SequenceData):
        return LengthLoader(rows, size, by_length=not in_order, **order)
    return TensorLoader(rows, size, **order)


class InTurn:
    """The batches of several loaders, one loader after the other.

    Args:
        loaders: give the batches.
    """

    def __init__(self, loaders: Sequence[Loader]) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return sum(len(loader) for loader in self.loaders)

    def __iter__(self) -> Iterator[Any]:
        for loader in self.loaders:
            yield from loader


def picture_augment(config: Config, missing: int) -> Augment | None:
    """Return how training pictures are changed; None where the configuration says that they are not.

    Args:
        config: the configuration.
        missing: what pixels of masks hold without a class.
    """
    told = config.data.augment
    if told is False:
        return None
    return Augment(**{"missing": missing, **_options(Augment, told)})


def sound_augment(config: Config) -> AugmentAudio | None:
    """Return how training recordings are changed; None where the configuration says that they are not."""
    told = config.data.augment
    return None if told is False else AugmentAudio(**_options(AugmentAudio, told))


def _options(kind: type, told: bool | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the options of `data.augment`, if it tells some.

    Raises:
        ConfigurationError: one that there is not.
    """
    options = told if isinstance(told, Mapping) else {}
    known = list(inspect.signature(kind).parameters)
    for name in options:
        if name not in known:
            raise ConfigurationError(f"data.augment has no option {name!r}; there are {known}.{nearest(name, known)}")
    return options


def image_size(paths: Iterable[str | None], limit: int = 50) -> tuple[int, int]:
    """Return the median height and width of the first pictures, at most 224 each with their ratio kept.

    Raises:
        DataError: there is no picture, or one is broken.
    """
    sizes = [decode_image(path).shape[1:] for path in [p for p in paths if p is not None][:limit]]
    if not sizes:
        raise DataError("there is no picture whose size could be taken: give data.image_size.")
    height, width = (round(statistics.median(side)) for side in zip(*sizes, strict=True))
    shrink = min(1.0, LARGEST / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))
