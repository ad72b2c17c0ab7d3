"""Files, folders, DataFrames and Arrow tables: everything that can be read as one table."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lepton.data._arrays import plain
from lepton.data._memory import from_memory
from lepton.data._texts import no_such_file, prefix_hint, read_conllu, read_parallel, text_files
from lepton.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "AUDIO_SUFFIXES",
    "IMAGE_SUFFIXES",
    "MISSING_WORDS",
    "delimiter_of",
    "read_table",
    "source_exists",
    "trimmed",
]

log = logging.getLogger("lepton")

MISSING_WORDS = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none", "#N/A", "-nan")
"""What stands for a missing value in a text file."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")

_HEAD_BYTES = 1 << 16
_HEAD_ROWS = 50
_COMMA_NUMBER = r"^[-+]?\d+(,\d+)?([eE][-+]?\d+)?$"

MAX_BAD_ROWS = 0.01
"""Share of the rows of a file that may be malformed before it is refused."""


def read_table(source: Any) -> pa.Table:
    """Read a source into one Arrow table.

    Args:
        source: a path to a CSV or TSV file (also `.gz`; the delimiter is found out), Parquet, Arrow or Feather, or
            JSON (lines or an array of objects, also `.gz`), or CoNLL-U (`.conllu`, also `.gz`); what the names of texts
            in several languages begin with, such as `multi30k/train` for `train.en.gz` and `train.de.gz`; a folder of
            images or of recordings; a pandas DataFrame; a pyarrow Table, or what offers itself as one; a mapping from
            column names to lists; or a list of mappings, one for each row.

            A folder may hold a `metadata.csv`, `.jsonl` or `.parquet` whose paths are relative to it; or sub-folders
            that hold files with the same stems, such as `image/` and `label/`, which become one column each; or one
            sub-folder of images for each class, which gives the columns `image` and `label`; or just images, which
            gives the column `image`. Recordings give the column `audio` in place of `image`; their sub-folders are
            always classes, also where the files in them have the same stems.

    Relative paths of pictures and recordings in a file are looked for in the current folder, and where the first one is
    not there, beside the file.

    In a CSV file, a few malformed rows (at most 1 %) are left out with a warning; the words of `MISSING_WORDS` are
    missing values; and where the delimiter is no comma, `1,5` is one and a half. A column of mixed types is text.

    Texts in several languages give one column for each, named by it, of lines as they are. CoNLL-U gives one row for
    each sentence: `text`, and lists of strings `words`, `lemmas`, `upos`, `xpos`, `feats`, `heads`, `relations`.

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
        if path.is_file():
            table = _absolute(table, path.parent, found_first=True)
    else:
        name = f"the {type(source).__name__}"
        table = from_memory(source)
    return _checked(_plain(_named(table)), name)


def source_exists(path: Path | str) -> bool:
    """Return whether there is a file or a folder of that name, or files of text that begin with it.

    Args:
        path: a source of `read_table`.

    Example:
        >>> _ = Path("train.en").write_text("A dog .")
        >>> source_exists("train"), source_exists("val")
        (True, False)
    """
    return Path(path).exists() or bool(text_files(Path(path)))


def _checked(table: pa.Table, name: str) -> pa.Table:
    twice = sorted({column for column in table.column_names if table.column_names.count(column) > 1})
    if twice:
        raise DataError(f"{name} has more than one column named {twice[0]!r}: rename one of them.")
    if table.num_columns == 0:
        raise DataError(f"{name} has no columns.")
    if table.num_rows == 0:
        raise DataError(f"{name} has a header but no rows: {table.column_names}.")
    return table


def _named(table: pa.Table) -> pa.Table:
    """Leave out columns without name and values, as a delimiter at the end of every line makes them."""
    empty = [not name.strip() and table.column(i).null_count == len(table) for i, name in enumerate(table.column_names)]
    return table.select([place for place, out in enumerate(empty) if not out]) if any(empty) else table


def _plain(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    return pa.table([plain(column) for column in table.columns], names=table.column_names)


# -- files --------------------------------------------------------------------------------------------------------
def _read_path(path: Path) -> pa.Table:
    import pyarrow as pa

    if not path.exists():
        if texts := text_files(path):
            return read_parallel(path, texts)
        raise no_such_file(path)
    if path.is_dir():
        return _read_folder(path)
    suffix = next((s for s in reversed(path.suffixes) if s != ".gz"), "")
    reader = _READERS.get(suffix.lower())
    if reader is None:
        raise DataError(
            f"{str(path)!r} cannot be read: its ending must be one of {', '.join(_READERS)} (CSV, JSON, CoNLL-U also "
            f".gz).{prefix_hint(path.parent)}"
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
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    bad: list[Any] = []

    def skip(row: Any) -> str:
        bad.append(row)
        return "skip"

    delimiter = delimiter_of(_head(path), str(path))
    table = arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(use_threads=False),  # or the numbers of bad rows are not known
        parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        convert_options=arrow_csv.ConvertOptions(null_values=list(MISSING_WORDS), strings_can_be_null=True),
    )
    if bad:
        _report_bad_rows(path, bad, table.num_rows)
    for field in table.schema:
        if pa.types.is_binary(field.type):  # what Arrow makes of bytes that are no UTF-8
            raise DataError(f"{str(path)!r}, column {field.name!r}, is no UTF-8 text. Save the file as UTF-8.")
    return trimmed(table, decimal_comma=delimiter != ",")


def _report_bad_rows(path: Path, bad: Sequence[Any], good: int) -> None:
    first = bad[0]
    words = (
        f"{str(path)!r}: {len(bad)} of {good + len(bad)} rows have the wrong number of columns, the first in row "
        f"{first.number}, which has {first.actual_columns} instead of {first.expected_columns}: {first.text[:80]!r}"
    )
    if len(bad) > MAX_BAD_ROWS * (good + len(bad)):
        raise DataError(f"{words}. More than {MAX_BAD_ROWS:.0%} are malformed: is the delimiter right?")
    log.warning("%s; they are left out", words)


def delimiter_of(head: str, name: str) -> str:
    """Return the delimiter that cuts most of the first rows into as many fields as the header, at least two.

    Args:
        head: the beginning of the text.
        name: of the file.

    Raises:
        DataError: it is no text.
    """
    if "\0" in head:
        raise DataError(f"{name!r} holds zero bytes: it is no UTF-8 text. Save it as UTF-8.")
    scores = {}
    for delimiter in "\t" if ".tsv" in Path(name).suffixes else ",;\t|":
        sizes = [
            len(row)
            for row in itertools.islice(csv.reader(io.StringIO(head, newline=None), delimiter=delimiter), _HEAD_ROWS)
        ]
        if sizes and sizes[0] > 1:
            scores[delimiter] = (sizes.count(sizes[0]) / len(sizes), sizes[0])
    return max(scores, key=scores.__getitem__, default=",")  # a file of one column has none


def _head(path: Path) -> str:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=len(head) < _HEAD_BYTES)


def trimmed(table: pa.Table, *, decimal_comma: bool) -> pa.Table:
    """Take the spaces around words away, as in `39, State-gov, ?`; what then means missing is missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    words = pa.array(MISSING_WORDS)
    columns = []
    for column in table.columns:
        if pa.types.is_string(column.type):
            column = pc.utf8_trim_whitespace(column)
            column = pc.if_else(pc.is_in(column, value_set=words), pa.scalar(None, pa.string()), column)
            if decimal_comma and pc.all(pc.match_substring_regex(column, _COMMA_NUMBER)).as_py():
                column = pc.cast(pc.replace_substring(column, ",", "."), pa.float64())
        columns.append(column)
    return pa.table(columns, names=[name.strip() for name in table.column_names])


