"""From a configuration and a source to rows ready for training, with everything that was decided on the way."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton.config import Config, check_config, content_of, trunks
from lepton.data import (
    SEQUENCE_KINDS,
    SPEECH_KINDS,
    AudioEncoder,
    Column,
    Encoder,
    InputEncoder,
    LabelRule,
    Rows,
    SequenceEncoder,
    Split,
    SplitRule,
    describe_columns,
    read_table,
)
from lepton.errors import ConfigurationError, DataError, nearest
from lepton.run._adapters import check_start, is_trunk_held
from lepton.run._label_rules import check_labels, check_names, label_rule, with_training_tags
from lepton.run._rows import image_size, labels_of, rows_of
from lepton.run._sequences import encode_sequences, fit_sequences, sequence_rules
from lepton.run._speech import audio_rules, encode_recordings, fit_recordings, with_characters
from lepton.run._start import check_columns, check_rules, old_order, read_old_run, started_config
from lepton.run._streaming import StreamSource, is_streamed, open_streams, stream_note, streamed_parts
from lepton.run._text_inputs import TEXT_LEARNING_RATE, TEXT_TRUNK, cut_texts, with_text_kinds

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Prepared", "encode_rows", "planned_training", "prepare", "read_source", "split_rule", "split_tables"]

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


@dataclass
class Prepared:
    """What is known before training.

    Attributes:
        config: the configuration with every decision written out.
        columns: what each column of the source was taken for.
        encoder: rules of the inputs, fitted on the training rows.
        rules: rules of the labels, task by task.
        split: row numbers of the parts that come from the source.
        data: part -> encoded rows.
        tables: part -> rows as they were read.
        table: the source; of one that is streamed, a sample of the training rows, as in `tables`.
        notes: sentences about what was decided or looks odd.
    """

    config: Config
    columns: list[Column]
    encoder: Encoder
    rules: list[LabelRule]
    split: Split
    data: dict[str, Rows]
    tables: dict[str, pa.Table]
    table: pa.Table
    notes: list[str] = field(default_factory=list)


def prepare(config: Config, source: Any = None, *, kept: tuple[Encoder, Sequence[LabelRule]] | None = None) -> Prepared:
    """Read, understand, split and encode.

    The rules of the inputs are fitted on the training rows, unless there are some that the weights know already: those
    of the run in `config.start`, or `kept`.

    Args:
        config: the configuration.
        source: rows in memory, instead of `config.data.source`.
        kept: rules of inputs and labels that are there already, for a resolved configuration.

    Raises:
        DataError: nothing can be learned from these rows.
        ConfigurationError: the configuration does not fit them.
        CheckpointError: the run that the training starts from is none, or damaged.
    """
    notes: list[str] = []
    owner = "the run"
    if kept is None and config.start is not None and config.start.run is not None:
        old = read_old_run(config.start.run)
        kept, owner = (old.encoder, old.rules), f"the run {str(old.folder)!r}"
        config = started_config(config, old)
    check_start(config)
    streams: dict[str, StreamSource] = {}
    if is_streamed(config, source):
        streams, how = open_streams(config, source)
        table = streams["train"].sample
        content = content_of(config)
        content["data"]["stream"] = True
        config = check_config(content)
    else:
        table = read_source(config, source)
    if kept is not None:
        check_columns(kept[0], table, owner)
    columns = describe_columns(table, config.data.kinds, config.data.date_formats)
    kinds = {column.name: column for column in columns}
    rules = [label_rule(name, section, table, kinds) for name, section in config.tasks.items()]
    for name in [*config.data.ignore, *(config.data.inputs or {})]:
        if name not in kinds:
            raise DataError(f"there is no column {name!r}.{nearest(name, kinds)}")
    audio = audio_rules(config, columns, rules, notes)
    single = audio or sequence_rules(config, table, columns, rules)
    if single is None:
        inputs = _inputs(config, columns, rules, notes)
    else:
        inputs, rules = [single[0]], single[1]
    check_names(rules)
    if streams:
        if single is not None:
            raise ConfigurationError(
                "texts that are sequences, and recordings, cannot be streamed by a run yet: set data.stream=false."
            )
        split = Split({}, streams["train"].shards.fingerprint, how)
        tables = {part: opened.sample for part, opened in streams.items()}
        notes.append(stream_note(streams))
    else:
        split = split_rule(config, rules, kinds).apply(table)
        tables = split_tables(config, table, split)
    rules = [with_training_tags(rule, config.tasks[rule.task], tables["train"]) for rule in rules]
    encoder: Encoder
    if kept is not None:
        encoder = kept[0]
        check_rules(encoder, rules, owner)
        if isinstance(encoder, InputEncoder):
            _check_trunk(config, encoder)
        rules = old_order(with_characters(encoder, rules), kept[1], config.tasks)
    elif single is None:
        inputs = with_text_kinds(config, inputs, tables["train"], notes)
        columns = [{each.name: each for each in inputs}.get(column.name, column) for column in columns]
        lengths = {"vocabulary": config.data.vocabulary, "max_length": config.data.max_length}
        encoder = InputEncoder.fit(tables["train"], inputs, **lengths)
        _check_trunk(config, encoder)
    elif audio is not None:
        encoder, rules = fit_recordings(config, tables["train"], inputs[0].name, rules)
    else:
        encoder = fit_sequences(config, tables["train"], inputs[0].name, rules)
    n_rows = len(streams["train"]) if streams else tables["train"].num_rows
    resolved = _resolve(config, inputs, rules, encoder, tables["train"], n_rows)
    data = {part: encode_rows(resolved, encoder, rules, rows, notes, part) for part, rows in tables.items()}
    check_labels(rules, data, notes)
    if streams:
        assert isinstance(encoder, InputEncoder)
        data = streamed_parts(resolved, encoder, rules, streams, data)
    return Prepared(resolved, columns, encoder, rules, split, data, tables, table, notes)


def read_source(config: Config, source: Any = None) -> pa.Table:
    """Return the rows of a source, at most as many as `config.data.limit` says.

    Args:
        config: the configuration.
        source: what is read; by default `config.data.source`.
    """
    table = read_table(config.require_source() if source is None else source)
    limit = config.data.limit
    return table if limit is None else table.slice(0, limit)


# -- inputs -------------------------------------------------------------------------------------------------------
def _inputs(config: Config, columns: Sequence[Column], rules: Sequence[LabelRule], notes: list[str]) -> list[Column]:
    taken = {name for rule in rules for name in rule.columns}
    by_name = {column.name: column for column in columns}
    data = config.data
    if data.inputs is not None:
        both = sorted(taken & set(data.inputs))
        if both:
            raise ConfigurationError(f"column {both[0]!r} is an input and a target: it would be given away.")
        chosen = {name: Column(**{**vars(by_name[name]), "kind": told.kind}) for name, told in data.inputs.items()}
        return list(chosen.values())
    left_out = taken | set(data.ignore) | {data.split.column}
    found = [column for column in columns if column.name not in left_out]
    for column in found:
        if column.kind in ("ignore", "labels"):
            notes.append(f"column {column.name!r} is not used: {column.why}.")
        elif "rest counts as missing" in column.why:
            notes.append(f"column {column.name!r}: {column.why}.")
        if "nothing tells which" in column.why:
            notes.append(
                f"column {column.name!r} may hold dates, but is read as {column.kind}: {column.why}. Say which: "
                f'date_formats={{"{column.name}": "%d/%m/%Y"}}, or write them as YYYY-MM-DD.'
            )
    return [column for column in found if column.kind not in ("ignore", "labels")]


# -- rows ---------------------------------------------------------------------------------------------------------
def split_rule(config: Config, rules: Sequence[LabelRule], columns: Mapping[str, Column]) -> SplitRule:
    """Return how rows are divided.

    Args:
        config: the configuration.
        rules: rules of the labels, whose shares a stratified split keeps alike.
        columns: what the columns were taken for.
    """
    told = config.data.split.model_dump()
    if config.data.val is not None:
        told["val"] = 0.0
    if config.data.test is not None:
        told["test"] = 0.0
    flat = [
        name
        for rule in rules
        for name in rule.columns
        if columns[name].kind not in ("labels", "image") and rule.kind not in (*SEQUENCE_KINDS, *SPEECH_KINDS)
    ]
    by = columns.get(told["column"] or "")
    return SplitRule(**told, targets=flat[:8], date_format=by.date_format if by is not None else "")


def split_tables(config: Config, table: pa.Table, split: Split) -> dict[str, pa.Table]:
    """Return the rows of each part, those of other sources included."""
    tables = {part: table.take(rows.numpy()) for part, rows in split.parts.items()}
    for part, source in (("val", config.data.val), ("test", config.data.test)):
        if source is not None:
            tables[part] = read_source(config, source)
    return tables


def encode_rows(
    config: Config,
    encoder: Encoder,
    rules: Sequence[LabelRule],
    table: pa.Table,
    notes: list[str],
    part: str,
) -> Rows:
    """Return the inputs and labels of a table; what was not seen in training is noted."""
    if isinstance(encoder, SequenceEncoder):
        return encode_sequences(encoder, rules, table, notes, part)
    if isinstance(encoder, AudioEncoder):
        return encode_recordings(config, encoder, rules, table, notes, part)
    targets = {}
    for rule in rules:
        if rule.kind == "segmentation":
            continue
        targets[rule.task], unknown = labels_of(rule, table, strict=part == "train")
        if unknown:
            what = "what is no number" if rule.kind == "regression" else "a class that training has not"
            notes.append(f"{rule.task!r}: {unknown} of {table.num_rows} {part} rows hold {what}.")
    for name, number in encoder.unseen(table).items():
        if number > 0.05 * table.num_rows:
            notes.append(
                f"column {name!r}: {number} of {table.num_rows} {part} rows hold a value that training has not."
            )
    found = rows_of(config, encoder, rules, table, targets)
    notes += cut_texts(encoder, found, part)
    return found


# -- decisions ----------------------------------------------------------------------------------------------------
def _resolve(
    config: Config,
    inputs: Sequence[Column],
    rules: Sequence[LabelRule],
    encoder: Encoder,
    train: pa.Table,
    n_rows: int,
) -> Config:
    """Return the configuration with the decisions of the data written out."""
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


def _check_trunk(config: Config, encoder: InputEncoder) -> None:
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
