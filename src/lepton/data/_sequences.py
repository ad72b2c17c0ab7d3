"""Columns of texts or of lists of words to padded sequences of numbers, by rules that are fitted once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from torch import Tensor

from lepton.data._arrays import as_words, places
from lepton.data._kinds import Kind, find_column
from lepton.data._lexicon import Lexicon
from lepton.data._ragged import Ints, Ragged, compact
from lepton.data._targets import is_list
from lepton.data._text_columns import find_text, flat_words, list_lengths, split_words, texts_of, words_of
from lepton.data._tokenizer import Tokenizer, check_vocabulary
from lepton.errors import CheckpointError, ConfigurationError, DataError, is_whole, require
from lepton.tasks import TokenClassification

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MISSING", "UNSEEN", "SequenceEncoder", "SequenceInputs"]

MISSING = -100
"""The label of a token without one."""

UNSEEN = TokenClassification.unseen
"""The label of a word whose tag is none of the classes: nothing is learned from it, and no prediction is right."""


class SequenceInputs(NamedTuple):
    """Padded sequences and how much of them is filled.

    Attributes:
        inputs: name -> tensor [N, L] or [N, L, C] of whole numbers of 16 or 32 bits.
        lengths: name -> int64 [N].
    """

    inputs: dict[str, Tensor]
    lengths: dict[str, Tensor]


@dataclass(frozen=True)
class SequenceColumn:
    """A column that is read as sequences: `"text"` or `"words"`."""

    name: str
    kind: Kind


class SequenceEncoder:
    """The rules that turn texts into sequences of numbers, fitted on training rows only.

    A column of texts is cut into pieces by a `Tokenizer`; with a second column, `target`, both share its vocabulary. A
    column of lists of words has a number for each word that training has twice, and the words' characters beside it; a
    text in such a column, as when one is asked about, is cut at its spaces.

    A sequence is [START a b c END], a second one [TARGET x y z]. Both hold at most `max_length` numbers: longer texts
    lose their end, never END. An empty text is [START END]. A missing one is read as an empty one, and has no labels.

    Args:
        source: the column that is read.
        target: a second column of texts, such as a translation.
        max_length: numbers of a sequence at most.
        rules: cuts texts, or numbers words.

    Example:
        >>> from lepton.data import read_table
        >>> words, tags = [["the", "dog", "runs"], ["the", "dog"]], [["D", "N", "V"], ["D", "N"]]
        >>> table = read_table({"words": words, "tags": tags})
        >>> encoder = SequenceEncoder.fit(table, "words")
        >>> encoder.encode(table).inputs["tokens"].tolist()
        [[2, 6, 5, 1, 3], [2, 6, 5, 3, 0]]
        >>> labels, unseen = encoder.tag_labels(table, "tags", ["D", "N"])
        >>> labels.tolist(), unseen
        ([[-100, 0, 1, -101, -100], [-100, 0, 1, -100, -100]], 1)
    """

    def __init__(self, source: str, target: str | None, max_length: int, rules: Tokenizer | Lexicon) -> None:
        self.source = source
        self.target = target
        self.max_length = max_length
        self.rules = rules
        self._cut: tuple[pa.Table | None, dict[str, Ragged]] = None, {}

    @classmethod
    def fit(
        cls,
        table: pa.Table,
        source: str,
        *,
        target: str | None = None,
        vocabulary: int = 8000,
        max_length: int = 128,
        tokenizer: Tokenizer | None = None,
    ) -> Self:
        """Fit the rules on the training rows.

        Args:
            table: the training rows.
            source: a column of texts, or of lists of words.
            target: a second column of texts.
            vocabulary: how many tokens or words there are at most, special tokens included.
            max_length: numbers of a sequence at most, START and END included.
            tokenizer: use these tokens instead of learning some.

        Raises:
            DataError: a column is missing or holds no text.
            ConfigurationError: options that do not fit each other or the column.
        """
        require(is_whole(max_length, 3), "SequenceEncoder", "max_length", max_length, "a whole number of at least 3")
        require(target != source, "SequenceEncoder", "target", target, f"another column than source, {source!r}")
        for name in (source, target):
            find_text(table, name)
        column = find_column(table, source)
        if not is_list(column):
            rules = tokenizer or _pieces(table, [name for name in (source, target) if name is not None], vocabulary)
            return cls(source, target, max_length, rules)
        for option, value in (("target", target), ("tokenizer", tokenizer)):
            if value is not None:
                raise ConfigurationError(
                    f"SequenceEncoder: {source!r} holds lists of words, which go without {option}: join them to texts."
                )
        words = [word for word in as_words(flat_words(source, column)).to_pylist() if word is not None]
        if not words:
            raise DataError(f"column {source!r} holds no word to learn a vocabulary from.")
        return cls(source, None, max_length, Lexicon.fit(words, vocabulary))

    # -- what the rules are -----------------------------------------------------------------------------------
    @property
    def words(self) -> bool:
        """Whether whole words are read, with their characters; else pieces of texts."""
        return isinstance(self.rules, Lexicon)

    @property
    def vocabulary(self) -> int:
        """How many numbers tokens have, special ones included."""
        return self.rules.size

    @property
    def characters(self) -> int:
        """How many numbers characters have; 0 where none are read."""
        return self.rules.characters_size if isinstance(self.rules, Lexicon) else 0

    @property
    def pad(self) -> int:
        """The number that fills up short rows."""
        return self.rules.pad

    @property
    def names(self) -> list[str]:
        """Names of the columns that are read."""
        return [self.source]

    @property
    def columns(self) -> list[SequenceColumn]:
        """The column that is read, and its kind."""
        return [SequenceColumn(self.source, "words" if self.words else "text")]

    @property
    def images(self) -> list[str]:
        """Names of the columns of pictures: none."""
        return []

    @property
    def fingerprint(self) -> str:
        """A short hash of the vocabulary: two encoders with the same one give a token the same number."""
        return self.rules.fingerprint

    def check_fingerprint(self, expected: str, owner: str) -> None:
        """Refuse to go on with a vocabulary other than that of weights.

        Args:
            expected: the fingerprint that the weights were trained with.
            owner: what holds them, for the message.

        Raises:
            CheckpointError: this vocabulary is another one.
        """
        check_vocabulary(self.fingerprint, expected, owner)

    # -- inputs -----------------------------------------------------------------------------------------------
    def encode(self, table: pa.Table) -> SequenceInputs:
        """Return the sequences of all rows, padded on the right.

        Args:
            table: N rows; more columns than needed are fine, and `target` may be absent.

        Returns:
            `tokens` [N, S]; with `target` [N, T], if the table has that column; for words `characters` [N, S, C],
            zeros for START, END and padding. With them the filled places of each row.

        Raises:
            DataError: the column is missing or holds neither texts nor lists of words.
        """
        read = self._source(table)
        width = _longest(read) + 2
        tokens = read.padded(width, 1, self.pad)
        tokens[:, 0] = self.rules.start
        tokens[np.arange(len(tokens)), read.lengths + 1] = self.rules.end
        inputs, lengths = {"tokens": compact(tokens)}, {"tokens": _tensor(read.lengths + 2)}
        if isinstance(self.rules, Lexicon):
            inputs["characters"] = compact(self._spelled(table).padded(width, 1, 0))
            lengths["characters"] = lengths["tokens"]
        if self.target is not None and self.target in table.column_names:
            second = self._target(table)
            target = second.padded(_longest(second) + 1, 1, self.pad)
            target[:, 0] = self.rules.target
            inputs["target"], lengths["target"] = compact(target), _tensor(second.lengths + 1)
        return SequenceInputs(inputs, lengths)

    def unseen(self, table: pa.Table) -> dict[str, int]:
        """Return how many rows hold a character that no training row had: column -> rows, if there are any.

        Pieces of texts are made of bytes, so that none is unknown.
        """
        if not isinstance(self.rules, Lexicon):
            return {}
        spelled = self._spelled(table)
        rows = np.repeat(np.arange(table.num_rows), spelled.lengths)
        found = len(np.unique(rows[(spelled.flat == 1).any(1)]))
        return {self.source: found} if found else {}

    def source_lengths(self, table: pa.Table) -> list[int]:
        """Return how many words, or tokens of a text, each row has, those that are cut off too; 0 where missing."""
        lengths: list[int] = self._read(table, self.source).lengths.tolist()
        return lengths

    def truncated(self, table: pa.Table) -> dict[str, int]:
        """Return how many texts were too long and lost their end: column -> rows, if there are any."""
        room = {self.source: self.max_length - 2}
        if self.target is not None and self.target in table.column_names:
            room[self.target] = self.max_length - 1
        found = {name: int((self._read(table, name).lengths > longest).sum()) for name, longest in room.items()}
        return {name: rows for name, rows in found.items() if rows}

    # -- labels -----------------------------------------------------------------------------------------------
    def language_labels(self, table: pa.Table) -> Tensor:
        """Return for each of the `tokens` the one that follows, [a b c END -100], as [N, S]; -100 beyond."""
        return self._following(self._source(table), 2)

    def target_labels(self, table: pa.Table) -> Tensor:
        """Return for each of the numbers in `target` the one that follows, [x y z END], as [N, T]; -100 beyond.

        Raises:
            DataError: there is no such column.
            ConfigurationError: the rules were fitted without one.
        """
        require(self.target is not None, "SequenceEncoder", "target", self.target, "a column, to have labels of it")
        return self._following(self._target(table), 1)

    def tag_labels(self, table: pa.Table, column: str, classes: Sequence[str]) -> tuple[Tensor, int]:
        """Return the tags of the words, [-100 t_a t_b t_c -100], and how many are none of the classes.

        Args:
            table: N rows.
            column: lists of tags, one for each word.
            classes: the tags that training knows, in the order of their numbers.

        Returns:
            Labels [N, S]: -100 beyond the words and where a tag is missing, `UNSEEN` for a tag that is no class.

        Raises:
            DataError: there is no such column, or a row has more or fewer tags than words.
            ConfigurationError: texts are read, not words.
        """
        require(self.words, "SequenceEncoder", "source", self.source, "a column of lists of words, to have tags of it")
        values = find_column(table, column)
        if values.null_count == len(values):  # of no type, perhaps
            return self._following(self._source(table), 2).fill_(MISSING), 0
        tags = as_words(flat_words(column, values))
        numbers = np.where(np.asarray(tags.is_null()), MISSING, places(tags, classes))
        numbers = np.where(numbers == -1, UNSEEN, numbers)
        read = Ragged(numbers, list_lengths(values), np.asarray(values.is_null()))
        self._check_tags(self._read(table, self.source), read, column)
        cut = read.cut(self.max_length - 2)
        labels = cut.padded(_longest(self._source(table)) + 2, 1, MISSING)
        return compact(labels), int((numbers == UNSEEN).sum())

    def _check_tags(self, words: Ragged, tags: Ragged, column: str) -> None:
        wrong = (words.lengths != tags.lengths) & ~tags.missing
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"row {row}, counted from 0, has {words.lengths[row]} words in {self.source!r}, but "
                f"{tags.lengths[row]} tags in {column!r}: every word needs one, or null."
            )

    def _following(self, read: Ragged, further: int) -> Tensor:
        labels = read.padded(_longest(read) + further, 0, MISSING)
        rows = np.flatnonzero(~read.missing)
        labels[rows, read.lengths[rows]] = self.rules.end
        return compact(labels)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of some numbers, without special tokens; words are joined by spaces."""
        return self.rules.decode(ids)

    # -- columns ----------------------------------------------------------------------------------------------
    def _source(self, table: pa.Table) -> Ragged:
        return self._read(table, self.source).cut(self.max_length - 2)

    def _target(self, table: pa.Table) -> Ragged:
        assert self.target is not None
        return self._read(table, self.target).cut(self.max_length - 1)

    def _spelled(self, table: pa.Table) -> Ragged:
        assert isinstance(self.rules, Lexicon)
        words = self._read(table, self.source)
        spelled = self.rules.spell(words_of(self.source, find_column(table, self.source)))
        return Ragged(spelled, words.lengths, words.missing).cut(self.max_length - 2)

    def _read(self, table: pa.Table, name: str) -> Ragged:
        """Return the numbers of a column; those of the last table are kept: it is asked for several times."""
        last, found = self._cut
        if last is not table:
            found = {}
            self._cut = table, found
        if name not in found:
            found[name] = self._numbers(name, find_column(table, name))
        return found[name]

    def _numbers(self, name: str, column: pa.ChunkedArray) -> Ragged:
        missing = np.asarray(column.is_null())
        if isinstance(self.rules, Lexicon):
            numbers = self.rules.encode(words_of(name, column))
            return Ragged(numbers, list_lengths(split_words(name, column)), missing)
        return Ragged.from_lists(self.rules.encode([text or "" for text in texts_of(name, column)]), missing)

    # -- JSON -------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Return the rules as what JSON can hold."""
        kind = "words" if isinstance(self.rules, Lexicon) else "pieces"
        rules = self.rules.to_dict() if isinstance(self.rules, Lexicon) else json.loads(self.rules.to_json())
        about = {"source": self.source, "target": self.target, "max_length": self.max_length}
        return {"kind": kind, **about, "fingerprint": self.fingerprint, "rules": rules}

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> Self:
        """Return the encoder that `to_dict` described.

        Raises:
            CheckpointError: the vocabulary is damaged, or not the one that was described.
        """
        try:
            stored, words = described["rules"], described["kind"] == "words"
            rules = Lexicon(**stored) if words else Tokenizer.from_json(json.dumps(stored))
            found = cls(described["source"], described["target"], described["max_length"], rules)
            expected = described["fingerprint"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"the stored rules of texts are damaged: {error!r}.") from error
        found.check_fingerprint(expected, "this run")
        return found


def _pieces(table: pa.Table, names: Sequence[str], vocabulary: int) -> Tokenizer:
    """Learn one vocabulary from several columns of texts."""
    columns = {name: texts_of(name, find_column(table, name)) for name in names}
    for name, texts in columns.items():
        if not any(texts):
            raise DataError(f"column {name!r} holds no text to learn a vocabulary from.")
    return Tokenizer.train((text for texts in columns.values() for text in texts if text), vocabulary)


def _longest(read: Ragged) -> int:
    return int(read.lengths.max(initial=0))


def _tensor(lengths: Ints) -> Tensor:
    return compact(lengths).long()
