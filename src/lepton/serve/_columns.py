"""The columns that an exported model reads, as what a request may say of them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lepton.data import AudioEncoder, Encoder, InputEncoder, SequenceEncoder, as_words

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FILES", "AskedColumn", "asked_columns"]

FILES = ("image", "audio")
"""Kinds of columns that hold paths of files, which no request may name: they are uploaded."""

_SHOWN = 200
"""Categories that the description of a column lists."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_TYPES: dict[str, Any] = {
    "number": _Finite | None,
    "category": str | int | _Finite | bool | None,
    "date": str | None,
    "text": str | None,
    "tokens": str | None,
    "words": list[str | None] | str | None,
}

_WORDS = {
    "number": "a finite number, or null where it is missing",
    "category": "a string, a number, true or false, or null where it is missing",
    "date": "a string, or null where it is missing",
    "text": "a string, or null where it is missing",
    "tokens": "a string, or null where it is missing",
    "words": "a list of words, a string that is cut at its spaces, or null where it is missing",
}


@dataclass(frozen=True)
class AskedColumn:
    """One column that the model reads.

    Attributes:
        name: its name.
        kind: what it holds: `number`, `category`, `date`, `text`, `tokens`, `words`, `image` or `audio`.
        example: a value that it may have.
        choices: the categories that training knew, most frequent first.
        date_format: what dates look like, as `strptime` says it; empty for ISO dates.
    """

    name: str
    kind: str
    example: Any = None
    choices: tuple[str, ...] = ()
    date_format: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it holds files, which are uploaded."""
        return self.kind in FILES

    @property
    def type(self) -> Any:
        """The type of a value in JSON, for a check by pydantic."""
        return _TYPES[self.kind]

    @property
    def words(self) -> str:
        """What a value must be."""
        return _WORDS[self.kind]

    @property
    def about(self) -> str:
        """What people should know of it."""
        if self.kind == "category":
            more = ", ..." if len(self.choices) > _SHOWN else ""
            return f"A category: {', '.join(map(repr, self.choices[:_SHOWN]))}{more}; others count as unknown."
        if self.kind == "date":
            return f"A date such as {self.example!r} ({self.date_format or 'ISO 8601'}); others count as missing."
        return {"number": "A number.", "words": "Words: a list, or one string."}.get(self.kind, "A text.")

    def array(self, values: list[Any]) -> pa.Array:
        """Return the values of rows as Arrow holds them; null for a file, which is not among them."""
        import pyarrow as pa

        if self.is_file:
            return pa.nulls(len(values), pa.string())
        if self.kind == "number":
            return pa.array(values, pa.float64())
        if self.kind == "words":
            lists = [value.split() if isinstance(value, str) else value for value in values]
            return pa.array(lists, pa.list_(pa.string()))
        if self.kind == "category":
            values = [value if isinstance(value, str) or value is None else _word(value) for value in values]
        return pa.array(values, pa.string())


def _word(value: bool | float) -> str | None:
    """Return a value as the word that a table of such values would have."""
    import pyarrow as pa

    if isinstance(value, bool) or not isinstance(value, int):
        return as_words(pa.chunked_array([pa.array([value])]))[0].as_py()  # type: ignore[no-any-return]
    return str(value)


def asked_columns(encoder: Encoder) -> list[AskedColumn]:
    """Return the columns that a model reads.

    Args:
        encoder: rules of its inputs.

    Example:
        >>> from lepton.data import describe_columns, read_table
        >>> table = read_table({"age": [20, 40, None], "city": ["Ulm", "Bonn", "Ulm"]})
        >>> [(c.name, c.kind, c.example) for c in asked_columns(InputEncoder.fit(table, describe_columns(table)))]
        [('age', 'number', 30.0), ('city', 'category', 'Ulm')]
    """
    if isinstance(encoder, InputEncoder):
        return [_of_table(column) for column in encoder.columns]
    if isinstance(encoder, AudioEncoder):
        return [AskedColumn(encoder.source, "audio")]
    assert isinstance(encoder, SequenceEncoder)
    kind = encoder.columns[0].kind
    example: Any = ["a", "few", "words"] if kind == "words" else "a few words"
    return [AskedColumn(encoder.source, kind, example)]


def _of_table(column: Any) -> AskedColumn:
    if column.kind == "number":
        return AskedColumn(column.name, "number", float(f"{column.scale.mean:.6g}"))
    if column.kind == "date":
        return AskedColumn(column.name, "date", _date(column), date_format=column.date_format)
    if column.kind == "category":
        return AskedColumn(column.name, "category", next(iter(column.values), None), tuple(column.values))
    return AskedColumn(column.name, column.kind, None if column.kind == "image" else "a few words")


def _date(column: Any) -> str:
    """Return the mean date of the training rows, as its column writes it."""
    mean = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=round(column.scale.mean))
    return mean.strftime(column.date_format or ("%Y-%m-%dT%H:%M:%S" if column.clock else "%Y-%m-%d"))
