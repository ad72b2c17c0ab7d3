"""SpeechHead: padding makes no difference; durations; what it learns from and what it leaves alone; bad input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lepton
from lepton.balance import MGDA, Balancer, UPGrad
from lepton.errors import ConfigurationError, DataError
from lepton.nn import AcousticTrunk, SpeechHead
from lepton.tasks import Classification, SpeechRecognition, SpeechSynthesis, Task, ctc_alignment
from tests.conftest import gradients

CHARACTERS, MELS, HOP, FEATURES = 6, 20, 64, 16
TEXTS = [[1, 2, 3], [4, 4], [6], [2, 5, 1, 3, 6]]
SAMPLES = [900, 1024, 130, 2100]
"""15, 16, 3 and 33 mel frames."""
FRAMES = [15, 16, 3, 33]


def batch(seed: int = 0) -> dict[str, Tensor]:
    """Inputs of the head, and logits of a recogniser that is rather sure of some path of each text."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.tensor([row + [0] * (5 - len(row)) for row in TEXTS])
    logits = 3 * torch.randn(4, 17, CHARACTERS + 1, generator=generator)
    waveform = 0.1 * torch.randn(4, max(SAMPLES), generator=generator)
    samples = torch.tensor(SAMPLES)
    waveform = waveform * (torch.arange(max(SAMPLES)) < samples[:, None])
    return {"waveform": waveform, "text": text, "samples": samples, "said": logits}


def alone(data: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row without any padding."""
    ends = {"waveform": SAMPLES[row], "text": len(TEXTS[row]), "said": -(-FRAMES[row] // 2)}
    return {
        name: tensor[row : row + 1, : ends[name]] if name in ends else tensor[row : row + 1]
        for name, tensor in data.items()
    }


def wider(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same batch with more padding everywhere."""
    more = {"waveform": (0, 500), "text": (0, 3), "said": (0, 0, 0, 4)}
    return {name: F.pad(tensor, more[name]) if name in more else tensor for name, tensor in data.items()}


def make(**options: object) -> SpeechHead:
    torch.manual_seed(0)
    defaults = {"transcript": "said", "width": 16, "depth": 1, "heads": 2, "dropout": 0.0, "style": 4}
    return SpeechHead(FEATURES, CHARACTERS, MELS, HOP, **{**defaults, **options})  # type: ignore[arg-type]


def reference() -> Tensor:
    return torch.randn(4, FEATURES, generator=torch.Generator().manual_seed(3))


# -- padding ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("transcript", ["said", None])
def test_the_padding_and_the_other_rows_make_no_difference(transcript: str | None) -> None:
    head, data = make(transcript=transcript), batch()
    together, more = head(reference(), data), head(reference(), wider(data))
    assert list(together.shape) == [4, 33, MELS + 2] and list(more.shape) == [4, 41, MELS + 2]
    for row, frames in enumerate(FRAMES):
        expected = head(reference()[row : row + 1], alone(data, row))[0]
        assert len(expected) == frames
        for found in (together[row], more[row]):
            torch.testing.assert_close(found[:frames], expected, rtol=0, atol=1e-5)
            assert not found[frames:].any()


def test_the_gradients_of_a_padded_batch_are_those_of_its_rows() -> None:
    data, together, single = batch(), make(), make()
    weights = torch.linspace(1, 2, MELS + 2)
    features = reference().requires_grad_()
    (together(features, wider(data)) * weights).square().sum().backward()
    rows = [row.clone().requires_grad_() for row in reference().split(1)]
    for row, mine in enumerate(rows):
        (single(mine, alone(data, row)) * weights).square().sum().backward()
    torch.testing.assert_close(gradients(together), gradients(single), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.grad, torch.cat([row.grad for row in rows]), rtol=1e-4, atol=1e-4)


# -- durations ----------------------------------------------------------------------------------------------------
def runs(column: Tensor) -> list[tuple[float, int]]:
    """The values of a column and how often each stands in a row."""
    values, counts = torch.unique_consecutive(column, return_counts=True)
    return list(zip(values.tolist(), counts.tolist(), strict=True))


def test_each_character_stands_for_twice_the_frames_that_the_recogniser_gives_it() -> None:
    data = batch()
    found = make()(reference(), data)
    frames = torch.tensor(FRAMES)
    durations = ctc_alignment(data["said"], (frames + 1) // 2, data["text"])
    for row, text in enumerate(TEXTS):
        expected = (2 * durations[row, : len(text)]).tolist()
        expected[-1] -= sum(expected) - FRAMES[row]
        aligned = found[row, : FRAMES[row], -1].exp().round().int().tolist()
        assert aligned == [duration for duration in expected for _ in range(duration)]


def test_without_a_recogniser_all_characters_last_equally_long() -> None:
    found = make(transcript=None)(reference(), batch())
    assert runs(found[0, :15, -1].exp().round()) == [(5.0, 15)]
    assert runs(found[1, :16, -1].exp().round()) == [(8.0, 16)]
    assert runs(found[3, :33, -1].exp().round()) == [(6.0, 6), (7.0, 7), (6.0, 6), (7.0, 14)]


def test_one_duration_is_predicted_for_each_character() -> None:
    found = make(transcript=None)(reference(), batch())
    assert [count for _, count in runs(found[0, :15, -2])] == [5, 5, 5]


def test_a_frame_knows_its_place_within_its_character_and_how_long_that_lasts() -> None:
    head, seen = make(transcript=None), []
    head.place.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head(reference(), batch())
    gone = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9] * 3)  # three characters of five frames
    expected = torch.stack([gone, 1 - gone, torch.full((15,), math.log(5))], -1)
    torch.testing.assert_close(seen[0][0, :15], expected)


