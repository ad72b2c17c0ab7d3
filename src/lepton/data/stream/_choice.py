"""Which rows of shards belong to training, validation and test: by their place, or by a column."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lepton.data._parts import PARTS, told_parts
from lepton.data.stream._shards import Shards
from lepton.errors import ConfigurationError, is_number, require

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PartByColumn", "PartByPlace"]

Numbers = npt.NDArray[np.int64]


def _draws(shard: str, numbers: Numbers, seed: int) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each row, that its shard's name, its number and a seed fix.

    The numbers are mixed by the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
    """
    name = zlib.crc32(shard.rpartition("/")[2].encode())
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + (name << 32)) % (1 << 64))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


class PartByPlace:
    """The rows of a part, drawn by a hash of the shard's name and the row's number in it.

    A row keeps its part when shards are added, moved to another folder or read in another order.

    Args:
        part: `"train"`, `"val"` or `"test"`.
        val: share of the rows for validation.
        test: share for the test.
        seed: fixes the draw.

    Example:
        >>> import numpy
        >>> rows = numpy.arange(1000)
        >>> [int(PartByPlace(part, val=0.2, test=0.1)("a.csv", rows, None).sum()) for part in ("train", "val", "test")]
        [701, 198, 101]
    """

    columns: Sequence[str] = ()

    def __init__(self, part: str, *, val: float = 0.15, test: float = 0.15, seed: int = 0) -> None:
        require(part in PARTS, "PartByPlace", "part", part, f"one of {PARTS}")
        for name, share in (("val", val), ("test", test)):
            require(is_number(share) and 0 <= share < 1, "PartByPlace", name, share, "a share of at least 0 below 1")
        if val + test >= 1:
            raise ConfigurationError(f"PartByPlace: val + test is {val + test}, but some rows must train.")
        ends = {"train": (val + test, 1.0), "val": (test, val + test), "test": (0.0, test)}
        self.low, self.high = ends[part]
        self.seed = seed

    def __call__(self, shard: str, numbers: Numbers, table: pa.Table | None) -> npt.NDArray[np.bool_]:
        """Return bool [N] for rows of a shard, by their numbers in it [N]."""
        draws = _draws(shard, numbers, self.seed)
        return (draws >= self.low) & (draws < self.high)

    def count(self, shards: Shards, group: int, pieces: Sequence[tuple[int, int]]) -> list[int]:
        """Return how many rows of the part lie between the numbers of each piece of a group."""
        about = shards.groups[group]
        first = about.extent.first
        name = shards.names[about.shard]
        return [int(self(name, np.arange(first + low, first + high), None).sum()) for low, high in pieces]


class PartByColumn:
    """The rows for which a column says `train`, `val` or `test`.

    Args:
        part: `"train"`, `"val"` or `"test"`.
        column: the column's name.
        counts: what was counted before, so that the parts of one source count its rows once together.
    """

    def __init__(
        self, part: str, column: str, counts: dict[tuple[int, int, int], dict[str, int]] | None = None
    ) -> None:
        require(part in PARTS, "PartByColumn", "part", part, f"one of {PARTS}")
        self.part = part
        self.columns = (column,)
        self._counts = {} if counts is None else counts

    def __call__(self, shard: str, numbers: Numbers, table: pa.Table | None) -> npt.NDArray[np.bool_]:
        """Return bool [N] for rows of a shard, by what the column holds in them."""
        assert table is not None
        found: npt.NDArray[np.bool_] = told_parts(table, self.columns[0]) == self.part
        return found

    def count(self, shards: Shards, group: int, pieces: Sequence[tuple[int, int]]) -> list[int]:
        """Return how many rows of the part lie between the numbers of each piece of a group."""
        wanted = [(group, *piece) for piece in pieces]
        if any(key not in self._counts for key in wanted):
            self._counts |= dict(zip(wanted, self._counted(shards, group, pieces), strict=True))
        return [self._counts[key].get(self.part, 0) for key in wanted]

    def _counted(self, shards: Shards, group: int, pieces: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
        found = [dict.fromkeys(PARTS, 0) for _ in pieces]
        for block in shards.blocks(group, self.columns):
            parts = told_parts(block.table, self.columns[0]) if block.table.num_rows else np.array([], str)
            for counts, (low, high) in zip(found, pieces, strict=True):
                start, stop = np.searchsorted(block.numbers, [low, high]).tolist()
                for part in PARTS:
                    counts[part] += int((parts[start:stop] == part).sum())
        return found
