"""From log-mel to sound: the non-negative inverse against scipy's, Griffin-Lim on sounds that are known."""

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


def stft(sound: Tensor, front: LogMel) -> Tensor:
    """Spectra [frames, bins] by torch's own transform, which also centres its frames."""
    padded = torch.nn.functional.pad(sound, (front.fft // 2, front.fft // 2 - 1))
    return torch.stft(padded, front.fft, front.hop, window=front.window, center=False, return_complex=True).T


def convergence(found: Tensor, expected: Tensor) -> float:
    """Spectral convergence: the norm of the difference of magnitudes over the norm of the expected ones."""
    return float((found.abs() - expected.abs()).norm() / expected.abs().norm())


def recordings(folder: Path) -> list[Tensor]:
    from scipy.io import wavfile

    names = [f"{digit}_{speaker}_0.wav" for digit in (0, 3, 6, 9) for speaker in ("george", "lucas", "nicolas")]
    sounds = [wavfile.read(folder / "fsdd" / "recordings" / name)[1] for name in names]
    return [torch.from_numpy(sound / 32768).float() for sound in sounds]


# -- magnitudes ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rate", "close"), [(8000, 5e-4), (16000, 6e-3)])
def test_magnitudes_fit_as_well_as_scipys(rate: int, close: float) -> None:
    """Random energies, which no spectrum explains: the least squares solution leaves something."""
    from scipy.optimize import nnls

    front = LogMel(rate)
    energy = (1.5 * torch.randn(40, 64) - 2).exp()
    found = front.magnitude(energy.log())
    assert found.min() >= 0
    matrix = front.filters.double().numpy().T
    for row, x in zip(energy.double().numpy(), found.double().numpy(), strict=True):
        least, size = nnls(matrix, row)[1], np.linalg.norm(row)
        left = np.linalg.norm(matrix @ x - row)
        assert least > 1e-3 * size
        assert least * (1 - 1e-4) <= left <= least + close * size


def test_magnitudes_of_a_real_spectrum_explain_it(data_folder: Path) -> None:
    front = LogMel(8000)
    for sound in recordings(data_folder):
        log_mel = front(sound)
        found = front.magnitude(log_mel)
        energy = log_mel.exp()
        left = (found @ front.filters - energy).norm(dim=-1) / energy.norm(dim=-1)
        assert left.max() < 1e-5
        assert convergence(found, stft(sound, front)) < 0.3  # the bands do not tell all


def test_every_frame_is_solved_for_itself() -> None:
    front = LogMel(8000)
    log_mel = torch.randn(2, 5, 64)
    together = front.magnitude(log_mel)
    assert together.shape == (2, 5, 129)
    torch.testing.assert_close(together[1, 3], front.magnitude(log_mel[1, 3:4])[0], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(front.magnitude(log_mel + 2), together * math.exp(2), rtol=1e-2, atol=1e-2)
    unheard = front.filters.sum(1) == 0
    assert unheard.any()
    assert (together[..., unheard] == 0).all()


# -- waveforms ----------------------------------------------------------------------------------------------------
def test_real_recordings_come_back(data_folder: Path) -> None:
    """Spectral convergence, measured: 0.04 to 0.10 from what was asked for, 0.08 to 0.21 from the truth."""
    front = LogMel(8000)
    asked, true, log_mel_error = [], [], []
    for sound in recordings(data_folder):
        log_mel = front(sound)
        back = front.waveform(log_mel)
        assert back.shape == (len(log_mel) * front.hop,)
        spectra = stft(back, front)
        asked.append(convergence(spectra, front.magnitude(log_mel)))
        true.append(convergence(spectra, stft(sound, front)))
        log_mel_error.append(float((front(back) - log_mel).abs().mean()))
    assert max(asked) < 0.12
    assert max(true) < 0.25
    assert max(log_mel_error) < 0.1  # nepers, mean over frames and bands


def test_momentum_is_worth_having(data_folder: Path) -> None:
    """The fast algorithm after 30 rounds against the plain one of 1984, written here, after 60."""
    front = LogMel(8000)
    for sound in recordings(data_folder)[:4]:
        log_mel = front(sound)
        magnitude = front.magnitude(log_mel)
        phase = 2 * math.pi * torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0))
        spectra = torch.polar(magnitude, phase)
        for _ in range(60):
            spectra = torch.polar(magnitude, stft(by_hand(spectra, front), front).angle())
        plain = convergence(stft(by_hand(spectra, front), front), magnitude)
        assert convergence(stft(front.waveform(log_mel, iterations=30), front), magnitude) < plain


def by_hand(spectra: Tensor, front: LogMel) -> Tensor:
    """Frames transformed back, windowed, added one by one, over the sum of squared windows."""
    total = torch.zeros(len(spectra) * front.hop + 2 * front.fft)
    weight = torch.zeros_like(total)
    for m, frame in enumerate(torch.fft.irfft(spectra, n=front.fft)):
        place = slice(m * front.hop, m * front.hop + front.fft)
        total[place] += frame * front.window
        weight[place] += front.window**2
    middle = slice(front.fft // 2, front.fft // 2 + len(spectra) * front.hop)
    return total[middle] / weight[middle]


def test_no_round_is_the_best_signal_for_the_first_phases() -> None:
    front = LogMel(8000)
    log_mel = torch.randn(9, 64)
    draws = torch.rand(9, 129, generator=torch.Generator().manual_seed(0))
    expected = by_hand(torch.polar(front.magnitude(log_mel), 2 * math.pi * draws), front)
    torch.testing.assert_close(front.waveform(log_mel, iterations=0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_sweep_comes_back_with_its_frequency_at_every_moment(rate: int) -> None:
    front = LogMel(rate)
    time = torch.arange(2 * rate, dtype=torch.float64) / rate
    start, end = 0.06 * rate, 0.4 * rate
    sound = (0.5 * (2 * math.pi * (start * time + (end - start) / 4 * time**2)).sin()).float()
    back = front.waveform(front(sound))
    frames = stft(back, front).abs()
    found = frames.argmax(-1) * rate / front.fft
    expected = start + (end - start) / 2 * time[:: front.hop][: len(frames)]
    # The highest bands lie 4 % (8 kHz) and 5 % (16 kHz) apart.
    error = ((found - expected).abs() / expected)[5:-5]
    assert error.median() < 0.01
    assert error.max() < 0.04
    # Some of the loudness is lost with the lines of the spectrum: bands have their sums, not their squares.
    assert back.square().mean().sqrt().item() == pytest.approx(0.5 / 2**0.5, rel=0.15)


def test_rows_do_not_disturb_each_other_and_the_sound_is_always_the_same() -> None:
    front = LogMel(8000)
    log_mel = front(0.2 * torch.randn(3, 1500))
    together = front.waveform(log_mel, iterations=5)
    torch.randn(7)
    assert torch.equal(front.waveform(log_mel, iterations=5), together)
    torch.testing.assert_close(front.waveform(log_mel[1], iterations=5), together[1], rtol=0, atol=1e-4)


def test_silence_one_frame_and_no_frame() -> None:
    front = LogMel(8000)
    assert front.waveform(front(torch.zeros(1000))).abs().max() < 5e-4  # the floor is not quite nothing
    assert front.waveform(front(torch.ones(1))).shape == (64,)
    assert front.waveform(torch.zeros(0, 64)).shape == (0,)
    assert front.waveform(torch.zeros(2, 0, 64)).shape == (2, 0)


@pytest.mark.parametrize(("fft", "hop"), [(256, 128), (250, 100), (255, 37), (4, 2)])
def test_frames_of_other_lengths(fft: int, hop: int) -> None:
    front = LogMel(8000, mels=20 if fft > 100 else 1, fft=fft, hop=hop, low=100.0)
    log_mel = torch.randn(7, front.mels)
    draws = torch.rand(7, fft // 2 + 1, generator=torch.Generator().manual_seed(0))
    expected = by_hand(torch.polar(front.magnitude(log_mel), 2 * math.pi * draws), front)
    torch.testing.assert_close(front.waveform(log_mel, iterations=0), expected, rtol=1e-4, atol=1e-5)


def test_nothing_is_read_from_the_device_on_the_way_back() -> None:
    front = LogMel(8000)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = front.waveform(mode.from_tensor(torch.zeros(3, 10, 64)), iterations=2)
    assert found.shape == (3, 640)


def test_wrong_bands_and_rounds() -> None:
    front = LogMel(8000)
    for wrong in (torch.zeros(5, 63), torch.zeros(64)):
        with pytest.raises(DataError, match=r"\[\.\.\., frames, 64\]"):
            front.waveform(wrong)
    for rounds in (-1, 2.5, True):
        with pytest.raises(ConfigurationError, match="iterations"):
            front.waveform(torch.zeros(5, 64), iterations=rounds)
