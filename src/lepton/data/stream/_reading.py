"""Windows of an epoch to tensors: read, chosen, encoded, shuffled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from lepton.data._loading import Batch
from lepton.data._plain import filled
from lepton.data.stream._batches import joined, n_rows, taken
from lepton.data.stream._blocks import Block, first_line, parted
from lepton.data.stream._order import LANES, Piece, Window
from lepton.data.stream._quarantine import BadRows, shown
from lepton.data.stream._shards import Shards
from lepton.errors import LeptonError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Choice", "Encode", "ReadWindow", "WindowReader"]

Numbers = npt.NDArray[np.int64]


class Encode(Protocol):
    """Rows of a table to inputs and targets."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns that it reads."""

    @property
    def inputs(self) -> Sequence[str]:
        """Those of them that the inputs are made of."""

    def __call__(self, table: pa.Table) -> Batch:
        """Return inputs and targets of N rows.

        Raises:
            LeptonError: a row cannot be used; OSError and ValueError likewise.
        """


class Choice(Protocol):
    """Says which rows of a shard are wanted."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns that it looks at; none where the row's place alone decides."""

    def __call__(self, shard: str, numbers: Numbers, table: pa.Table | None) -> npt.NDArray[np.bool_]:
        """Return bool [N] for rows of a shard: their numbers in it [N], and what the columns hold."""

    def count(self, shards: Shards, group: int, pieces: Sequence[tuple[int, int]]) -> list[int]:
        """Return how many wanted rows lie between the numbers of each piece of a group."""


@dataclass(frozen=True)
class Gathered:
    """Rows of a window as they were read.

    Attributes:
        pieces: for each piece the shard, the number of the group's first row, the rows, and their numbers in the group.
        bad: rows that cannot be used.
    """

    pieces: list[tuple[str, int, pa.Table, Numbers]]
    bad: list[BadRows]


@dataclass(frozen=True)
class ReadWindow:
    """What became of a window.

    Attributes:
        batch: inputs and targets of all its usable rows in their order; None where there are none.
        bad: rows that cannot be used.
    """

    batch: Batch | None
    bad: list[BadRows]


class WindowReader:
    """Reads windows of shards; in one group it reads on where the last window ended.

    Args:
        shards: the rows.
        encode: rows to inputs and targets.
        choice: which rows are wanted; None for all.
        rows: how many are read at a time of a large group.
    """

    def __init__(self, shards: Shards, encode: Encode, choice: Choice | None, rows: int) -> None:
        self.shards = shards
        self.encode = encode
        self.choice = choice
        self.rows = rows
        self.columns = list(dict.fromkeys([*encode.columns, *(choice.columns if choice is not None else ())]))
        self._open: dict[int, _Reading] = {}

    def gather(self, window: Window) -> Gathered:
        """Read the rows of a window of an epoch."""
        bad: list[BadRows] = []
        pieces = []
        for piece in window.pieces:
            group = self.shards.groups[piece.group]
            name, first = self.shards.names[group.shard], group.extent.first
            pieces.append((name, first, *self._chosen(piece, *self._table(piece, bad), name, first)))
        return Gathered(pieces, bad)

    def encoded(self, gathered: Gathered, generator: torch.Generator | None) -> ReadWindow:
        """Return the rows of a window as inputs and targets.

        Args:
            gathered: its rows.
            generator: draws their order; without one they keep theirs.
        """
        bad = list(gathered.bad)
        batches = [batch for piece in gathered.pieces for batch in self._encoded(*piece, bad)]
        if not batches:
            return ReadWindow(None, bad)
        batch = joined(batches)
        if generator is not None:
            batch = taken(batch, torch.randperm(n_rows(batch), generator=generator))
        return ReadWindow(batch, bad)

    def close(self) -> None:
        """Close what is open."""
        for reading in self._open.values():
            reading.close()
        self._open.clear()

    # -- rows -------------------------------------------------------------------------------------------------
    def _encoded(self, name: str, first: int, table: pa.Table, numbers: Numbers, bad: list[BadRows]) -> Iterator[Batch]:
        table, numbers = _finite(table, numbers, self.encode.inputs, name, first, bad)

        def use(start: int, stop: int) -> Batch:
            return self.encode(table.slice(start, stop - start))

        for start, _, found in parted(use, 0, table.num_rows, (LeptonError, OSError, ValueError)):
            if isinstance(found, Exception):
                bad.append(_bad(name, first + int(numbers[start]), first_line(found), table.slice(start, 1)))
            else:
                yield found

    def _table(self, piece: Piece, bad: list[BadRows]) -> tuple[pa.Table, Numbers]:
        """Return the usable rows of a piece, and their numbers in the group."""
        reading = self._open.pop(piece.group, None)
        if reading is None or reading.row > piece.start:
            if reading is not None:
                reading.close()
            reading = _Reading(self.shards.blocks(piece.group, self.columns, self.rows))
        block = reading.take(piece.start, piece.stop)
        bad += block.bad
        if piece.stop < self.shards.groups[piece.group].extent.rows:
            self._open[piece.group] = reading
            while len(self._open) > LANES:
                self._open.pop(next(iter(self._open))).close()
        else:
            reading.close()
        return block.table, block.numbers

    def _chosen(
        self, piece: Piece, table: pa.Table, numbers: Numbers, name: str, first: int
    ) -> tuple[pa.Table, Numbers]:
        """Return those rows of a piece that are wanted and belong to this process."""
        whole = self.choice is None and len(piece) == piece.stop - piece.start
        if whole:
            return table, numbers
        if self.choice is None:
            wanted = np.arange(piece.start + piece.first, piece.start + piece.last)
            kept = np.isin(numbers, wanted)
        elif self.choice.columns:
            places = np.flatnonzero(self.choice(name, first + numbers, table))[piece.first : piece.last]
            kept = np.isin(np.arange(len(numbers)), places)
        else:  # by its place alone, so that an unusable row takes nobody else's
            every = np.arange(piece.start, piece.stop)
            wanted = every[self.choice(name, first + every, None)][piece.first : piece.last]
            kept = np.isin(numbers, wanted)
        return table.filter(kept), numbers[kept]


