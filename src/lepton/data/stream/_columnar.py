"""Shards in Parquet and Arrow: row groups and record batches."""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton.data.stream._blocks import Block, Extent, Found, first_line, fitted
from lepton.data.stream._places import Place
from lepton.data.stream._quarantine import BadRows

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ArrowFormat", "ParquetFormat"]

AT_ONCE = 1 << 17
"""Rows up to which a row group is read as a whole; of a larger one a window is decoded after the other."""


class ParquetFormat:
    """Parquet: a group is a row group. Without its end, the footer, such a file tells nothing."""

    def look(self, place: Place) -> Found:
        with place.open() as file:
            parquet = _parquet(file)
            sizes = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
            firsts = np.cumsum([0, *sizes]).tolist()
            extents = [Extent(size, firsts[number], number) for number, size in enumerate(sizes)]
            return Found(extents, parquet.schema_arrow)

    def blocks(self, place: Place, extent: Extent, schema: pa.Schema, rows: int) -> Iterator[Block]:
        import pyarrow as pa

        row = 0
        try:
            with place.open() as file:
                parquet = _parquet(file)
                there = set(parquet.schema_arrow.names)
                columns = [name for name in schema.names if name in there]
                for table in _row_group(parquet, extent, columns, rows):
                    yield _numbered(fitted(table, schema, place.name, row), extent)
                    row += table.num_rows
        except (pa.ArrowException, OSError) as error:
            yield _lost(place, extent, row, schema, error)


def _parquet(file: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if not (isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO)):
        return parquet.ParquetFile(file, page_checksum_verification=True)
    # A file of this machine: Arrow reads it without asking Python, and its end needs to be read once only.
    about = os.fstat(file.fileno())
    metadata = _metadata(str(file.name), about.st_size, about.st_mtime_ns)
    return parquet.ParquetFile(pa.OSFile(str(file.name)), metadata=metadata, page_checksum_verification=True)


@functools.lru_cache(maxsize=16)
def _metadata(path: str, size: int, changed: int) -> Any:
    import pyarrow.parquet as parquet

    del size, changed  # of the file that was read: another one has another end
    return parquet.read_metadata(path)


def _row_group(parquet: Any, extent: Extent, columns: list[str], rows: int) -> Iterator[pa.Table]:
    import pyarrow as pa

    if not columns:  # none of the wanted ones: all are missing
        yield pa.table({"": pa.nulls(extent.rows)})
    elif extent.rows <= AT_ONCE:
        yield parquet.read_row_group(extent.at, columns=columns)
    else:
        for batch in parquet.iter_batches(batch_size=rows, row_groups=[extent.at], columns=columns):
            yield pa.Table.from_batches([batch])


def _numbered(block: Block, extent: Extent) -> Block:
    """Number the bad rows as the shard does."""
    bad = [BadRows(bad.file, extent.first + (bad.row or 0), bad.reason, bad.text, bad.rows) for bad in block.bad]
    return Block(block.table, block.numbers, block.stop, bad)


def _lost(place: Place, extent: Extent, row: int, schema: pa.Schema, error: Exception) -> Block:
    """Return what is left of a group that can be read up to a row only: nothing."""
    rows = extent.rows - row
    bad = [BadRows(place.name, extent.first + row, f"cannot be read: {first_line(error)}", "", rows)] if rows else []
    return Block(schema.empty_table(), np.zeros(0, np.int64), extent.rows, bad)


class ArrowFormat:
    """Arrow and Feather: a group is a record batch. A stream, and a file without its end, is one of its own."""

    def look(self, place: Place) -> Found:
        import pyarrow as pa

        with place.open() as file:
            try:
                schema = pa.ipc.open_file(file).schema
            except pa.ArrowInvalid:
                return self._look_in_order(place)
            file.seek(0)
            reader = pa.ipc.open_file(file, options=_first_column())
            sizes = [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)]
            firsts = np.cumsum([0, *sizes]).tolist()
            extents = [Extent(size, firsts[number], number) for number, size in enumerate(sizes)]
            return Found(extents, schema)

    def _look_in_order(self, place: Place) -> Found:
        import pyarrow as pa

        with place.open() as file:
            schema = _stream(file, pa.ipc.IpcReadOptions()).schema
            file.seek(0)
            reader = _stream(file, _first_column())
            rows, bad = 0, []
            try:
                for batch in reader:
                    rows += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                bad.append(BadRows(place.name, rows, f"ends here: {first_line(error)}"))
            return Found([Extent(rows, 0, -1)] if rows else [], schema, bad)

    def blocks(self, place: Place, extent: Extent, schema: pa.Schema, rows: int) -> Iterator[Block]:
        import pyarrow as pa

        row = 0
        try:
            with place.open() as file:
                for batch in _batches(file, extent, schema):
                    if row == extent.rows:  # the broken end comes next
                        return
                    yield _numbered(fitted(pa.Table.from_batches([batch]), schema, place.name, row), extent)
                    row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            yield _lost(place, extent, row, schema, error)


def _first_column() -> Any:
    import pyarrow as pa

    return pa.ipc.IpcReadOptions(included_fields=[0])  # enough to count rows


def _stream(file: Any, options: Any) -> Any:
    import pyarrow as pa

    if file.read(8) != b"ARROW1\0\0":  # what a file has before the same messages as a stream
        file.seek(0)
    return pa.ipc.open_stream(file, options=options)


def _batches(file: Any, extent: Extent, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions()
    if extent.at >= 0:
        reader = pa.ipc.open_file(file)
        wanted = [place for place, name in enumerate(reader.schema.names) if name in schema.names]
        options = pa.ipc.IpcReadOptions(included_fields=wanted or [0])
        file.seek(0)
        yield pa.ipc.open_file(file, options=options).get_batch(extent.at)
        return
    reader = _stream(file, options)
    counted = 0
    while counted < extent.rows:
        batch = reader.read_next_batch()
        counted += batch.num_rows
        yield batch
