"""Rows that are made a part of a window at a time: each once, no wider than their batch needs, from any place on."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import pyarrow as pa
import pytest
import torch

from lepton.data import Quarantine, RowsEncode, SequenceData, Shards, StreamLoader
from lepton.errors import CheckpointError, DataError

N, PAD = 90, 7


@final
class Runs(RowsEncode):
    """Row n is a run of n % 11 + 1 places that hold n + 100, or 40 000 more in one row of nine: 16 bits or 32."""

    def __init__(self, at_once: int, bad: tuple[int, ...] = ()) -> None:
        super().__init__(["n"], ["n"], at_once=at_once, pads={"run": PAD})
        self.bad = bad

    def rows(self, table: pa.Table) -> SequenceData:
        ids = torch.tensor(table.column("n").to_pylist())
        if set(self.bad) & set(ids.tolist()):
            raise DataError("a bad row")
        lengths = ids % 11 + 1
        values = ids + 100 + 40_000 * (ids % 9 == 0)
        places = torch.arange(int(lengths.max()))
        runs = torch.where(places < lengths[:, None], values[:, None], PAD)
        kind = torch.int16 if int(values.max()) < 1 << 15 else torch.int32
        return SequenceData({"run": runs.to(kind)}, {"n": ids}, {"run": lengths})


def loader(at_once: int = 10, window: int = 40, batch_size: int = 8, **options: Any) -> StreamLoader:
    table = pa.table({"n": np.arange(N)})
    bad = options.pop("bad", ())
    told = {"seed": 3, "shuffle": True, "quarantine": Quarantine(cap=0.1), **options}
    return StreamLoader(Shards(table), Runs(at_once, bad), batch_size, window=window, **told)


def checked(batches: Any) -> list[int]:
    """The rows of batches, each of which is what it should be and no wider than its longest."""
    found: list[int] = []
    for inputs, targets in batches:
        ids, runs = targets["n"], inputs["run"]
        assert set(targets) == {"n"} and runs.dtype == torch.int64
        lengths = ids % 11 + 1
        if len(ids):
            assert runs.shape[1] == int(lengths.max())
        places = torch.arange(runs.shape[1])
        values = ids + 100 + 40_000 * (ids % 9 == 0)
        assert runs.equal(torch.where(places < lengths[:, None], values[:, None], PAD))
        found += ids.tolist()
    return found


@pytest.mark.parametrize("at_once", [7, 10, 1000])
@pytest.mark.parametrize("window", [13, 40, 1000])
def test_an_epoch_has_every_row_once_in_an_order_of_its_own(at_once: int, window: int) -> None:
    rows = loader(at_once, window)
    first, second = checked(rows), checked(rows)
    assert sorted(first) == sorted(second) == list(range(N)) and first != second
    assert checked(loader(at_once, window, shuffle=False)) == list(range(N))


def test_a_window_is_shuffled_as_a_whole_though_it_is_made_in_parts() -> None:
    """The first part of 10 rows would hold 0 to 9 if only parts were shuffled."""
    found = checked(loader(at_once=10, window=N))
    assert max(found[:10]) > 40 and min(found[-10:]) < 50


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_from_any_batch(workers: int) -> None:
    whole = [targets["n"].tolist() for _, targets in loader(bad=(5, 44))]
    for stop in range(1, len(whole), 1 if not workers else 5):
        begun = loader(bad=(5, 44))
        batches = iter(begun)
        for _ in range(stop):
            next(batches)
        again = loader(bad=(5, 44), workers=workers)
        again.load_state_dict(begun.state_dict())
        assert [targets["n"].tolist() for _, targets in again] == whole[stop:]


def test_processes_share_the_rows_and_have_as_many_batches() -> None:
    shares = [loader(rank=rank, world_size=3, batch_size=4, bad=(5,)) for rank in range(3)]
    found = [list(share) for share in shares]
    assert len({len(batches) for batches in found}) == 1
    assert sorted(row for batches in found for row in checked(batches)) == [n for n in range(N) if n != 5]


def test_a_bad_row_leaves_its_neighbours() -> None:
    rows = loader(bad=(5, 44))
    assert sorted(checked(rows)) == [n for n in range(N) if n not in (5, 44)] and rows.quarantine.rows == 2


def test_what_does_not_fit_the_position_is_refused() -> None:
    begun = loader()
    next(iter(begun))
    with pytest.raises(CheckpointError, match="at_once 10, but here it is 20"):
        loader(at_once=20).load_state_dict(begun.state_dict())
