"""A mixture that several processes share: together they have the batches of one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lepton.data import LengthLoader, Mixture, SequenceData, Shards, StreamLoader, TensorData, TensorLoader
from lepton.data.mixture._deal import own_number
from lepton.errors import CheckpointError, ConfigurationError
from tests.data.mixture.test_mixture import WAYS, every, folders, go_on, ids, mixture, sets_of, streams
from tests.data.stream.sources import Ids

__all__ = ["folders"]

WORLDS = (2, 3)
SMALL = {"a": 61, "b": 23, "c": 5}


def shares(make: Callable[[], Mixture], world: int) -> list[Mixture]:
    return [make().shared(rank, world) for rank in range(world)]


def woven(of_ranks: Sequence[list[list[int]]]) -> list[list[int]]:
    """Return the batches of all: one row of each process after the other."""
    assert len({len(batches) for batches in of_ranks}) == 1
    found = []
    for batches in zip(*of_ranks, strict=True):
        sizes = [len(batch) for batch in batches]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1
        found.append([batches[place % len(batches)][place // len(batches)] for place in range(sum(sizes))])
    return found


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 7))
def test_every_place_falls_to_one_process(first: int, number: int, world: int) -> None:
    for rank in range(world):
        expected = sum(place % world == rank for place in range(first, first + number))
        assert own_number(first, number, rank, world) == expected


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("options", WAYS)
def test_together_they_have_the_batches_of_one(options: dict[str, Any], world: int) -> None:
    single = mixture(**options)
    loaders = shares(lambda: mixture(**options), world)
    for _ in range(2):
        assert woven([ids(loader) for loader in loaders]) == ids(single)
    assert all(loader.epochs() == single.epochs() for loader in loaders)


@pytest.mark.parametrize("workers", [0, 1])
def test_texts_of_like_length_are_shared(workers: int) -> None:
    def make() -> Mixture:
        lengths = torch.arange(90) % 17 + 1
        tokens = (torch.arange(90)[:, None] + 1).expand(-1, 17).contiguous()
        data = SequenceData({"tokens": tokens}, {"n": torch.arange(90)}, {"tokens": lengths})
        loaders = {"a": LengthLoader(data, 12, shuffle=True), "b": LengthLoader(data, 12, by_length=True)}
        return Mixture(loaders, 12, strategy="round_robin")

    def numbers(loader: Mixture) -> list[list[int]]:
        return [targets["n"].tolist() for _, targets in loader]

    single = make()
    loaders = shares(make, 2)
    for _ in range(2):
        assert woven([numbers(loader) for loader in loaders]) == numbers(single)


@pytest.mark.parametrize("options", WAYS)
def test_any_number_of_processes_goes_on_at_any_batch(options: dict[str, Any]) -> None:
    """The position in rows that are in memory counts those of all processes."""

    def make() -> Mixture:
        return mixture(SMALL, batch_size=5, **options)

    whole = make()
    expected = ids(whole) + ids(whole)
    for taken in (1, 4, len(whole) - 1, len(whole), len(whole) + 2):
        for before_rank, before_world, world in [(0, 1, 2), (1, 2, 1), (2, 3, 3), (0, 2, 3)]:
            before = make().shared(before_rank, before_world) if before_world > 1 else make()
            go_on(before, taken, len(whole))
            after = shares(make, world)
            for loader in after:
                loader.load_state_dict(before.state_dict())
            rest = woven([ids(loader) for loader in after])
            assert rest == expected[taken : taken + len(rest)] and rest


def test_more_processes_than_rows_of_a_batch() -> None:
    def make() -> Mixture:
        return mixture(SMALL, batch_size=2, strategy="temperature")

    loaders = shares(make, 5)
    assert woven([ids(loader) for loader in loaders]) == ids(make())
    inputs, targets = next(iter(make().shared(4, 5)))
    assert inputs.shape == (0, 1) and all(len(target) == 0 for target in targets.values())


# -- streams --------------------------------------------------------------------------------------------------------
STREAMED: list[Any] = ["uniform", "sequential", "round_robin"]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("strategy", STREAMED)
def test_streams_give_each_batch_as_many_rows_of_each_set(strategy: Any, world: int, folders: dict[str, Path]) -> None:
    loaders = shares(lambda: streams(folders, strategy=strategy), world)
    single = streams(folders, strategy=strategy)
    for _ in range(2):
        of_ranks = [ids(loader) for loader in loaders]
        expected = [sets_of(batch) for batch in ids(single)]
        joint = woven(of_ranks)
        assert [sets_of(batch) for batch in joint] == expected
        counts = Counter(every(joint))
        for numbers in (range(400), range(1000, 1090)):  # every pass gives each row once, among all of them
            seen = [counts[number] for number in numbers]
            assert min(seen) >= 1 and max(seen) - min(seen) <= 1


@pytest.mark.parametrize(("workers", "places"), [(0, (7, 55)), (1, (7,))])
def test_each_process_goes_on_in_its_own_stretch(
    workers: int, places: tuple[int, ...], folders: dict[str, Path]
) -> None:
    for rank in range(2):
        whole = streams(folders).shared(rank, 2)
        expected = ids(whole)
        for taken in (*places, len(whole) - 1):
            before, after = (streams(folders, workers).shared(rank, 2) for _ in range(2))
            batches = iter(before)
            for _ in range(taken):
                next(batches)
            after.load_state_dict(before.state_dict())
            assert ids(after) == expected[taken:]
    with pytest.raises(CheckpointError, match="world_size"):
        streams(folders).shared(0, 3).load_state_dict(before.state_dict())


def test_a_stream_and_rows_in_memory_together(folders: dict[str, Path]) -> None:
    def make() -> Mixture:
        shards = StreamLoader(Shards(str(folders["a"])), Ids(), 16, window=40, shuffle=True)
        numbers = torch.arange(1000.0, 1070.0, dtype=torch.float64)
        memory = TensorLoader(TensorData(numbers, {}), 16, shuffle=True)
        return Mixture({"a": shards, "b": memory}, 16, strategy="temperature")

    joint = woven([ids(loader) for loader in shares(make, 3)])
    single = ids(make())
    memory = [[number for number in batch if number >= 1000] for batch in joint]
    assert memory == [[number for number in batch if number >= 1000] for batch in single]
    assert [len(batch) for batch in joint] == [len(batch) for batch in single]


def test_a_mixture_is_shared_before_its_first_batch() -> None:
    loader = mixture()
    next(iter(loader))
    with pytest.raises(ConfigurationError, match="before its first batch"):
        loader.shared(0, 2)
    with pytest.raises(ConfigurationError, match="from 0 to 1"):
        mixture().shared(2, 2)
