"""Resampling: against the analytic signal, scipy's filter, and sines that are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lepton.audio import resample
from lepton.errors import ConfigurationError, DataError

RATES = [(44100, 16000), (44100, 8000), (16000, 8000), (8000, 16000), (48000, 44100), (11127, 8000), (8000, 22050)]


def tones(count: int, rate: int, band: float) -> Tensor:
    """Forty sines of random phase below `band` hertz, sampled at `rate`: the same signal whatever the rate."""
    generator = torch.Generator().manual_seed(0)
    frequency, phase = band * torch.rand(40, 1, generator=generator).double(), torch.rand(40, 1, generator=generator)
    return (2 * math.pi * (frequency * torch.arange(count) / rate + phase)).sin().sum(0) / 20


def decibels(error: Tensor, signal: Tensor) -> float:
    return float(10 * (error.square().mean() / signal.square().mean()).log10())


@pytest.mark.parametrize(("old", "new"), RATES)
def test_a_band_limited_signal_is_what_sampling_it_gives(old: int, new: int) -> None:
    """Measured: -94 to -95 dB; scipy's default filter leaves -61 dB of the same signal."""
    from scipy.signal import resample_poly

    band = 0.84 * min(old, new) / 2
    before, after = tones(old, old, band), tones(new, new, band)
    found = resample(before, old, new)
    inside = slice(500, -500)  # where the filter does not reach beyond the ends
    assert len(found) == new
    assert decibels((found - after)[inside], after) < -90
    common = math.gcd(old, new)
    theirs = torch.from_numpy(resample_poly(before.numpy(), new // common, old // common))
    assert decibels((theirs - after)[inside], after) < -55
    assert decibels((found - theirs)[inside], after) < -55
    single = resample(before.float(), old, new)
    assert single.dtype == torch.float32
    assert decibels((single - found).double(), after) < -120


@pytest.mark.parametrize(("old", "new"), [(44100, 16000), (16000, 8000), (48000, 44100)])
@pytest.mark.parametrize("share", [1.0, 1.01, 1.05])
def test_what_the_new_rate_cannot_hold_is_left_out(old: int, new: int, share: float) -> None:
    """Measured: -83 dB or less."""
    tone = (math.pi * share * new * torch.arange(2 * old).double() / old + 0.3).sin()
    assert decibels(resample(tone, old, new)[1000:-1000], tone) < -80


@pytest.mark.parametrize(("old", "new"), RATES)
def test_a_sine_keeps_its_frequency(old: int, new: int) -> None:
    tone = (2 * math.pi * 1234 * torch.arange(old) / old).sin()
    spectrum = torch.fft.rfft(resample(tone, old, new)).abs()
    assert int(spectrum.argmax()) == 1234
    assert resample(tone, old, new)[500:-500].abs().max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("old", "new"), [(3, 2), (2, 3), (44100, 16000), (16000, 44100), (1, 20), (200, 1)])
@pytest.mark.parametrize("samples", [0, 1, 2, 63, 64, 65, 200])
def test_lengths_and_every_sample_by_the_formula(old: int, new: int, samples: int) -> None:
    """y(j) = sum_n x(n) h(j old / new - n), written out."""
    sound = torch.randn(samples, dtype=torch.float64)
    found = resample(sound, old, new)
    assert len(found) == -(-samples * new // old)
    cutoff = 0.92 * min(1.0, new / old)
    time = torch.arange(len(found)).double()[:, None] * old / new - torch.arange(samples)
    share = time * cutoff / 32
    bessel = torch.special.i0(8 * (1 - share**2).clamp_min(0).sqrt()) / torch.special.i0(torch.tensor(8.0).double())
    weights = cutoff * torch.sinc(cutoff * time) * bessel * (share.abs() < 1)
    torch.testing.assert_close(found, weights @ sound, rtol=0, atol=1e-10)


def test_rows_and_channels_are_resampled_for_themselves() -> None:
    sound = torch.randn(2, 3, 500)
    together = resample(sound, 16000, 11025)
    assert together.shape == (2, 3, 345)
    torch.testing.assert_close(together[1, 2], resample(sound[1, 2], 16000, 11025), rtol=0, atol=1e-6)
    assert resample(sound, 8000, 8000) is sound


def test_autocast_does_not_round_the_sound() -> None:
    sound = torch.randn(500)
    expected = resample(sound, 16000, 8000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resample(sound, 16000, 8000), expected)


def test_there_and_back_on_real_recordings(data_folder: Path) -> None:
    from scipy.io import wavfile

    for name in ("0_george_0.wav", "7_theo_3.wav"):
        _, samples = wavfile.read(data_folder / "fsdd" / "recordings" / name)
        sound = torch.nn.functional.pad(torch.from_numpy(samples / 32768), (200, 200))
        back = resample(resample(sound, 8000, 44100), 44100, 8000)
        spectrum, found = torch.fft.rfft(sound), torch.fft.rfft(back[: len(sound)])
        low = int(0.84 * len(spectrum))
        assert decibels((found - spectrum)[:low].abs(), spectrum[:low].abs()) < -60


@pytest.mark.parametrize(
    ("old", "new", "match"), [(0, 1, "old"), (8000, 0, "new"), (8000.0, 1, "old"), (1, "a", "new")]
)
def test_wrong_rates(old: int, new: int, match: str) -> None:
    with pytest.raises(ConfigurationError, match=f"resample: {match} must be a sample rate"):
        resample(torch.zeros(3), old, new)


def test_what_is_no_waveform() -> None:
    with pytest.raises(DataError, match="resample: a waveform must be floating point"):
        resample(torch.zeros(3, dtype=torch.int16), 16000, 8000)
