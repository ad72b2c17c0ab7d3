"""The order of an epoch over shards: groups of rows, cut into pieces, dealt to processes, gathered into windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

__all__ = ["LANES", "Piece", "Window", "epoch_windows", "in_parts", "rows_of_rank"]

LANES = 4
"""Groups larger than a window that are open at one time in a shuffled epoch, and take turns."""


@dataclass(frozen=True)
class Piece:
    """Rows of one group that are read at a time.

    Attributes:
        group: its place among the groups.
        start: first row in the group.
        stop: row after the last one.
        first: of the rows that are wanted among these, the first one that is taken.
        last: the one after the last that is taken.
    """

    group: int
    start: int
    stop: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Window:
    """Rows that are shuffled together.

    Attributes:
        pieces: of which they consist.
        run: number of the run of windows that read on in one group; one worker reads all of a run.
        number: of the window in its epoch, which fixes its draws.
        first: where each window is read in parts, the first of this part's rows, counted when they are shuffled.
        last: the one after the last of them; None for all.
    """

    pieces: tuple[Piece, ...]
    run: int
    number: int = 0
    first: int = 0
    last: int | None = None

    def __len__(self) -> int:
        return sum(map(len, self.pieces))


def rows_of_rank(n_rows: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the first of a process's rows in an epoch's order, and the one after the last: shares differ by one."""
    return rank * n_rows // world_size, (rank + 1) * n_rows // world_size


def epoch_windows(
    groups: Sequence[Sequence[Piece]],
    window: int,
    *,
    generator: torch.Generator | None = None,
    stretch: tuple[int, int] | None = None,
) -> list[Window]:
    """Return the windows of an epoch in their order.

    Args:
        groups: the pieces of each group, in their order.
        window: rows of a window at most, where no single piece is larger.
        generator: draws the order of the groups; without one they keep theirs.
        stretch: the first row of the order that is wanted, and the one after the last; None for all.

    Returns:
        Windows that hold every row of the stretch once.
    """
    order = range(len(groups)) if generator is None else torch.randperm(len(groups), generator=generator).tolist()
    ordered = [groups[place] for place in order]
    runs = list(_runs(ordered if stretch is None else _stretch(ordered, *stretch), window))
    # In the order of the rows a run comes as a whole; in a shuffled one its neighbours would be too much alike.
    found = [window for run in runs for window in run] if generator is None else _in_turns(runs)
    return [replace(window, number=number) for number, window in enumerate(found)]


def in_parts(windows: Sequence[Window], size: int) -> list[Window]:
    """Return windows in parts of so many rows, which are read one at a time, each by the worker whose turn it is.

    Args:
        windows: of an epoch.
        size: rows of a part.
    """
    parts: list[Window] = []
    for number, window in enumerate(windows):
        for first in range(0, len(window), size):
            parts.append(replace(window, run=len(parts), number=number, first=first, last=first + size))
    return parts


def _stretch(groups: Sequence[Sequence[Piece]], start: int, stop: int) -> list[list[Piece]]:
    """Return what lies between two rows of an order."""
    found, place = [], 0
    for pieces in groups:
        kept = []
        for piece in pieces:
            low, high = max(start, place), min(stop, place + len(piece))
            if low < high:
                kept.append(replace(piece, first=piece.first + low - place, last=piece.first + high - place))
            place += len(piece)
        found.append(kept)
    return found


def _runs(groups: Sequence[Sequence[Piece]], size: int) -> Iterator[list[Window]]:
    """Gather small groups into windows, each a run of its own; a large group is a run of windows."""
    small: list[Piece] = []
    number = rows = 0
    for pieces in groups:
        alone = len(pieces) > 1
        held = sum(map(len, pieces))
        if small and (alone or rows + held > size):
            yield [Window(tuple(small), number)]
            number, small, rows = number + 1, [], 0
        if alone:
            yield [Window((piece,), number) for piece in pieces]
            number += 1
        else:
            small += pieces
            rows += held
    if small:
        yield [Window(tuple(small), number)]


def _in_turns(runs: Sequence[list[Window]]) -> Iterator[Window]:
    waiting = iter(runs)
    lanes = [iter(run) for _, run in zip(range(LANES), waiting, strict=False)]
    while lanes:
        for place, lane in enumerate(lanes):
            window = next(lane, None)
            if window is None:
                run = next(waiting, None)
                if run is None:
                    del lanes[place]
                    break  # the places have moved
                lanes[place] = iter(run)
                window = next(lanes[place])
            yield window