class _Reading:
    """A group that is read on and on."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self.blocks = blocks
        self.row = 0
        self._kept: Block | None = None

    def take(self, start: int, stop: int) -> Block:
        """Return the rows between two numbers, the first of which is not before what was taken last."""
        import pyarrow as pa

        tables: list[pa.Table] = []
        numbers: list[Numbers] = []
        bad: list[BadRows] = []
        block = self._kept
        while block is None or block.stop < stop:
            if block is not None:
                _add(block, start, stop, tables, numbers)
            block = next(self.blocks, None)
            if block is None:
                break
            bad += block.bad
        if block is not None:
            _add(block, start, stop, tables, numbers)
        self._kept, self.row = block, stop
        if not tables:
            raise AssertionError("a group without a block")
        return Block(pa.concat_tables(tables), np.concatenate(numbers), stop, bad)

    def close(self) -> None:
        """Close the file, if it is still open."""
        close = getattr(self.blocks, "close", None)
        if close is not None:
            close()


def _add(block: Block, start: int, stop: int, tables: list[Any], numbers: list[Numbers]) -> None:
    low, high = np.searchsorted(block.numbers, [start, stop]).tolist()
    tables.append(block.table.slice(low, high - low))
    numbers.append(block.numbers[low:high])


def _finite(
    table: pa.Table, numbers: Numbers, names: Sequence[str], name: str, first: int, bad: list[BadRows]
) -> tuple[pa.Table, Numbers]:
    """Return the rows without infinite inputs. What is no number at all counts as missing, as in a table."""
    import pyarrow as pa

    strange = np.zeros(table.num_rows, bool)
    for column in names:
        values = table.column(column)
        if pa.types.is_floating(values.type):
            for found in _infinite(values):
                strange |= found
    for row in np.flatnonzero(strange).tolist():
        bad.append(_bad(name, first + int(numbers[row]), "an input is infinite", table.slice(row, 1)))
    return (table.filter(~strange), numbers[~strange]) if strange.any() else (table, numbers)


def _infinite(values: pa.ChunkedArray) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield bool [N] if there is an infinite number."""
    numbers = filled(values, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(numbers.sum())  # a sum is, if its terms are, and reads them once
    if not finite and (found := np.isinf(numbers)).any():
        yield found


def _bad(name: str, row: int, reason: str, table: pa.Table) -> BadRows:
    import json

    text = json.dumps(table.to_pylist()[0], default=str, ensure_ascii=False)
    return BadRows(name, row, reason, shown(text))
