"""Batches of rows of like length: each row once, hardly any padding, the same again from seed, epoch and position."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lepton.data import LengthLoader, SequenceData, SequenceEncoder, TensorLoader, read_table
from lepton.errors import ConfigurationError, DataError


def sequences(lengths: Tensor, second: Tensor | None = None) -> SequenceData:
    """Rows of which every filled place holds the row's number from 1, and every place beyond 0 or, of labels, -100."""

    def padded(filled: Tensor, fill: int) -> Tensor:
        places = torch.arange(int(filled.max()) + 3)  # wider than needed, as a part of a table is
        numbers = torch.arange(1, len(filled) + 1)[:, None]
        return torch.where(places < filled[:, None], numbers, fill).to(torch.int16)

    inputs, targets = {"tokens": padded(lengths, 0)}, {"next": padded(lengths, -100)}
    named = {"tokens": lengths, "next": lengths}
    if second is not None:
        inputs["target"], targets["translation"] = padded(second, 0), padded(second, -100)
        named |= {"target": second, "translation": second}
    targets["row"] = torch.arange(1, len(lengths) + 1)
    return SequenceData(inputs, targets, named)


def skewed(rows: int, seed: int = 0) -> Tensor:
    """Lengths such as those of sentences: many short ones, a few of up to ten times the median."""
    draw = np.random.default_rng(seed)
    return torch.from_numpy(np.clip(draw.lognormal(2.5, 0.5, rows), 2, 128).astype(np.int64))


def rows_of(loader: TensorLoader) -> list[list[int]]:
    return [targets["row"].tolist() for _, targets in loader]


def padding(loader: TensorLoader) -> float:
    """Return the share of places in all inputs that no row fills; a row's places are those of its longest neighbour."""
    filled = total = 0
    for inputs, _ in loader:
        joined = sum((tensor != 0).sum(1) for tensor in inputs.values())  # type: ignore[union-attr]
        assert isinstance(joined, Tensor)
        filled += int(joined.sum())
        total += int(joined.max()) * len(joined)
    return 1 - filled / total


