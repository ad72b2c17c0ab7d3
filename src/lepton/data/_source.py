"""Files, folders, DataFrames and Arrow tables: everything that can be read as one table."""

from __future__ import annotations

import csv
import gzip
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["IMAGE_SUFFIXES", "MISSING_WORDS", "read_table"]

log = logging.getLogger("lepton")

MISSING_WORDS = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none", "#N/A", "-nan")
"""What stands for a missing value in a text file."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

MAX_BAD_ROWS = 0.01
"""Share of the rows of a file that may be malformed before it is refused."""


def read_table(source: Any) -> pa.Table:
    """Read a source into one Arrow table.

    Args:
        source: a path to a CSV or TSV file (also `.gz`; the delimiter is found out), Parquet, Arrow or Feather, or
            JSON lines (also `.gz`); a folder of images; a pandas DataFrame; a pyarrow Table; a mapping from column
            names to lists; or a list of mappings, one for each row.

            A folder may hold a `metadata.csv`, `.jsonl` or `.parquet` whose paths are relative to it; or sub-folders
            that hold files with the same stems, such as `image/` and `label/`, which become one column each; or one
            sub-folder of images for each class, which gives the columns `image` and `label`.

    Returns:
        The table, with at least one row and one column; names are strings and differ.

    Raises:
        DataError: there is no such file, it cannot be read, it is empty, or two columns have the same name.

    Example:
        >>> read_table({"age": [31, None], "city": ["Ulm", "Bonn"]}).column_names
        ['age', 'city']
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        name = str(path)
        table = _read_path(path)
    else:
        name = f"the {type(source).__name__}"
        table = _from_memory(source)
    return _checked(table, name)


def _checked(table: pa.Table, name: str) -> pa.Table:
    twice = sorted({column for column in table.column_names if table.column_names.count(column) > 1})
    if twice:
        raise DataError(f"{name} has more than one column named {twice[0]!r}: rename one of them.")
    if table.num_columns == 0:
        raise DataError(f"{name} has no columns.")
    if table.num_rows == 0:
        raise DataError(f"{name} has a header but no rows: {table.column_names}.")
    return table


# -- memory -------------------------------------------------------------------------------------------------------
def _from_memory(source: Any) -> pa.Table:
    import pyarrow as pa

    if isinstance(source, pa.Table):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    if type(source).__module__.split(".")[0] == "pandas" and hasattr(source, "columns"):
        names, columns = [str(name) for name in source.columns], [source.iloc[:, i] for i in range(source.shape[1])]
    elif isinstance(source, Mapping):
        names, columns = [str(name) for name in source], list(source.values())
    elif isinstance(source, Sequence) and source and all(isinstance(row, Mapping) for row in source):
        names = list(dict.fromkeys(str(name) for row in source for name in row))
        columns = [[row.get(name) for row in source] for name in names]
    else:
        raise DataError(
            f"a table can be read from a path, a DataFrame, a pyarrow Table, a mapping of columns or a list of rows, "
            f"but not from {type(source).__name__} {str(source)[:60]!r}."
        )
    sizes = {name: len(column) for name, column in zip(names, columns, strict=True)}
    if len(set(sizes.values())) > 1:
        raise DataError(f"the columns have different lengths: {sizes}.")
    return pa.Table.from_arrays([_array(column) for column in columns], names=names)


def _array(column: Any) -> pa.Array:
    """Return an Arrow array; a column of mixed types becomes text, as it would in a file."""
    import pyarrow as pa

    try:
        return pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        values = list(column)
        return pa.array([None if _is_missing(value) else str(value) for value in values])


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


