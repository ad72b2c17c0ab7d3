"""`StreamLoader`: batches of rows that need not fit into memory, in an order that can be taken up anywhere."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lepton.data._batches import cut, n_rows, sliced
from lepton.data._loading import Batch, Deal, check_loader, seeded_generator
from lepton.data.stream._encode import encode_of
from lepton.data.stream._order import Piece, Window, epoch_windows, in_parts, rows_of_rank
from lepton.data.stream._quarantine import Quarantine
from lepton.data.stream._reading import Choice, Encode, ReadWindow, WindowReader
from lepton.data.stream._rows_encode import AsTheyAre, RowsEncode
from lepton.data.stream._shards import Shards
from lepton.errors import CheckpointError, ConfigurationError, DataError, is_whole, require

__all__ = ["StreamLoader"]

AHEAD = 2
"""Windows that every worker reads ahead."""


class StreamLoader:
    """Iterates over shards in batches without ever holding more than a few windows of their rows.

    With `shuffle`, an epoch takes the groups of all shards in a new order, gathers small ones into windows and cuts
    large ones into them, of which a few are read in turns, and shuffles the rows of each window. Seed and epoch fix
    everything; the number of workers changes nothing. The position, also within a window, is in `state_dict`.

    With several processes each takes one stretch of the epoch's order, of N / world_size rows, one more or less: no
    row comes twice. All have the same number of batches. Where one has no rows left, since its stretch is shorter or
    had unusable rows, it gets a batch without rows; with `drop_last`, some of its rows once more.

    Args:
        shards: the rows.
        encode: rows of a table to inputs and targets, such as a `TableEncode`; none for a torch Dataset.
        batch_size: rows per batch.
        window: rows that are shuffled together, and read at a time: what decides the memory that is needed. Take some
            hundred where a row holds a picture or a recording.
        seed: with the epoch's number, fixes the order.
        shuffle: whether every epoch has a new order.
        drop_last: leave out a last batch that is not full.
        workers: processes that read and encode; 0 does so in this one, which reads a window ahead in a thread. That is
            quicker for numbers; pictures, recordings and texts gain by workers.
        rank: number of this process among those that share the rows, from 0.
        world_size: how many processes share the rows.
        choice: which rows are wanted, such as a `PartOfRows`; None for all.
        quarantine: where rows that cannot be used are kept; by default they are counted, and 1 % is too many.

    Example:
        >>> import torch
        >>> class Squares(torch.utils.data.Dataset):
        ...     def __len__(self):
        ...         return 5
        ...     def __getitem__(self, row):
        ...         return torch.tensor([float(row)]), {"square": row * row}
        >>> loader = StreamLoader(Shards(Squares()), batch_size=2)
        >>> [targets["square"].tolist() for inputs, targets in loader]
        [[0, 1], [4, 9], [16]]
    """

    def __init__(
        self,
        shards: Shards,
        encode: Encode | None = None,
        batch_size: int = 256,
        *,
        window: int = 1 << 16,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        choice: Choice | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        check_loader("StreamLoader", batch_size, workers, rank, world_size)
        require(is_whole(window), "StreamLoader", "window", window, "a whole number of at least 1")
        self.shards = shards
        told = encode_of(shards) if encode is None else encode
        self.encode = told if isinstance(told, RowsEncode) else AsTheyAre(told)
        shards.check_columns([*self.encode.columns, *(choice.columns if choice is not None else ())])
        self.batch_size = batch_size
        self.window = window
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.workers = workers
        self.rank = rank
        self.world_size = world_size
        self.choice = choice
        self.quarantine = Quarantine() if quarantine is None else quarantine
        self.epoch = 0
        self._groups = [_pieces(shards, number, window, choice) for number in range(len(shards.groups))]
        self.n_rows = sum(len(piece) for pieces in self._groups for piece in pieces)
        if self.n_rows == 0:
            raise DataError("there are no rows to make batches of.")
        self._begin = self._at = _Place(0)
        self._deal: Callable[[], Deal] | None = None
        self.quarantine.add(shards.bad, shards.all_rows)

    def __len__(self) -> int:
        """Return the number of batches of an epoch, where no row is unusable."""
        shares = [rows_of_rank(self.n_rows, rank, self.world_size) for rank in range(self.world_size)]
        sizes = [stop - start for start, stop in shares]
        return min(sizes) // self.batch_size if self.drop_last else -(-max(sizes) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        windows = self._windows(self.epoch)
        begin = self._at = self._begin
        self._begin = _Place(self.epoch + 1)
        self.epoch += 1
        count = begin.batch
        for batch, place in self._batches(windows, begin):
            self._at = place
            count += 1
            yield batch
        if self._padded:
            yield from self._padding(windows, begin, count)
        self._at = self._begin

    def shared(self, rank: int, world_size: int) -> StreamLoader:
        """Return a loader of one process's stretch of the rows, whose batches together have `batch_size` rows.

        Args:
            rank: number of the process, from 0.
            world_size: how many processes share the rows; `batch_size` must be a multiple of it.

        Raises:
            ConfigurationError: it is not.
        """
        check_loader("StreamLoader", self.batch_size, self.workers, rank, world_size)
        if self.batch_size % world_size:
            fits = self.batch_size // world_size * world_size or world_size
            raise ConfigurationError(
                f"rows that are streamed are shared in equal parts, but batch_size is {self.batch_size}, which is no "
                f"multiple of the {world_size} processes: choose {fits}."
            )
        found = copy.copy(self)
        found.batch_size, found.rank, found.world_size = self.batch_size // world_size, rank, world_size
        return found

    def dealt(self, rank: int, world_size: int, deal: Callable[[], Deal]) -> StreamLoader:
        """Return a loader of one process's stretch of the rows, as long as somebody else says, in batches of as many.

        Args:
            rank: number of the process, from 0.
            world_size: how many processes share the rows.
            deal: called when an epoch begins or goes on.
        """
        check_loader("StreamLoader", self.batch_size, self.workers, rank, world_size)
        found = copy.copy(self)
        found.rank, found.world_size, found._deal = rank, world_size, deal
        return found

    @property
    def _padded(self) -> bool:
        """Whether the processes have equally many batches, since each of them is one of all."""
        return self.world_size > 1 and self._deal is None

    # -- position ---------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Return where the next batch comes from: epoch, window and row in it, and what they depend on."""
        return {**vars(self._at if self._at.epoch == self.epoch - 1 else self._begin), **self._about()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration begin where `state_dict` stood.

        Raises:
            CheckpointError: the shards, or what decides the order, are not the same.
        """
        for name, value in self._about().items():
            if state.get(name) != value:
                raise CheckpointError(
                    f"the position belongs to rows with {name} {state.get(name)!r}, but here it is {value!r}: go on "
                    "with the same rows and options, or begin anew."
                )
        self._begin = self._at = _Place(state["epoch"], state["window"], state["row"], state["batch"])
        self.epoch = state["epoch"]

    def begin(self, epoch: int) -> None:
        """Make the next iteration that of an epoch, counted from 0, from its first row on."""
        self.epoch = epoch
        self._at = self._begin = _Place(epoch)

    def _about(self) -> dict[str, Any]:
        return {
            "shards": self.shards.fingerprint,
            "rows": self.n_rows,
            "window_rows": self.window,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "world_size": self.world_size,
            "at_once": self.encode.at_once,
        }

    # -- an epoch ---------------------------------------------------------------------------------------------
    def _windows(self, epoch: int) -> list[Window]:
        generator = seeded_generator(self.seed, epoch, 0) if self.shuffle else None
        own = rows_of_rank(self.n_rows, self.rank, self.world_size) if self._deal is None else self._deal().stretch()
        return self._parts(epoch_windows(self._groups, self.window, generator=generator, stretch=own))

    def _parts(self, windows: list[Window]) -> list[Window]:
        return windows if self.encode.at_once is None else in_parts(windows, self.encode.at_once)

    def _batches(self, windows: list[Window], begin: _Place) -> Iterator[tuple[Batch, _Place]]:
        """Yield batches, each with the place of the next one; that of the last one is the next epoch."""
        kept: tuple[Batch, _Place] | None = None
        count = begin.batch
        for batch, window, row in self._cut(windows, begin):
            if self.drop_last and (n_rows(batch) < self.batch_size or count == len(self)):
                break
            if kept is not None:
                yield kept
            count += 1
            kept = self.encode.trimmed(batch), _Place(begin.epoch, window, row, count)
        if kept is not None:
            over = not self._padded or count >= len(self)
            yield kept[0], _Place(begin.epoch + 1) if over else kept[1]

    def _cut(self, windows: list[Window], begin: _Place) -> Iterator[tuple[Batch, int, int]]:
        """Yield batches, each with the window and the row in it where the next one begins."""
        rest: Batch | None = None
        for number, read in enumerate(self._read(windows, begin), begin.window):
            self.quarantine.add(read.bad, self.shards.all_rows)
            row = begin.row if number == begin.window else 0
            if read.batch is None or n_rows(read.batch) <= row:
                continue
            batch = sliced(read.batch, row) if row else read.batch
            if rest is not None:
                lacking = self.batch_size - n_rows(rest)
                head, batch = self.encode.joined([rest, sliced(batch, 0, lacking)]), sliced(batch, lacking)
                rest, row = head, row + lacking
                if n_rows(head) < self.batch_size:
                    continue
                yield head, number, row
                rest = None
                if not n_rows(batch):
                    continue
            for part in cut(batch, self.batch_size):
                if n_rows(part) < self.batch_size:
                    rest = part
                    break
                row += self.batch_size
                yield part, number, row
        if rest is not None:
            yield rest, len(windows), 0

    def _padding(self, windows: list[Window], begin: _Place, count: int) -> Iterator[Batch]:
        """Yield the batches that other processes have and this one has no rows for."""
        if count >= len(self):
            return
        every = self._parts(epoch_windows(self._groups, self.window))
        reader = WindowReader(self.shards, self.encode, self.choice, self.window)
        found = (reader.encoded(reader.gather(window), window).batch for window in [*windows, *every])
        batch = self.encode.trimmed(next(batch for batch in found if batch is not None))
        reader.close()
        for number in range(count, len(self)):
            place = _Place(begin.epoch, len(windows), 0, number + 1)
            self._at = self._begin if number + 1 == len(self) else place
            yield sliced(batch, 0, self.batch_size if self.drop_last else 0)

    # -- reading ----------------------------------------------------------------------------------------------
    def _read(self, windows: list[Window], begin: _Place) -> Iterator[ReadWindow]:
        """Yield the windows from one on, read here or by workers."""
        seeds = (self.seed, begin.epoch, self.rank) if self.shuffle else None
        options: Any = {"batch_size": self.batch_size, "seeds": seeds}

        def windows_of(worker: int, workers: int) -> _WorkersWindows:
            reader = WindowReader(self.shards, self.encode, self.choice, self.window, **options)
            return _WorkersWindows(reader, windows, begin.window, worker, workers)

        if not self.workers:
            yield from windows_of(0, 1)
            return
        # One loader for each worker: which windows it reads follows from their run, and not from who is free.
        loaders = [
            DataLoader(
                windows_of(worker, self.workers),
                batch_size=None,
                num_workers=1,
                prefetch_factor=AHEAD,
                generator=seeded_generator(self.seed),
            )
            for worker in range(self.workers)
        ]
        streams = [iter(loader) for loader in loaders]
        for window in windows[begin.window :]:
            yield next(streams[window.run % self.workers])


@dataclass(frozen=True)
class _Place:
    """Where an epoch's next batch begins.

    Attributes:
        epoch: counted from 0.
        window: the window that its first row comes from.
        row: that row, among the usable ones of the window.
        batch: number of the batch.
    """

    epoch: int
    window: int = 0
    row: int = 0
    batch: int = 0


class _WorkersWindows(IterableDataset[ReadWindow]):
    """The windows of an epoch that one worker reads."""

    def __init__(self, reader: WindowReader, windows: list[Window], first: int, worker: int, workers: int) -> None:
        self.reader = reader
        self.windows = windows
        self.first = first
        self.worker = worker
        self.workers = workers

    def __iter__(self) -> Iterator[ReadWindow]:
        if get_worker_info() is not None:
            _one_thread()
        places = range(self.first, len(self.windows))
        mine = [place for place in places if self.windows[place].run % self.workers == self.worker]
        # The next window is read while this one is encoded and trained on: Arrow reads without holding Python.
        with ThreadPoolExecutor(1) as ahead:
            waiting = [ahead.submit(self.reader.gather, self.windows[place]) for place in mine[:1]]
            for place, following in itertools.zip_longest(mine, mine[1:]):
                gathered = waiting.pop().result()
                if following is not None:
                    waiting.append(ahead.submit(self.reader.gather, self.windows[following]))
                yield self.reader.encoded(gathered, self.windows[place])
        self.reader.close()


def _one_thread() -> None:
    """Keep Arrow from taking all processors in every worker."""
    import pyarrow as pa

    pa.set_cpu_count(1)


def _pieces(shards: Shards, number: int, window: int, choice: Choice | None) -> list[Piece]:
    """Return a group's rows in pieces of a window at most, without those that hold no wanted row."""
    group = shards.groups[number]
    rows = group.extent.rows
    pieces = [Piece(number, start, min(start + window, rows), 0, 0) for start in range(0, rows, window)]
    sizes = [piece.stop - piece.start for piece in pieces]
    if choice is not None:
        sizes = choice.count(shards, number, [(piece.start, piece.stop) for piece in pieces])
    return [replace(piece, last=size) for piece, size in zip(pieces, sizes, strict=True) if size]
