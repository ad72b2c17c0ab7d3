"""The position: a loader that goes on anywhere gives the very next row, whatever reads, and however many share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lepton.data import PartByColumn, PartByPlace, Shards, StreamLoader
from lepton.errors import CheckpointError, ConfigurationError
from tests.data.stream.sources import Ids, ids_of, rows, write


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("shards")
    write(folder / "a.parquet", rows(0, 230), group=100)
    write(folder / "b.csv.gz", rows(230, 330))
    write(folder / "c.feather", rows(330, 340), group=4)
    return Shards(folder)


def loader(shards: Shards, **options: Any) -> StreamLoader:
    return StreamLoader(shards, Ids(), **{"batch_size": 16, "window": 30, "seed": 3, **options})


def resumed(shards: Shards, stop: int, **options: Any) -> tuple[list[int], list[int]]:
    """The rows up to a batch, and those of another loader that goes on from there to the end of the epoch."""
    first = loader(shards, **options)
    batches = iter(first)
    before = ids_of(next(batches) for _ in range(stop))
    state = json.loads(json.dumps(first.state_dict()))
    batches.close()
    second = loader(shards, **options)
    second.load_state_dict(state)
    return before, ids_of(second)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("stop", [1, 2, 7, 20])
def test_a_loader_goes_on_with_the_very_next_row(shards: Shards, workers: int, shuffle: bool, stop: int) -> None:
    whole = ids_of(loader(shards, shuffle=shuffle))
    before, after = resumed(shards, stop, shuffle=shuffle, workers=workers)
    assert before + after == whole and len(before) == 16 * stop and sorted(whole) == list(range(340))


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    batch_size=st.integers(1, 50),
    window=st.integers(1, 120),
    world_size=st.integers(1, 4),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    data=st.data(),
)
def test_every_process_goes_on_and_no_row_comes_twice(
    shards: Shards, batch_size: int, window: int, world_size: int, shuffle: bool, drop_last: bool, data: st.DataObject
) -> None:
    told = {"batch_size": batch_size, "window": window, "shuffle": shuffle, "drop_last": drop_last}
    every, numbers = [], set()
    for rank in range(world_size):
        share = {"rank": rank, "world_size": world_size}
        whole = [inputs for inputs, _ in loader(shards, **told, **share)]
        numbers.add(len(whole))
        assert len(whole) == len(loader(shards, **told, **share))
        every += [int(n) for inputs in whole for n in inputs]
        if whole:
            stop = data.draw(st.integers(1, len(whole)))
            before, after = resumed(shards, stop, **told, **share)
            if stop < len(whole):
                assert before + after == [int(n) for inputs in whole for n in inputs]
    assert len(numbers) == 1 and len(set(every)) == len(every)
    if not drop_last:
        assert sorted(every) == list(range(340))


def test_the_state_after_the_last_batch_is_the_next_epoch(shards: Shards) -> None:
    whole = loader(shards, shuffle=True)
    first, second = ids_of(whole), ids_of(whole)
    assert first != second and sorted(first) == sorted(second)
    _, after = resumed(shards, len(loader(shards)), shuffle=True)
    assert after == second


def test_the_number_of_workers_changes_nothing(shards: Shards) -> None:
    orders = [ids_of(loader(shards, shuffle=True, workers=workers)) for workers in (0, 1, 2, 3)]
    assert all(order == orders[0] for order in orders)


def test_reading_draws_no_number_from_the_generator_of_torch(shards: Shards) -> None:
    before = torch.get_rng_state()
    ids_of(loader(shards, shuffle=True, workers=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_position_in_other_rows_is_refused(shards: Shards, tmp_path: Path) -> None:
    state = loader(shards).state_dict()
    other = Shards(write(tmp_path / "a.parquet", rows(0, 99)))
    with pytest.raises(CheckpointError, match="belongs to rows with shards"):
        loader(other).load_state_dict(state)
    older = {name: value for name, value in state.items() if name != "batch_size"}
    with pytest.raises(CheckpointError, match="batch_size None, but here it is 16"):
        loader(shards).load_state_dict(older)
    with pytest.raises(CheckpointError, match="batch_size 16, but here it is 8"):
        loader(shards, batch_size=8).load_state_dict(state)


def test_parts_by_place_share_no_row_and_move_with_their_shard(shards: Shards) -> None:
    found = {}
    for part in ("train", "val", "test"):
        choice = PartByPlace(part, val=0.2, test=0.1, seed=1)
        part_loader = loader(shards, choice=choice, shuffle=True)
        found[part] = ids_of(part_loader)
        assert len(found[part]) == part_loader.n_rows
    assert sorted(found["train"] + found["val"] + found["test"]) == list(range(340))
    assert 40 < len(found["val"]) < 100 and 10 < len(found["test"]) < 60
    names = [name for name in shards.names if name.endswith(".gz")]
    alone = set(ids_of(loader(Shards(names), choice=PartByPlace("val", val=0.2, test=0.1, seed=1))))
    assert alone == {n for n in found["val"] if 230 <= n < 330}


def test_a_column_tells_the_part(tmp_path: Path) -> None:
    content = [{**row, "part": ["train", "dev", "test", "Train"][n % 4]} for n, row in enumerate(rows(0, 200))]
    split = Shards(write(tmp_path / "a.csv", content))
    found = {part: loader(split, choice=PartByColumn(part, "part")) for part in ("train", "val", "test")}
    assert sorted(ids_of(found["train"])) == [n for n in range(200) if n % 4 in (0, 3)]
    assert ids_of(found["val"]) == [n for n in range(200) if n % 4 == 1]
    shares = [loader(split, choice=PartByColumn("val", "part"), rank=r, world_size=2) for r in (0, 1)]
    assert ids_of(shares[0]) + ids_of(shares[1]) == ids_of(found["val"])


def test_arguments_are_checked(shards: Shards) -> None:
    for wrong in ({"batch_size": 0}, {"window": 0}, {"workers": -1}, {"rank": 2, "world_size": 2}, {"world_size": 0}):
        with pytest.raises(ConfigurationError, match=f"StreamLoader: {next(iter(wrong))} must be"):
            loader(shards, **wrong)
    with pytest.raises(ConfigurationError, match="encode is needed"):
        StreamLoader(shards)
