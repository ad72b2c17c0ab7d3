"""Rows as they are read from a shard, and how those that cannot be read are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from lepton.data._arrays import decoded, plain
from lepton.data.stream._quarantine import BadRows
from lepton.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.data.stream._places import Place

__all__ = ["Block", "Extent", "Format", "Found", "as_schema", "common_schema", "first_line", "fitted", "parted"]

T = TypeVar("T")


@dataclass(frozen=True)
class Extent:
    """A group of rows of a shard, as it is found there: a row group, a record batch, a stretch of lines.

    Attributes:
        rows: how many rows it holds.
        first: number of its first row in the shard.
        at: where it begins, as its format counts.
        end: where it ends.
    """

    rows: int
    first: int = 0
    at: int = 0
    end: int = 0


@dataclass
class Block:
    """Rows that follow each other in a group.

    Attributes:
        table: those that can be used.
        numbers: their numbers in the group [M].
        stop: number of the row after the last one that was read or found unusable.
        bad: the others.
    """

    table: pa.Table
    numbers: npt.NDArray[np.int64]
    stop: int
    bad: list[BadRows] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """What is known of a shard before it is read.

    Attributes:
        extents: its groups.
        schema: names and types of its columns.
        bad: what is missing of it.
    """

    extents: list[Extent]
    schema: pa.Schema
    bad: list[BadRows] = field(default_factory=list)


class Format(Protocol):
    """How shards of one kind are read."""

    def look(self, place: Place) -> Found:
        """Return what is known of a shard before it is read.

        Raises:
            OSError: it is not there, or nothing in it can be read; `ArrowException` likewise.
        """

    def blocks(self, place: Place, extent: Extent, schema: pa.Schema, rows: int) -> Iterator[Block]:
        """Read a group of a shard.

        Args:
            place: the shard.
            extent: the group.
            schema: the columns that are wanted, as all shards together have them.
            rows: how many should be read at a time, where the group is large.
        """


# -- what cannot be used ------------------------------------------------------------------------------------------
def first_line(error: Exception) -> str:
    """Return the beginning of what an exception says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def parted(
    use: Callable[[int, int], T], start: int, stop: int, errors: tuple[type[Exception], ...]
) -> Iterator[tuple[int, int, T | Exception]]:
    """Use a stretch as a whole; where that fails, its halves, down to the single ones that cannot be used.

    Args:
        use: is called with the first and the one after the last.
        start: of the stretch.
        stop: of the stretch.
        errors: what it may raise.

    Returns:
        (start, stop, what was returned) or, for a single one that fails, (start, start + 1, the exception).

    Example:
        >>> found = parted(lambda start, stop: [1 // (3 - n) for n in range(start, stop)], 0, 5, (ZeroDivisionError,))
        >>> [(start, stop) for start, stop, found in found]
        [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    if start == stop:
        return
    try:
        found: T | Exception = use(start, stop)
    except errors as error:
        if stop - start > 1:
            middle = (start + stop) // 2
            yield from parted(use, start, middle, errors)
            yield from parted(use, middle, stop, errors)
            return
        found = error
    yield start, stop, found


# -- columns ------------------------------------------------------------------------------------------------------
def common_schema(schemas: Sequence[pa.Schema], shards: Sequence[str]) -> pa.Schema:
    """Return every column that some shard has, of a type that holds what all have.

    Args:
        schemas: of each shard.
        shards: their names, for the message.

    Raises:
        DataError: a column holds lists in one shard and none in another.
    """
    import pyarrow as pa

    types: dict[str, pa.DataType] = {}
    for schema, shard in zip(schemas, shards, strict=True):
        for one in schema:
            kind = _plain_type(one.type)
            known = types.setdefault(one.name, kind)
            if known != kind:
                types[one.name] = _common_type(one.name, known, kind, shard)
    return pa.schema(list(types.items()))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return decoded(plain(pa.chunked_array([pa.array([], kind)]))).type


def _common_type(name: str, one: pa.DataType, other: pa.DataType, shard: str) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_null(one) or pa.types.is_null(other):
        return other if pa.types.is_null(one) else one
    if pa.types.is_nested(one) or pa.types.is_nested(other):
        raise DataError(f"column {name!r} is {one} in the shards before {shard}, and {other} there.")
    numbers = (pa.types.is_integer, pa.types.is_floating)
    kinds = [[of(kind) for of in numbers] for kind in (one, other)]
    if all(map(any, kinds)):
        return pa.int64() if all(kind[0] for kind in kinds) else pa.float64()
    return pa.string()


def fitted(table: pa.Table, schema: pa.Schema, name: str, first: int) -> Block:
    """Return the wanted columns of rows, of the types that all shards share; a column that is not there is missing.

    Args:
        table: the rows.
        schema: the columns.
        name: of the shard.
        first: number of the first row in the group.
    """
    import pyarrow as pa

    def use(start: int, stop: int) -> pa.Table:
        return as_schema(table.slice(start, stop - start), schema)

    tables, numbers, bad = [], [], []
    for start, stop, found in parted(use, 0, table.num_rows, (pa.ArrowException,)):
        if isinstance(found, Exception):
            row = table.slice(start, 1).select([n for n in schema.names if n in table.column_names]).to_pylist()[0]
            bad.append(BadRows(name, first + start, first_line(found), _row_text(row)))
        else:
            tables.append(found)
            numbers.append(np.arange(first + start, first + stop))
    joined = pa.concat_tables(tables) if tables else schema.empty_table()
    return Block(joined, np.concatenate([np.zeros(0, np.int64), *numbers]), first + table.num_rows, bad)


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the wanted columns of rows; one that is not there is missing.

    Raises:
        ArrowException: a value is not of its column's type.
    """
    import pyarrow as pa

    return pa.table([_column(table, field) for field in schema], schema=schema)


def _column(table: pa.Table, wanted: pa.Field) -> pa.ChunkedArray:
    import pyarrow as pa

    if wanted.name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, wanted.type)])
    column = table.column(wanted.name)
    if column.type != wanted.type:
        column = decoded(plain(column))
    return column if column.type == wanted.type else column.cast(wanted.type)


def _row_text(row: dict[str, Any]) -> str:
    import json

    from lepton.data.stream._quarantine import shown

    return shown(json.dumps(row, default=str, ensure_ascii=False))
