"""Windows of an epoch to tensors: read, chosen, encoded, shuffled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from lepton.data._batches import taken
from lepton.data._loading import Batch, seeded_generator
from lepton.data._plain import filled
from lepton.data.stream._blocks import Block, first_line, parted
from lepton.data.stream._order import LANES, Piece, Window
from lepton.data.stream._quarantine import BadRows, shown
from lepton.data.stream._rows_encode import RowsEncode
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
class Found:
    """Rows as they were read.

    Attributes:
        table: the rows.
        shards: place of the shard of each among all [N].
        numbers: the row's number in it [N].
    """

    table: pa.Table
    shards: Numbers
    numbers: Numbers

    def taken(self, places: Numbers) -> Found:
        """Return some of the rows, in the order of their places [M]."""
        return Found(self.table.take(places), self.shards[places], self.numbers[places])

    def part(self, start: int, stop: int) -> Found:
        """Return the rows from one to before another."""
        return Found(self.table.slice(start, stop - start), self.shards[start:stop], self.numbers[start:stop])

    def kept(self, which: npt.NDArray[np.bool_]) -> Found:
        """Return the rows for which bool [N] says so."""
        return Found(self.table.filter(which), self.shards[which], self.numbers[which])


@dataclass(frozen=True)
class Gathered:
    """Rows of a window as they were read.

    Attributes:
        pieces: the rows, in as many pieces as they came.
        bad: rows that cannot be used.
    """

    pieces: list[Found]
    bad: list[BadRows]


@dataclass(frozen=True)
class ReadWindow:
    """What became of a window, or of a part of one.

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
        batch_size: rows of a batch, for those of like length.
        seeds: with a window's number they fix its order; None where rows keep theirs.
    """

    def __init__(
        self,
        shards: Shards,
        encode: RowsEncode,
        choice: Choice | None,
        rows: int,
        *,
        batch_size: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> None:
        self.shards = shards
        self.encode = encode
        self.choice = choice
        self.rows = rows
        self.batch_size = batch_size
        self.seeds = seeds
        self.columns = list(dict.fromkeys([*encode.columns, *(choice.columns if choice is not None else ())]))
        self._open: dict[int, _Reading] = {}
        self._whole: tuple[tuple[Piece, ...], Gathered] | None = None  # of a window that is read in parts

    def gather(self, window: Window) -> Gathered:
        """Read the rows of a window, or of a part of one."""
        if window.last is None:
            return self._gathered(window)
        if self._whole is None or self._whole[0] is not window.pieces:
            self._whole = window.pieces, self._mixed(self._gathered(window), window.number)
        whole = self._whole[1]
        return Gathered([whole.pieces[0].part(window.first, window.last)], whole.bad if window.first == 0 else [])

    def _gathered(self, window: Window) -> Gathered:
        bad: list[BadRows] = []
        return Gathered([self._chosen(piece, *self._table(piece, bad)) for piece in window.pieces], bad)

    def _mixed(self, gathered: Gathered, number: int) -> Gathered:
        """Return the rows of a window in one piece, in their order of this epoch."""
        import pyarrow as pa

        table = pa.concat_tables([piece.table for piece in gathered.pieces]).combine_chunks()
        shards, numbers = (
            np.concatenate([getattr(piece, name) for piece in gathered.pieces]) for name in ("shards", "numbers")
        )
        found = Found(table, shards, numbers)
        if self.seeds is not None:
            draws = seeded_generator(*self.seeds, number + 1)
            found = found.taken(torch.randperm(table.num_rows, generator=draws).numpy())
        return Gathered([found], gathered.bad)

    def encoded(self, gathered: Gathered, window: Window) -> ReadWindow:
        """Return the rows of a window, or of a part of one, as inputs and targets."""
        bad = list(gathered.bad)
        draws = self._draws(window)
        batches = [batch for piece in gathered.pieces for batch in self._encoded(piece, bad, draws)]
        if not batches:
            return ReadWindow(None, bad)
        batch = self.encode.joined(batches)
        if draws is not None:
            batch = taken(batch, self.encode.order(batch, self.batch_size, draws))
        return ReadWindow(batch, bad)

    def _draws(self, window: Window) -> torch.Generator | None:
        if self.seeds is None:
            return None
        part = () if window.last is None else (window.first + 1,)
        return seeded_generator(*self.seeds, window.number + 1, *part)

    def close(self) -> None:
        """Close what is open."""
        for reading in self._open.values():
            reading.close()
        self._open.clear()

    # -- rows -------------------------------------------------------------------------------------------------
    def _encoded(self, rows: Found, bad: list[BadRows], draws: torch.Generator | None) -> Iterator[Batch]:
        rows = self._finite(rows, bad)

        def use(start: int, stop: int) -> Batch:
            return self.encode.read(rows.table.slice(start, stop - start), draws)

        for start, _, found in parted(use, 0, rows.table.num_rows, (LeptonError, OSError, ValueError)):
            if isinstance(found, Exception):
                bad.append(self._bad(rows, start, first_line(found)))
            else:
                yield found

    def _finite(self, rows: Found, bad: list[BadRows]) -> Found:
        """Return the rows without infinite inputs. What is no number at all counts as missing, as in a table."""
        import pyarrow as pa

        strange = np.zeros(rows.table.num_rows, bool)
        for column in self.encode.inputs:
            values = rows.table.column(column)
            if pa.types.is_floating(values.type):
                for found in _infinite(values):
                    strange |= found
        bad += [self._bad(rows, row, "an input is infinite") for row in np.flatnonzero(strange).tolist()]
        return rows.kept(~strange) if strange.any() else rows

    def _bad(self, rows: Found, row: int, reason: str) -> BadRows:
        text = json.dumps(rows.table.slice(row, 1).to_pylist()[0], default=str, ensure_ascii=False)
        return BadRows(self.shards.names[rows.shards[row]], int(rows.numbers[row]), reason, shown(text))

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

    def _chosen(self, piece: Piece, table: pa.Table, numbers: Numbers) -> Found:
        """Return those rows of a piece that are wanted and belong to this process."""
        group = self.shards.groups[piece.group]
        first = group.extent.first
        found = Found(table, np.full(table.num_rows, group.shard), first + numbers)
        if self.choice is None and len(piece) == piece.stop - piece.start:
            return found
        name = self.shards.names[group.shard]
        if self.choice is None:
            wanted = np.arange(piece.start + piece.first, piece.start + piece.last)
            kept = np.isin(numbers, wanted)
        elif self.choice.columns:
            places = np.flatnonzero(self.choice(name, found.numbers, table))[piece.first : piece.last]
            kept = np.isin(np.arange(len(numbers)), places)
        else:  # by its place alone, so that an unusable row takes nobody else's
            every = np.arange(piece.start, piece.stop)
            wanted = every[self.choice(name, first + every, None)][piece.first : piece.last]
            kept = np.isin(numbers, wanted)
        return found.kept(kept)


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


def _infinite(values: pa.ChunkedArray) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield bool [N] if there is an infinite number."""
    numbers = filled(values, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(numbers.sum())  # a sum is, if its terms are, and reads them once
    if not finite and (found := np.isinf(numbers)).any():
        yield found
