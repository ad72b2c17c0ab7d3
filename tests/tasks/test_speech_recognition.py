"""Texts of recordings: padded rows cost what they cost without padding, what does not fit costs nothing."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lepton
from lepton.errors import ConfigurationError, TargetError
from lepton.evaluate import evaluate
from lepton.tasks import FrameHead, SpeechRecognition

NAN, INF = math.nan, math.inf
TASK = SpeechRecognition("said", ["a", "b", " "])


def texts(*rows):
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[-100] * (longest - len(row))] for row in rows])


def padding(logits, frames):
    """Logits as FrameHead writes them beyond the first `frames` [B] of each row."""
    certain = torch.tensor([0.0, *[-1e4] * (logits.shape[2] - 1)], dtype=logits.dtype)
    return certain.where((torch.arange(logits.shape[1]) >= frames[:, None])[..., None], logits)


# -- loss -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_loss_and_gradient_are_those_of_torch(dtype):
    torch.manual_seed(0)
    logits = torch.randn(4, 9, 4, dtype=dtype, requires_grad=True)
    target = texts([1, 2, 3], [2], [1, 1, 1, 2], [3, 2])
    losses, counts = TASK.label_losses(logits, TASK.check_target(logits, target))
    assert counts.tolist() == [3, 1, 4, 2] and losses.dtype == counts.dtype == torch.promote_types(dtype, torch.float32)
    assert TASK.label_count(target) == 10
    wide = logits if dtype == torch.float64 else logits.float()
    lengths = torch.tensor([3, 1, 4, 2])
    expected = F.ctc_loss(
        wide.log_softmax(-1).transpose(0, 1), target, torch.tensor([9] * 4), lengths, reduction="none"
    )
    torch.testing.assert_close(losses, expected)
    factors = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=losses.dtype)
    found = torch.autograd.grad(losses @ factors, logits, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(expected @ factors, logits))


def test_padded_rows_are_unpadded_rows():
    torch.manual_seed(1)
    head, frames = FrameHead(5, 4), torch.tensor([3, 9, 6])
    states = torch.randn(3, 9, 5).masked_fill((torch.arange(9) >= frames[:, None])[..., None], 0.0).requires_grad_()
    target = texts([1, 1], [2, 3, 1, 1], [])
    target[2, :1] = 3
    losses, counts = TASK.label_losses(head(states), target)
    assert counts.tolist() == [2, 4, 1]
    (found,) = torch.autograd.grad(losses.sum(), states, retain_graph=True)
    weights = torch.autograd.grad(losses.sum(), list(head.parameters()))
    expected = []
    for row, n in enumerate(frames.tolist()):
        alone = states[row : row + 1, :n]
        loss = F.ctc_loss(
            nn.Linear.forward(head, alone).log_softmax(-1).transpose(0, 1), target[row : row + 1], torch.tensor([n]),
            counts[row : row + 1].long(), reduction="none",
        )  # fmt: skip
        expected.append(loss)
    expected = torch.cat(expected)
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    (by_states,) = torch.autograd.grad(expected.sum(), states, retain_graph=True)
    torch.testing.assert_close(found, by_states, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        weights, torch.autograd.grad(expected.sum(), list(head.parameters())), rtol=1e-5, atol=1e-5
    )
    assert (found[0, 3:] == 0).all()


def test_a_text_that_does_not_fit_costs_nothing():
    target = texts([1, 2, 1], [1, 1], [1, 1], [2, 1])
    frames = torch.tensor([2, 2, 3, 5])
    logits = padding(torch.randn(4, 5, 4), frames).requires_grad_()
    assert TASK.frames_needed(target).tolist() == [3, 3, 3, 2]
    losses, counts = TASK.label_losses(logits, target)
    assert counts.tolist() == [0, 0, 2, 2]
    assert (losses[:2] == 0).all() and (losses[2:] > 0).all() and (losses < 100).all()
    (found,) = torch.autograd.grad(losses.sum(), logits)
    assert torch.isfinite(found).all() and (found[:2] == 0).all() and (found[2:].abs().sum((1, 2)) > 0).all()
    assert TASK.label_count(target) == 9  # without an output nobody can tell that two do not fit


@pytest.mark.parametrize("garbage", [0.0, NAN, INF, -INF])
def test_missing_and_unseen_texts_change_nothing(garbage):
    torch.manual_seed(2)
    target = texts([1, 2], [], [1, -101, 2], [3])
    logits = torch.randn(4, 6, 4)
    bad = logits.clone()
    bad[1:3] = garbage
    bad.requires_grad_()
    losses, counts = TASK.label_losses(bad, TASK.check_target(bad, target))
    assert counts.tolist() == [2, 0, 0, 1] and TASK.label_count(target) == counts.sum()
    assert TASK.mask(target).sum(1).tolist() == counts.tolist()
    alone, _ = TASK.label_losses(logits[[0, 3]], target[[0, 3]])
    assert losses.tolist() == [alone[0], 0, 0, alone[1]]
    (found,) = torch.autograd.grad(losses.sum(), bad)
    assert (found[1:3] == 0).all() and torch.isfinite(found).all()


@pytest.mark.parametrize("target", [texts([], [])[:, :0], torch.full((2, 3), -100), torch.full((2, 3), -101)])
@pytest.mark.parametrize("garbage", [0.0, NAN, INF])
def test_batches_without_texts(target, garbage):
    logits = torch.full((2, 5, 4), garbage, requires_grad=True)
    loss, count = TASK.total_loss(logits, TASK.check_target(logits, target.long()))
    assert (loss.item(), count.item(), TASK.label_count(target)) == (0, 0, 0)
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()


def test_empty_batches_and_recordings():
    for shape in ((0, 5, 4), (2, 0, 4)):
        logits = torch.zeros(shape, requires_grad=True)
        loss, count = TASK.total_loss(logits, torch.ones(shape[0], 2).long())
        assert loss == 0 and count == 0
        assert torch.autograd.grad(loss, logits)[0].shape == shape


def test_an_output_that_is_not_finite_is_not_hidden():
    logits = torch.zeros(2, 5, 4)
    logits[0, 2], logits[1, 2] = NAN, INF
    losses, counts = TASK.label_losses(logits, texts([1], [2, 3]))
    assert losses.isnan().all() and counts.tolist() == [1, 2]


# -- compile ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_graph_and_the_same_numbers(backend):
    torch.compiler.reset()
    head, states, target = FrameHead(3, 4), torch.randn(3, 7, 3), texts([1, 2], [], [1, -101])

    def step(states, target):
        logits = head(states)
        return TASK.total_loss(logits, TASK.check_target(logits, target))

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(states, target), step(states, target))
    found, expected = (torch.autograd.grad(f(states, target)[0], head.weight)[0] for f in (compiled, step))
    torch.testing.assert_close(found, expected)


# -- targets ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("output", "target", "words"),
    [
        ((2, 5, 4), torch.ones(3, 2).long(), ["'said'", "target [3, 2]", "[2, U] is expected", "-100"]),
        ((2, 5, 4), torch.ones(2).long(), ["target [2]", "[2, U] is expected"]),
        ((2, 5, 4), torch.ones(2, 2), ["torch.float32", "cast it with .long()"]),
        ((1, 5, 4), texts([1, 0]), ["the value 0", "characters 1 to 3", "-100", "-101"]),
        ((1, 5, 4), texts([4]), ["the value 4", "characters 1 to 3"]),
        ((2, 5, 4), torch.tensor([[1, 2], [-100, 2]]), ["row 1", "goes on after -100"]),
    ],
)
def test_errors_name_the_task_what_came_and_the_way_out(output, target, words):
    with pytest.raises(TargetError) as error:
        TASK.check_target(torch.zeros(output), target)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("shape", "words"), [((2, 5, 3), "dimension -1 must be 4"), ((2, 4), "one state per frame")])
def test_outputs_of_the_wrong_size_are_the_heads_fault(shape, words):
    with pytest.raises(ConfigurationError, match=words):
        TASK.check_target(torch.zeros(shape), texts([1], [2]))


@pytest.mark.parametrize("characters", [[], ["a", "a"], "ab", 3, None, ["a", ""], ["a", 3]])
def test_characters_that_are_refused(characters):
    with pytest.raises(ConfigurationError, match="'said': characters must be a list of different names"):
        SpeechRecognition("said", characters)


@pytest.mark.parametrize("beam", [0, -1, 1.5, None, "4", True])
def test_beams_that_are_refused(beam):
    with pytest.raises(ConfigurationError, match="beam must be a whole number of at least 1"):
        SpeechRecognition("said", ["a"], beam=beam)


# -- training ---------------------------------------------------------------------------------------------------
class Trunk(nn.Module):
    """Convolutions over frames; padding stays zero."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(6, 24, 3, padding=1), nn.ReLU(), nn.Conv1d(24, 24, 3, padding=1))

    def forward(self, frames):
        filled = (frames != 0).any(-1, keepdim=True)
        return self.layers(frames.transpose(1, 2)).transpose(1, 2) * filled


