"""CTC against the sum over all paths, written out; searches and alignments against all texts and all paths."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from lepton.errors import ConfigurationError
from lepton.tasks import ctc_alignment, ctc_beam, ctc_greedy
from lepton.tasks._ctc import ctc_losses, frames_needed


def collapse(path):
    """Merge repeats, leave out blanks."""
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != 0)


def paths(log_p):
    """Every path of one row [L, V] with its log probability."""
    for path in itertools.product(range(log_p.shape[1]), repeat=log_p.shape[0]):
        yield path, sum(log_p[t, symbol].item() for t, symbol in enumerate(path))


def text_probabilities(log_p):
    found = {}
    for path, value in paths(log_p):
        text = collapse(path)
        found[text] = found.get(text, 0.0) + math.exp(value)
    return found


def rows(*texts, beyond=0):
    longest = max(map(len, texts))
    return torch.tensor([[*text, *[beyond] * (longest - len(text))] for text in texts])


# -- loss ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("frames", "symbols"), [(1, 3), (2, 2), (4, 3), (5, 4)])
def test_the_loss_is_the_sum_over_all_paths(frames, symbols):
    torch.manual_seed(frames)
    logits = 2 * torch.randn(1, frames, symbols, dtype=torch.float64)
    probabilities = text_probabilities(logits[0].log_softmax(-1))
    assert sum(probabilities.values()) == pytest.approx(1)
    texts = list(itertools.chain.from_iterable(
        itertools.product(range(1, symbols), repeat=length) for length in range(1, frames + 2)
    ))  # fmt: skip
    assert len(texts) > len(probabilities) - 2
    lengths = torch.tensor([len(text) for text in texts])
    losses = ctc_losses(logits.expand(len(texts), -1, -1), rows(*texts, beyond=1), lengths)
    expected = torch.tensor([probabilities.get(text, 0.0) for text in texts], dtype=torch.float64)
    torch.testing.assert_close((-losses).exp(), expected)
    fits = frames_needed(rows(*texts), lengths) <= frames
    assert fits.tolist() == [text in probabilities for text in texts]


def test_the_derivative_of_the_loss_is_its_derivative():
    torch.manual_seed(0)
    logits = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    texts, lengths = rows([1, 1, 2], [3], [2, 3, 1]), torch.tensor([3, 1, 3])
    assert torch.autograd.gradcheck(lambda x: ctc_losses(x, texts.clamp(min=1), lengths), logits)


def test_the_operator_keeps_the_rules_of_operators():
    texts, lengths = rows([1, 1, 2], [3], [2, 3, 1]).clamp(min=1), torch.tensor([3, 1, 3])
    logits = torch.randn(3, 6, 4, requires_grad=True)
    torch.library.opcheck(torch.ops.lepton.ctc.default, (logits, texts, lengths, True))
    torch.library.opcheck(torch.ops.lepton.ctc.default, (logits.detach(), texts, lengths, False))


# -- search -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(20))
def test_a_beam_that_keeps_everything_finds_the_most_probable_text(seed):
    torch.manual_seed(seed)
    logits = torch.randn(3, 4 + seed % 2, 3)
    for row, found in zip(logits, ctc_beam(logits, 1000), strict=True):
        probabilities = text_probabilities(row.double().log_softmax(-1))
        assert tuple(found) == max(probabilities, key=probabilities.get)


def test_the_beam_finds_texts_that_have_no_best_path():
    torch.manual_seed(1)
    logits = torch.randn(200, 5, 3)
    greedy, found = ctc_greedy(logits), ctc_beam(logits, 8)
    value = [text_probabilities(row.double().log_softmax(-1)) for row in logits]
    better = [p[tuple(b)] - p[tuple(g)] for p, b, g in zip(value, found, greedy, strict=True)]
    assert sum(better) > 1 and sum(x > 1e-12 for x in better) > 10 * sum(x < -1e-12 for x in better)


def test_greedy_is_the_text_of_the_best_path():
    torch.manual_seed(2)
    logits = torch.randn(50, 5, 3)
    for row, found in zip(logits, ctc_greedy(logits), strict=True):
        best = max(paths(row.double()), key=lambda pair: pair[1])[0]
        assert tuple(found) == collapse(best)


def test_searches_of_nothing():
    for search in (ctc_greedy, lambda logits: ctc_beam(logits, 3)):
        assert search(torch.zeros(2, 0, 3)) == [[], []]
        assert search(torch.zeros(0, 4, 3)) == []
        silence = torch.tensor([0.0, -1e4, -1e4]).expand(2, 7, 3)
        assert search(silence) == [[], []]
        assert search(silence.bfloat16()) == [[], []]


def test_a_beam_of_nothing_is_refused():
    with pytest.raises(ConfigurationError, match="beam must be a whole number of at least 1, but it is 0"):
        ctc_beam(torch.zeros(1, 2, 3), 0)


# -- alignment ----------------------------------------------------------------------------------------------------
def shares(path, text):
    """Frames of each character along a path, by the rule of the borders."""
    runs, at = [], 0
    for symbol, group in itertools.groupby(path):
        length = len(list(group))
        if symbol != 0:
            runs.append((at, at + length - 1))
        at += length
    assert len(runs) == len(text)
    borders = [0, *((end + start + 1) // 2 for (_, end), (start, _) in itertools.pairwise(runs)), len(path)]
    return [b - a for a, b in itertools.pairwise(borders)]


@pytest.mark.parametrize("seed", range(15))
def test_the_alignment_is_that_of_the_best_path(seed):
    torch.manual_seed(seed)
    texts = [[1, 2], [1, 1, 2], [2], [], [1, 2, 1, 1, 2, 2]]
    frames = torch.tensor([5, 6, 3, 4, 6])
    logits = 2 * torch.randn(5, 6, 3)
    found = ctc_alignment(logits, frames, rows(*texts))
    for row, (text, n) in enumerate(zip(texts, frames.tolist(), strict=True)):
        fitting = [p for p in paths(logits[row, :n].double().log_softmax(-1)) if text and list(collapse(p[0])) == text]
        if fitting:
            expected = shares(max(fitting, key=lambda pair: pair[1])[0], text)
        else:
            equal = [n * (u + 1) // len(text) - n * u // len(text) for u in range(len(text))]
            expected = equal
        assert found[row].tolist() == expected + [0] * (6 - len(text))


def test_padding_changes_no_alignment():
    torch.manual_seed(3)
    logits, texts, frames = torch.randn(8, 20, 5), torch.randint(1, 5, (8, 4)), torch.randint(8, 21, (8,))
    found = ctc_alignment(logits, frames, texts)
    assert found.sum(1).tolist() == frames.tolist() and (found >= 1).all()
    garbage = torch.cat([logits, torch.full((8, 7, 5), math.nan)], 1)
    garbage[torch.arange(27) >= frames[:, None]] = math.nan
    padded = F.pad(texts, (0, 3), value=-100)
    assert ctc_alignment(garbage, frames, padded).tolist() == F.pad(found, (0, 3)).tolist()
    for row, n in enumerate(frames.tolist()):
        alone = ctc_alignment(logits[row : row + 1, :n], frames[row : row + 1], texts[row : row + 1])
        assert alone.tolist() == found[row : row + 1].tolist()


def test_equal_shares_where_there_is_no_path():
    frames = torch.tensor([7, 2, 7, 0])
    texts = rows([1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3])
    logits = torch.zeros(4, 7, 4)
    logits[0], logits[2, 3] = math.nan, math.inf
    found = ctc_alignment(logits, frames, texts)
    assert found.tolist() == [[2, 2, 3], [0, 1, 1], [2, 2, 3], [0, 0, 0]]
    assert ctc_alignment(logits, frames, texts[:, :0]).shape == (4, 0)
    assert ctc_alignment(logits[:, :0], frames * 0, texts).tolist() == [[0, 0, 0]] * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_alignments_of_other_dtypes(dtype):
    path = torch.tensor([[0, 1, 1, 0, 0, 2, 0]])
    logits = (9.0 * F.one_hot(path, 3)).to(dtype)
    for integers in (torch.int32, torch.int64):
        found = ctc_alignment(logits, torch.tensor([7], dtype=integers), rows([1, 2]).to(integers))
        assert found.tolist() == [[4, 3]] and found.dtype == torch.int64


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_alignments_in_one_graph(backend):
    torch.compiler.reset()
    logits, frames = torch.randn(4, 9, 5, requires_grad=True), torch.tensor([9, 5, 8, 2])
    labels = torch.randint(-1, 5, (4, 3))

    def both(logits):
        return ctc_alignment(2 * logits, frames, labels), logits.sum()

    found, expected = torch.compile(both, fullgraph=True, backend=backend)(logits), both(logits)
    assert found[0].tolist() == expected[0].tolist() and not found[0].requires_grad
    found[1].backward()
    assert (logits.grad == 1).all()
    torch.library.opcheck(torch.ops.lepton.ctc_alignment.default, (logits.detach(), frames, labels))
