"""Columns of recordings and of what is said in them, by rules that are fitted once."""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from lepton.data._arrays import as_words, reading
from lepton.data._kinds import find_column
from lepton.data._ragged import Ragged, compact
from lepton.data._sequences import MISSING, UNSEEN, SequenceColumn
from lepton.data._sounds import Header, read_header, resampled_length
from lepton.data._text_columns import texts_of
from lepton.data._tokenizer import check_vocabulary, fingerprint_of
from lepton.errors import CheckpointError, DataError, is_number, is_whole, require

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["AudioEncoder"]

MOST_RATE = 16_000
"""Samples per second, at most, where no rate is given: speech has little above 8 kHz."""

LEAST_RATE = 1_000

FIRST = 200
"""How many files are asked for their rate where none is given."""


class AudioEncoder:
    """The rules that say how recordings are read and how texts become characters, fitted on training rows only.

    Recordings are brought to one rate and one channel, and lose what is beyond `max_seconds`. Texts are normalised
    (`normalise`); the character `characters[i]` has the number i + 1, and 0 pads.

    Args:
        source: the column of paths of recordings.
        texts: columns of texts that are heard or to be spoken.
        sample_rate: samples per second that all recordings are brought to.
        characters: those that have a number, in the order of their numbers.
        max_seconds: longer recordings lose their end.
        trim: whether silence at both ends of a recording is left out.

    Example:
        >>> import numpy, soundfile
        >>> from lepton.data import read_table
        >>> soundfile.write("a.wav", numpy.full(400, 0.1), 8000)
        >>> table = read_table({"audio": ["a.wav", "a.wav"], "said": ["On", "no  no"]})
        >>> encoder = AudioEncoder.fit(table, "audio", texts=["said"])
        >>> encoder.sample_rate, encoder.characters, encoder.samples(table).tolist()
        (8000, [' ', 'n', 'o'], [400, 400])
        >>> encoder.text_ids(table, "said").tolist()
        [[3, 2, 0, 0, 0], [2, 3, 1, 2, 3]]
    """

    def __init__(
        self,
        source: str,
        texts: Sequence[str],
        sample_rate: int,
        characters: Sequence[str],
        max_seconds: float,
        trim: bool,
    ) -> None:
        self.source = source
        self.texts = list(texts)
        self.sample_rate = sample_rate
        self.characters = list(characters)
        self.max_seconds = max_seconds
        self.trim = trim
        self._seen: tuple[pa.Table | None, list[Header]] = None, []
        self._ids = {character: number for number, character in enumerate(self.characters, 1)}

    @classmethod
    def fit(
        cls,
        table: pa.Table,
        source: str,
        *,
        texts: Sequence[str] = (),
        sample_rate: int | None = None,
        max_seconds: float = 20.0,
        trim: bool = False,
    ) -> Self:
        """Fit the rules on the training rows.

        Args:
            table: the training rows.
            source: a column of paths of recordings.
            texts: columns of texts, whose characters are numbered.
            sample_rate: samples per second; by default those that most of the first files have, at most 16,000.
            max_seconds: the longest recording, in seconds; longer ones lose their end.
            trim: whether silence at both ends is left out.

        Raises:
            DataError: a column is missing, a row names no recording, a file cannot be used, or there is no text.
            ConfigurationError: an option that is not allowed.
        """
        rate_given = sample_rate is None or is_whole(sample_rate, LEAST_RATE)
        rates = f"a whole number of at least {LEAST_RATE} samples per second"
        require(rate_given, "AudioEncoder", "sample_rate", sample_rate, rates)
        right = is_number(max_seconds) and math.isfinite(max_seconds) and max_seconds > 0
        require(right, "AudioEncoder", "max_seconds", max_seconds, "a number of seconds above 0")
        require(source not in texts, "AudioEncoder", "texts", list(texts), f"other columns than source, {source!r}")
        paths = _paths(table, source)
        characters = _characters(table, texts)
        return cls(source, texts, sample_rate or _usual_rate(paths[:FIRST]), characters, float(max_seconds), trim)

    # -- what the rules are -----------------------------------------------------------------------------------
    @property
    def names(self) -> list[str]:
        """Names of the columns that are read."""
        return [self.source]

    @property
    def columns(self) -> list[SequenceColumn]:
        """The column that is read, and its kind."""
        return [SequenceColumn(self.source, "audio")]

    @property
    def images(self) -> list[str]:
        """Names of the columns of pictures: none."""
        return []

    @property
    def tokens(self) -> list[str]:
        """Names of the columns of tokens: none."""
        return []

    @property
    def fingerprint(self) -> str:
        """A short hash of the characters: two encoders with the same one give a character the same number."""
        return fingerprint_of(json.dumps(self.characters)) if self.characters else ""

    def check_fingerprint(self, expected: str, owner: str) -> None:
        """Refuse to go on with characters other than those of weights.

        Args:
            expected: the fingerprint that the weights were trained with.
            owner: what holds them, for the message.

        Raises:
            CheckpointError: these characters are others.
        """
        check_vocabulary(self.fingerprint, expected, owner)

    @staticmethod
    def normalise(text: str) -> str:
        """Return a text without what is not heard: compatible forms made one (NFKC), small letters, single spaces.

        Args:
            text: any text.

        Example:
            >>> AudioEncoder.normalise("  The ﬁrst\\tSTREET ")
            'the first street'
        """
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold())
        return " ".join(unicodedata.normalize("NFKC", folded.casefold()).split())  # small letters of what NFKC made

    # -- recordings -------------------------------------------------------------------------------------------
    def paths(self, table: pa.Table) -> list[str]:
        """Return the path of each row's recording.

        Raises:
            DataError: there is no such column, or a row names no recording.
        """
        return _paths(table, self.source)

    def samples(self, table: pa.Table) -> Tensor:
        """Return how many samples each recording has at `sample_rate` and cut to `max_seconds`, int64 [N].

        Only headers are read; silence that `trim` leaves out is counted.

        Raises:
            DataError: a row names no recording, or a file cannot be used; it is named.
        """
        lengths = [resampled_length(header, self.sample_rate, self.max_seconds) for header in self._headers(table)]
        return torch.tensor(lengths)

    def truncated(self, table: pa.Table) -> dict[str, int]:
        """Return how many recordings were too long and lose their end: column -> rows, if there are any."""
        found = sum(header.samples > self.max_seconds * header.sample_rate for header in self._headers(table))
        return {self.source: found} if found else {}

    def _headers(self, table: pa.Table) -> list[Header]:
        """Return the headers of all recordings; those of the last table are kept: it is asked for several times."""
        if self._seen[0] is not table:
            self._seen = table, [read_header(path) for path in self.paths(table)]
        return self._seen[1]

    # -- texts ------------------------------------------------------------------------------------------------
    def text_ids(self, table: pa.Table, column: str) -> Tensor:
        """Return the characters of texts that are to be spoken, [N, U]: 0 beyond, and for missing texts.

        Raises:
            DataError: there is no such column, or a text holds a character that training did not have.
        """
        read = self._read(table, column, 0)
        if (read.flat == 0).any():
            row = int(np.repeat(np.arange(table.num_rows), read.lengths)[(read.flat == 0).argmax()])
            text = self.normalise(str(texts_of(column, find_column(table, column))[row]))
            strange = next(character for character in text if character not in self._ids)
            raise DataError(
                f"column {column!r}, row {row}, counted from 0: {text[:40]!r} holds {strange!r}, which no training "
                f"text had; known are {self.characters}. Write it in these, such as numbers as words."
            )
        return _padded(read, 0)

    def text_labels(self, table: pa.Table, column: str) -> tuple[Tensor, int]:
        """Return the characters of texts that are to be found, and how many texts hold one that training did not have.

        Args:
            table: N rows.
            column: the texts.

        Returns:
            Labels [N, U]: -100 beyond the text and for missing and empty ones, `UNSEEN` (-101) for a character that
            training did not have. With them the number of texts that hold such a one.

        Raises:
            DataError: there is no such column.
        """
        read = self._read(table, column, UNSEEN)
        rows = np.repeat(np.arange(table.num_rows), read.lengths)
        return _padded(read, MISSING), len(np.unique(rows[read.flat == UNSEEN]))

    def unseen(self, table: pa.Table) -> dict[str, int]:
        """Return how many texts hold a character that no training row had: column -> rows, if there are any."""
        found = {name: self.text_labels(table, name)[1] for name in self.texts if name in table.column_names}
        return {name: rows for name, rows in found.items() if rows}

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some numbers; 0 and negative ones are left out."""
        return "".join(self.characters[number - 1] for number in ids if number > 0)

    def _read(self, table: pa.Table, column: str, unknown: int) -> Ragged:
        texts = texts_of(column, find_column(table, column))
        ids = [[self._ids.get(character, unknown) for character in self.normalise(text or "")] for text in texts]
        return Ragged.from_lists(ids, np.array([text is None for text in texts]))

    # -- JSON -------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Return the rules as what JSON can hold."""
        return {
            "source": self.source,
            "texts": self.texts,
            "sample_rate": self.sample_rate,
            "characters": self.characters,
            "max_seconds": self.max_seconds,
            "trim": self.trim,
        }

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> Self:
        """Return the encoder that `to_dict` described.

        Raises:
            CheckpointError: the stored rules are damaged.
        """
        try:
            return cls(**described)
        except TypeError as error:
            raise CheckpointError(f"the stored rules of recordings are damaged: {error}.") from error


