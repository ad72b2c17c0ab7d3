"""Predictions as the kind of table that people gave."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.data._files import write_atomically
from lepton.data._kinds import find_column
from lepton.errors import ConfigurationError, import_extra

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["beside", "frame_of", "write_table"]


def frame_of(columns: Mapping[str, Any], source: Any) -> Any:
    """Return columns as a pyarrow Table where one was given, otherwise as a pandas DataFrame with the source's index.

    Raises:
        MissingExtraError: pandas is needed and not installed.
    """
    import pyarrow as pa

    if isinstance(source, (pa.Table, pa.RecordBatch)):
        return pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()})
    pandas = import_extra("pandas", "tables", "a DataFrame of predictions (pyarrow tables need none)")
    index = source.index if isinstance(source, pandas.DataFrame) else None
    return pandas.DataFrame(dict(columns), index=index)


def beside(rows: Any, names: Sequence[str], predictions: Any) -> Any:
    """Return columns of the rows and, to their right, the predictions.

    Args:
        rows: an Arrow table.
        names: the columns to keep.
        predictions: an Arrow table of as many rows.

    Raises:
        DataError: there is no such column.
        ConfigurationError: a prediction has the same name.
    """
    import pyarrow as pa

    kept = {name: find_column(rows, name) for name in names}
    both = sorted(set(kept) & set(predictions.column_names))
    if both:
        raise ConfigurationError(f"column {both[0]!r} cannot be kept: the predictions have one of that name.")
    return pa.table(kept | {name: predictions.column(name) for name in predictions.column_names})


def write_table(table: Any, path: Path) -> None:
    """Write an Arrow table as CSV, Parquet or JSON lines, by the file's ending: whole or not at all, over no other.

    Args:
        table: an Arrow table, as `Run.predict` returns it for one.
        path: the file; it must not be there yet.

    Raises:
        ConfigurationError: another ending, or the file is there already.
        OSError: the folder is not there, or the disk is full.
    """
    if path.exists():
        raise ConfigurationError(f"{path} is there already: choose another file.")
    if path.suffix not in _WRITERS:
        raise ConfigurationError(f"{path}: the ending must be .csv, .parquet or .jsonl.")
    write_atomically(path, _WRITERS[path.suffix](table))


def _csv(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    arrow_csv.write_csv(_without_lists(table), out := pa.BufferOutputStream())
    return out.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _parquet(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    parquet.write_table(table, out := pa.BufferOutputStream())
    return out.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _json_lines(table: pa.Table) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()).encode()


_WRITERS = {".csv": _csv, ".parquet": _parquet, ".jsonl": _json_lines, ".ndjson": _json_lines}


def _without_lists(table: Any) -> Any:
    """Return the table with lists of words as words parted by semicolons, which CSV can hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, column in enumerate(table.schema):
        if pa.types.is_list(column.type):
            table = table.set_column(place, column.name, pc.binary_join(table.column(place), ";"))
    return table
