"""Columns of a table to the tensors that a trunk reads, by rules that are fitted once and kept as JSON."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton.data._arrays import as_numbers, as_words, places, reading
from lepton.data._dates import as_dates
from lepton.data._kinds import Column, find_column
from lepton.data._plain import are_plain
from lepton.data._plain_numbers import standardised
from lepton.data._token_columns import TokenColumn, TokenRules
from lepton.data._tokenizer import check_vocabulary
from lepton.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TEXT_BUCKETS", "TEXT_LENGTH", "InputEncoder"]

Floats = npt.NDArray[np.float64]

KNOTS = 128
"""Intervals into which the numbers of a column are cut; fewer where there are hundreds of columns."""

MAX_KNOTS = 8192
"""Intervals of all columns together: the encoding holds as many numbers for each row."""

LIMIT = 10.0
"""Standard deviations beyond which a number counts as that far: one absurd value must not drown its row."""

FAR = 100.0
"""Widths of the middle half of the numbers beyond which one counts as that far for mean and standard deviation: a
single 1e30 would make all others equal."""

TEXT_BUCKETS = 1 << 14
TEXT_LENGTH = 64

_DAY, _WEEK, _YEAR = 86400.0, 7 * 86400.0, 365.2425 * 86400.0


@dataclass(frozen=True)
class Scaled:
    """A number, standardised: (x - mean) / std, with the quantiles of the training rows as knots."""

    mean: float
    std: float
    knots: list[float]

    @classmethod
    def fit(cls, numbers: Floats, intervals: int = KNOTS) -> Self:
        present = numbers[~np.isnan(numbers)]
        if not len(present):
            return cls(0.0, 1.0, [0.0, 1.0])
        largest = float(np.abs(present).max()) or 1.0  # the square of 1e200 is not finite, nor is twice 1e308
        usual = _without_far(present / largest) * largest
        unit = float(np.abs(usual).max()) or 1.0
        mean, std = float((usual / unit).mean()) * unit, float((usual / unit).std()) * unit
        std = std if std > 1e-12 * abs(mean) else unit
        scaled = cls(mean, std, []).encode(present)
        knots = np.unique(_knots(np.unique(scaled), scaled, intervals).astype(np.float32))
        return cls(mean, std, knots.tolist() if len(knots) > 1 else [float(knots[0]), float(knots[0]) + 1.0])

    def encode(self, numbers: Floats) -> Floats:
        with np.errstate(over="ignore"):  # what is infinitely far is as far as LIMIT
            return np.clip((numbers - self.mean) / self.std, -LIMIT, LIMIT)


def _without_far(numbers: Floats) -> Floats:
    low, middle, high = np.quantile(numbers, [0.25, 0.5, 0.75])
    reach = FAR * (high - low)
    return np.clip(numbers, middle - reach, middle + reach) if reach > 0 else numbers


def _knots(distinct: Floats, numbers: Floats, intervals: int) -> Floats:
    """Return the ends of intervals with equal numbers of rows, and where rows tie, of different values.

    A column that is mostly zero would otherwise spend nearly all its knots on the zero: on UCI Adult that cost two
    points of AUC.
    """
    if len(distinct) <= intervals + 1:
        return distinct
    knots = np.unique(np.quantile(numbers, np.linspace(0, 1, intervals + 1)))
    spare = intervals + 1 - len(knots)
    return np.union1d(knots, np.quantile(distinct, np.linspace(0, 1, spare))) if spare > 1 else knots


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers: one input."""

    name: str
    scale: Scaled
    kind = "number"

    @classmethod
    def fit(cls, about: Column, column: pa.ChunkedArray, intervals: int) -> Self:
        return cls(about.name, Scaled.fit(as_numbers(column), intervals))

    @property
    def inputs(self) -> list[tuple[str, list[float]]]:
        return [(self.name, self.scale.knots)]

    def encode(self, column: pa.ChunkedArray) -> Floats:
        return self.scale.encode(as_numbers(column))[:, None]


