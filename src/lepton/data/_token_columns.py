"""Columns of texts as tokens: one vocabulary, learned from the training rows, for all such columns of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from torch import Tensor

from lepton.data._ragged import Ints, Ragged, compact
from lepton.data._text_columns import texts_of
from lepton.data._tokenizer import Tokenizer
from lepton.errors import is_whole, require

if TYPE_CHECKING:
    import pyarrow as pa

    from lepton.data._kinds import Column

__all__ = ["TokenColumn", "TokenRules"]


@dataclass(frozen=True)
class TokenColumn:
    """A column of texts that are cut into tokens, by rules that all such columns share."""

    name: str
    kind = "tokens"

    @classmethod
    def fit(cls, about: Column, column: pa.ChunkedArray, intervals: int) -> Self:
        del column, intervals
        return cls(about.name)

    def encode(self, column: pa.ChunkedArray) -> list[str]:
        """Return the texts, empty where they are missing or nothing but spaces."""
        return [text if text and not text.isspace() else "" for text in texts_of(self.name, column)]


@dataclass(frozen=True)
class TokenRules:
    """How texts become tokens.

    Attributes:
        tokenizer: cuts them.
        max_length: tokens of a text at most, START and END included.
    """

    tokenizer: Tokenizer
    max_length: int

    @classmethod
    def fit(cls, columns: Sequence[Sequence[str]], vocabulary: int, max_length: int) -> Self:
        """Learn a vocabulary from the texts of the training rows, column by column.

        Raises:
            MissingExtraError: the package tokenizers is not installed.
            ConfigurationError: `vocabulary` has no room for the bytes, or `max_length` none for a token.
        """
        require(is_whole(max_length, 3), "InputEncoder", "max_length", max_length, "a whole number of at least 3")
        return cls(Tokenizer.train(filter(None, chain(*columns)), vocabulary), max_length)

    def encode(self, columns: Sequence[Sequence[str]]) -> Tensor:
        """Return [START a b c END] for each text, padded to the longest: [N, H, L], all 0 for an empty text."""
        read = [self._numbers(texts) for texts in columns]
        width = max(int(numbers.lengths.max(initial=0)) for numbers in read) + 2
        return compact(np.stack([self._framed(numbers, width) for numbers in read], 1))

    def _numbers(self, texts: Sequence[str]) -> Ragged:
        empty = np.fromiter((not text for text in texts), bool, len(texts))
        return Ragged.from_lists(self.tokenizer.encode(texts), empty).cut(self.max_length - 2)

    def _framed(self, read: Ragged, width: int) -> Ints:
        found = read.padded(width, 1, self.tokenizer.pad)
        rows = np.flatnonzero(~read.missing)
        found[rows, 0] = self.tokenizer.start
        found[rows, read.lengths[rows] + 1] = self.tokenizer.end
        return found

    # -- JSON -------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Return the rules as what JSON can hold."""
        return {"max_length": self.max_length, "rules": json.loads(self.tokenizer.to_json())}

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> Self:
        """Return the rules that `to_dict` described.

        Raises:
            CheckpointError: the vocabulary is damaged.
        """
        return cls(Tokenizer.from_json(json.dumps(described["rules"])), described["max_length"])