def test_a_text_with_more_characters_than_frames_is_cut_to_the_frames() -> None:
    data = {name: tensor[3:] for name, tensor in batch().items()}
    data |= {"samples": torch.tensor([130]), "waveform": data["waveform"][:, :130], "said": data["said"][:, :2]}
    head = make()
    found = head(reference()[3:], data)
    assert list(found.shape) == [1, 3, MELS + 2] and torch.isfinite(found).all()
    found.square().sum().backward()
    assert torch.isfinite(gradients(head)).all()


@pytest.mark.parametrize("transcript", ["said", None])
def test_a_row_without_text_is_zero_and_harmless(transcript: str | None) -> None:
    head, data = make(transcript=transcript), batch()
    data["text"][1] = 0
    found = head(reference(), data)
    assert not found[1].any() and found[0, :15].any()
    found.square().sum().backward()
    assert torch.isfinite(gradients(head)).all()


# -- speaking -----------------------------------------------------------------------------------------------------
class Given(nn.Module):
    """Logarithms of durations that are known, whatever the states."""

    def __init__(self, durations: list[list[int]]) -> None:
        super().__init__()
        self.durations = torch.tensor(durations).float()

    def forward(self, states: Tensor) -> Tensor:
        return self.durations.log()[:, : states.shape[1], None]


def test_what_is_spoken_equals_the_frames_of_a_recording_with_the_same_durations() -> None:
    head, text = make(dropout=0.3).train(), batch()["text"]
    head.duration = Given([[4, 8, 6, 1, 1], [6, 10, 1, 1, 1], [4, 1, 1, 1, 1], [4, 12, 4, 8, 6]])
    log_mel, frames, durations = head.speak(text, reference())
    assert head.training and head.reader.training
    assert frames.tolist() == [18, 16, 4, 34]
    logits = torch.zeros(4, 17, CHARACTERS + 1)
    for row, spoken in enumerate(TEXTS):
        halves = durations[row, : len(spoken)] // 2
        symbols = torch.tensor(spoken).repeat_interleave(halves)
        symbols[halves.cumsum(0)[:-1]] = 0  # a blank begins each character but the first
        logits[row, : len(symbols)] = 50.0 * F.one_hot(symbols, CHARACTERS + 1)
    context = {"waveform": torch.zeros(4, 34 * HOP), "samples": frames * HOP, "text": text, "said": logits}
    expected = head.eval()(reference(), context)
    torch.testing.assert_close(log_mel, expected[..., :MELS], rtol=0, atol=1e-5)
    torch.testing.assert_close(expected[..., MELS], expected[..., MELS + 1])


def test_durations_are_the_predicted_ones_and_padding_is_zero() -> None:
    head, text = make(), batch()["text"]
    with torch.no_grad():
        head.duration[2].bias += math.log(7)
    log_mel, frames, durations = head.speak(text, reference())
    _, logarithm = head._read(text, reference())
    expected = logarithm.exp().round().clamp(min=1) * (text > 0)
    assert durations.tolist() == expected.long().tolist() and frames.tolist() == durations.sum(1).tolist()
    assert log_mel.shape[1] == frames.max()
    for row, length in enumerate(frames.tolist()):
        assert log_mel[row, :length].any(-1).all() and not log_mel[row, length:].any()
        alone = head.speak(text[row : row + 1, : len(TEXTS[row])], reference()[row : row + 1])
        torch.testing.assert_close(log_mel[row, :length], alone[0][0], rtol=0, atol=1e-5)


