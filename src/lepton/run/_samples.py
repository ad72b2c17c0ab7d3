"""Some rows of a stream, for what only looks at rows: all of their files can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lepton.config import Config
from lepton.data import Column, Encoder, LabelRule, Rows, decode_image, describe_columns, read_audio, usable_rows
from lepton.errors import DataError, LeptonError
from lepton.run._encoding import encode_rows, stream_encode
from lepton.run._set_streams import Streams
from lepton.run._sets import label_columns, without_sets

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["encoded_sample", "usable_samples"]

FILES = 1000
"""Rows of each part that are looked at where each is a picture or a recording, which must be read for that."""

_THUMBNAIL = (64, 64)
"""A JPEG is read at a part of its size where that is enough: the file is gone through all the same."""


def usable_samples(config: Config, streams: Streams) -> dict[str, pa.Table]:
    """Return the sample of each part; where rows name files, fewer rows, none of which names one that is unusable.

    The others are met again, and written down, when they are read to train or to evaluate.

    Args:
        config: the configuration.
        streams: part -> where the rows are.

    Raises:
        DataError: no row of a part is left.
    """
    samples = {part: opened.sample for part, opened in streams.items()}
    columns = describe_columns(without_sets(samples["train"]), config.data.kinds, config.data.date_formats)
    files = [column for column in columns if column.kind in _READ]
    if not files:
        return samples
    needed = _needed(config, columns)
    return {part: _usable(_thinned(table), files, needed, part) for part, table in samples.items()}


def encoded_sample(
    config: Config, encoder: Encoder, rules: Sequence[LabelRule], table: pa.Table, notes: list[str], part: str
) -> tuple[pa.Table, Rows]:
    """Return the sample of a part without rows that cannot be encoded, and its inputs and labels; see `encode_rows`."""
    try:
        return table, encode_rows(config, encoder, rules, table, notes, part)
    except LeptonError:
        usable = usable_rows(table, stream_encode(config, encoder, rules))
        if not 0 < usable.num_rows < table.num_rows:
            raise
    return usable, encode_rows(config, encoder, rules, usable, notes, part)


def _picture(path: str) -> None:
    decode_image(path, _THUMBNAIL)


def _recording(path: str) -> None:
    read_audio(path)


_READ: dict[str, Callable[[str], None]] = {"image": _picture, "audio": _recording}


def _needed(config: Config, columns: list[Column]) -> set[str]:
    """Return the columns of files that every row must have: the only input. Masks, and pictures beside others, not."""
    labels = {name for task in config.tasks for name in label_columns(config, task)}
    left_out = {*labels, *config.data.ignore, config.data.split.column}
    told = config.data.inputs
    read = [c for c in columns if c.name not in left_out and (told is None or c.name in told) and c.kind != "ignore"]
    return {c.name for c in read if c.kind == "audio" or (c.kind == "image" and len(read) == 1)}


def _thinned(table: pa.Table) -> pa.Table:
    if table.num_rows <= FILES:
        return table
    return table.take(np.linspace(0, table.num_rows - 1, FILES).round().astype(int))


def _usable(table: pa.Table, files: list[Column], needed: set[str], part: str) -> pa.Table:
    kept = np.ones(table.num_rows, bool)
    why = ""
    for column in files:
        for row, path in enumerate(table.column(column.name).to_pylist()):
            try:
                if path:
                    _READ[column.kind](path)
                elif column.name in needed:
                    raise DataError(f"column {column.name!r} names no file.")
            except DataError as error:
                kept[row], why = False, str(error)
    if not kept.any():
        raise DataError(f"none of the {len(kept)} {part} rows that were looked at can be used: {why}")
    return table.filter(kept)
