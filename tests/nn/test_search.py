"""Greedy and beam search: equal to plain searches without a cache, whatever the batch; the best of all where it may."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

import lepton
from lepton.errors import ConfigurationError, DataError
from lepton.nn import TransformerTrunk, beam_search, greedy_search
from lepton.tasks import Classification
from tests.conftest import trunk as table_trunk

SOURCES = [[2, 7, 8, 6, 3], [2, 5, 3], [2, 9, 9, 9, 9, 9, 3], [2, 3]]
SMALL = [[2, 7, 6, 5, 3], [2, 5, 3]]
END, TARGET = 3, 4


def make(vocabulary: int = 12, seed: int = 0, sharpness: float = 3.0) -> lepton.LeptonModel:
    """Double precision, so that a cache and a whole pass agree on what is best."""
    torch.manual_seed(seed)
    trunk = TransformerTrunk(vocabulary, readers={"lm": "causal", "german": "target"}, width=16, depth=2, heads=2)
    model = lepton.LeptonModel(trunk, [Classification("lm", vocabulary), Classification("german", vocabulary)])
    with torch.no_grad():
        model.heads["german"].weight.mul_(sharpness)
    return model.double()


def pad(rows: list[list[int]]) -> Tensor:
    return torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])


@torch.no_grad()
def log_probabilities(model: lepton.LeptonModel, source: list[int], ids: list[int]) -> Tensor:
    """Of the token behind `ids`, by the model as it is trained: one row, no cache, no padding."""
    outputs, _ = model.eval()({"tokens": torch.tensor([source]), "target": torch.tensor([[TARGET, *ids]])})
    found = outputs["german"][0, -1].log_softmax(-1)
    found[[0, 2, 4]] = -math.inf
    return found


def limit_of(source: list[int], max_length: int | None) -> int:
    return 2 * len(source) + 10 if max_length is None else max_length


def plain_greedy(model: lepton.LeptonModel, source: list[int], max_length: int | None = None) -> list[int]:
    ids: list[int] = []
    while len(ids) < limit_of(source, max_length):
        best = int(log_probabilities(model, source, ids).argmax())
        if best == END:
            break
        ids.append(best)
    return ids


def plain_beam(
    model: lepton.LeptonModel, source: list[int], beam: int, penalty: float = 1.0, max_length: int | None = None
) -> list[int]:
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, limit_of(source, max_length) + 1):
        longer = []
        for score, ids in alive:
            for token, log_p in enumerate(log_probabilities(model, source, ids).tolist()):
                longer.append((score + log_p, [*ids, token]))
        longer = sorted(longer, reverse=True)
        last = length == limit_of(source, max_length)
        finished += [(score / length**penalty, ids) for score, ids in longer[:beam] if last or ids[-1] == END]
        finished = sorted(finished, reverse=True)[:beam]
        alive = [pair for pair in longer if pair[1][-1] != END][:beam]
        if not alive or (len(finished) == beam and finished[-1][0] >= alive[0][0] / length**penalty):
            break
    return [token for token in finished[0][1] if token != END]


@pytest.mark.parametrize("seed", range(3))
def test_greedy_search_equals_one_without_a_cache(seed: int) -> None:
    model = make(seed=seed)
    assert greedy_search(model, "german", pad(SOURCES)) == [plain_greedy(model, source) for source in SOURCES]


@pytest.mark.parametrize(("beam", "penalty"), [(1, 1.0), (2, 0.0), (3, 1.0), (5, 0.6), (12, 1.0)])
def test_beam_search_equals_one_without_a_cache(beam: int, penalty: float) -> None:
    for seed in range(2):
        model = make(seed=seed)
        found = beam_search(model, "german", pad(SOURCES), beam=beam, length_penalty=penalty, max_length=9)
        assert found == [plain_beam(model, source, beam, penalty, 9) for source in SOURCES]


def test_the_longest_length_follows_the_length_of_each_row() -> None:
    model = make()
    with torch.no_grad():
        model.heads["german"].bias[END] = -50  # never ends
    for found in (greedy_search(model, "german", pad(SOURCES)), beam_search(model, "german", pad(SOURCES), beam=2)):
        assert [len(ids) for ids in found] == [2 * len(source) + 10 for source in SOURCES]
    assert [len(ids) for ids in beam_search(model, "german", pad(SOURCES), max_length=3)] == [3, 3, 3, 3]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_that_holds_all_results_finds_the_best_of_all(penalty: float) -> None:
    """Ids 1, 5, 6 and 7 can follow each other: every result of at most 3 of them is scored by hand."""
    for seed, source in enumerate(SMALL):
        model = make(vocabulary=8, seed=seed, sharpness=1.0)
        scores = {}
        for length in range(4):
            for ids in itertools.product([1, 5, 6, 7], repeat=length):
                labels = [*ids, *([END] if length < 3 else [])]
                steps = [float(log_probabilities(model, source, list(ids[:i]))[y]) for i, y in enumerate(labels)]
                scores[ids] = sum(steps) / len(labels) ** penalty
        found = beam_search(model, "german", torch.tensor([source]), beam=100, length_penalty=penalty, max_length=3)
        assert tuple(found[0]) == max(scores, key=scores.__getitem__)


def test_a_batch_gives_what_its_rows_give_one_at_a_time() -> None:
    model = make(seed=4)
    for search in (greedy_search, beam_search):
        alone = [search(model, "german", torch.tensor([source]))[0] for source in SOURCES]
        assert search(model, "german", pad(SOURCES)) == alone
        assert search(model, "german", pad(SOURCES[::-1])) == alone[::-1]


def test_a_beam_of_one_is_the_greedy_search() -> None:
    for seed in range(5):
        model = make(seed=seed)
        assert beam_search(model, "german", pad(SOURCES), beam=1) == greedy_search(model, "german", pad(SOURCES))


def test_a_larger_exponent_never_gives_shorter_results() -> None:
    """On all results of a beam that holds them all: the exponent multiplies a longer result's (negative) score less."""
    model = make(vocabulary=8, sharpness=1.0)
    lengths = [
        [len(ids) for ids in beam_search(model, "german", pad(SMALL), beam=100, length_penalty=p, max_length=3)]
        for p in (0.0, 1.0, 3.0)
    ]
    assert all(a <= b for shorter, longer in itertools.pairwise(lengths) for a, b in zip(shorter, longer, strict=True))
    assert lengths[0] != lengths[2]


