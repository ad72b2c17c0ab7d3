"""Runs that read one text as a sequence: which columns, which labels, what each task reads."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lepton.config import Config, trunks
from lepton.data import SEQUENCE_KINDS, Column, Kind, LabelRule, SequenceData, SequenceEncoder, Tokenizer, is_list
from lepton.errors import ConfigurationError
from lepton.run._rows import what_is_unknown

if TYPE_CHECKING:
    import pyarrow as pa


__all__ = [
    "EXAMPLE_TOKENS",
    "encode_sequences",
    "example_sequences",
    "fit_sequences",
    "prediction_rows",
    "readers_of",
    "reads_sequences",
    "sequence_rows",
    "sequence_rules",
]

_READS = {
    "language_modeling": "causal",
    "translation": "target",
    "token_classification": "full",
    "speech_recognition": "frames",
}

_READABLE = ("text", "tokens", "category", "labels", "ignore")
"""Kinds of columns that may be texts, or lists of words."""

_USUAL = ("words", "tokens", "text", "sentence")
"""Names that a column of texts usually has: where several columns could be read, one of these is."""

EXAMPLE_TOKENS = 20
"""Tokens of the row whose operations are counted, and whose second text is as long."""

EXAMPLE_LETTERS = 8
"""Characters of each of its words."""


# -- before training ----------------------------------------------------------------------------------------------
def reads_sequences(trunk: str) -> bool:
    """Return whether a trunk, by its name in YAML, reads tokens."""
    kind = trunks().get(trunk)
    return kind is not None and "readers" in inspect.signature(kind).parameters


def sequence_rules(
    config: Config, table: pa.Table, columns: Sequence[Column], rules: Sequence[LabelRule]
) -> tuple[Column, list[LabelRule]] | None:
    """Return the column that is read as a sequence, and the rules with the columns that they read.

    Returns:
        None for a configuration that reads no sequence.

    Raises:
        ConfigurationError: it is not clear which column is read, or a task does not go with it.
    """
    special = [rule for rule in rules if rule.kind in SEQUENCE_KINDS]
    if not special and not reads_sequences(config.trunk.type):
        return None
    if config.trunk.type != "auto" and config.trunk.type != "custom" and not reads_sequences(config.trunk.type):
        raise ConfigurationError(
            f"task {special[0].task!r} predicts something for every position of a text, which the trunk "
            f"{config.trunk.type!r} does not give: choose trunk: auto or transformer."
        )
    source = _source(config, table, columns, rules)
    for rule in special:
        if rule.kind == "language_modeling" and rule.columns not in ((), (source.name,)):
            raise ConfigurationError(
                f"task {rule.task!r}: a language model predicts the text that the trunk reads, {source.name!r}, not "
                f"{rule.columns[0]!r}."
            )
        if rule.kind == "token_classification" and not is_list(table.column(source.name)):
            raise ConfigurationError(
                f"task {rule.task!r} has a tag for each word, so the input must be lists of words; column "
                f"{source.name!r} holds {table.column(source.name).type}."
            )
    targets = {rule.columns[0] for rule in special if rule.kind == "translation"}
    if len(targets) > 1:
        raise ConfigurationError(f"a run translates into one column, not into {sorted(targets)}.")
    if targets and config.trunk.type not in ("auto", "transformer"):
        raise ConfigurationError(
            f"a translation is searched for on the trunk 'transformer', not on {config.trunk.type!r}."
        )
    if source.name in {name for rule in rules if rule.kind != "language_modeling" for name in rule.columns}:
        raise ConfigurationError(f"column {source.name!r} is the text that is read and one that is predicted.")
    kind: Kind = "words" if is_list(table.column(source.name)) else "text"
    read = dataclasses.replace(source, kind=kind)
    return read, [
        dataclasses.replace(rule, columns=(source.name,)) if rule.kind == "language_modeling" else rule
        for rule in rules
    ]


def _source(config: Config, table: pa.Table, columns: Sequence[Column], rules: Sequence[LabelRule]) -> Column:
    by_name = {column.name: column for column in columns}
    told = list(config.data.inputs or {})
    modelled = [name for rule in rules if rule.kind == "language_modeling" for name in rule.columns]
    taken = {name for rule in rules if rule.kind != "language_modeling" for name in rule.columns}
    if not told and modelled:
        told = modelled[:1]
    if len(told) == 1 and told[0] in by_name:
        return by_name[told[0]]
    if len(told) > 1:
        raise ConfigurationError(f"these tasks read one column as a sequence, but data.inputs names {told}.")
    tagged = any(rule.kind == "token_classification" for rule in rules)
    readable = [
        column
        for column in columns
        if column.name not in taken
        and column.name not in (*config.data.ignore, config.data.split.column)
        and (is_list(table.column(column.name)) if tagged else column.kind in _READABLE)
    ]
    usual = [column for name in _USUAL for column in readable if column.name == name]
    if len(readable) == 1 or usual:
        return readable[0] if len(readable) == 1 else usual[0]
    what = "lists of words" if tagged else "text"
    raise ConfigurationError(
        f"these tasks read one column of {what} as a sequence, but there are {[column.name for column in readable]}: "
        "say which, data: {inputs: {COLUMN: " + ("words" if tagged else "text") + "}}."
    )


def fit_sequences(config: Config, train: pa.Table, source: str, rules: Sequence[LabelRule]) -> SequenceEncoder:
    """Return the encoder of the sequences, fitted on the training rows."""
    target = next((rule.columns[0] for rule in rules if rule.kind == "translation"), None)
    folder = getattr(config.trunk, "folder", None)
    return SequenceEncoder.fit(
        train,
        source,
        target=target,
        vocabulary=config.data.vocabulary,
        max_length=config.data.max_length,
        tokenizer=None if folder is None else Tokenizer.from_folder(folder),
    )


def readers_of(rules: Iterable[LabelRule]) -> dict[str, str]:
    """Return what each task reads of a trunk's states, as trunks of `lepton.nn` for texts and recordings take it."""
    return {rule.task: _READS.get(rule.kind, "pooled") for rule in rules}


