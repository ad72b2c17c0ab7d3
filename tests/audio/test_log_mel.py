"""The front end: against the formula, other people's filters, scipy's transform, and signals that are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lepton.audio import LogMel
from lepton.errors import ConfigurationError, DataError


def sweep(seconds: float, rate: int, start: float, end: float) -> tuple[Tensor, Tensor]:
    """A sine whose frequency rises evenly from `start` to `end` hertz, and that frequency at every sample."""
    time = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    phase = 2 * math.pi * (start * time + (end - start) / (2 * seconds) * time**2)
    return (0.5 * phase.sin()).float(), start + (end - start) / seconds * time


def slaney_centres(mels: int, low: float, high: float) -> np.ndarray:
    """Corners of the bands as published: 200/3 Hz a mel to 1 kHz, above it 27 mels to a factor of 6.4 (Slaney 1998)."""

    def mel(f: float) -> float:
        return f / (200 / 3) if f < 1000 else 15 + 27 * math.log(f / 1000) / math.log(6.4)

    def back(m: float) -> float:
        return m * 200 / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27)

    return np.array([back(m) for m in np.linspace(mel(low), mel(high), mels + 2)])


def filters_by_hand(rate: int, fft: int, mels: int, low: float, high: float) -> np.ndarray:
    corners, found = slaney_centres(mels, low, high), np.zeros((fft // 2 + 1, mels))
    for k in range(mels):
        left, middle, right = corners[k : k + 3]
        for j in range(fft // 2 + 1):
            f = j * rate / fft
            if left < f <= middle:
                found[j, k] = (f - left) / (middle - left)
            elif middle < f < right:
                found[j, k] = (right - f) / (right - middle)
        found[:, k] *= 2 / (right - left)
    return found


SHAPES = [(8000, 256, 64, 20.0, 4000.0), (16000, 512, 80, 0.0, 8000.0), (22050, 1024, 80, 0.0, 8000.0)]


@pytest.mark.parametrize(("rate", "fft", "mels", "low", "high"), SHAPES)
def test_the_filters_are_slaneys(rate: int, fft: int, mels: int, low: float, high: float) -> None:
    from transformers.audio_utils import mel_filter_bank

    found = LogMel(rate, mels=mels, fft=fft, low=low, high=high).filters.double().numpy()
    np.testing.assert_allclose(found, filters_by_hand(rate, fft, mels, low, high), atol=1e-8)
    theirs = mel_filter_bank(fft // 2 + 1, mels, low, high, rate, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(found, theirs, atol=1e-8)


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 1000, 2384])
def test_frames_are_scipys(samples: int) -> None:
    from scipy.signal import ShortTimeFFT
    from scipy.signal.windows import hann

    front, sound = LogMel(8000), 0.3 * torch.randn(samples)
    transform = ShortTimeFFT(hann(256, sym=False), hop=64, fs=8000, phase_shift=None)
    padded = np.concatenate([sound.numpy(), np.zeros(512)])  # scipy refuses signals shorter than half a window
    count = math.ceil(samples / 64)
    spectra = transform.stft(padded, p0=0, p1=count).T
    expected = np.log(np.maximum(np.abs(spectra) @ filters_by_hand(8000, 256, 64, 20.0, 4000.0), 1e-5))
    assert front(sound).shape == (count, 64)
    np.testing.assert_allclose(front(sound).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_the_strongest_band_follows_a_sweep(rate: int) -> None:
    front = LogMel(rate)
    sound, frequency = sweep(2.0, rate, 200, 0.45 * rate)
    frames = front(sound)
    centres = torch.from_numpy(slaney_centres(64, 20.0, rate / 2))
    at = torch.arange(len(frames)) * front.hop
    # Heights of the filters differ (their areas are equal), so the strongest band is judged by its corners.
    strongest = frames.argmax(-1)
    left, right = centres[strongest], centres[strongest + 2]
    inside = (frequency[at] > left) & (frequency[at] < right)
    assert inside[3:-3].all()  # frames at the ends hear the sudden start and end


def test_a_padded_batch_has_the_frames_of_its_rows() -> None:
    front = LogMel(8000)
    rows = [0.2 * torch.randn(length) for length in (2384, 64, 1, 700, 3000)]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    together = front(batch)
    counts = front.frames(torch.tensor([len(row) for row in rows]))
    for row, frames, count in zip(rows, together, counts.tolist(), strict=True):
        alone = front(row)
        assert len(alone) == count == front.frames(len(row))
        torch.testing.assert_close(frames[:count], alone, rtol=0, atol=2e-6)


def test_silence_is_the_floor_and_no_sample_is_no_frame() -> None:
    front = LogMel(8000)
    assert torch.equal(front(torch.zeros(2, 500)), torch.full((2, 8, 64), 1e-5).log())
    assert front(torch.zeros(0)).shape == (0, 64)
    assert front(torch.zeros(3, 0)).shape == (3, 0, 64)


def test_the_defaults_are_32_milliseconds() -> None:
    assert [LogMel(rate).fft for rate in (8000, 11025, 16000, 22050, 44100, 48000)] == [256, 256, 512, 512, 1024, 2048]
    assert LogMel(16000).hop == 128


def test_gradients_are_finite_even_at_silence() -> None:
    sound = torch.cat([torch.zeros(1000), 0.1 * torch.randn(1000)]).requires_grad_()
    LogMel(8000)(sound).sum().backward()
    assert sound.grad is not None
    assert sound.grad.isfinite().all()
    assert sound.grad[1500:].abs().sum() > 0


def test_half_precision_of_the_model_or_around_it_changes_nothing() -> None:
    front, sound = LogMel(8000), 0.1 * torch.randn(2, 2000)
    expected = front(sound)
    magnitude, back = front.magnitude(expected), front.waveform(expected, iterations=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(front(sound), expected)
        assert torch.equal(front.magnitude(expected), magnitude)
        assert torch.equal(front.waveform(expected, iterations=2), back)
    assert torch.equal(LogMel(8000).bfloat16()(sound), expected)
    assert list(front.state_dict()) == []


def test_nothing_is_read_from_the_device() -> None:
    front = LogMel(8000)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = front(mode.from_tensor(torch.zeros(3, 1000)))
    assert found.shape == (3, 16, 64)


def test_one_exported_graph_serves_every_length() -> None:
    front, any_size = LogMel(8000), torch.export.Dim.DYNAMIC
    exported = torch.export.export(front, (torch.zeros(2, 3000),), dynamic_shapes=({0: any_size, 1: any_size},))
    sound = torch.randn(5, 777)
    torch.testing.assert_close(exported.module()(sound), front(sound), rtol=0, atol=1e-6)


def test_the_whole_computation_is_one_compiled_graph() -> None:
    front, sound = LogMel(8000), torch.randn(2, 1000)
    compiled = torch.compile(front, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(sound), front(sound), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sample_rate": 0}, "sample_rate"),
        ({"sample_rate": 8000.0}, "sample_rate"),
        ({"mels": 0}, "mels"),
        ({"fft": 3}, "fft"),
        ({"hop": 0}, "hop"),
        ({"hop": 129}, r"from 1 to fft // 2 = 128, but it is 129"),
        ({"high": 4001}, "4000 Hz"),
        ({"high": float("nan")}, "high"),
        ({"low": 4000}, "low"),
        ({"low": -1}, "low"),
        ({"mels": 200}, r"of the 200 bands .* Take fewer mels, or a longer fft"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        LogMel(**{"sample_rate": 8000, **options})


def test_what_is_no_waveform() -> None:
    front = LogMel(8000)
    for wrong in (torch.zeros(100, dtype=torch.int16), torch.tensor(1.0)):
        with pytest.raises(DataError, match="floating point"):
            front(wrong)


def test_real_recordings_tell_their_digit(data_folder: Path) -> None:
    """Nearest mean of log-mel over time: far above chance only if frames carry what was said."""
    sklearn = pytest.importorskip("sklearn.linear_model")
    front, sets = LogMel(8000), {}
    from scipy.io import wavfile

    for part, numbers in (("train", range(5, 15)), ("test", range(2))):
        rows, digits = [], []
        for digit in range(10):
            for speaker in ("george", "jackson", "lucas", "nicolas", "theo", "yweweler"):
                for number in numbers:
                    _, sound = wavfile.read(data_folder / f"fsdd/recordings/{digit}_{speaker}_{number}.wav")
                    frames = front(torch.from_numpy(sound / 32768).float())
                    rows.append(torch.nn.functional.adaptive_avg_pool1d(frames.T, 8).flatten().numpy())
                    digits.append(digit)
        sets[part] = (np.array(rows), digits)
    model = sklearn.LogisticRegression(C=0.01, max_iter=1000).fit(*sets["train"])
    assert model.score(*sets["test"]) > 0.85
