"""The order of an epoch: each row once, whatever groups, window, processes and draws."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lepton.data.stream._order import Piece, epoch_windows, rows_of_rank


def groups_of(sizes: list[int], window: int) -> list[list[Piece]]:
    return [
        [Piece(g, start, min(start + window, rows), 0, min(window, rows - start)) for start in range(0, rows, window)]
        for g, rows in enumerate(sizes)
    ]


def rows_of(windows: list) -> list[tuple[int, int]]:
    return [
        (piece.group, piece.start + row)
        for window in windows
        for piece in window.pieces
        for row in range(piece.first, piece.last)
    ]


cases = given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    window=st.integers(1, 25),
    world_size=st.integers(1, 5),
    seed=st.none() | st.integers(0, 1000),
)


@cases
def test_the_processes_have_every_row_once(sizes: list[int], window: int, world_size: int, seed: int | None) -> None:
    shares = []
    for rank in range(world_size):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        stretch = rows_of_rank(sum(sizes), rank, world_size)
        windows = epoch_windows(groups_of(sizes, window), window, generator=generator, stretch=stretch)
        assert all(0 < len(one) <= window for one in windows)
        shares.append(rows_of(windows))
    every = [row for share in shares for row in share]
    assert sorted(every) == [(group, row) for group, rows in enumerate(sizes) for row in range(rows)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if seed is None:  # then the processes' stretches follow each other in the order of the rows
        assert every == sorted(every)


@cases
def test_a_group_is_read_forwards_by_one_run(sizes: list[int], window: int, world_size: int, seed: int | None) -> None:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    stretch = rows_of_rank(sum(sizes), 0, world_size)
    windows = epoch_windows(groups_of(sizes, window), window, generator=generator, stretch=stretch)
    last: dict[int, tuple[int, int]] = {}
    for one in windows:
        for piece in one.pieces:
            row, run = last.get(piece.group, (-1, one.run))
            assert piece.start >= row and run == one.run
            last[piece.group] = (piece.stop, one.run)


def test_large_groups_take_turns_in_a_shuffled_epoch() -> None:
    windows = epoch_windows(groups_of([40] * 8, 10), 10, generator=torch.Generator().manual_seed(0))
    first = [window.pieces[0].group for window in windows[:4]]
    assert len(set(first)) == 4
    assert [window.pieces[0].group for window in windows[4:8]] == first


def test_another_draw_is_another_order() -> None:
    orders = [
        rows_of(epoch_windows(groups_of([3] * 20, 6), 6, generator=torch.Generator().manual_seed(seed)))
        for seed in (1, 2)
    ]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_shares_of_rows_differ_by_one() -> None:
    assert [rows_of_rank(7, rank, 3) for rank in range(3)] == [(0, 2), (2, 4), (4, 7)]
