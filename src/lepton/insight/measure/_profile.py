"""How the values of a column are distributed, in few enough numbers to be kept, and counted again on other rows."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Profile", "WordFilter", "profile_of_numbers", "profile_of_words"]

Floats = npt.NDArray[np.float64]

MOST_EDGES = 64
MOST_VALUES = 1000
BITS = 1 << 17
"""Bits of a filter of words: 20 000 different words set a seventh of them."""


@dataclass(frozen=True)
class Profile:
    """A column's values as rows in bins.

    The bins of numbers lie between edges: bin k holds e_k <= x < e_(k+1), and one more what is below e_0. With at most
    64 different values each is an edge, and otherwise quantiles are; the last edge is the next number above them all.
    Words have a bin each, and one more for all others.

    Attributes:
        edges: of numbers [K], rising; none for words.
        values: the words [K], the most frequent first; none for numbers.
        counts: rows in each bin [K + 1], the additional one first.
        missing: rows without a value.
        mean: of numbers; NaN otherwise.
        std: of numbers; NaN otherwise.
    """

    edges: tuple[float, ...]
    values: tuple[str, ...]
    counts: tuple[int, ...]
    missing: int
    mean: float = math.nan
    std: float = math.nan

    @property
    def ordered(self) -> bool:
        """Whether the bins have an order."""
        return bool(self.edges)

    @property
    def rows(self) -> int:
        """Number of rows, those without a value included."""
        return sum(self.counts) + self.missing

    def count(self, column: Floats | Sequence[str | None]) -> Profile:
        """Return the profile of other rows of the column in the same bins.

        Args:
            column: as that which the profile was made of.

        Example:
            >>> profile_of_numbers(np.array([1.0, 2.0])).count(np.array([0.0, 1.5, 2.0, 9.0, np.nan])).counts
            (1, 1, 1, 1)
        """
        if self.ordered:
            numbers = np.asarray(column, dtype=np.float64)
            return _numbers_in(self.edges, numbers)
        assert not isinstance(column, np.ndarray)
        return _words_in(self.values, column)

    def merged(self, other: Profile) -> Profile:
        """Return the profile of these rows and those of another one with the same bins together."""
        mine, theirs = sum(self.counts), sum(other.counts)
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        mean, std = self.mean, self.std
        if mine and theirs and self.ordered:
            mean = (mine * self.mean + theirs * other.mean) / (mine + theirs)
            square = (mine * (self.std**2 + self.mean**2) + theirs * (other.std**2 + other.mean**2)) / (mine + theirs)
            std = math.sqrt(max(0.0, square - mean**2))
        return Profile(self.edges, self.values, counts, self.missing + other.missing, mean, std)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {key: None if value != value else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Return what `to_dict` described."""
        edges, values, counts = (tuple(found[key]) for key in ("edges", "values", "counts"))
        mean, std = (math.nan if found[key] is None else float(found[key]) for key in ("mean", "std"))
        return cls(edges, values, counts, int(found["missing"]), mean, std)


def profile_of_numbers(numbers: Floats) -> Profile:
    """Return the profile of a column of numbers.

    Args:
        numbers: [N]; NaN where missing.

    Example:
        >>> found = profile_of_numbers(np.array([3.0, 3.0, 5.0, np.nan]))
        >>> found.edges[:2], found.counts, found.missing
        ((3.0, 5.0), (0, 2, 1, 0), 1)
    """
    values = np.unique(numbers[~np.isnan(numbers)])
    if len(values) > MOST_EDGES:
        shares = np.linspace(0, 1, MOST_EDGES + 1)[:-1]
        values = np.unique(np.quantile(numbers[~np.isnan(numbers)], shares))
    # What lies beyond all of these rows gets a bin of its own, as what lies below them has.
    beyond = np.nextafter(np.nanmax(numbers), np.inf) if len(values) else 0.0
    return _numbers_in((*values.tolist(), float(beyond)), numbers)


def _numbers_in(edges: tuple[float, ...], numbers: Floats) -> Profile:
    known = numbers[~np.isnan(numbers)]
    counts = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1)
    mean, std = (float(known.mean()), float(known.std())) if len(known) else (math.nan, math.nan)
    return Profile(edges, (), tuple(counts.tolist()), len(numbers) - len(known), mean, std)


def profile_of_words(words: Sequence[str | None], values: Sequence[str] | None = None) -> Profile:
    """Return the profile of a column of words.

    Args:
        words: [N]; None where missing.
        values: those that get a bin; by default the thousand most frequent ones.

    Example:
        >>> found = profile_of_words(["b", "a", None, "a"])
        >>> found.values, found.counts, found.missing
        (('a', 'b'), (0, 2, 1), 1)
    """
    if values is None:
        counts = Counter(word for word in words if word is not None)
        values = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_VALUES]]
    return _words_in(tuple(values), words)


def _words_in(values: tuple[str, ...], words: Sequence[str | None]) -> Profile:
    counts = Counter(word for word in words if word is not None)
    known = [counts[value] for value in values]
    total = sum(counts.values())
    return Profile((), values, (total - sum(known), *known), len(words) - total)


class WordFilter:
    """Which words some texts hold, as a field of bits that tells words apart that they do not hold (Bloom, 1970).

    A word sets the bit of its hash. With n different words of b bits, about a share of 1 - exp(-n / b) of the others
    seems to be held.

    Args:
        bits: the field; empty by default.

    Example:
        >>> words = WordFilter()
        >>> words.add(["a dog runs", None])
        >>> words.unknown_shares(["a cat runs", "a dog", None])
        array([0.33333333, 0.        ,        nan])
    """

    def __init__(self, bits: bytes | None = None) -> None:
        self._bits = np.zeros(BITS // 8, np.uint8) if bits is None else np.frombuffer(bits, np.uint8).copy()

    def add(self, texts: Iterable[str | None]) -> None:
        """Take the words of texts in."""
        for place in {_place(word) for text in texts if text for word in words_of(text)}:
            self._bits[place // 8] |= 1 << (place % 8)

    def unknown_shares(self, texts: Sequence[str | None]) -> Floats:
        """Return for each text the share of its words that are not held; NaN without a word."""
        return np.array([self._unknown(text) for text in texts])

    def _unknown(self, text: str | None) -> float:
        places = [_place(word) for word in words_of(text or "")]
        held = sum(bool(self._bits[place // 8] & (1 << (place % 8))) for place in places)
        return 1 - held / len(places) if places else math.nan

    def to_hex(self) -> str:
        """Return the bits as what JSON can hold, compressed."""
        return zlib.compress(self._bits.tobytes()).hex()

    @classmethod
    def from_hex(cls, found: str) -> Self:
        """Return what `to_hex` gave."""
        return cls(zlib.decompress(bytes.fromhex(found)))


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters, without punctuation."""
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()


def _place(word: str) -> int:
    return zlib.crc32(word.encode()) % BITS
