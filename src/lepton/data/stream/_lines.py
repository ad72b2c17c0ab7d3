"""Shards of text: CSV and JSON lines, cut into stretches of whole records."""

from __future__ import annotations

import abc
import csv
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

from lepton.data._source import MISSING_WORDS, delimiter_of, trimmed
from lepton.data.stream._blocks import Block, Extent, Found, as_schema, first_line, parted
from lepton.data.stream._places import Place
from lepton.data.stream._quarantine import BadRows, shown
from lepton.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CsvFormat", "JsonFormat"]

STRETCH = 1 << 22
"""Bytes that are read at a time."""

LONGEST = 1 << 20
"""Bytes beyond which a record that is still open is taken for a quotation mark that nobody closed."""

FEW, PARTS = 16, 128
"""Records that are looked at together to find out types, and how many times that of a stretch."""

_ENDINGS = (EOFError, OSError, zlib.error)

Parse: TypeAlias = "Callable[[bytes, pa.Schema | None], pa.Table]"
"""Bytes of whole records, and the types where they are known, to a table."""


@dataclass(frozen=True)
class Stretch:
    """Whole records that follow each other.

    Attributes:
        data: their bytes.
        ends: where each record ends in them [R]; empty lines belong to the record after them.
    """

    data: bytes
    ends: npt.NDArray[np.int64]

    def part(self, start: int, stop: int) -> bytes:
        """Return the bytes of some of the records."""
        return self.data[int(self.ends[start - 1]) if start else 0 : int(self.ends[stop - 1])]


def stretches(file: Any, *, quoted: bool) -> Iterator[Stretch]:
    """Cut what is left of a file into whole records.

    Args:
        file: of bytes.
        quoted: whether a line may end within quotation marks, where it does not end the record.
    """
    rest = b""
    while True:
        read, error = _read(file)
        data = rest + read
        ends = _ends(data, quoted)
        stop = int(ends[-1]) if len(ends) else 0
        rest = data[stop:]
        if not read and error is None:
            if rest.strip():  # the last line need not end
                ends, stop = np.append(ends, len(data)), len(data)
            if stop:
                yield Stretch(data[:stop], ends)
            return
        if stop:
            yield Stretch(data[:stop], ends)
        if error is not None:  # what is left is half a record
            raise OSError(first_line(error)) from error


def _read(file: Any) -> tuple[bytes, Exception | None]:
    """Return the next bytes, none at the end; with those before it what went wrong."""
    read = getattr(file, "read1", file.read)  # which gives what is there, where `read` would lose it to the error
    parts: list[bytes] = []
    held = 0
    while held < STRETCH:
        try:
            part = read(STRETCH - held)
        except _ENDINGS as error:
            return b"".join(parts), error
        if not part:
            break
        parts.append(part)
        held += len(part)
    return b"".join(parts), None


def _ends(data: bytes, quoted: bool) -> npt.NDArray[np.int64]:
    """Return the places after the line breaks that end a record; those of empty lines do not."""
    letters = np.frombuffer(data, np.uint8)
    breaks = np.flatnonzero(letters == ord("\n"))
    if quoted and b'"' in data:
        breaks = _outside_quotes(breaks, np.flatnonzero(letters == ord('"')))
    starts = np.concatenate([[0], breaks[:-1] + 1]) if len(breaks) else breaks
    lengths = breaks - starts
    empty = (lengths == 0) | ((lengths == 1) & (letters[np.minimum(starts, len(letters) - 1)] == ord("\r")))
    ends: npt.NDArray[np.int64] = (breaks + 1)[~empty]
    return ends


