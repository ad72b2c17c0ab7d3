"""Recordings that are a little different in every epoch: masked spectrograms, noise."""

from __future__ import annotations

import torch
from torch import Tensor

from lepton.audio._waveform import check_waveform
from lepton.errors import DataError, is_whole, require

__all__ = ["add_noise", "mask_spectrogram"]

_PERCENT = 15
"""Share of a row's frames, or of the bands, that one mask covers at most."""


def mask_spectrogram(
    log_mel: Tensor, frames: Tensor, *, times: int, bands: int, generator: torch.Generator | None = None
) -> Tensor:
    """Return spectrograms with some stretches of time and some bands of frequency set to the row's mean.

    Every mask draws its width evenly from 0 to 15 % of the row's frames, or of the bands, and then its place evenly
    from where it fits; masks may overlap (SpecAugment without warping: Park et al., 2019). Frames of the padding are
    neither counted nor changed. Nothing is read back from an accelerator.

    Args:
        log_mel: [B, M, mels].
        frames: int64 [B], frames of each row; the rest are padding.
        times: number of stretches of time.
        bands: number of bands of frequency.
        generator: fixes the draws; a CPU generator serves spectrograms on any device.

    Returns:
        [B, M, mels].

    Raises:
        ConfigurationError: a number of masks that is not allowed.
        DataError: shapes that do not fit each other.

    Example:
        >>> import torch
        >>> spectrogram = torch.arange(2000.0).reshape(1, 100, 20)
        >>> generator = torch.Generator().manual_seed(0)
        >>> masked = mask_spectrogram(spectrogram, torch.tensor([100]), times=2, bands=0, generator=generator)
        >>> bool((masked != spectrogram).all(-1).sum() <= 30)
        True
    """
    for name, value in (("times", times), ("bands", bands)):
        require(is_whole(value, 0), "mask_spectrogram", name, value, "a whole number, 0 or more")
    if log_mel.ndim != 3 or frames.shape != log_mel.shape[:1]:
        raise DataError(
            "mask_spectrogram: log_mel must be [rows, frames, bands] and frames [rows], "
            f"but they are {list(log_mel.shape)} and {list(frames.shape)}."
        )
    rows, count, mels = log_mel.shape
    device = log_mel.device if generator is None else generator.device
    draws = torch.rand(2, times + bands, rows, generator=generator, device=device).to(log_mel.device)
    filled = torch.arange(count, device=log_mel.device) < frames[:, None]
    in_time = _covered(draws[:, :times], frames, count)
    in_band = _covered(draws[:, times:], torch.full_like(frames, mels), mels)
    masked = (in_time[:, :, None] | in_band[:, None, :]) & filled[:, :, None]
    total = torch.where(filled[:, :, None], log_mel, 0.0).sum((1, 2))
    mean = total / (frames * mels).clamp_min(1)
    return torch.where(masked, mean[:, None, None].to(log_mel.dtype), log_mel)


def _covered(draws: Tensor, length: Tensor, count: int) -> Tensor:
    """Return bool [B, count]: what the masks cover of rows that are `length` [B] long, by draws [2, masks, B]."""
    width = (draws[0] * (length * _PERCENT // 100 + 1)).floor()
    start = (draws[1] * (length - width + 1)).floor()
    place = torch.arange(count, device=draws.device)
    return ((place >= start[..., None]) & (place < (start + width)[..., None])).any(0)


def add_noise(waveform: Tensor, samples: Tensor, snr_db: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return recordings with white noise at a signal-to-noise ratio.

    The ratio holds exactly for the noise that was drawn: 10 log10(sum x^2 / sum noise^2) = snr_db over the row's
    samples. Silence stays silence. Loud rows may come out above full scale; they are not cut, for that would be
    another kind of noise. Nothing is read back from an accelerator.

    Args:
        waveform: [B, N], zero beyond the end of each recording.
        samples: int64 [B], length of each recording.
        snr_db: [B], decibels.
        generator: fixes the draws; a CPU generator serves waveforms on any device.

    Returns:
        [B, N], still zero beyond the ends.

    Raises:
        DataError: shapes that do not fit each other, or no floating-point waveform.

    Example:
        >>> import torch
        >>> sound = torch.ones(1, 4)
        >>> noisy = add_noise(sound, torch.tensor([3]), torch.tensor([20.0]), torch.Generator().manual_seed(0))
        >>> round((noisy - sound)[0, :3].square().sum().item(), 4), noisy[0, 3].item()
        (0.03, 1.0)
    """
    check_waveform(waveform, "add_noise")
    if waveform.ndim != 2 or not samples.shape == snr_db.shape == waveform.shape[:1]:
        raise DataError(
            "add_noise: waveform must be [rows, samples], samples [rows] and snr_db [rows], but they are "
            f"{list(waveform.shape)}, {list(samples.shape)} and {list(snr_db.shape)}."
        )
    device = waveform.device if generator is None else generator.device
    draws = torch.randn(waveform.shape, generator=generator, device=device).to(waveform)
    inside = torch.arange(waveform.shape[1], device=waveform.device) < samples[:, None]
    noise = torch.where(inside, draws, 0.0)
    signal = torch.where(inside, waveform, 0.0).square().sum(1)
    drawn = noise.square().sum(1)
    factor = (signal / torch.where(drawn > 0, drawn, 1.0) * 10 ** (-snr_db / 10)).sqrt()
    return waveform + (factor[:, None] * noise).to(waveform.dtype)
