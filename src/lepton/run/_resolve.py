"""What the data decide of a configuration: trunk, batches, learning rates, classes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lepton.config import Config, check_config, content_of, trunks
from lepton.data import AudioEncoder, Column, Encoder, InputEncoder, LabelRule, SequenceEncoder
from lepton.errors import ConfigurationError
from lepton.run._adapters import is_trunk_held
from lepton.run._rows import image_size
from lepton.run._text_inputs import TEXT_LEARNING_RATE, TEXT_TRUNK

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["check_trunk", "planned_training", "resolved"]

TABLE_BATCHES = (32, 256)
"""Smallest and largest size of a batch. In benchmarks/batch_size.py 8 rows take two to four times as long on small
tables and are no better."""

IMAGE_BATCHES, SEQUENCE_BATCHES = (8, 32), (8, 64)

BATCHES = 40
"""Batches of an epoch, about, where that is neither less than the smallest nor more than the largest size."""

HEADS_LEARNING_RATE = 1e-3
PRETRAINED: dict[str, Any] = {"learning_rate": HEADS_LEARNING_RATE, "learning_rates": {"trunk": 5e-5}}
"""A trunk that knows a language already would forget it at the heads' rate; Devlin 2019 fine-tunes at 2e-5 to 5e-5."""

STEPS = 2000
"""Optimiser steps that are planned where the number of epochs is not given; early stopping mostly ends before."""


def resolved(
    config: Config,
    inputs: Sequence[Column],
    rules: Sequence[LabelRule],
    encoder: Encoder,
    train: pa.Table,
    n_rows: int,
) -> Config:
    """Return the configuration with the decisions of the data written out.

    Args:
        config: as it was given.
        inputs: the columns that are read.
        rules: rules of the labels.
        encoder: fitted rules of the inputs.
        train: the training rows, or a sample of them.
        n_rows: how many training rows there are.
    """
    content = content_of(config)
    content["data"]["inputs"] = {
        column.name: {"kind": column.kind} for column in inputs if column.name in encoder.names
    }
    found = {column.name: column.date_format for column in inputs if column.kind == "date" and column.date_format}
    content["data"]["date_formats"] = found | content["data"]["date_formats"]
    content["tasks"] = {rule.task: _resolved_task(content["tasks"][rule.task], rule) for rule in rules}
    sequences = isinstance(encoder, SequenceEncoder) or (bool(encoder.tokens) and not encoder.images)
    if config.trunk.type == "auto":
        content["trunk"] = {"type": _trunk_type(encoder, rules)}
    if isinstance(encoder, InputEncoder) and encoder.tokens and content["trunk"]["type"] == "mixed":
        content["trunk"] = {"text": TEXT_TRUNK, **content["trunk"]}
    if isinstance(encoder, InputEncoder) and encoder.images and config.data.image_size is None:
        content["data"]["image_size"] = image_size(encoder.image_paths(train)[encoder.images[0]])
    if isinstance(encoder, AudioEncoder):
        content["data"]["sample_rate"] = encoder.sample_rate
    told = content["training"]
    planned = planned_training(
        n_rows,
        told.get("batch_size"),
        pictures=bool(encoder.images),
        sequences=sequences or isinstance(encoder, AudioEncoder),
    )
    if told.get("max_steps") is not None:
        del planned["max_epochs"]
    if isinstance(encoder, InputEncoder) and encoder.tokens:
        planned["learning_rate"] = TEXT_LEARNING_RATE
    if getattr(config.trunk, "folder", None) is not None:
        held = config.trunk.frozen or is_trunk_held(config)
        planned |= {"learning_rate": HEADS_LEARNING_RATE} if held else PRETRAINED
    content["training"] = planned | told
    return check_config(content)


def planned_training(
    n_rows: int, batch_size: int | None = None, *, pictures: bool = False, sequences: bool = False
) -> dict[str, Any]:
    """Return the options of the training that follow from the number of training rows where they are not given.

    Args:
        n_rows: number of training rows.
        batch_size: if it is given.
        pictures: whether the inputs hold pictures.
        sequences: whether the inputs hold texts that are read as sequences.
    """
    smallest, largest = SEQUENCE_BATCHES if sequences else IMAGE_BATCHES if pictures else TABLE_BATCHES
    fitting = 2 ** round(math.log2(max(1, n_rows / BATCHES)))
    batch = batch_size or min(largest, max(smallest, fitting))
    return {
        "learning_rate": 1e-3 if pictures else 2e-3,
        "batch_size": batch,
        "max_epochs": max(5, min(100, math.ceil(STEPS * batch / n_rows))),
        "patience": 5,
    }


def check_trunk(config: Config, encoder: InputEncoder) -> None:
    """Refuse a trunk that cannot read the inputs; one of the user's own reads what it likes."""
    kind = trunks().get(config.trunk.type)
    if kind is None:
        return
    arguments = inspect.signature(kind).parameters
    if "knots" in arguments:
        fits = not encoder.images and not encoder.tokens
        reads = "no texts as tokens" if encoder.tokens else "no pictures"
    else:
        one_picture = encoder.images == encoder.names and len(encoder.names) == 1
        fits, reads = "table" in arguments or one_picture, "one column of pictures and nothing else"
    if not fits:
        raise ConfigurationError(
            f"the trunk {config.trunk.type!r} reads {reads}, but the inputs are {encoder.names[:12]}: choose trunk: "
            "auto, or other inputs."
        )


def _trunk_type(encoder: Encoder, rules: Sequence[LabelRule]) -> str:
    if isinstance(encoder, SequenceEncoder):
        return "transformer"
    if isinstance(encoder, AudioEncoder):
        return "acoustic"
    if encoder.tokens or (encoder.images and len(encoder.names) > 1):
        return "mixed"
    if not encoder.images:
        return "tabular"
    return "unet" if any(rule.kind == "segmentation" for rule in rules) else "conv"


def _resolved_task(section: dict[str, Any], rule: LabelRule) -> dict[str, Any]:
    found = {**section, "type": rule.kind}
    if rule.kind in ("classification", "segmentation", "token_classification"):
        found["classes"] = list(rule.classes)
    elif rule.kind == "multi_label":
        found["labels"] = list(rule.classes)
    if rule.kind == "regression" and len(rule.columns) > 1:
        found["outputs"] = len(rule.columns)
    return found
