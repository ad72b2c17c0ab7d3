"""Predictions as the kind of table that people gave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton.errors import ConfigurationError, import_extra

__all__ = ["frame_of", "write_table"]


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


def write_table(table: Any, path: Path) -> None:
    """Write an Arrow table as CSV, Parquet or JSON lines, by the file's ending; a file that is there stays.

    Raises:
        ConfigurationError: another ending, or the file is there already.
    """
    import pyarrow.csv as arrow_csv
    import pyarrow.parquet as parquet

    if path.exists():
        raise ConfigurationError(f"{path} is there already: choose another file.")
    if path.suffix == ".csv":
        arrow_csv.write_csv(_without_lists(table), path)
    elif path.suffix == ".parquet":
        parquet.write_table(table, path)
    elif path.suffix in (".jsonl", ".ndjson"):
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    else:
        raise ConfigurationError(f"{path}: the ending must be .csv, .parquet or .jsonl.")


def _without_lists(table: Any) -> Any:
    """Return the table with lists of words as words parted by semicolons, which CSV can hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for place, column in enumerate(table.schema):
        if pa.types.is_list(column.type):
            table = table.set_column(place, column.name, pc.binary_join(table.column(place), ";"))
    return table