# -- batches ----------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 9), st.booleans(), st.integers(0, 2**40), st.integers(0, 3))
def test_every_row_comes_once_an_epoch(rows: int, size: int, shuffle: bool, seed: int, epoch: int) -> None:
    loader = LengthLoader(sequences(skewed(rows, seed % 97)), size, shuffle=shuffle, seed=seed)
    loader.load_state_dict({"epoch": epoch, "batch": 0})
    batches = rows_of(loader)
    assert sorted(itertools.chain(*batches)) == list(range(1, rows + 1))
    assert [len(batch) for batch in batches] == [size] * (rows // size) + [rows % size] * (rows % size > 0)
    assert len(batches) == len(loader)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_is_the_untrimmed_one_up_to_padding(shuffle: bool) -> None:
    data = sequences(skewed(200), skewed(200, seed=1))
    fills = {"tokens": 0, "target": 0, "next": -100, "translation": -100}
    for inputs, targets in LengthLoader(data, 16, shuffle=shuffle):
        assert isinstance(inputs, dict)
        index = targets["row"] - 1
        for name, found in {**inputs, **targets}.items():
            whole = {**data.inputs, **data.targets}[name][index]  # type: ignore[dict-item]
            assert found.dtype == torch.int64
            if name == "row":
                continue
            assert found.shape[1] == data.lengths[name][index].max()
            assert torch.equal(whole[:, : found.shape[1]].long(), found)
            assert (whole[:, found.shape[1] :] == fills[name]).all()


def test_without_shuffle_rows_keep_their_order() -> None:
    loader = LengthLoader(sequences(skewed(50)), 8)
    assert list(itertools.chain(*rows_of(loader))) == list(range(1, 51))
    assert rows_of(loader) == rows_of(loader)


def test_batches_are_fixed_by_seed_and_epoch_and_differ_between_them() -> None:
    data = sequences(skewed(300))
    loader = LengthLoader(data, 16, shuffle=True, seed=3)
    epochs = [rows_of(loader) for _ in range(3)]
    again = LengthLoader(data, 16, shuffle=True, seed=3)
    assert [rows_of(again) for _ in range(3)] == epochs
    sets = [{frozenset(batch) for batch in epoch} for epoch in epochs]
    assert not (sets[0] & sets[1] or sets[1] & sets[2] or sets[0] & sets[2])  # other neighbours, not another order only
    assert rows_of(LengthLoader(data, 16, shuffle=True, seed=4)) != epochs[0]


def test_even_the_longest_rows_meet_others() -> None:
    """Sorted in one pool, they would be the same batch in every epoch."""
    lengths = skewed(320)
    loader = LengthLoader(sequences(lengths), 16, shuffle=True)
    longest = int(lengths.argmax()) + 1
    company = [set(next(batch for batch in rows_of(loader) if longest in batch)) for _ in range(20)]
    shared = [len(one & other) - 1 for one, other in itertools.pairwise(company)]
    assert np.mean(shared) < 0.75 * 15


def test_short_and_long_batches_come_mixed() -> None:
    """An epoch from short to long would be a curriculum that nobody asked for."""
    data = sequences(skewed(2000))
    longest = [inputs["tokens"].shape[1] for inputs, _ in LengthLoader(data, 20, shuffle=True)]  # type: ignore[call-overload]
    rank = np.argsort(np.argsort(longest))
    assert abs(np.corrcoef(rank, np.arange(len(rank)))[0, 1]) < 0.3


def test_drop_last_leaves_out_random_rows_and_not_the_longest() -> None:
    lengths = skewed(113)
    loader = LengthLoader(sequences(lengths), 10, shuffle=True, drop_last=True)  # 11 batches, so pools of 5, 5 and 1
    left_out = []
    for _ in range(40):
        batches = rows_of(loader)
        assert [len(batch) for batch in batches] == [10] * 11
        left_out += sorted(set(range(1, 114)) - set(itertools.chain(*batches)))
    assert len(set(left_out)) > 60
    found = lengths[torch.tensor(left_out) - 1].double().mean()
    assert abs(found - lengths.double().mean()) < 0.2 * lengths.double().mean()


@pytest.mark.parametrize("stop", [1, 5, 12, 13])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_resumed_epoch_goes_on_as_if_it_had_not_been_interrupted(stop: int, shuffle: bool) -> None:
    data = sequences(skewed(100))
    whole = LengthLoader(data, 8, shuffle=shuffle, seed=5)
    expected = [rows_of(whole) for _ in range(2)]
    interrupted = LengthLoader(data, 8, shuffle=shuffle, seed=5)
    seen = [targets["row"].tolist() for _, targets in itertools.islice(interrupted, stop)]
    resumed = LengthLoader(data, 8, shuffle=shuffle, seed=5)
    resumed.load_state_dict(interrupted.state_dict())
    seen += rows_of(resumed) if stop < len(whole) else []
    assert seen == expected[0]
    assert rows_of(resumed) == expected[1]


# -- padding ----------------------------------------------------------------------------------------------------------
def test_hardly_any_padding_is_left_of_lengths_like_those_of_sentences() -> None:
    data = sequences(skewed(20_000), skewed(20_000, seed=1))
    assert padding(TensorLoader(data, 64, shuffle=True)) > 0.5
    assert padding(LengthLoader(data, 64, shuffle=True)) < 0.05


@pytest.fixture(scope="module")
def captions(data_folder: Path) -> SequenceData:
    pytest.importorskip("tokenizers")
    table = read_table(data_folder / "multi30k" / "train").slice(0, 9000)
    encoder = SequenceEncoder.fit(table, "en", target="de", vocabulary=2000)
    found = encoder.encode(table)
    targets = {"lm": encoder.language_labels(table), "translation": encoder.target_labels(table)}
    lengths = {**found.lengths, "lm": found.lengths["tokens"], "translation": found.lengths["target"]}
    return SequenceData(found.inputs, targets, lengths)


def test_captions_are_batched_with_a_tenth_of_the_padding(captions: SequenceData) -> None:
    ours = padding(LengthLoader(captions, 64, shuffle=True))
    at_random = padding(TensorLoader(captions, 64, shuffle=True))
    assert ours < 0.1 * at_random


def test_labels_and_inputs_of_captions_stay_together(captions: SequenceData) -> None:
    for inputs, targets in itertools.islice(LengthLoader(captions, 128, shuffle=True), 20):
        assert isinstance(inputs, dict)
        assert torch.equal(inputs["tokens"][:, 1:], targets["lm"][:, :-1].clamp(min=0))
        assert torch.equal(
            inputs["target"][:, 1:],
            torch.where(targets["translation"] == 3, 0, targets["translation"])[:, :-1].clamp(min=0),
        )


# -- data -------------------------------------------------------------------------------------------------------------
def test_rows_and_only_keep_the_lengths() -> None:
    data = sequences(torch.tensor([3, 1, 2]), torch.tensor([1, 2, 3]))
    part = data.rows(torch.tensor([2, 0]))
    assert {name: lengths.tolist() for name, lengths in part.lengths.items()} == {
        "tokens": [2, 3],
        "next": [2, 3],
        "target": [3, 1],
        "translation": [3, 1],
    }
    assert part.targets["row"].tolist() == [3, 1]
    only = data.only("next")
    assert set(only.targets) == {"next"} and set(only.lengths) == {"tokens", "target", "next"}
    assert set(data.only().lengths) == {"tokens", "target"}
    assert rows_of(LengthLoader(part, 1)) == [[3], [1]]


def test_a_plain_loader_trims_too_and_other_types_stay() -> None:
    data = SequenceData(
        {"tokens": torch.ones(3, 5, dtype=torch.int16), "extra": torch.zeros(3, 2), "known": torch.ones(3).bool()},
        {"y": torch.zeros(3)},
        {"tokens": torch.tensor([2, 1, 0])},
    )
    [(inputs, targets)] = TensorLoader(data, 3)
    assert isinstance(inputs, dict)
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in inputs.items()} == {
        "tokens": ((3, 2), torch.int64),
        "extra": ((3, 2), torch.float32),
        "known": ((3,), torch.bool),
    }
    assert targets["y"].dtype == torch.float32