def _read_json(path: Path) -> pa.Table:
    """Read JSON lines, or one array of objects."""
    import pyarrow as pa
    import pyarrow.json as arrow_json

    if not _head(path).lstrip().startswith("["):
        try:
            return arrow_json.read_json(path)
        except pa.ArrowInvalid:  # a column of mixed types, or a line that is no JSON: what is wrong is said below
            return from_memory(list(_json_lines(path)))
    with _text(path) as file:
        try:
            rows = json.load(file)
        except ValueError as error:
            raise DataError(f"{str(path)!r} is no JSON: {error}.") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{str(path)!r} must hold objects, one for each row.")
    return from_memory(rows)


def _text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with _text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{str(path)!r}, line {number}, is no JSON: {error}.") from error
            if not isinstance(row, dict):
                raise DataError(f"{str(path)!r}, line {number}, must hold an object, but holds {line.strip()[:40]!r}.")
            yield row


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow.parquet as parquet

    return parquet.read_table(path)


def _read_feather(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.feather as feather

    with path.open("rb") as file:
        if not file.read(6).startswith((b"ARROW1", b"FEA1")):  # a stream, as data sets of Hugging Face are kept
            file.seek(0)
            return pa.ipc.open_stream(file).read_all()
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
    ".conllu": read_conllu,
}