def test_a_search_leaves_the_model_as_it_was() -> None:
    model = make().train()
    model.trunk.blocks[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    expected = [plain_greedy(make(), source) for source in SOURCES]  # without dropout
    assert greedy_search(model, "german", pad(SOURCES)) == expected
    beam_search(model, "german", pad(SOURCES))
    assert {name: module.training for name, module in model.named_modules()} == before
    with pytest.raises(DataError):
        beam_search(model, "german", torch.tensor([[2, 99, 3]]))
    assert {name: module.training for name, module in model.named_modules()} == before


def test_no_rows_give_no_results() -> None:
    nothing = torch.zeros(0, 4, dtype=torch.int64)
    assert greedy_search(make(), "german", nothing) == []
    assert beam_search(make(), "german", nothing) == []


def test_what_cannot_be_searched_is_said() -> None:
    model, tokens = make(), pad(SOURCES)
    with pytest.raises(ConfigurationError, match=r"no task 'germn'.*Did you mean 'german'"):
        greedy_search(model, "germn", tokens)
    with pytest.raises(ConfigurationError, match="'lm' reads 'causal'"):
        beam_search(model, "lm", tokens)
    with pytest.raises(ConfigurationError, match="beam must be an integer >= 1, but it is 0"):
        beam_search(model, "german", tokens, beam=0)
    with pytest.raises(ConfigurationError, match="length_penalty must be a number >= 0"):
        beam_search(model, "german", tokens, length_penalty=-1)
    with pytest.raises(ConfigurationError, match="max_length must be an integer >= 1, or None"):
        greedy_search(model, "german", tokens, max_length=0)
    with pytest.raises(DataError, match=r"tokens must be ids \[B, S\]"):
        greedy_search(model, "german", tokens[0])
    other = lepton.LeptonModel(table_trunk(), [Classification("german", 5)])
    with pytest.raises(ConfigurationError, match="on a TransformerTrunk, but it is on a Sequential"):
        greedy_search(other, "german", tokens)
    trunk = TransformerTrunk(12, readers={"german": "target"}, width=16, depth=1, heads=2)
    larger = lepton.LeptonModel(trunk, [Classification("german", 20, head=nn.Linear(16, 20))])
    with pytest.raises(ConfigurationError, match=r"20 outputs.*only 12"):
        greedy_search(larger, "german", tokens)
    spelling = TransformerTrunk(12, readers={"german": "target"}, characters=9, width=16, depth=1, heads=2)
    with pytest.raises(ConfigurationError, match="tokens only, but the trunk was built for the characters"):
        greedy_search(lepton.LeptonModel(spelling, [Classification("german", 12)]), "german", tokens)