def _outside_quotes(breaks: npt.NDArray[np.int64], quotes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the line breaks that an even number of quotation marks stands before."""
    before = np.searchsorted(quotes, breaks)
    outside: npt.NDArray[np.int64] = breaks[before % 2 == 0]
    last = int(outside[-1]) if len(outside) else -1
    inside = breaks[breaks > last]
    if len(inside) and int(inside[-1]) - last > LONGEST:
        # One is never closed: the line that holds it is a record, and counting begins anew after it.
        closed = int(inside[0])
        further = _outside_quotes(breaks[breaks > closed], quotes[quotes > closed])
        return np.concatenate([outside, [closed], further])
    return outside


class _Lines(abc.ABC):
    """What both formats share: a group is a stretch of records, or the whole of a packed file."""

    quoted: bool

    def look(self, place: Place) -> Found:
        """Count the records of a shard, and find out types from its first, its last and what lies between."""
        extents, bad, kept = [], [], []
        rows = 0
        with place.open() as file:
            at, parse = self._begin(place, file)
            try:
                for number, stretch in enumerate(stretches(file, quoted=self.quoted)):
                    extents.append(Extent(len(stretch.ends), rows, at, at + len(stretch.data)))
                    rows += len(stretch.ends)
                    at += len(stretch.data)
                    if number & (number + 1) == 0:  # 0, 1, 3, 7, ...: few, and all over the file
                        kept.append(stretch)
            except OSError as error:
                bad.append(BadRows(place.name, rows, f"ends here: {first_line(error)}"))
        if place.packed:
            extents = [Extent(rows, 0, 0, -1)] if rows else []
        return Found(extents, _schema(kept, parse), bad)

    def blocks(self, place: Place, extent: Extent, schema: pa.Schema, rows: int) -> Iterator[Block]:
        """Read a stretch, or what is left of a packed file."""
        row = 0
        try:
            with place.open() as file:
                _, parse = self._begin(place, file)
                for stretch in _stretches_of(file, extent, quoted=self.quoted):
                    block = _parsed(stretch, parse, schema, place, extent.first + row)
                    block.numbers += row
                    row += len(stretch.ends)
                    block.stop = row
                    yield block
                    if row >= extent.rows:
                        return
        except OSError as error:
            lost = BadRows(
                place.name, extent.first + row, f"cannot be read: {first_line(error)}", "", extent.rows - row
            )
            yield Block(schema.empty_table(), np.zeros(0, np.int64), extent.rows, [lost])

    @abc.abstractmethod
    def _begin(self, place: Place, file: Any) -> tuple[int, Parse]:
        """Read a file's head; return where its rows begin, and how bytes become a table."""


def _stretches_of(file: Any, extent: Extent, *, quoted: bool) -> Iterator[Stretch]:
    if extent.end < 0:
        yield from stretches(file, quoted=quoted)
        return
    file.seek(extent.at)
    held = io.BytesIO(file.read(extent.end - extent.at))
    data = held.getvalue()
    if len(data) < extent.end - extent.at:
        raise OSError("the file is shorter than it was")
    ends = _ends(data, quoted)
    whole = len(ends) and not data[int(ends[-1]) :].strip()
    yield Stretch(data, ends if whole else np.append(ends, len(data)))


def _schema(kept: list[Stretch], parse: Parse) -> pa.Schema:
    """Return the columns of some stretches, each of the type that most of its rows have."""
    import pyarrow as pa

    votes: dict[str, Counter[pa.DataType]] = {}
    for stretch in kept:
        for table in _looked_at(stretch, parse):
            for one in table.schema:
                kind = pa.float64() if pa.types.is_integer(one.type) else one.type  # a fraction may come in any row
                votes.setdefault(one.name, Counter())[kind] += 0 if pa.types.is_null(kind) else table.num_rows
    return pa.schema([(name, kinds.most_common(1)[0][0]) for name, kinds in votes.items()])


def _looked_at(stretch: Stretch, parse: Parse) -> Iterator[pa.Table]:
    """Yield a few records at a time: one with a wrong value decides for its neighbours only."""
    records = len(stretch.ends)
    for start in range(0, records, max(FEW, records // PARTS // FEW * FEW)):
        few = parted(
            lambda low, high: parse(stretch.part(low, high), None), start, min(start + FEW, records), _unreadable()
        )
        yield from (table for _, _, table in few if not isinstance(table, Exception))


def _unreadable() -> tuple[type[Exception], ...]:
    import pyarrow as pa

    return (pa.ArrowException, UnicodeDecodeError)


def _parsed(
    stretch: Stretch,
    parse: Parse,
    schema: pa.Schema,
    place: Place,
    first: int,
) -> Block:
    """Parse a stretch; records that cannot be parsed are found one by one."""
    import pyarrow as pa

    tables, numbers, bad = [], [], []

    def use(start: int, stop: int) -> pa.Table:
        table = parse(stretch.part(start, stop), schema)
        if table.num_rows != stop - start:
            raise pa.ArrowInvalid(f"{stop - start} lines hold {table.num_rows} rows")
        return as_schema(table, schema)

    for start, stop, found in parted(use, 0, len(stretch.ends), _unreadable()):
        if isinstance(found, Exception):
            text = stretch.part(start, stop).decode("utf-8", "backslashreplace").strip()
            bad.append(BadRows(place.name, first + start, first_line(found), shown(text)))
        else:
            tables.append(found)
            numbers.append(np.arange(start, stop))
    joined = pa.concat_tables(tables) if tables else schema.empty_table()
    return Block(joined, np.concatenate([np.zeros(0, np.int64), *numbers]), len(stretch.ends), bad)


@final
class CsvFormat(_Lines):
    """CSV, also packed; the delimiter is found out."""

    quoted = True

    def _begin(self, place: Place, file: Any) -> tuple[int, Parse]:
        head = file.readline()
        if not head:
            raise OSError("it is empty")
        sample = head + (file.peek(STRETCH)[: 1 << 16] if hasattr(file, "peek") else b"")
        delimiter = delimiter_of(sample.decode("utf-8-sig", "replace"), place.name)
        line = head.decode("utf-8-sig", "replace")
        names = [name.strip() for name in next(csv.reader(io.StringIO(line), delimiter=delimiter))]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{place.name} has more than one column named {twice!r}: rename one of them.")
        return len(head), partial(_parse_csv, names, delimiter)


def _parse_csv(names: list[str], delimiter: str, data: bytes, schema: pa.Schema | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    # Where the delimiter is none, a comma may be a point: what a column holds is found out for every stretch.
    told = {} if schema is None or delimiter != "," else {one.name: one.type for one in schema if one.name in names}
    table = arrow_csv.read_csv(
        pa.BufferReader(data),
        read_options=arrow_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
        parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            null_values=list(MISSING_WORDS),
            strings_can_be_null=True,
            column_types=told,
            include_columns=None if schema is None else [name for name in schema.names if name in names],
        ),
    )
    binary = next((one.name for one in table.schema if pa.types.is_binary(one.type)), None)
    if binary is not None:  # what Arrow makes of bytes that are no UTF-8
        raise pa.ArrowInvalid(f"column {binary!r} is no UTF-8 text")
    return trimmed(table, decimal_comma=delimiter != ",")


@final
class JsonFormat(_Lines):
    """JSON lines, also packed: one object in each."""

    quoted = False

    def _begin(self, place: Place, file: Any) -> tuple[int, Parse]:
        return 0, _parse_json


def _parse_json(data: bytes, schema: pa.Schema | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.json as arrow_json

    told = {} if schema is None else {"explicit_schema": schema, "unexpected_field_behavior": "ignore"}
    return arrow_json.read_json(
        pa.BufferReader(data),
        read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=arrow_json.ParseOptions(newlines_in_values=False, **told),
    )
