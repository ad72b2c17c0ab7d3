"""Texts of recordings: padded rows cost what they cost without padding, what does not fit costs nothing."""

import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lepton
from lepton.balance import MGDA
from lepton.errors import ConfigurationError, TargetError
from lepton.evaluate import evaluate
from lepton.tasks import FrameHead, SpeechRecognition, SpeechSynthesis, ctc_alignment
from lepton.tasks._metrics import edit_distance

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


@pytest.mark.parametrize("garbage", [0.0, NAN, INF])
def test_a_text_that_does_not_fit_costs_nothing(garbage):
    target = texts([1, 2, 1], [1, 1], [1, 1], [2, 1])
    frames = torch.tensor([2, 2, 3, 5])
    logits = torch.randn(4, 5, 4)
    logits[1] = garbage
    logits = padding(logits, frames).requires_grad_()
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


# -- head -------------------------------------------------------------------------------------------------------
def test_the_head_is_linear_where_there_are_features():
    head = FrameHead(3, 4)
    states = torch.randn(2, 5, 3)
    states[0, 3:] = 0.0
    logits = head(states)
    assert logits[0, 3:].tolist() == [[0.0, -1e4, -1e4, -1e4]] * 2
    filled = (states != 0).any(-1)
    torch.testing.assert_close(logits[filled], nn.functional.linear(states, head.weight, head.bias)[filled])
    states[1, 2, 0] = NAN
    assert head(states)[1, 2].isnan().all()  # what is no number is no padding


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_padding_is_found_in_any_precision(dtype):
    head, target = FrameHead(3, 4).to(dtype), texts([1, 2, 3], [1, 2, 3])
    states = torch.randn(2, 5, 3, dtype=dtype)
    states[0, 2:] = 0.0
    losses, counts = TASK.label_losses(head(states), target)
    assert counts.tolist() == [0, 3] and losses[0] == 0 and 0 < losses[1] < 100
    silent = states.clone()
    silent[1, 3:] = 0.0
    cut = TASK.label_losses(head(states[1:, :3]), target[1:])[0]
    torch.testing.assert_close(TASK.label_losses(head(silent), target)[0][1:], cut)


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


# -- outputs ----------------------------------------------------------------------------------------------------
def every_text(row):
    """p(text) of every text of one row [L, V], by all paths."""
    found = {}
    for path in itertools.product(range(row.shape[1]), repeat=len(row)):
        text = tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != 0)
        found[text] = found.get(text, 0.0) + math.exp(sum(row[t, s].item() for t, s in enumerate(path)))
    return found