def _paths(table: pa.Table, source: str) -> list[str]:
    with reading(source, "paths of recordings"):
        paths: list[str | None] = as_words(find_column(table, source)).to_pylist()
    found = [path for path in paths if path]
    if len(found) < len(paths):
        row = next(row for row, path in enumerate(paths) if not path)
        raise DataError(
            f"column {source!r}, row {row}, counted from 0, names no recording; {len(paths) - len(found)} of "
            f"{len(paths)} rows do not: leave them out."
        )
    if not found:
        raise DataError(f"column {source!r} names no recording: there are no rows.")
    return found


def _usual_rate(paths: Sequence[str]) -> int:
    """Return the rate that most of the files have, at most `MOST_RATE`; of equally frequent ones the larger."""
    rates = Counter(read_header(path).sample_rate for path in paths)
    return min(MOST_RATE, max(rates, key=lambda rate: (rates[rate], rate)))


def _characters(table: pa.Table, texts: Sequence[str]) -> list[str]:
    found: set[str] = set()
    for name in texts:
        texts_here = {text for text in texts_of(name, find_column(table, name)) if text}
        said = {character for text in texts_here for character in AudioEncoder.normalise(text)}
        if not said:
            raise DataError(f"column {name!r} holds no text to learn characters from.")
        found |= said
    return sorted(found)


def _padded(read: Ragged, fill: int) -> Tensor:
    return compact(read.padded(max(1, int(read.lengths.max(initial=0))), 0, fill))
