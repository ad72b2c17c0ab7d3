"""The mel scale of Slaney, and triangular filters of equal area on it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lepton.errors import ConfigurationError

__all__ = ["hertz", "mel_filters", "mels_of"]

_LINEAR = 200 / 3  # hertz to a mel, below the break
_BREAK = 1000.0  # hertz; there the scale turns from linear to logarithmic
_STEP = math.log(6.4) / 27  # logarithm of the ratio of two frequencies one mel apart, above the break


def mels_of(frequency: Tensor) -> Tensor:
    """Return frequencies in hertz on the mel scale: linear to 1 kHz, logarithmic above (Slaney 1998)."""
    above = _BREAK / _LINEAR + (frequency.clamp_min(_BREAK) / _BREAK).log() / _STEP
    return torch.where(frequency < _BREAK, frequency / _LINEAR, above)


def hertz(mels: Tensor) -> Tensor:
    """Return places on the mel scale in hertz; the inverse of `mels_of`."""
    above = _BREAK * ((mels - _BREAK / _LINEAR) * _STEP).exp()
    return torch.where(mels * _LINEAR < _BREAK, mels * _LINEAR, above)


def mel_filters(sample_rate: int, fft: int, mels: int, low: float, high: float) -> Tensor:
    """Return triangular filters, each of area one over hertz, at equal distances on the mel scale.

    Args:
        sample_rate: samples to a second.
        fft: samples of a frame.
        mels: number of filters.
        low: lower end of the first filter in hertz.
        high: upper end of the last one in hertz.

    Returns:
        [fft // 2 + 1, mels] float64.

    Raises:
        ConfigurationError: a filter so narrow that no frequency of the frame falls into it.
    """
    ends = mels_of(torch.tensor([low, high], dtype=torch.float64))
    # A filter rises from corner k to corner k + 1 and falls to corner k + 2.
    corners = hertz(ends[0] + (ends[1] - ends[0]) * torch.arange(mels + 2, dtype=torch.float64) / (mels + 1))
    frequencies = torch.arange(fft // 2 + 1, dtype=torch.float64)[:, None] * sample_rate / fft
    rise = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
    fall = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
    filters = torch.minimum(rise, fall).clamp_min(0) * 2 / (corners[2:] - corners[:-2])
    empty = (filters.amax(0) == 0).nonzero()[:, 0].tolist()
    if empty:
        raise ConfigurationError(
            f"LogMel: {len(empty)} of the {mels} bands lie between two frequencies of a frame of {fft} samples at "
            f"{sample_rate} Hz and would hear nothing (the first is band {empty[0]}). Take fewer mels, or a longer fft."
        )
    return filters
