"""A mixture: the shares of its sets, where its epochs end, and its exact position."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lepton.data import Mixture, Shards, StreamLoader, TensorData, TensorLoader
from lepton.errors import CheckpointError, ConfigurationError, DataError
from tests.data.stream.sources import Ids, rows, write

SIZES = {"a": 700, "b": 200, "c": 37}


def tensor_loader(name: str, size: int, place: int, **options: Any) -> TensorLoader:
    """Rows that carry their own numbers, 1000 apart from set to set."""
    numbers = torch.arange(size) + 1000 * place
    return TensorLoader(TensorData(numbers[:, None].float(), {name: numbers}), 16, seed=place, **options)


def mixture(sizes: dict[str, int] | None = None, *, rank: int = 0, world_size: int = 1, **options: Any) -> Mixture:
    share: dict[str, Any] = {"shuffle": True, "rank": rank, "world_size": world_size}
    loaders = {name: tensor_loader(name, n, place, **share) for place, (name, n) in enumerate((sizes or SIZES).items())}
    return Mixture(loaders, **{"batch_size": 16, "seed": 5, **options})


def ids(batches: Any) -> list[list[int]]:
    return [[int(number) for number in inputs.flatten().tolist()] for inputs, _ in batches]


def go_on(loader: Any, batches: int, of_an_epoch: int) -> None:
    """Take so many batches of a loader, over whole epochs and into the next one."""
    for _ in range(batches // of_an_epoch):
        ids(loader)
    begun = iter(loader)
    for _ in range(batches % of_an_epoch):
        next(begun)


def sets_of(numbers: list[int]) -> Counter[int]:
    return Counter(number // 1000 for number in numbers)


def every(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


SHARES = {
    "proportional": ({"strategy": "proportional"}, (700, 200, 37)),
    "uniform": ({"strategy": "uniform"}, (1, 1, 1)),
    "temperature": ({"strategy": "temperature", "temperature": 3.0}, (700 ** (1 / 3), 200 ** (1 / 3), 37 ** (1 / 3))),
    "weights": ({"strategy": "uniform", "weights": {"b": 2.0}}, (1, 2, 1)),
    "probabilities": ({"probabilities": {"a": 0.2, "b": 0.5, "c": 0.3}}, (0.2, 0.5, 0.3)),
}


@pytest.mark.parametrize("case", SHARES)
@pytest.mark.parametrize("batches", ["mixed", "single"])
def test_sets_have_the_shares_of_their_strategy(case: str, batches: str) -> None:
    from scipy.stats import chisquare

    options, shares = SHARES[case]
    expected = torch.tensor(shares, dtype=torch.float64)
    expected /= expected.sum()
    # Of several seeds: the epochs of one hold the same numbers of rows in another order. And a fixed number of batches,
    # since how many there are depends on what was drawn.
    counts = torch.zeros(3, dtype=torch.int64)
    for seed in range(30 if batches == "mixed" else 150):
        plan = mixture(seed=seed, batches=batches, **options).plan(0)[:20]
        counts += plan.sum(0) if batches == "mixed" else (plan > 0).sum(0)
    assert chisquare(counts.numpy(), (expected * counts.sum()).numpy()).pvalue > 0.001
    wrong = torch.tensor([0.34, 0.33, 0.33] if case != "uniform" else [0.4, 0.3, 0.3], dtype=torch.float64)
    assert chisquare(counts.numpy(), (wrong * counts.sum()).numpy()).pvalue < 0.001


@pytest.mark.parametrize("batches", ["mixed", "single"])
@pytest.mark.parametrize("strategy", ["proportional", "uniform", "temperature", "round_robin"])
def test_first_exhausted_gives_each_row_of_the_first_set_once(strategy: str, batches: str) -> None:
    loader = mixture(strategy=strategy, stop="first_exhausted", batches=batches)
    for _ in range(3):
        found = ids(loader)
        counts = Counter(every(found))
        of_set = [Counter(n for n in counts.elements() if n // 1000 == place) for place in range(3)]
        over = [sum(one.values()) == size for one, size in zip(of_set, SIZES.values(), strict=True)]
        assert max(counts.values()) == 1 and sum(over) == 1
        assert len(found) == len(loader) and all(len(batch) == 16 for batch in found[:-1])


@pytest.mark.parametrize("batches", ["mixed", "single"])
@pytest.mark.parametrize("strategy", ["proportional", "uniform", "temperature", "round_robin"])
def test_all_exhausted_gives_each_row_at_least_once_and_evenly(strategy: str, batches: str) -> None:
    loader = mixture(strategy=strategy, stop="all_exhausted", batches=batches)
    for _ in range(3):
        found = ids(loader)
        assert all(len(batch) == 16 for batch in found) and len(found) == len(loader)
        counts = Counter(every(found))
        assert len(counts) == sum(SIZES.values())
        for place in range(3):
            seen = [count for number, count in counts.items() if number // 1000 == place]
            assert max(seen) - min(seen) <= 1  # a set begins anew only when all its rows came
        # No batch more than is needed: without the last of the plan, some set is not passed over.
        assert any(loader.plan(0)[:-1].sum(0) < torch.tensor(list(SIZES.values())))


def test_sequential_gives_one_set_after_the_other_each_row_once() -> None:
    found = ids(mixture(strategy="sequential"))
    assert [number // 1000 for number in every(found)] == [0] * 700 + [1] * 200 + [2] * 37
    assert len(set(every(found))) == 937 and [len(batch) for batch in found[-2:]] == [16, 9]
    single = ids(mixture(strategy="sequential", batches="single"))
    assert [len(batch) for batch in single if len(batch) < 16] == [12, 8, 5] and len(set(every(single))) == 937


def test_round_robin_takes_turns() -> None:
    loader = mixture(strategy="round_robin", stop="first_exhausted", batch_size=15)
    assert all(set(sets_of(batch).values()) == {5} for batch in ids(loader)[:-1])
    single = ids(mixture(strategy="round_robin", batches="single"))
    assert [batch[0] // 1000 for batch in single] == [place % 3 for place in range(len(single))]
    assert all(len(sets_of(batch)) == 1 for batch in single)


def test_rows_lack_the_labels_of_other_sets_in_one_batch() -> None:
    loaders = {"a": tensor_loader("a", 50, 0), "b": tensor_loader("b", 50, 1)}
    for inputs, targets in Mixture(loaders, 8, strategy="round_robin", missing={"b": 255}):
        first = inputs[:, 0] < 1000
        assert targets["a"].equal(torch.where(first, inputs[:, 0].long(), -100))
        assert targets["b"].equal(torch.where(first, 255, inputs[:, 0].long()))


def test_epochs_are_other_orders_of_the_same_numbers_of_rows() -> None:
    loader = mixture(strategy="temperature")
    first, second = ids(loader), ids(loader)
    again = mixture(strategy="temperature")
    assert first != second and (ids(again), ids(again)) == (first, second)
    assert sorted(loader.plan(0).tolist()) == sorted(loader.plan(1).tolist())
    assert loader.plan(0).tolist() != loader.plan(1).tolist()


# -- position -----------------------------------------------------------------------------------------------------
WAYS = [
    {"strategy": "temperature"},
    {"strategy": "uniform", "stop": "first_exhausted"},
    {"strategy": "round_robin", "batches": "single"},
    {"strategy": "sequential"},
    {"strategy": "proportional", "batches": "single"},
]


@pytest.mark.parametrize("options", WAYS)
def test_a_position_yields_the_very_next_row(options: dict[str, Any]) -> None:
    whole = mixture(**options)
    length = len(whole)
    expected = ids(whole) + ids(whole)
    for taken in (0, 1, 7, length - 1, length, length + 3, 2 * length - 1):
        before = mixture(**options)
        go_on(before, taken, length)
        after = mixture(**options)
        after.load_state_dict(before.state_dict())
        assert after.epochs() == before.epochs()
        rest = ids(after)
        while len(rest) < 2 * length - taken:
            rest += ids(after)
        assert rest == expected[taken:]


def test_an_epoch_left_in_its_middle_is_followed_by_a_new_one_wherever_it_is_taken_up() -> None:
    before = mixture()
    next(iter(before))
    after = mixture()
    after.load_state_dict(before.state_dict())
    rest = ids(after)
    assert len(rest) == len(after) - 1
    assert before.epoch == after.epoch == 1
    assert set(every(ids(before))) == set(every(ids(after))) and len(set(every(ids(before)))) == 937


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_every_set(world_size: int) -> None:
    """Batches hold as many rows of each set in all processes, but for those that a process lacks in a set's end."""
    loaders = [mixture(strategy="uniform", rank=rank, world_size=world_size) for rank in range(world_size)]
    found = [ids(loader) for loader in loaders]
    assert len({len(batches) for batches in found}) == 1
    seen = [set(every(batches)) for batches in found]
    assert set.union(*seen) == set(every(ids(mixture(strategy="sequential"))))
    for counts in ([sets_of(batch) for batch in batch_of_all] for batch_of_all in zip(*found, strict=True)):
        for place in range(3):
            of_rank = [count[place] for count in counts]
            assert max(of_rank) - min(of_rank) <= -(-max(of_rank) // 12)  # 37 rows are 13, 12 and 12
    states = [loader.state_dict() for loader in loaders]
    again = mixture(strategy="uniform", rank=1, world_size=world_size)
    again.load_state_dict(states[1])
    assert ids(again) == ids(loaders[1])


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("strategy", ["sequential", "round_robin"])
def test_processes_go_on_at_any_batch(strategy: str, world_size: int) -> None:
    for rank in range(world_size):
        share = {"rank": rank, "world_size": world_size, "strategy": strategy, "batch_size": 4}
        whole = mixture({"a": 25, "b": 14, "c": 7}, **share)
        expected = ids(whole)
        for taken in range(1, len(whole)):
            before, after = mixture({"a": 25, "b": 14, "c": 7}, **share), mixture({"a": 25, "b": 14, "c": 7}, **share)
            batches = iter(before)
            for _ in range(taken):
                next(batches)
            after.load_state_dict(before.state_dict())
            assert ids(after) == expected[taken:]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("sets")
    found = {}
    for name, first, size in (("a", 0, 400), ("b", 1000, 90)):
        found[name] = place / name
        found[name].mkdir()
        for shard in range(2):
            write(
                found[name] / f"{shard}.parquet", rows(first + shard * size // 2, first + (shard + 1) * size // 2), 30
            )
    return found


def streams(
    folders: dict[str, Path], workers: int = 0, rank: int = 0, world_size: int = 1, strategy: Any = "uniform"
) -> Mixture:
    share: dict[str, Any] = {"workers": workers, "rank": rank, "world_size": world_size}
    loaders = {
        name: StreamLoader(Shards(str(folder)), Ids(), 10, window=40, shuffle=True, seed=3, **share)
        for name, folder in folders.items()
    }
    return Mixture(loaders, strategy=strategy, seed=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_of_streams_goes_on_at_the_very_next_row(folders: dict[str, Path], workers: int) -> None:
    whole = streams(folders)
    expected = ids(whole) + ids(whole)
    assert set(every(expected[: len(whole)])) == {*range(400), *range(1000, 1090)}
    for taken in (3, len(whole) - 1, len(whole), len(whole) + 5):
        before = streams(folders, workers)
        go_on(before, taken, len(whole))
        after = streams(folders, workers)
        after.load_state_dict(before.state_dict())
        rest = ids(after)
        assert rest == expected[taken : taken + len(rest)] and rest


def test_processes_share_streams(folders: dict[str, Path]) -> None:
    loaders = [streams(folders, rank=rank, world_size=2, strategy="sequential") for rank in range(2)]
    found = [ids(loader) for loader in loaders]
    assert len(found[0]) == len(found[1])
    assert set(every(found[0])) | set(every(found[1])) == {*range(400), *range(1000, 1090)}
    assert not set(every(found[0])) & set(every(found[1]))


# -- counting, refusals -------------------------------------------------------------------------------------------
def test_epochs_are_counted_for_every_task_and_set() -> None:
    shared = torch.arange(40.0)[:, None]
    loaders = {
        "a": TensorLoader(TensorData(shared, {"x": shared[:, 0], "y": shared[:, 0]}), 10),
        "b": TensorLoader(TensorData(shared[:10], {"y": shared[:10, 0]}), 10),
    }
    loader = Mixture(loaders, 10, strategy="round_robin")
    batches = iter(loader)
    for _ in range(4):
        next(batches)
    assert loader.epochs() == {
        "train/x/epochs": 0.5,
        "train/y/epochs": 0.8,
        "train/sets/a/epochs": 0.5,
        "train/sets/b/epochs": 2.0,
    }


def test_what_is_no_mixture_is_refused() -> None:
    for options, words in [
        ({"strategy": "often"}, "often"),
        ({"strategy": "temperature", "temperature": 0.5}, "temperature"),
        ({"probabilities": {"a": 0.5, "b": 0.5}}, "lack 'c'"),
        ({"probabilities": {"a": 0.5, "b": 0.4, "c": 0.3}}, "add up to 1"),
        ({"probabilities": {"a": 0.5, "b": 0.4, "c": 0.1}, "strategy": "uniform"}, "one of both"),
        ({"weights": {"bb": 2.0}}, "'b'"),
        ({"weights": {"b": 0.0}}, "positive"),
        ({"weights": {"b": 2.0}, "strategy": "round_robin"}, "leave them out"),
        ({"strategy": "sequential", "stop": "first_exhausted"}, "all_exhausted"),
        ({"stop": "never"}, "first_exhausted"),
        ({"batches": "both"}, "single"),
    ]:
        with pytest.raises(ConfigurationError, match=words):
            mixture(**options)
    with pytest.raises(DataError, match="fill"):
        mixture({"a": 3, "b": 3}, stop="first_exhausted", drop_last=True)
    with pytest.raises(ConfigurationError, match="drop_last=False"):
        Mixture({"a": tensor_loader("a", 20, 0, drop_last=True)})
    other = TensorLoader(TensorData({"n": torch.ones(9, 1)}, {}), 4)
    with pytest.raises(DataError, match="different inputs"):
        list(Mixture({"a": tensor_loader("a", 20, 0), "b": other}, 4, strategy="round_robin"))
    with pytest.raises(CheckpointError, match="strategy"):
        mixture().load_state_dict(mixture(strategy="round_robin").state_dict())


def test_texts_of_two_sets_are_filled_with_what_the_tokenizer_pads_with() -> None:
    short, long = torch.tensor([[7, 8], [9, 1]]), torch.tensor([[2, 3, 4, 1]])
    sets = {
        "short": TensorLoader(TensorData({"tokens": short}, {"a": torch.zeros(2)}), 3),
        "long": TensorLoader(TensorData({"tokens": long}, {"b": torch.zeros(1)}), 3),
    }
    batch = next(iter(Mixture(sets, 3, strategy="sequential", pads={"tokens": 1})))
    assert sorted(batch[0]["tokens"].tolist()) == [[2, 3, 4, 1], [7, 8, 1, 1], [9, 1, 1, 1]]