@pytest.mark.parametrize(
    ("inputs", "lengths", "words"),
    [
        (torch.ones(3, 2), {}, "inputs must map names to tensors"),
        ({"tokens": torch.ones(3, 2)}, {"token": torch.ones(3)}, r"lengths of 'token'.*Did you mean 'tokens'"),
        ({"tokens": torch.ones(3, 2)}, {"tokens": torch.ones(2)}, r"'tokens' is \[3, 2\], but its lengths are \[2\]"),
        ({"tokens": torch.ones(3)}, {"tokens": torch.ones(3)}, r"'tokens' is \[3\]"),
        ({"tokens": torch.ones(3, 2)}, {"tokens": torch.tensor([1, 2, 3])}, "between 0 and 2, but reach 3"),
        ({"tokens": torch.ones(3, 2)}, {"tokens": torch.tensor([1, -2, 2])}, "between 0 and 2, but reach -2"),
    ],
)
def test_wrong_data(inputs: Any, lengths: dict[str, Tensor], words: str) -> None:
    with pytest.raises(DataError, match=words):
        SequenceData(inputs, {}, lengths)


def test_wrong_options() -> None:
    with pytest.raises(ConfigurationError, match="LengthLoader: batch_size must be"):
        LengthLoader(sequences(torch.tensor([1])), 0)
    with pytest.raises(DataError, match="no rows"):
        LengthLoader(SequenceData({"tokens": torch.ones(0, 2)}, {}, {}), 2)
