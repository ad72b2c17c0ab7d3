"""Files of text: lines that belong together across languages, and sentences with their words and tags (CoNLL-U)."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lepton.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["no_such_file", "prefix_hint", "read_conllu", "read_parallel", "text_files"]

_LANGUAGE = re.compile(r"text|[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
"""What follows the prefix of a file of texts, without `.gz`: `en`, `pt_BR`, `zh-Hans`, `text`."""

_OTHER = re.compile(
    r"avi|bat|bin|bmp|bz2|cfg|cpp|csv|css|dat|db|doc|gif|go|gz|htm|ini|jpg|js|log|md|mp3|mp4|npy|npz|ods|odt|"
    r"pdf|pgm|php|pkl|png|ppm|pth|py|rar|rb|rs|rst|rtf|sh|sql|svg|tar|tex|tif|tmp|tsv|txt|wav|xls|xml|xz|yml|"
    r"zip"
)
"""Endings of two or three letters that are no languages."""

COLUMNS = ("words", "lemmas", "upos", "xpos", "feats", "heads", "relations")
"""What becomes of the columns of CoNLL-U from the second on; the last two, `deps` and `misc`, are not read."""

_FIELDS = "ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC"
_SKIPPED = re.compile(r"\d+[-.]\d+")


# -- one text in several languages ----------------------------------------------------------------------------------
def text_files(prefix: Path) -> list[Path]:
    """Return the files of a prefix: `train.de.gz` and `train.en` are those of `train`."""
    if not prefix.parent.is_dir() or not prefix.name:
        return []
    start = f"{prefix.name}."
    found = [path for path in sorted(prefix.parent.iterdir()) if path.name.startswith(start) and path.is_file()]
    return [path for path in found if _is_language(path.name.removeprefix(start).removesuffix(".gz"))]


def _is_language(ending: str) -> bool:
    return _LANGUAGE.fullmatch(ending) is not None and not _OTHER.fullmatch(ending)


def no_such_file(path: Path) -> DataError:
    """Return the error for a path that is neither a file nor what names of texts begin with."""
    beside = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
    prefixes = _prefixes(path.parent) if beside else []
    hint = nearest(path.name, [*beside, *prefixes])
    return DataError(f"there is no file {str(path)!r}.{hint}{prefix_hint(path.parent) if beside else ''}")


def prefix_hint(folder: Path) -> str:
    """Return a sentence about the texts that a folder holds, or an empty string."""
    prefixes = [str(folder / prefix) for prefix in _prefixes(folder)]
    return f" Texts in several languages are named by what they begin with: {prefixes}." if prefixes else ""


def _prefixes(folder: Path) -> list[str]:
    """Return the prefixes of which a folder holds files in two languages or more."""
    names = [path.name.removesuffix(".gz").rpartition(".") for path in folder.iterdir() if path.is_file()]
    stems = [stem for stem, _, ending in names if stem and _is_language(ending)]
    return sorted({stem for stem in stems if stems.count(stem) > 1})


def read_parallel(prefix: Path, files: Sequence[Path]) -> pa.Table:
    """Return a column for each language: the lines of its file, which are as many in all.

    Raises:
        DataError: a language has two files, a file is empty or no UTF-8, or the numbers of lines differ.
    """
    import pyarrow as pa

    columns: dict[str, list[str]] = {}
    named: dict[str, Path] = {}
    for path in files:
        language = path.name.removeprefix(f"{prefix.name}.").removesuffix(".gz")
        if language in named:
            raise DataError(f"{str(named[language])!r} and {str(path)!r} are both the text {language!r}: remove one.")
        named[language], columns[language] = path, read_lines(path)
    first = files[0]
    counts = dict(zip(named.values(), map(len, columns.values()), strict=True))
    for path, count in counts.items():
        if count != counts[first]:
            raise DataError(
                f"{str(first)!r} has {counts[first]} lines, but {str(path)!r} has {count}: line i of one must belong "
                "to line i of the other."
            )
    return pa.table({language: pa.array(lines, pa.string()) for language, lines in columns.items()})


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file; only the end of a line cuts, none of Unicode's other separators."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}.") from error
    if not content:
        raise DataError(f"{str(path)!r} is empty.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{str(path)!r}, line {line}, is no UTF-8 text: {error.reason}. Save it as UTF-8.") from error
    if "\0" in text:
        raise DataError(f"{str(path)!r} holds zero bytes: it is no UTF-8 text. Save it as UTF-8.")
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]
    return [line.removesuffix("\r") for line in lines]


# -- CoNLL-U ----------------------------------------------------------------------------------------------------------
def read_conllu(path: Path) -> pa.Table:
    """Return one row for each sentence: its text, and lists of its words and of what is said about them.

    Tokens of several words (`3-4`) and empty nodes (`5.1`) are left out, as in the usual counts of tags.

    Raises:
        DataError: the file is no UTF-8, holds no sentence, or a line is malformed.
    """
    import pyarrow as pa

    texts, sentences = [], []
    for text, rows in _sentences(path):
        sentence = list(zip(*rows, strict=True))
        texts.append(" ".join(sentence[0]) if text is None else text)
        sentences.append(sentence)
    if not sentences:
        raise DataError(f"{str(path)!r} holds no sentence.")
    strings = pa.list_(pa.string())
    lists = {name: pa.array([s[place] for s in sentences], strings) for place, name in enumerate(COLUMNS)}
    return pa.table({"text": pa.array(texts, pa.string()), **lists})


def _sentences(path: Path) -> Iterator[tuple[str | None, list[list[str]]]]:
    """Yield each sentence's text, if a comment gives it, and the columns of its words."""
    text: str | None = None
    rows: list[list[str]] = []
    for number, line in enumerate([*read_lines(path), ""], 1):
        if not line.strip():
            if rows:
                yield text, rows
            text, rows = None, []
        elif line.startswith("#"):
            key, _, value = line[1:].partition("=")
            text = value.strip() if key.strip() == "text" else text
        else:
            fields = line.split("\t")
            if len(fields) != 10:
                raise _malformed(path, number, f"has {len(fields)} columns separated by tabs", line)
            if fields[0] == str(len(rows) + 1):
                rows.append(fields[1:8])
            elif not _SKIPPED.fullmatch(fields[0]):
                raise _malformed(path, number, f"has the ID {fields[0]!r} where {len(rows) + 1} is expected", line)


def _malformed(path: Path, number: int, what: str, line: str) -> DataError:
    return DataError(
        f"{str(path)!r}, line {number}, {what}: {line[:60]!r}. A line of CoNLL-U holds the ten columns {_FIELDS}, "
        "words are numbered from 1, and an empty line ends a sentence."
    )