def recordings(rows, generator):
    """Frames that show the characters one after the other, each for two to four frames."""
    target = torch.randint(1, 4, (rows, 4), generator=generator)
    lengths = torch.randint(1, 5, (rows,), generator=generator)
    target[torch.arange(4) >= lengths[:, None]] = -100
    frames = torch.zeros(rows, 20, 6)
    for row, text in zip(frames, target.tolist(), strict=True):
        at = 0
        for character in (c for c in text if c > 0):
            duration = int(torch.randint(2, 5, (), generator=generator))
            row[at : at + duration, character] = 1.0
            row[at + duration, 0] = 1.0  # a pause
            at += duration + 1
    noise = 0.1 * torch.randn(frames.shape, generator=generator)
    return frames + noise * (frames != 0).any(-1, keepdim=True), target


def test_a_small_network_learns_to_spell():
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(3)
    tasks = [SpeechRecognition("said", ["a", "b", " "])]
    model = lepton.LeptonModel(Trunk(), tasks, features=24)
    assert isinstance(model.heads["said"], FrameHead)
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        frames, target = recordings(32, generator)
        outputs, weights = model(frames)
        loss = criterion(outputs, {"said": target}, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    frames, target = recordings(200, generator)
    found = evaluate(model.eval(), [(frames, {"said": target})])["said"].metrics
    assert found["exact"] > 0.95 and found["cer"] < 0.03
    with torch.no_grad():
        label = tasks[0].predict(model(frames)[0]["said"])["label"]
    hits = [tasks[0].text(a) == tasks[0].text(b) for a, b in zip(label, target, strict=True)]
    assert sum(hits) / len(hits) == pytest.approx(found["exact"])