@pytest.mark.parametrize("beam", [1, 1000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_predictions_are_texts_with_their_probability(beam, dtype):
    task = SpeechRecognition("said", ["a", "b"], beam=beam)
    logits = padding(torch.randn(20, 5, 3).to(dtype), torch.randint(0, 6, (20,)))
    found = task.predict(logits)
    probability = [every_text(row.double().log_softmax(-1)) for row in logits]
    lengths = (found["label"] != -100).sum(1).tolist()
    labels = [tuple(row[:n].tolist()) for row, n in zip(found["label"], lengths, strict=True)]
    assert found["label"].shape == (20, max(lengths)) and found["label"].dtype == torch.int64
    assert 0 in lengths  # a recording without a frame says nothing, for certain
    expected = torch.tensor([p[label] for p, label in zip(probability, labels, strict=True)])
    torch.testing.assert_close(found["probability"], expected)
    if beam > 1:
        assert [max(p, key=p.get) for p in probability] == labels


def test_predictions_of_silence():
    for frames, rows in ((7, 2), (0, 2), (7, 0)):
        found = TASK.predict(padding(torch.zeros(rows, frames, 4), torch.zeros(rows)))
        assert found["label"].shape == (rows, 0) and found["probability"].tolist() == [1.0] * rows


def test_texts_of_numbers():
    assert TASK.text([1, 3, 2]) == TASK.text(torch.tensor([1, 3, 2, -100, -100])) == "a b"
    assert TASK.text([]) == TASK.text([-100]) == TASK.text([0, 0]) == ""
    assert TASK.text([1, -101, 2]) == "a\ufffdb"
    assert SpeechRecognition("said", ["sch", "\u00e9", "e"]).text([1, 3, 2]) == "sche\u00e9"


# -- metrics ----------------------------------------------------------------------------------------------------
def spelled(*rows, symbols):
    """Logits whose best path has these texts."""
    longest = 2 * max(map(len, rows)) + 1
    path = torch.zeros(len(rows), longest, dtype=torch.int64)
    for row, text in zip(path, rows, strict=True):
        row[1 : 2 * len(text) : 2] = torch.tensor(text, dtype=torch.int64)
    return 9.0 * F.one_hot(path, symbols)


def measured(task, *batches):
    metrics = task.metrics()
    for output, target in batches:
        task.update_metrics(metrics, output, target)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


@pytest.mark.parametrize("seed", range(5))
def test_error_rates_are_those_of_jiwer(seed):
    jiwer = pytest.importorskip("jiwer")
    generator = random.Random(seed)
    task = SpeechRecognition("said", ["a", "b", " ", "\u00df"])

    def text():
        # jiwer strips the ends of a text and merges spaces before it counts
        words = ["".join(generator.choices("ab\u00df", k=generator.randint(1, 5))) for _ in range(6)]
        return " ".join(words[: generator.randint(1, 6)])

    said = [text() for _ in range(30)]
    found = [generator.choice([s, s[1:].strip(), text(), s + "a", ""]) for s in said]
    ids = [[[task.characters.index(c) + 1 for c in one] for one in every] for every in (found, said)]
    output, target = spelled(*ids[0], symbols=5), texts(*ids[1])
    values = measured(task, (output[:7], target[:7]), (output[7:], target[7:]))
    assert values["cer"] == pytest.approx(jiwer.cer(said, found))
    assert values["wer"] == pytest.approx(jiwer.wer(said, found))
    assert values["exact"] == pytest.approx(sum(a == b for a, b in zip(said, found, strict=True)) / 30)


def test_edit_distances_are_those_of_the_table():
    def table(one, other):
        row = list(range(len(other) + 1))
        for i, a in enumerate(one, 1):
            before, row = row, [i]
            for j, b in enumerate(other, 1):
                row.append(min(row[-1] + 1, before[j] + 1, before[j - 1] + (a != b)))
        return row[-1]

    generator = random.Random(0)
    for _ in range(500):
        pair = [generator.choices("abcd", k=generator.choice([0, 1, 2, 5, 9, 70])) for _ in range(2)]
        assert edit_distance(*pair) == table(*pair), pair


def test_metrics_count_what_has_no_loss_and_not_what_is_missing():
    target = texts([1, 2], [1, -101], [], [1, 1, 1], [2])
    output = spelled([1, 2], [1, 2], [3], [1], [], symbols=4)[:, :4]
    assert TASK.label_losses(output.float(), target)[1].tolist() == [2, 0, 0, 0, 1]  # [1, 1, 1] needs five frames
    found = measured(TASK, (output, target))
    assert found == pytest.approx({"exact": 1 / 4, "cer": (0 + 1 + 2 + 1) / 8, "wer": 3 / 4})


def test_words_are_parted_by_any_white_space():
    task = SpeechRecognition("said", ["a", "b", "\u00a0", "\n", "the "])
    target = texts([1, 3, 2, 4, 1], [5, 1])  # a name that only ends with a space is part of its word
    output = spelled([1, 3, 3, 2, 3, 1], [5, 2], symbols=6)
    assert measured(task, (output, target))["wer"] == pytest.approx(1 / 4)


def test_metrics_are_greedy_whatever_the_beam():
    output, target = torch.randn(30, 6, 4), torch.randint(1, 4, (30, 3))
    beam = SpeechRecognition("said", ["a", "b", " "], beam=20)
    assert beam.predict(output)["label"].tolist() != TASK.predict(output)["label"].tolist()
    assert measured(beam, (output, target)) == measured(TASK, (output, target))


# -- training ---------------------------------------------------------------------------------------------------
class Trunk(nn.Module):
    """Convolutions over frames; padding stays zero."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(6, 24, 3, padding=1), nn.ReLU(), nn.Conv1d(24, 24, 3, padding=1))

    def forward(self, frames):
        filled = (frames != 0).any(-1, keepdim=True)
        return self.layers(frames.transpose(1, 2)).transpose(1, 2) * filled


def recordings(rows):
    """Frames that show the characters one after the other, each for two to four frames, and then a pause."""
    target = torch.randint(1, 4, (rows, 4))
    target[torch.arange(4) >= torch.randint(1, 5, (rows, 1))] = -100
    durations, frames = torch.randint(2, 5, (rows, 4)).tolist(), torch.zeros(rows, 20, 6)
    for row, text, lasts in zip(frames, target.tolist(), durations, strict=True):
        shown = [c for character, n in zip(text, lasts, strict=True) if character > 0 for c in [character] * n + [0]]
        row[range(len(shown)), shown] = 1.0
    return frames + 0.1 * torch.randn(frames.shape) * (frames != 0).any(-1, keepdim=True), target


def test_a_small_network_learns_to_spell():
    tasks = [SpeechRecognition("said", ["a", "b", " "])]
    model = lepton.LeptonModel(Trunk(), tasks, features=24)
    assert isinstance(model.heads["said"], FrameHead)
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    frames, target = recordings(700)
    for step in range(120):
        rows = torch.arange(32 * step, 32 * step + 32) % 500
        outputs, weights = model(frames[rows])
        loss = criterion(outputs, {"said": target[rows]}, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    frames, target = frames[500:], target[500:]
    found = evaluate(model, [(frames, {"said": target})])["said"].metrics
    assert found["exact"] > 0.95 and found["cer"] < 0.03
    with torch.no_grad():
        label = tasks[0].predict(model.eval()(frames)[0]["said"])["label"]
    hits = [tasks[0].text(a) == tasks[0].text(b) for a, b in zip(label, target, strict=True)]
    assert sum(hits) / len(hits) == pytest.approx(found["exact"])


def test_an_alignment_gives_each_character_the_frames_that_show_it():
    frames, target = recordings(50)
    filled = (frames != 0).any(-1).sum(1)
    logits = padding(20 * torch.cat([frames[..., :1] + 0.5, frames[..., 1:4]], -1), filled)
    durations = ctc_alignment(logits, filled, target)
    assert durations.sum(1).tolist() == filled.tolist()
    shown = (frames[..., 1:4] > 0.5).long().mul(torch.tensor([1, 2, 3])).sum(-1)  # 0 in pauses
    for row, text, lasted in zip(shown, target, durations, strict=True):
        number = (text > 0).sum()
        owner = text[:number].repeat_interleave(lasted[:number])
        seen = row[: len(owner)]
        assert (seen[seen > 0] == owner[seen > 0]).all() and (seen > 0).sum() == (row > 0).sum()


class Voice(nn.Module):
    """Frames for each state of the trunk, with an alignment that is made up."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(24, 7)

    def forward(self, states):
        return torch.cat([self.layer(states), torch.ones_like(states[..., :1])], -1)


@pytest.mark.parametrize("gradients", ["fork_layer", "features", "parameters"])
def test_the_criterion_balances_both_kinds_of_speech(gradients):
    said, voice = SpeechRecognition("said", ["a", "b", " "]), SpeechSynthesis("voice", 6, head=Voice())
    model = lepton.LeptonModel(Trunk(), [said, voice], features=24, balancer=MGDA(), gradients=gradients)
    criterion = lepton.MultiTaskLoss(model)
    frames, target = recordings(8)
    target[0], target[1, :2], target[2, 0] = -100, 1, -101
    sound = frames.masked_fill((frames != 0).any(-1, keepdim=True).logical_not(), NAN)
    targets = {"said": target, "voice": sound}
    outputs, weights = model(frames)
    criterion(outputs, targets, weights).backward()
    sums, counts = zip(
        *(task.total_loss(outputs[task.name], targets[task.name]) for task in (said, voice)), strict=True
    )
    torch.testing.assert_close(criterion.last_losses, torch.stack(sums) / torch.stack(counts))
    assert criterion.count(targets).tolist() == [float(count) for count in counts]
    assert torch.isfinite(model.fork.weights).all() and (model.fork.weights > 0).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters()) and model.fork.gramian.shape == (2, 2)


def test_model_and_criterion_are_one_graph():
    torch.compiler.reset()
    model = lepton.LeptonModel(Trunk(), [SpeechRecognition("said", ["a", "b", " "])], features=24)
    criterion = lepton.MultiTaskLoss(model)
    frames, target = recordings(6)

    def step():
        outputs, weights = model(frames)
        return criterion(outputs, {"said": target}, weights)

    found = []
    for run in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        loss = run()
        loss.backward()
        found.append((loss.detach(), *[p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1])


def test_a_batch_in_which_nobody_speaks_moves_nothing():
    model = lepton.LeptonModel(Trunk(), [SpeechRecognition("said", ["a", "b", " "])], features=24)
    outputs, weights = model(recordings(4)[0])
    loss = lepton.MultiTaskLoss(model)(outputs, {"said": torch.full((4, 3), -100)}, weights)
    loss.backward()
    assert loss == 0 and all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_micro_batches_add_up_to_one_batch():
    """But for texts that do not fit: a window counts them, since no output was there to tell."""
    model = lepton.LeptonModel(Trunk(), [SpeechRecognition("said", ["a", "b", " "])], features=24).eval()
    criterion = lepton.MultiTaskLoss(model)
    frames, target = recordings(9)
    parts = [(frames[:2], target[:2]), (frames[2:], target[2:])]

    def window(parts):
        counts = sum(criterion.count({"said": labels}) for _, labels in parts)
        outputs = [(model(inputs), labels) for inputs, labels in parts]
        return counts, sum(criterion(o, {"said": labels}, w, label_counts=counts) for (o, w), labels in outputs)

    counts, loss = window(parts)
    (outputs, weights), characters = model(frames), (target > 0).sum()
    torch.testing.assert_close(loss, criterion(outputs, {"said": target}, weights))
    assert counts == characters
    long = torch.ones(2, 30).long()
    counts, diluted = window([*parts, (frames[:2], long)])
    assert counts == characters + 60
    torch.testing.assert_close(diluted, loss * characters / (characters + 60))


def test_a_batch_of_gradients():
    logits, target = torch.randn(3, 6, 4, requires_grad=True), texts([1, 2], [3], [])
    losses, _ = TASK.label_losses(logits, target)
    together = torch.autograd.grad(losses, logits, torch.eye(3), retain_graph=True, is_grads_batched=True)[0]
    one_by_one = torch.stack([torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses])
    torch.testing.assert_close(together, one_by_one)


# -- a few texts ------------------------------------------------------------------------------------------------
def test_the_most_probable_of_a_few_texts():
    """Against the loss of each text: what `predict` gives is the text with the smallest, and its probability."""
    texts = ["ab", "b", "aab"]
    task = SpeechRecognition("said", characters=["a", "b"], texts=texts)
    logits = 2 * torch.randn(7, 9, 3)
    losses = torch.stack(
        [task.label_losses(logits, torch.tensor([ids]).expand(7, -1))[0] for ids in ([1, 2], [2], [1, 1, 2])], 1
    )
    found = task.predict(logits)
    assert [task.text(ids) for ids in found["label"]] == [texts[best] for best in losses.argmin(1).tolist()]
    assert torch.allclose(found["probability"], (-losses.amin(1)).exp())


@pytest.mark.parametrize("texts", [[], "ab", ["ac"], ["a", "a"], [""], [3]])
def test_texts_must_be_in_known_characters(texts):
    with pytest.raises(ConfigurationError, match="texts"):
        SpeechRecognition("said", characters=["a", "b"], texts=texts)
