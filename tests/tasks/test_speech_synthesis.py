"""Sounds of texts: the loss written out frame by frame, distortions against scipy, frames that are missing."""

import math

import pytest
import torch
from torch import nn

from lepton.errors import ConfigurationError, TargetError
from lepton.tasks import Regression, SpeechSynthesis

NAN, INF = math.nan, math.inf


def fitted(mels=4, **rest):
    task = SpeechSynthesis("voice", mels, **rest)
    return task.fit_statistics(torch.randn(50, mels) * torch.arange(1.0, mels + 1) + 3)


def batch(rows=3, frames=7, mels=4):
    """A finished output, and a target of which rows end at different frames."""
    output, target = torch.randn(rows, frames, mels + 2), torch.randn(rows, frames, mels)
    ends = torch.randint(2, frames, (rows,))
    target[torch.arange(frames) >= ends[:, None]] = NAN
    return output, target, ends


def gradient(task, output, target):
    output = output.clone().requires_grad_()
    loss, _ = task.total_loss(output, task.check_target(output, target))
    return torch.autograd.grad(loss, output)[0]


# -- loss -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
def test_the_loss_of_each_frame(weight):
    torch.manual_seed(0)
    task, (output, target, ends) = fitted(duration_weight=weight), batch()
    losses, counts = task.label_losses(output, task.check_target(output, target))
    for row, end in enumerate(ends.tolist()):
        for frame in range(7):
            said, heard = output[row, frame], target[row, frame]
            sound = sum((abs(said[k] - heard[k]) / task.std[k]).item() for k in range(4)) / 4
            expected = sound + weight * (said[4] - said[5]).item() ** 2 if frame < end else 0.0
            assert losses[row, frame].item() == pytest.approx(expected, rel=1e-5)
            assert counts[row, frame] == (frame < end)
    assert task.label_count(target) == counts.sum() == ends.sum()
    assert task.mask(target)[..., 0].sum() == ends.sum()


def test_the_loss_does_not_depend_on_the_unit():
    torch.manual_seed(1)
    raw, (_, target, _) = torch.randn(3, 7, 6), batch()
    found = []
    for scale in (1.0, 8.0):
        task = SpeechSynthesis("voice", 4).fit_statistics(scale * target)
        output = task.finish(raw)
        found.append(task.total_loss(output, task.check_target(output, scale * target)))
    torch.testing.assert_close(found[0], found[1])


def test_the_gradient_is_the_derivative_and_the_alignment_has_none():
    torch.manual_seed(2)
    task, (output, target, _) = fitted(), batch()
    found = gradient(task, output, target)
    assert (found[..., 5] == 0).all() and (found[..., 4] != 0).sum() == task.label_count(target)
    aligned = output[..., 5:].double()

    def loss(x):
        return task.total_loss(torch.cat([x, aligned], -1), target.double())[0]

    assert torch.autograd.gradcheck(loss, output[..., :5].double().requires_grad_())


@pytest.mark.parametrize("garbage", [0.0, NAN, INF])
def test_missing_frames_change_nothing(garbage):
    torch.manual_seed(3)
    task, (output, target, _) = fitted(), batch()
    target[1] = NAN
    target[0, 0, 2] = -INF  # one band is enough
    gone = target.isfinite().all(-1, keepdim=True).logical_not()
    bad = output.masked_fill(gone, garbage)
    losses, counts = task.label_losses(bad, task.check_target(bad, target))
    expected, _ = task.label_losses(output, task.check_target(output, target))
    torch.testing.assert_close(losses, expected, rtol=0, atol=0)
    assert counts[1].sum() == 0 and counts[0, 0] == 0 and task.label_count(target) == counts.sum()
    found = gradient(task, bad, target)
    assert (found.masked_select(gone) == 0).all()
    torch.testing.assert_close(found, gradient(task, output, target), rtol=0, atol=0)


@pytest.mark.parametrize("garbage", [0.0, NAN, INF])
def test_batches_without_frames(garbage):
    for rows, frames in ((2, 5), (0, 5), (2, 0)):
        output, target = torch.full((rows, frames, 6), garbage), torch.full((rows, frames, 4), NAN)
        loss, count = fitted().total_loss(output, fitted().check_target(output, target))
        assert (loss.item(), count.item(), fitted().label_count(target)) == (0, 0, 0)
        assert (gradient(fitted(), output, target) == 0).all()


def test_an_output_that_is_not_finite_is_not_hidden():
    task, (output, target, _) = fitted(), batch()
    output[0, 0, 1], output[1, 0, 4] = NAN, INF
    losses, _ = task.label_losses(output, target)
    assert losses[0, 0].isnan() and losses[1, 0] == INF