# -- folders ------------------------------------------------------------------------------------------------------
def _read_folder(folder: Path) -> pa.Table:
    for name in ("metadata.csv", "metadata.jsonl", "metadata.parquet"):
        if (folder / name).is_file():
            return _absolute(_read_path(folder / name), folder)
    children = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    named = {child.name: child for child in children}
    found = _media(folder, named) or _media(folder, {"": folder})
    if found is not None:
        column, files = found
        pairs = _paired(folder, files) if column == "image" else None
        return _classes(column, files) if pairs is None else pairs
    names = list(named)[:5]
    raise DataError(
        f"the folder {str(folder)!r} holds no metadata.csv, .jsonl or .parquet, no pictures or recordings, no "
        f"sub-folder with such.{f' Is one of its sub-folders meant, {names}?' if names else ''}{prefix_hint(folder)}"
    )


def _media(folder: Path, places: Mapping[str, Path]) -> tuple[str, dict[str, list[Path]]] | None:
    """Return what kind of file some folders hold, `image` or `audio`, and the files of each that holds any."""
    found = {}
    for column, suffixes in (("image", IMAGE_SUFFIXES), ("audio", AUDIO_SUFFIXES)):
        files = {name: held for name, place in places.items() if (held := _files(place, suffixes))}
        if files:
            found[column] = files
    if len(found) > 1:
        raise DataError(
            f"the folder {str(folder)!r} holds pictures and recordings: a metadata.csv in it must say, in a column for "
            "each, which belong together; or one of both must go elsewhere."
        )
    return next(iter(found.items()), None)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes]


def _classes(column: str, found: Mapping[str, Sequence[Path]]) -> pa.Table:
    """Return the files, and the sub-folder of each as its label, if they lie in some."""
    import pyarrow as pa

    paths = {column: [str(path) for files in found.values() for path in files]}
    labels = {} if "" in found else {"label": [name for name, files in found.items() for _ in files]}
    return pa.table(paths | labels)


def _paired(folder: Path, found: Mapping[str, Sequence[Path]]) -> pa.Table | None:
    """Return a column for each sub-folder if their pictures have the same stems."""
    import pyarrow as pa

    stems = {name: {path.stem: str(path) for path in files} for name, files in found.items()}
    first = next(iter(stems.values()))
    if len(found) > 1 and all(files.keys() == first.keys() for files in stems.values()):
        return pa.table({name: [files[stem] for stem in first] for name, files in stems.items()})
    _refuse_half_pairs(folder, stems)
    return None


def _refuse_half_pairs(folder: Path, stems: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse `image/` beside a folder that shares some of its stems: files are missing, and no classes are meant."""
    for images in {"image", "images"} & stems.keys():
        for name, files in stems.items():
            alone = stems[images].keys() ^ files.keys()
            if alone and stems[images].keys() & files.keys():
                raise DataError(
                    f"the folders {images!r} and {name!r} in {str(folder)!r} must hold files with the same stems, but "
                    f"{min(alone)!r} is in one of them only."
                )


def _absolute(table: pa.Table, folder: Path, *, found_first: bool = False) -> pa.Table:
    """Resolve the paths of pictures and recordings that lie in the folder.

    Args:
        table: what was read.
        folder: that the paths are relative to.
        found_first: leave a column as it is unless its first file lies there, and not where the path says.
    """
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if not pa.types.is_string(field.type):
            continue
        values = table.column(place).to_pylist()
        named = next((value for value in values if value), "")
        there = not found_first or ((folder / named).is_file() and not Path(named).is_file())
        if named.lower().endswith(IMAGE_SUFFIXES + AUDIO_SUFFIXES) and there:
            full = [None if value is None else str(folder / value) for value in values]
            table = table.set_column(place, field.name, pa.array(full))
    return table