# -- files --------------------------------------------------------------------------------------------------------
def _read_path(path: Path) -> pa.Table:
    import pyarrow as pa

    if not path.exists():
        beside = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"there is no file {str(path)!r}.{nearest(path.name, beside)}")
    if path.is_dir():
        return _read_folder(path)
    suffix = next((s for s in reversed(path.suffixes) if s != ".gz"), "")
    reader = _READERS.get(suffix.lower())
    if reader is None:
        raise DataError(
            f"{str(path)!r} cannot be read: its ending must be one of {', '.join(_READERS)} (CSV and JSON also .gz)."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{str(path)!r} is empty.")
    try:
        return reader(path)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        words = str(error).split("\n")[0]
        hint = " Save it as UTF-8." if "UTF8" in words or "utf-8" in words else ""
        raise DataError(f"{str(path)!r} cannot be read: {words}.{hint}") from error


def _read_csv(path: Path) -> pa.Table:
    import pyarrow.csv as arrow_csv

    bad: list[Any] = []

    def skip(row: Any) -> str:
        bad.append(row)
        return "skip"

    delimiter = "\t" if ".tsv" in path.suffixes else _delimiter(path)
    table = arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(use_threads=False),  # or the numbers of bad rows are not known
        parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        convert_options=arrow_csv.ConvertOptions(null_values=list(MISSING_WORDS), strings_can_be_null=True),
    )
    if bad:
        _report_bad_rows(path, bad, table.num_rows)
    return _trimmed(table)


def _report_bad_rows(path: Path, bad: Sequence[Any], good: int) -> None:
    first = bad[0]
    words = (
        f"{str(path)!r}: {len(bad)} of {good + len(bad)} rows have the wrong number of columns, the first in row "
        f"{first.number}, which has {first.actual_columns} instead of {first.expected_columns}: {first.text[:80]!r}"
    )
    if len(bad) > MAX_BAD_ROWS * (good + len(bad)):
        raise DataError(f"{words}. More than {MAX_BAD_ROWS:.0%} are malformed: is the delimiter right?")
    log.warning("%s; they are left out", words)


def _delimiter(path: Path) -> str:
    with gzip.open(path, "rt", errors="replace") if path.suffix == ".gz" else path.open(errors="replace") as file:
        head = file.read(1 << 16)
    try:
        return csv.Sniffer().sniff(head.split("\n")[0], delimiters=",;\t|").delimiter
    except csv.Error:
        return ","  # a file of one column


def _trimmed(table: pa.Table) -> pa.Table:
    """Take the spaces around words away, as in `39, State-gov, ?`; what then means missing is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    words = pa.array(MISSING_WORDS)
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            column = pc.utf8_trim_whitespace(table.column(place))
            column = pc.if_else(pc.is_in(column, value_set=words), pa.scalar(None, pa.string()), column)
            table = table.set_column(place, field.name.strip(), column)
        else:
            table = table.set_column(place, field.name.strip(), table.column(place))
    return table


def _read_json(path: Path) -> pa.Table:
    import pyarrow.json as arrow_json

    return arrow_json.read_json(path)


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow.parquet as parquet

    return parquet.read_table(path)


def _read_feather(path: Path) -> pa.Table:
    import pyarrow.feather as feather

    return feather.read_table(path)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".txt": _read_csv,
    ".parquet": _read_parquet,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".arrow": _read_feather,
    ".feather": _read_feather,
}


# -- folders ------------------------------------------------------------------------------------------------------
def _read_folder(folder: Path) -> pa.Table:
    import pyarrow as pa

    for name in ("metadata.csv", "metadata.jsonl", "metadata.parquet"):
        if (folder / name).is_file():
            return _absolute(_read_path(folder / name), folder)
    found = {
        child.name: {p.stem: str(p) for p in sorted(child.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES}
        for child in sorted(folder.iterdir())
        if child.is_dir()
    }
    found = {name: files for name, files in found.items() if files}
    if not found:
        raise DataError(
            f"the folder {str(folder)!r} holds no metadata.csv, .jsonl or .parquet and no sub-folder with images."
        )
    first = next(iter(found.values()))
    if len(found) > 1 and all(files.keys() == first.keys() for files in found.values()):
        return pa.table({name: [files[stem] for stem in first] for name, files in found.items()})
    rows = [(path, name) for name, files in found.items() for path in files.values()]
    return pa.table({"image": [path for path, _ in rows], "label": [name for _, name in rows]})


def _absolute(table: pa.Table, folder: Path) -> pa.Table:
    """Resolve the paths of files that lie in the folder."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if not pa.types.is_string(field.type):
            continue
        values = table.column(place).to_pylist()
        named = next((value for value in values if value), "")
        if named.lower().endswith(IMAGE_SUFFIXES):
            full = [None if value is None else str(folder / value) for value in values]
            table = table.set_column(place, field.name, pa.array(full))
    return table