def test_more_or_fewer_frames_than_the_output():
    torch.manual_seed(4)
    task, (output, target, _) = fitted(), batch(frames=6)
    target[0] = torch.randn(6, 4)
    for frames in (4, 5, 6, 7):
        given = torch.cat([target, torch.randn(3, 1, 4)], 1)[:, :frames]
        checked = task.check_target(output, given)
        shorter = min(frames, 6)
        assert checked.shape == (3, 6, 4) and checked[:, shorter:].isnan().all()
        cut = output[:, :shorter], given[:, :shorter]
        torch.testing.assert_close(task.total_loss(output, checked), task.total_loss(*cut))
    with pytest.raises(TargetError, match=r"target \[3, 8, 4\]: \[3, 6, 4\] is expected"):
        task.check_target(output, torch.zeros(3, 8, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_at_least(dtype):
    task, (output, target, _) = fitted(), batch()
    raw = output.to(dtype)
    assert task.finish(raw).dtype == torch.float32
    losses, counts = task.label_losses(raw, task.check_target(raw, target))
    assert losses.dtype == counts.dtype == torch.float32
    torch.testing.assert_close(losses, task.label_losses(raw.float(), target)[0], rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_graph_and_the_same_numbers(backend):
    torch.compiler.reset()
    task, (output, target, _) = fitted(), batch()

    def step(raw, target):
        output = task.finish(raw)
        return task.total_loss(output, task.check_target(output, target))

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(output, target), step(output, target))


# -- statistics -------------------------------------------------------------------------------------------------
def test_statistics_are_those_of_each_band():
    torch.manual_seed(5)
    target = torch.randn(6, 9, 4) * 3 - 5
    target[2, 4:], target[3] = NAN, NAN
    task = SpeechSynthesis("voice", 4)
    assert not task.fitted and task.std.tolist() == [1.0] * 4
    assert task.fit_statistics(target) is task and task.fitted
    other = Regression("other", 4).fit_statistics(target)
    torch.testing.assert_close((task.mean, task.std), (other.mean, other.std))
    raw = torch.randn(2, 3, 6)
    output = task.finish(raw)
    torch.testing.assert_close((output[..., :4] - task.mean) / task.std, raw[..., :4])
    assert (output[..., 4:] == raw[..., 4:]).all()
    assert task.bfloat16().std.dtype == torch.float32


def test_silence_has_std_one():
    task = SpeechSynthesis("voice", 4).fit_statistics(torch.full((2, 5, 4), math.log(1e-5)))
    assert task.std.tolist() == [1.0] * 4
    output = task.finish(torch.zeros(1, 3, 6))
    loss, count = task.total_loss(output, torch.full((1, 3, 4), math.log(1e-5)))
    assert loss < 1e-5 and count == 3


def test_statistics_need_frames():
    with pytest.raises(TargetError, match="'voice': band 0 has no label"):
        SpeechSynthesis("voice", 4).fit_statistics(torch.full((2, 5, 4), NAN))
    with pytest.raises(TargetError, match=r"\[2, 5\] have 4 bands: \[N, 4\]"):
        SpeechSynthesis("voice", 4).fit_statistics(torch.zeros(2, 5))


# -- metrics ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mels", [8, 20, 64])
def test_metrics_are_means_over_frames(mels):
    fft = pytest.importorskip("scipy.fft")
    torch.manual_seed(mels)
    task = SpeechSynthesis("voice", mels)
    metrics, frames, durations = task.metrics(), [], []
    for _ in range(3):
        output, target, ends = batch(mels=mels)
        task.update_metrics(metrics, output, target)
        for said, heard, end in zip(output.double(), target.double(), ends.tolist(), strict=True):
            difference = (said[:end, :mels] - heard[:end]).numpy()
            cepstrum = fft.dct(difference, type=2, axis=-1)[:, 1:14] / mels
            frames += (10 / math.log(10) * (2 * (cepstrum**2).sum(-1)) ** 0.5).tolist()
            durations += (said[:end, mels] - said[:end, mels + 1]).abs().tolist()
    assert float(metrics["distortion"].compute()) == pytest.approx(sum(frames) / len(frames), rel=1e-5)
    assert float(metrics["duration_error"].compute()) == pytest.approx(sum(durations) / len(durations), rel=1e-5)


def test_a_distortion_is_a_root_mean_square_in_decibels():
    """Magnitudes that differ by a few slow waves over the bands, and in level, which does not count."""
    bands, task = torch.arange(32) + 0.5, SpeechSynthesis("voice", 32)
    waves = sum(a * torch.cos(math.pi * k * bands / 32) for a, k in ((0.5, 1), (0.2, 4), (0.3, 13)))
    output, target = torch.zeros(1, 1, 34), (waves + 7.0)[None, None]
    metrics = task.metrics()
    task.update_metrics(metrics, output, target)
    decibels = 20 * torch.log10(waves.exp())
    assert float(metrics["distortion"].compute()) == pytest.approx(decibels.square().mean().sqrt().item(), rel=1e-5)
    assert float(metrics["duration_error"].compute()) == 0


def test_predictions_are_the_frames():
    output = torch.randn(2, 3, 6)
    assert (SpeechSynthesis("voice", 4).predict(output)["value"] == output[..., :4]).all()


# -- errors -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("target", "words"),
    [
        (torch.zeros(2, 5), ["'voice'", "target [2, 5]", "[2, 5, 4] is expected", "NaN"]),
        (torch.zeros(3, 5, 4), ["[3, 5, 4]", "[2, 5, 4] is expected"]),
        (torch.zeros(2, 5, 6), ["[2, 5, 6]", "[2, 5, 4] is expected"]),
        (torch.zeros(2, 5, 4, dtype=torch.bool), ["torch.bool", ".float()"]),
    ],
)
def test_errors_name_the_task_what_came_and_the_way_out(target, words):
    with pytest.raises(TargetError) as error:
        SpeechSynthesis("voice", 4).check_target(torch.zeros(2, 5, 6), target)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(("shape", "words"), [((2, 5, 4), "dimension -1 must be 6"), ((2, 6), r"\[B, M, 6\] is exp")])
def test_outputs_of_the_wrong_size_are_the_heads_fault(shape, words):
    with pytest.raises(ConfigurationError, match=words):
        SpeechSynthesis("voice", 4).check_target(torch.zeros(shape), torch.zeros(2, 5, 4))


def test_it_needs_a_head():
    task, head = SpeechSynthesis("voice", 4), nn.Linear(8, 6)
    with pytest.raises(ConfigurationError, match="'voice': a linear layer cannot turn a text into frames: pass head="):
        task.make_head(8)
    assert SpeechSynthesis("voice", 4, head=head).make_head(8) is head and task.out_features == 6