@dataclass(frozen=True)
class DateColumn:
    """A column of dates: how late it is, and where in the year, the week and the day, as points of circles."""

    name: str
    scale: Scaled
    clock: bool
    date_format: str = ""  # what words look like; none for ISO dates, and in runs from before there were others
    kind = "date"

    @classmethod
    def fit(cls, about: Column, column: pa.ChunkedArray, intervals: int) -> Self:
        seconds = as_dates(column, about.date_format)
        present = seconds[~np.isnan(seconds)]
        if not len(present) and column.null_count < len(column):
            raise DataError(
                f"column {about.name!r} holds no date of the format {about.date_format or 'YYYY-MM-DD'!r}, but words "
                f"such as {column.drop_null()[0].as_py()!r}. Say what they look like, as strptime does: "
                f'date_formats={{"{about.name}": "%d/%m/%Y"}}.'
            )
        return cls(about.name, Scaled.fit(seconds, intervals), bool((present % _DAY != 0).any()), about.date_format)

    @property
    def inputs(self) -> list[tuple[str, list[float]]]:
        circles = ("year", "week", *(["day"] if self.clock else []))
        parts = [(f"{self.name}: {wave} of the {circle}", [-1.0, 1.0]) for circle in circles for wave in ("sin", "cos")]
        return [(self.name, self.scale.knots), *parts]

    def encode(self, column: pa.ChunkedArray) -> Floats:
        seconds = as_dates(column, self.date_format)
        found = [self.scale.encode(seconds)]
        for period in (_YEAR, _WEEK, *([_DAY] if self.clock else [])):
            angle = 2 * np.pi * (seconds % period) / period
            found += [np.sin(angle), np.cos(angle)]
        return np.stack(found, 1)


