"""Words by their number, and by their letters: what a word that training never saw still shows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from lepton.data._arrays import places
from lepton.data._tokenizer import END, PAD, SPECIAL, START, TARGET, UNKNOWN, fingerprint_of
from lepton.errors import is_whole, require

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MAX_CHARACTERS", "Lexicon"]

MIN_FREQUENCY = 2
"""A word of a single training row teaches little about itself, and its number would never be unknown in training."""

MAX_CHARACTERS = 24
"""Of a longer word the first and the last 12 characters are read."""


class Lexicon:
    """The words that have numbers of their own, and the characters that words are made of.

    Words are numbered after the special tokens, the most frequent first; others are UNKNOWN. Characters are numbered
    from 2: 0 pads, 1 is a character that no training word had.

    Args:
        words: in the order of their numbers.
        characters: in the order of their numbers.
    """

    pad, start, end, target = PAD, START, END, TARGET

    def __init__(self, words: Sequence[str], characters: Sequence[str]) -> None:
        self.words = list(words)
        self.characters = list(characters)
        self._numbers = {character: number for number, character in enumerate(self.characters, 2)}

    @classmethod
    def fit(cls, words: Iterable[str], vocabulary: int) -> Self:
        """Number the words that occur at least twice, at most `vocabulary` with the special tokens."""
        least = len(SPECIAL) + 1
        require(
            is_whole(vocabulary, least),
            "SequenceEncoder",
            "vocabulary",
            vocabulary,
            f"a whole number of at least {least}",
        )
        counts = Counter(words)
        frequent = [word for word, count in counts.items() if count >= MIN_FREQUENCY]
        frequent.sort(key=lambda word: (-counts[word], word))
        return cls(frequent[: vocabulary - len(SPECIAL)], sorted(set().union(*counts)))

    @property
    def size(self) -> int:
        """How many numbers of words there are."""
        return len(SPECIAL) + len(self.words)

    @property
    def characters_size(self) -> int:
        """How many numbers of characters there are."""
        return 2 + len(self.characters)

    @property
    def fingerprint(self) -> str:
        """A short hash of all words and characters."""
        return fingerprint_of(json.dumps(self.to_dict()))

    def encode(self, words: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """Return the number of each word [N]."""
        found = places(words, self.words)
        return np.where(found < 0, UNKNOWN, found + len(SPECIAL))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words of some numbers, joined by spaces; special tokens but UNKNOWN are left out."""
        first = len(SPECIAL)
        found = (int(number) for number in ids)
        return " ".join(
            SPECIAL[UNKNOWN] if number == UNKNOWN else self.words[number - first]
            for number in found
            if number == UNKNOWN or number >= first
        )

    def spell(self, words: pa.ChunkedArray) -> npt.NDArray[np.int32]:
        """Return the numbers of the characters of each word [N, C]."""
        import pyarrow.compute as pc

        encoded = pc.dictionary_encode(words).combine_chunks()
        distinct = [self._spelled(word) for word in encoded.dictionary.to_pylist()]
        found = np.zeros((len(distinct) + 1, max([1, *map(len, distinct)])), dtype=np.int32)
        for row, numbers in enumerate(distinct):
            found[row, : len(numbers)] = numbers
        places_of: npt.NDArray[np.int64] = pc.fill_null(encoded.indices, len(distinct)).to_numpy(zero_copy_only=False)
        return found[places_of]

    def _spelled(self, word: str) -> list[int]:
        half = MAX_CHARACTERS // 2
        kept = word if len(word) <= MAX_CHARACTERS else word[:half] + word[-half:]
        return [self._numbers.get(character, 1) for character in kept]

    def to_dict(self) -> dict[str, Any]:
        """Return the rules as what JSON can hold."""
        return {"words": self.words, "characters": self.characters}
