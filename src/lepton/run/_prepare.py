"""From a configuration and a source to rows ready for training, with everything that was decided on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton.config import Config, check_config, content_of
from lepton.data import (
    SEQUENCE_KINDS,
    SPEECH_KINDS,
    Column,
    Encoder,
    InputEncoder,
    LabelRule,
    Rows,
    Split,
    SplitRule,
    describe_columns,
    read_table,
)
from lepton.errors import ConfigurationError, DataError, nearest
from lepton.run._adapters import check_start
from lepton.run._encoding import encode_rows
from lepton.run._label_rules import check_labels, check_names, label_rule, with_training_tags
from lepton.run._own_parts import held_out
from lepton.run._resolve import check_trunk, resolved
from lepton.run._samples import encoded_sample, usable_samples
from lepton.run._sequences import fit_sequences, sequence_rules
from lepton.run._set_streams import Streams, opened_parts, streamed_rows
from lepton.run._sets import SET, divide_sets, read_sets, with_other_sources, without_sets
from lepton.run._speech import audio_rules, fit_recordings, with_characters
from lepton.run._start import check_columns, check_rules, old_order, read_old_run, started_config
from lepton.run._streaming import is_streamed, stream_note
from lepton.run._text_inputs import with_text_kinds

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Prepared", "prepare", "read_source", "split_rule", "split_tables"]


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
    if source is not None and config.data.sources is not None:
        raise ConfigurationError("the rows are given, but data.sources names some as well: leave out one of both.")
    notes: list[str] = []
    config, known = _begun(config, kept)
    read = _read(config, source)
    if known is not None:
        check_columns(known.encoder, read.table, known.owner)
    chosen = _chosen(read, notes)
    split, tables = _divided(read, chosen.rules)
    if read.streams:
        notes.append(stream_note(read.streams["train"], tables))
    fitted = _fitted(read, chosen, tables["train"], known, notes)
    n_rows = len(read.streams["train"]) if read.streams else tables["train"].num_rows
    final = resolved(read.config, fitted.inputs, fitted.rules, fitted.encoder, tables["train"], n_rows)
    encoded = {part: _encoded(read, final, fitted, rows, notes, part) for part, rows in tables.items()}
    tables = {part: rows for part, (rows, _) in encoded.items()}
    data = {part: rows for part, (_, rows) in encoded.items()}
    check_labels(fitted.rules, data, notes)
    if read.streams:
        data = streamed_rows(final, fitted.encoder, fitted.rules, read.streams, data)
    table = tables["train"] if read.streams else read.table
    return Prepared(final, fitted.columns, fitted.encoder, fitted.rules, split, data, tables, table, notes)


@dataclass(frozen=True)
class _Known:
    """Rules that the weights know already, and whose they are."""

    encoder: Encoder
    rules: Sequence[LabelRule]
    owner: str


@dataclass(frozen=True)
class _Read:
    """Rows before anything is fitted on them, or some of those that are streamed."""

    config: Config
    table: pa.Table
    columns: list[Column]
    streams: Streams
    samples: Mapping[str, pa.Table]
    how: str

    @property
    def kinds(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}


@dataclass(frozen=True)
class _Chosen:
    """What is read and what is predicted."""

    inputs: list[Column]
    rules: list[LabelRule]
    audio: bool
    single: bool  # whether one column of recordings, or of texts that are sequences, is read


@dataclass(frozen=True)
class _Fitted:
    """Rules that are ready."""

    columns: list[Column]
    inputs: list[Column]
    rules: list[LabelRule]
    encoder: Encoder


def _begun(config: Config, kept: tuple[Encoder, Sequence[LabelRule]] | None) -> tuple[Config, _Known | None]:
    """Return the configuration as the run that the training starts from asks for, and the rules that there are."""
    known = None if kept is None else _Known(*kept, owner="the run")
    if kept is None and config.start is not None and config.start.run is not None:
        old = read_old_run(config.start.run)
        known = _Known(old.encoder, old.rules, f"the run {str(old.folder)!r}")
        config = started_config(config, old)
    check_start(config)
    return config, known


def _read(config: Config, source: Any) -> _Read:
    streams: Streams = {}
    samples: Mapping[str, pa.Table] = {}
    how = ""
    if is_streamed(config, source):
        streams, how = opened_parts(config, source)
        samples = usable_samples(config, streams)
        table = samples["train"]
        content = content_of(config)
        content["data"]["stream"] = True
        config = check_config(content)
    else:
        table = read_source(config, source)
    columns = describe_columns(without_sets(table), config.data.kinds, config.data.date_formats)
    return _Read(config, table, columns, streams, samples, how)


def _chosen(read: _Read, notes: list[str]) -> _Chosen:
    config, kinds = read.config, read.kinds
    rules = [label_rule(name, section, read.table, kinds) for name, section in config.tasks.items()]
    for name in [*config.data.ignore, *(config.data.inputs or {})]:
        if name not in kinds:
            raise DataError(f"there is no column {name!r}.{nearest(name, kinds)}")
    audio = audio_rules(config, read.columns, rules, notes)
    single = audio or sequence_rules(config, read.table, read.columns, rules)
    inputs = _inputs(config, read.columns, rules, notes) if single is None else [single[0]]
    rules = rules if single is None else single[1]
    check_names(rules)
    return _Chosen(inputs, rules, audio is not None, single is not None)


def _divided(read: _Read, rules: Sequence[LabelRule]) -> tuple[Split, dict[str, pa.Table]]:
    if read.streams:
        return Split({}, read.streams["train"].fingerprint, read.how), dict(read.samples)
    divide = split_rule(read.config, rules, read.kinds)
    several = SET in read.table.column_names
    split = divide_sets(read.config, divide, read.table) if several else divide.apply(read.table)
    return split, split_tables(read.config, read.table, split)


def _fitted(read: _Read, chosen: _Chosen, train: pa.Table, known: _Known | None, notes: list[str]) -> _Fitted:
    config, columns, inputs = read.config, read.columns, chosen.inputs
    rules = [with_training_tags(rule, config.tasks[rule.task], train) for rule in chosen.rules]
    encoder: Encoder
    if known is not None:
        encoder = known.encoder
        check_rules(encoder, rules, known.owner)
        rules = old_order(with_characters(encoder, rules), known.rules, config.tasks)
    elif chosen.audio:
        encoder, rules = fit_recordings(config, train, inputs[0].name, rules)
    elif chosen.single:
        encoder = fit_sequences(config, train, inputs[0].name, rules)
    else:
        inputs = with_text_kinds(config, inputs, train, notes)
        columns = [{each.name: each for each in inputs}.get(column.name, column) for column in columns]
        lengths = {"vocabulary": config.data.vocabulary, "max_length": config.data.max_length}
        encoder = InputEncoder.fit(train, inputs, **lengths)
    if isinstance(encoder, InputEncoder):
        check_trunk(config, encoder)
    return _Fitted(columns, inputs, rules, encoder)


def _encoded(
    read: _Read, config: Config, fitted: _Fitted, table: pa.Table, notes: list[str], part: str
) -> tuple[pa.Table, Rows]:
    """Return the rows that are used, and their inputs and labels."""
    told = (config, fitted.encoder, fitted.rules, table, notes, part)
    return encoded_sample(*told) if read.streams else (table, encode_rows(*told))


def read_source(config: Config, source: Any = None) -> pa.Table:
    """Return the rows of a source, at most as many as `config.data.limit` says.

    Args:
        config: the configuration.
        source: what is read; by default `config.data.source`.
    """
    if source is None and config.data.sources is not None:
        return read_sets(config)
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
    if config.data.sources is None:
        told |= held_out(config).shares
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
    if config.data.sources is not None:
        return with_other_sources(config, tables)
    return tables | {part: read_source(config, source) for part, source in held_out(config).others.items()}