@dataclass(frozen=True)
class CategoryColumn:
    """A column of categories: their numbers from 1, the most frequent first; 0 is missing or was not seen."""

    name: str
    values: list[str]
    kind = "category"

    @classmethod
    def fit(cls, about: Column, column: pa.ChunkedArray, intervals: int) -> Self:
        import pyarrow.compute as pc

        del intervals
        counts = pc.value_counts(as_words(column).drop_null())
        pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
        return cls(about.name, [value for value, _ in sorted(pairs, key=lambda pair: (-pair[1], pair[0]))])

    def encode(self, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        return places(as_words(column), self.values) + 1


@dataclass(frozen=True)
class TextColumn:
    """A column of text: its words and pairs of words, hashed to numbers below `TEXT_BUCKETS`, 0 where it ends."""

    name: str
    kind = "text"

    @classmethod
    def fit(cls, about: Column, column: pa.ChunkedArray, intervals: int) -> Self:
        del column, intervals
        return cls(about.name)

    def encode(self, column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        texts = as_words(column).to_pylist()
        found = np.zeros((len(texts), TEXT_LENGTH), dtype=np.int64)
        for row, text in enumerate(texts):
            numbers = [1 + zlib.crc32(gram.encode()) % (TEXT_BUCKETS - 1) for gram in _grams(text or "")]
            found[row, : len(numbers)] = numbers
        return found


def _grams(text: str) -> list[str]:
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
    pairs = (" ".join(pair) for pair in itertools.pairwise(words))
    return [*words[: TEXT_LENGTH // 2], *pairs][:TEXT_LENGTH]


@dataclass(frozen=True)
class ImageColumn:
    """A column of paths of pictures."""

    name: str
    kind = "image"

    @classmethod
    def fit(cls, about: Column, column: pa.ChunkedArray, intervals: int) -> Self:
        del column, intervals
        return cls(about.name)

    def encode(self, column: pa.ChunkedArray) -> list[str | None]:
        return as_words(column).to_pylist()  # type: ignore[no-any-return]


_KINDS: dict[str, Any] = {
    "number": NumberColumn,
    "date": DateColumn,
    "category": CategoryColumn,
    "boolean": CategoryColumn,
    "text": TextColumn,
    "tokens": TokenColumn,
    "image": ImageColumn,
}

_TOKEN_RULES = "token rules"
"""What the rules of all columns of tokens are called among the described columns."""


class InputEncoder:
    """The rules that turn the columns of a table into inputs, fitted on training rows only.

    Numbers and dates are standardised, and 0 with a mark where missing. Categories become numbers, 0 where missing
    or never seen. Text becomes hashed words and pairs of words, or, of the kind `tokens`, tokens of one vocabulary.

    Args:
        columns: fitted columns, as `fit` and `from_dict` make them.
        token_rules: how the texts of the kind `tokens` are cut; None if there are none.

    Example:
        >>> from lepton.data import describe_columns, read_table
        >>> table = read_table({"age": [20, 40, None], "city": ["Ulm", "Bonn", "Ulm"]})
        >>> encoder = InputEncoder.fit(table, describe_columns(table))
        >>> inputs = encoder.encode(read_table({"age": [30, None], "city": ["Rom", "Ulm"]}))
        >>> inputs["numbers"].tolist(), inputs["missing"].tolist(), inputs["categories"].tolist()
        ([[0.0], [0.0]], [[0.0], [1.0]], [[0], [1]])
    """

    def __init__(self, columns: Sequence[Any], token_rules: TokenRules | None = None) -> None:
        self.columns = list(columns)
        self.token_rules = token_rules

    @classmethod
    def fit(cls, table: pa.Table, columns: Iterable[Column], *, vocabulary: int = 8000, max_length: int = 256) -> Self:
        """Fit the rules on the training rows.

        Args:
            table: the training rows.
            columns: what the columns hold; those of the kinds `ignore` and `labels` are left out.
            vocabulary: how many tokens there are at most, for texts of the kind `tokens`.
            max_length: tokens of a text at most, START and END included; longer ones lose their end.

        Raises:
            DataError: no column is left, one is not in the table, or one holds recordings (see `AudioEncoder`).
            MissingExtraError: a column is of the kind `tokens`, and the package tokenizers is not installed.
        """
        columns = list(columns)
        recordings = [column.name for column in columns if column.kind == "audio"]
        if recordings:
            raise DataError(
                f"column {recordings[0]!r} holds recordings, which are not read beside other columns: give it the kind "
                "'ignore', or ignore the others."
            )
        usable = [column for column in columns if column.kind in _KINDS]
        if not usable:
            raise DataError("there is no column to predict from: all are targets or ignored.")
        numbers = sum(column.kind in ("number", "date") for column in usable)
        intervals = max(8, min(KNOTS, MAX_KNOTS // max(1, numbers)))
        found = []
        for column in usable:
            values = find_column(table, column.name)
            with reading(column.name, f"the kind {column.kind!r}"):
                found.append(_KINDS[column.kind].fit(column, values, intervals))
                if len(values):  # what does not look at its values while it is fitted does so here
                    found[-1].encode(values.slice(0, 1))
        texts = cls(found)._encoded(table, "tokens")
        return cls(found, TokenRules.fit(texts, vocabulary, max_length) if texts else None)

    @property
    def names(self) -> list[str]:
        """Names of the columns that are read."""
        return [column.name for column in self.columns]

    def _of(self, *kinds: str) -> list[Any]:
        return [column for column in self.columns if column.kind in kinds]

    @property
    def knots(self) -> list[list[float]]:
        """The knots of each number, in standard deviations."""
        return [knots for column in self._of("number", "date") for _, knots in column.inputs]

    @property
    def number_names(self) -> list[str]:
        """What each number is; a date gives several."""
        return [name for column in self._of("number", "date") for name, _ in column.inputs]

    @property
    def categories(self) -> list[int]:
        """How many numbers each category column uses, 0 for the unknown included."""
        return [1 + len(column.values) for column in self._of("category")]

    @property
    def texts(self) -> int:
        """How many columns of text there are that are hashed."""
        return len(self._of("text"))

    @property
    def tokens(self) -> list[str]:
        """Names of the columns of text that are read as tokens."""
        return [column.name for column in self._of("tokens")]

    @property
    def vocabulary(self) -> int:
        """How many numbers tokens have, special ones included; 0 where none are read."""
        return 0 if self.token_rules is None else self.token_rules.tokenizer.size

    @property
    def fingerprint(self) -> str:
        """A short hash of the vocabulary, as that of a `SequenceEncoder`; empty where no tokens are read."""
        return "" if self.token_rules is None else self.token_rules.tokenizer.fingerprint

    def check_fingerprint(self, expected: str, owner: str) -> None:
        """Refuse to go on with a vocabulary other than that of weights.

        Args:
            expected: the fingerprint that the weights were trained with; empty for none.
            owner: what holds them, for the message.

        Raises:
            CheckpointError: this vocabulary is another one.
        """
        check_vocabulary(self.fingerprint, expected, owner)

    @property
    def images(self) -> list[str]:
        """Names of the columns of pictures."""
        return [column.name for column in self._of("image")]

    def encode(self, table: pa.Table) -> dict[str, Tensor]:
        """Return the inputs of all columns but pictures.

        Args:
            table: N rows; more columns than needed, and any order of them, are fine.

        Returns:
            Of these, those that there are columns for: `numbers` and `missing` [N, F] float32, `categories` [N, G]
            int64, `text` [N, H, L] int64, `tokens` [N, H, L] int16 or int32: [START a b c END 0 ...] for each column,
            as wide as the longest text needs, all 0 where it is empty or missing.

        Raises:
            DataError: a column is missing.
        """
        for name in self.names:
            find_column(table, name)
        found: dict[str, Tensor] = {}
        if self._of("number", "date"):
            found["numbers"], found["missing"] = self._numbers(table)
        if categories := self._encoded(table, "category"):
            found["categories"] = torch.from_numpy(np.stack(categories, 1))
        if texts := self._encoded(table, "text"):
            found["text"] = torch.from_numpy(np.stack(texts, 1))
        if self.token_rules is not None:
            found["tokens"] = self.token_rules.encode(self._encoded(table, "tokens"))
        return found

    def _numbers(self, table: pa.Table) -> tuple[Tensor, Tensor]:
        """Return numbers and marks of missing ones [N, F]."""
        columns = self._of("number", "date")
        values = [table.column(column.name) for column in columns]
        if table.num_rows and all(
            column.kind == "number" and are_plain(held) for column, held in zip(columns, values, strict=True)
        ):
            scales = [column.scale for column in columns]
            numbers, marks = standardised(values, [s.mean for s in scales], [s.std for s in scales], LIMIT)
            return torch.from_numpy(numbers), torch.from_numpy(marks)
        joined = np.concatenate(self._encoded(table, "number", "date"), 1)
        return torch.from_numpy(np.nan_to_num(joined)).float(), torch.from_numpy(np.isnan(joined)).float()

    def _encoded(self, table: pa.Table, *kinds: str) -> list[Any]:
        found = []
        for column in self._of(*kinds):
            with reading(column.name, f"the kind {column.kind!r}"):
                found.append(column.encode(table.column(column.name)))
        return found

    def image_paths(self, table: pa.Table) -> dict[str, list[str | None]]:
        """Return for each column of pictures the paths [N]; None where missing."""
        for name in self.images:
            find_column(table, name)
        return dict(zip(self.images, self._encoded(table, "image"), strict=True))

    def unseen(self, table: pa.Table) -> dict[str, int]:
        """Return for each category column how many rows hold a word that no training row had."""
        found = {}
        for column in self._of("category"):
            values = table.column(column.name)
            found[column.name] = int((column.encode(values) == 0).sum()) - values.null_count
        return {name: number for name, number in found.items() if number > 0}

    # -- JSON -------------------------------------------------------------------------------------------------
    def to_dict(self) -> list[dict[str, Any]]:
        """Return the rules as what JSON can hold."""
        rules = [] if self.token_rules is None else [{"kind": _TOKEN_RULES, **self.token_rules.to_dict()}]
        return [{"kind": column.kind, **asdict(column)} for column in self.columns] + rules

    @classmethod
    def from_dict(cls, described: Iterable[dict[str, Any]]) -> Self:
        """Return the encoder that `to_dict` described."""
        columns, rules = [], None
        for item in described:
            if item["kind"] == _TOKEN_RULES:
                rules = TokenRules.from_dict(item)
                continue
            fields = {key: value for key, value in item.items() if key != "kind"}
            if "scale" in fields:
                fields["scale"] = Scaled(**fields["scale"])
            columns.append(_KINDS[item["kind"]](**fields))
        return cls(columns, rules)