def sequence_rows(
    encoder: SequenceEncoder, rules: Sequence[LabelRule], table: pa.Table, *, strict: bool = False
) -> tuple[SequenceData, dict[str, int]]:
    """Return the sequences and labels of a table, and for each task how many labels training has not.

    Args:
        encoder: fitted rules of the sequences.
        rules: rules of the labels.
        table: the rows.
        strict: refuse values that are no class.
    """
    inputs, lengths = encoder.encode(table)
    lengths = dict(lengths)
    targets: dict[str, Tensor] = {}
    unknown: dict[str, int] = {}
    for rule in rules:
        if rule.kind == "language_modeling":
            targets[rule.task], lengths[rule.task] = encoder.language_labels(table), lengths["tokens"]
        elif rule.kind == "translation":
            targets[rule.task], lengths[rule.task] = encoder.target_labels(table), lengths["target"]
        elif rule.kind == "token_classification":
            targets[rule.task], unknown[rule.task] = encoder.tag_labels(table, rule.columns[0], rule.classes)
            lengths[rule.task] = lengths["tokens"]
        else:
            targets[rule.task], unknown[rule.task] = rule.encode(table, strict=strict)
    return SequenceData(inputs, targets, lengths=lengths), unknown


def encode_sequences(
    encoder: SequenceEncoder, rules: Sequence[LabelRule], table: pa.Table, notes: list[str], part: str
) -> SequenceData:
    """Return the sequences and labels of a table; what was cut or not seen in training is noted."""
    rows, unknown = sequence_rows(encoder, rules, table, strict=part == "train")
    for rule in rules:
        if number := unknown.get(rule.task, 0):
            tags = rule.kind == "token_classification"
            where = "labels" if tags else f"of {table.num_rows} rows"
            notes.append(f"{rule.task!r}: {number} {part} {where} hold {what_is_unknown(rule)}.")
    for name, number in encoder.truncated(table).items():
        if number:
            notes.append(f"column {name!r}: {number} of {table.num_rows} {part} texts are cut at data.max_length.")
    for name, number in encoder.unseen(table).items():
        notes.append(
            f"column {name!r}: {number} of {table.num_rows} {part} rows hold a character that training has not."
        )
    return rows


def example_sequences(encoder: SequenceEncoder, rows: int) -> dict[str, Tensor]:
    """Return inputs of rows of `EXAMPLE_TOKENS` tokens, or fewer if texts are shorter, for what needs shapes only."""
    length = min(EXAMPLE_TOKENS, encoder.max_length)
    filled = next(number for number in range(encoder.vocabulary) if number != encoder.pad)
    tokens = torch.full((rows, length), filled)
    found = {"tokens": tokens}
    if encoder.target is not None:
        found["target"] = tokens.clone()
    if encoder.characters:
        found["characters"] = torch.ones(rows, length, EXAMPLE_LETTERS, dtype=torch.int64)
    return found


def prediction_rows(encoder: SequenceEncoder, table: pa.Table) -> SequenceData:
    """Return the sequences of rows to predict: a text that is to be found is empty until it is."""
    if encoder.target is not None and encoder.target not in table.column_names:
        table = table.append_column(encoder.target, [[""] * table.num_rows])
    return encode_sequences(encoder, [], table, [], "predicted")
