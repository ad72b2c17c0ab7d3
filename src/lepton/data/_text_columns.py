"""Columns of texts and of lists of words, as what a vocabulary is applied to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lepton.data._arrays import as_words, decoded, reading
from lepton.data._kinds import find_column
from lepton.data._ragged import Ints
from lepton.data._targets import is_list
from lepton.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["find_text", "flat_words", "list_lengths", "split_words", "text_sizes", "texts_of", "words_of"]

_SAMPLE = 20_000


def find_text(table: pa.Table, name: str | None) -> None:
    """Raise for a column that is not there; of parallel files, it is a file that is not there."""
    try:
        if name is not None:
            find_column(table, name)
    except DataError as error:
        raise DataError(
            f"{error} Parallel files of text give a column for each language: is the one that ends in '.{name}' or "
            f"'.{name}.gz' missing?"
        ) from error


def texts_of(name: str, column: pa.ChunkedArray) -> list[str | None]:
    """Return the texts of a column as they are, spaces included; numbers and dates as words."""
    import pyarrow as pa

    if is_list(column):
        raise DataError(f"column {name!r} holds lists of words where texts are expected: join them with spaces.")
    with reading(name, "texts"):
        column = decoded(column)
        return (column if pa.types.is_string(column.type) else as_words(column)).to_pylist()  # type: ignore[no-any-return]


def text_sizes(name: str, column: pa.ChunkedArray) -> tuple[float, float]:
    """Return how many words, parted by spaces, and how many letters the texts of a column have, in the median.

    Args:
        name: the column's name, for messages.
        column: the texts; the first 20 000 that are there are looked at.

    Raises:
        DataError: it holds lists.
    """
    texts = [text for text in texts_of(name, column.drop_null().slice(0, _SAMPLE)) if text]
    if not texts:
        return 0.0, 0.0
    return float(np.median([len(text.split()) for text in texts])), float(np.median([len(text) for text in texts]))


def split_words(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of lists of words; texts are cut at their spaces."""
    import pyarrow as pa

    if is_list(column):
        return column
    texts = texts_of(name, column)
    return pa.chunked_array(
        [pa.array([text if text is None else text.split() for text in texts], pa.list_(pa.string()))]
    )


def flat_words(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the words of all lists, one after the other."""
    import pyarrow.compute as pc

    if not is_list(column):
        raise DataError(f"column {name!r} must hold lists of words, but it holds {column.type}.")
    return pc.list_flatten(column)


def words_of(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the words of all rows as strings, one after the other."""
    with reading(name, "words"):
        return as_words(flat_words(name, split_words(name, column)))


def list_lengths(column: pa.ChunkedArray) -> Ints:
    """Return how many values each list holds [N], 0 where it is missing."""
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