def test_pace_makes_characters_shorter_and_never_shorter_than_a_frame() -> None:
    head, text = make(), batch()["text"]
    with torch.no_grad():
        head.duration[2].bias += math.log(100)
    slow, usual, fast, instant = (head.speak(text, reference(), pace=pace)[2] for pace in (0.5, 1.0, 2.0, 1e9))
    there = text > 0
    torch.testing.assert_close(slow[there].float(), 2.0 * usual[there], rtol=0.02, atol=0)
    torch.testing.assert_close(2.0 * fast[there], usual[there].float(), rtol=0.05, atol=0)
    assert instant.tolist() == there.long().tolist()


def test_an_untrained_duration_cannot_fill_the_memory() -> None:
    head = make()
    with torch.no_grad():
        head.duration[2].bias += 1000.0
    assert head.speak(torch.tensor([[1, 2]]), reference()[:1])[2].tolist() == [[1000, 1000]]


# -- what learns from what ----------------------------------------------------------------------------------------
def test_the_aligned_duration_carries_no_gradient_and_the_predicted_one_trains_its_layer_alone() -> None:
    head, features, data = make(), reference().requires_grad_(), batch()
    data["said"].requires_grad_()
    output = head(features, data)
    output[..., -2:].square().sum().backward()
    moved = {name for name, value in head.named_parameters() if value.grad is not None and value.grad.any()}
    assert {name.split(".")[0] for name in moved} == {"duration"}
    assert features.grad is None or not features.grad.any()
    assert data["said"].grad is None


def test_of_the_reference_no_more_than_the_style_is_let_through() -> None:
    """The derivative of the output by the reference has at most that rank."""
    head, data = make(style=3), alone(batch(), 0)
    jacobian = torch.autograd.functional.jacobian(lambda features: head(features, data), reference()[:1])
    singular = torch.linalg.svdvals(jacobian.flatten(0, 2)[:, 0])
    assert singular[2] > 1e-3 and singular[3] < 1e-4 * singular[0]


READERS = {"said": "frames", "speaker": "pooled", "speech": "pooled"}


def make_model(balancer: Balancer, **options: object) -> lepton.LeptonModel:
    torch.manual_seed(0)
    trunk = AcousticTrunk(8000, readers=READERS, mels=MELS, width=FEATURES, depth=1, heads=2, dropout=0.0, masks=0)
    tasks: list[Task] = [
        SpeechRecognition("said", list("abcdef")),
        Classification("speaker", classes=3),
        SpeechSynthesis("speech", MELS, head=make()),
    ]
    return lepton.LeptonModel(trunk, tasks, balancer=balancer, **options)  # type: ignore[arg-type]


