"""Trimming and loudness: against the definition, on edges and on real recordings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lepton.audio import level, trim
from lepton.errors import ConfigurationError, DataError


def trim_by_hand(sound: Tensor, rate: int, threshold: float) -> tuple[int, int]:
    half = round(rate / 100)
    loudness = [float(sound[max(0, i - half) : i + half + 1].double().square().sum()) for i in range(len(sound))]
    loud = [i for i, value in enumerate(loudness) if value > max(loudness) * 10 ** (-threshold / 10)]
    return (loud[0], loud[-1] + 1) if loud else (0, len(sound))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([6.0, 20.0, 40.0, 60.0]), st.integers(1, 700))
def test_trimming_is_the_definition(seed: int, threshold: float, samples: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    envelope = 10 ** (-4 * torch.rand(8, generator=generator)).repeat_interleave(100)[:samples]
    sound = envelope * torch.randn(len(envelope), generator=generator)
    assert trim(sound, 4000, threshold=threshold) == trim_by_hand(sound, 4000, threshold)


def test_trimming_finds_a_word_in_noise() -> None:
    sound = 1e-3 * torch.randn(16000)
    sound[5000:9000] += 0.3 * (torch.arange(4000) * 0.4).sin()
    first, last = trim(sound, 8000)
    assert 5000 - 80 <= first <= 5000
    assert 9000 <= last <= 9000 + 80
    assert trim(sound, 8000, threshold=80) == (0, 16000)


def test_a_long_recording_does_not_drown_its_quiet_end_in_rounding() -> None:
    """Ten minutes near full scale, then a tone 70 dB lower: what a running sum in single precision would lose."""
    sound = torch.cat([torch.ones(4_800_000), 3e-4 * torch.ones(4000), torch.zeros(4000)])
    assert abs(trim(sound, 8000, threshold=80)[1] - 4_804_000) <= 80
    assert abs(trim(sound, 8000, threshold=60)[1] - 4_800_000) <= 80


def test_trimming_silence_one_sample_and_nothing() -> None:
    assert trim(torch.zeros(100), 8000) == (0, 100)
    assert trim(torch.zeros(0), 8000) == (0, 0)
    assert trim(torch.ones(1), 8000) == (0, 1)
    assert trim(torch.ones(1), 1) == (0, 1)
    assert trim(torch.full((50,), 1e-30), 8000) == (0, 50)
    click = torch.zeros(1000)
    click[500] = 1
    assert trim(click, 8000) == (420, 581)


def test_trimming_real_recordings_keeps_what_is_loud(data_folder: Path) -> None:
    from scipy.io import wavfile

    for name in ("0_george_0.wav", "5_lucas_0.wav", "8_nicolas_1.wav"):
        _, samples = wavfile.read(data_folder / "fsdd" / "recordings" / name)
        sound = torch.from_numpy(samples / 32768).float()
        padded = torch.cat([torch.zeros(3000), sound, torch.zeros(2000)])
        first, last = trim(padded, 8000)
        assert 2920 <= first < last <= 3000 + len(sound) + 80
        assert padded[first:last].square().sum() > 0.99 * sound.square().sum()


def test_wrong_options_of_trimming() -> None:
    for threshold in (0, -3, float("inf"), float("nan"), "loud"):
        with pytest.raises(ConfigurationError, match="threshold must be a number of decibels above 0"):
            trim(torch.ones(5), 8000, threshold=threshold)
    with pytest.raises(ConfigurationError, match="sample_rate"):
        trim(torch.ones(5), 0)
    with pytest.raises(DataError, match="one recording"):
        trim(torch.ones(2, 5), 8000)
    with pytest.raises(DataError, match="trim: a waveform must be floating point"):
        trim(torch.ones(5, dtype=torch.int16), 8000)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 0.3, 1.0])
def test_loudness_is_what_was_asked_for(scale: float) -> None:
    sound = scale * torch.rand(3, 1000)
    found = level(sound, rms=0.2)
    torch.testing.assert_close(found.square().mean(1).sqrt(), torch.full((3,), 0.2))
    ratio = found.double() / sound.double().clamp_min(1e-45)
    torch.testing.assert_close(
        ratio[sound > 0.1 * scale].max() / ratio[0, 0], torch.tensor(1.0).double(), rtol=2, atol=0
    )


def test_a_peak_stays_within_full_scale() -> None:
    click = torch.zeros(2, 10000)
    click[0, 7], click[1] = -0.01, 0.02
    found = level(click, rms=0.1)
    assert found[0].abs().max().item() == pytest.approx(1)
    assert found[0, 7] < 0
    assert found[1].square().mean().sqrt().item() == pytest.approx(0.1)


def test_silence_stays_silence_and_one_sample_is_a_recording() -> None:
    assert torch.equal(level(torch.zeros(2, 10)), torch.zeros(2, 10))
    assert level(torch.zeros(0)).shape == (0,)
    assert level(torch.zeros(3, 0)).shape == (3, 0)
    assert level(torch.tensor([-0.5]), rms=0.25).tolist() == [-0.25]
    assert level(torch.ones(4, dtype=torch.float64)).dtype == torch.float64


def test_wrong_loudness() -> None:
    for rms in (0, -0.1, 1.5, None):
        with pytest.raises(ConfigurationError, match=r"rms must be in \(0, 1\]"):
            level(torch.ones(5), rms=rms)
    with pytest.raises(DataError, match="level: a waveform must be floating point"):
        level(torch.ones(5, dtype=torch.int16))