def inputs_and_targets(model: lepton.LeptonModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    data = batch()
    del data["said"]
    log_mel = model.trunk.front(data["waveform"])
    beyond = torch.arange(33) >= torch.tensor(FRAMES)[:, None]
    targets = {
        "said": torch.where(data["text"] > 0, data["text"], -100),
        "speaker": torch.tensor([0, 2, 1, -100]),
        "speech": log_mel.masked_fill(beyond[..., None], torch.nan),
    }
    return data, targets


@pytest.mark.parametrize("make_balancer", [UPGrad, MGDA])
def test_padding_reaches_no_loss_no_gramian_and_no_norm(make_balancer: type[Balancer]) -> None:
    found = []
    for more in (0, 640):
        model = make_model(make_balancer())
        inputs, targets = inputs_and_targets(model)
        inputs["waveform"] = F.pad(inputs["waveform"], (0, more))
        inputs["text"] = F.pad(inputs["text"], (0, more // 320))
        targets["said"] = F.pad(targets["said"], (0, more // 320), value=-100)
        targets["speech"] = F.pad(targets["speech"], (0, 0, 0, more // HOP), value=torch.nan)
        criterion = lepton.MultiTaskLoss(model)
        outputs, task_weights = model(inputs)
        criterion(outputs, targets, task_weights).backward()
        found.append((criterion.last_losses, model.fork.gramian, gradients(model)))
    for narrow, wide in zip(*found, strict=True):
        assert torch.isfinite(narrow).all()
        torch.testing.assert_close(narrow, wide, rtol=1e-4, atol=1e-5)


def trunk_and_heads(balanced: set[str]) -> dict[str, float]:
    """The size of the gradient of each part of the model where only these tasks have labels."""
    model = make_model(UPGrad())
    inputs, targets = inputs_and_targets(model)
    outputs, task_weights = model(inputs)
    kept = {name: target for name, target in targets.items() if name in balanced}
    lepton.MultiTaskLoss(model)(outputs, kept, task_weights).backward()
    parts = {"stem": model.trunk.stem, "blocks": model.trunk.encoder, "pool": model.trunk.pool, **model.heads._modules}
    return {name: float(gradients(part).norm()) for name, part in parts.items()}


def test_the_synthesis_trains_the_trunk_by_its_reference_and_the_recogniser_not() -> None:
    sizes = trunk_and_heads({"speech"})
    assert all(sizes[part] > 1e-6 for part in ("stem", "blocks", "pool", "speech"))
    assert sizes["said"] == 0 and sizes["speaker"] == 0


def test_the_recognition_trains_no_pooling_and_no_other_head() -> None:
    sizes = trunk_and_heads({"said"})
    assert all(sizes[part] > 1e-6 for part in ("stem", "blocks", "said"))
    assert sizes["pool"] == 0 and sizes["speaker"] == 0 and sizes["speech"] == 0


def test_all_three_tasks_are_learned_together() -> None:
    model = make_model(UPGrad())
    inputs, targets = inputs_and_targets(model)
    model.task("speech").fit_statistics(targets["speech"])
    criterion = lepton.MultiTaskLoss(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        outputs, task_weights = model(inputs)
        criterion(outputs, targets, task_weights).backward()
        optimizer.step()
        losses.append(criterion.last_losses)
    assert (losses[-1] < 0.6 * losses[0]).all(), (losses[0], losses[-1])
    assert list(model.fork.gramian.shape) == [3, 3]


# -- the module ---------------------------------------------------------------------------------------------------
def test_deep_copies_and_stored_states_give_the_same() -> None:
    head, data = make().eval(), batch()
    loaded = make().eval()
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.normal_()
    loaded.load_state_dict(head.state_dict())
    for other in (copy.deepcopy(head), loaded):
        assert torch.equal(other(reference(), data), head(reference(), data))


def test_nothing_is_read_from_the_device() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    head = make(dropout=0.1).train()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        data = {name: mode.from_tensor(tensor) for name, tensor in batch().items()}
        found = head(mode.from_tensor(reference()), data)
    assert list(found.shape) == [4, 33, MELS + 2]


@pytest.mark.parametrize("transcript", ["said", None])
def test_the_compiled_head_gives_the_same_in_one_graph(transcript: str | None) -> None:
    torch._dynamo.reset()
    head, eager, data = make(transcript=transcript), make(transcript=transcript), batch()
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    found, expected = compiled(reference(), data), eager(reference(), data)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(gradients(head), gradients(eager), rtol=1e-4, atol=1e-4)


# -- bad input ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("features", "change", "said"),
    [
        (torch.zeros(4, 9, FEATURES), {}, r"pooled states \[B, 16\], but they are \[4, 9, 16\].*'pooled'"),
        (torch.zeros(4, 15), {}, r"pooled states \[B, 16\], but they are \[4, 15\]"),
        (None, {"text": torch.ones(4, 5)}, r"text must be character ids \[B, U\] in torch.int64.*torch.float32"),
        (None, {"text": torch.ones(3, 5).long()}, r"for 4 rows, but it is \[3, 5\]"),
        (None, {"text": torch.ones(4, 0).long()}, "U >= 1"),
        (None, {"text": torch.full((4, 5), 7)}, "text holds the id 7, but the head was built for .* 1 to 6"),
        (None, {"text": torch.full((4, 5), -100)}, "text holds the id -100"),
        (None, {"said": torch.zeros(4, 17, 9)}, r"output of 'said' is \[4, 17, 9\].*\[B, L, 7\]"),
        (None, {"said": torch.zeros(4, 7)}, r"output of 'said' is \[4, 7\]"),
    ],
)
def test_wrong_inputs_are_refused(features: Tensor | None, change: dict[str, Tensor], said: str) -> None:
    with pytest.raises(DataError, match=said):
        make()(reference() if features is None else features, batch() | change)


@pytest.mark.parametrize("pace", [0, -1.0, float("nan"), float("inf"), "fast", True])
def test_a_pace_that_is_no_positive_number_is_refused(pace: object) -> None:
    with pytest.raises(ConfigurationError, match="pace must be a number > 0"):
        make().speak(batch()["text"], reference(), pace=pace)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 0}, "width must be an integer >= 1, but it is 0"),
        ({"style": 0}, "style must be an integer >= 1"),
        ({"heads": 3}, "heads must be a number that divides width = 16"),
        ({"dropout": 1}, r"dropout must be in \[0, 1\)"),
        ({"transcript": 3}, "transcript must be the name of a task, or None, but it is 3"),
    ],
)
def test_options_that_are_not_allowed_are_named(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make(**options)
