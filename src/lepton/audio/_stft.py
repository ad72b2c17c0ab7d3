"""Overlapping frames of a signal, their spectra, and the signal that fits given spectra best.

Frame m stands around sample m * hop. The signal counts as zero on both sides, so a frame does not depend on how far
a recording is padded with zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["overlap_add", "spectrum"]


def spectrum(waveform: Tensor, window: Tensor, hop: int) -> Tensor:
    """Return the spectra of a signal's frames.

    Args:
        waveform: [..., N].
        window: [W], which also is the length of a frame.
        hop: samples from one frame to the next.

    Returns:
        complex [..., ceil(N / hop), W // 2 + 1].
    """
    length = window.shape[0]
    # One frame too many, so that there is one to transform where the signal has no samples.
    padded = F.pad(waveform, (length // 2, length - length // 2 - 1 + hop))
    spectra: Tensor = torch.fft.rfft(padded.unfold(-1, length, hop) * window)
    return spectra[..., :-1, :]


def overlap_add(spectra: Tensor, window: Tensor, hop: int) -> Tensor:
    """Return the signal whose spectra have the smallest sum of squared differences from given ones.

    Every frame is transformed back, multiplied by the window and added in its place; the sum is divided by that of the
    squared windows (Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984).

    Args:
        spectra: complex [..., M, W // 2 + 1].
        window: [W], at least twice as long as `hop`.
        hop: samples from one frame to the next.

    Returns:
        [..., M * hop].
    """
    length, count = window.shape[0], spectra.shape[-2]
    frames = torch.fft.irfft(spectra, n=length) * window
    total = _placed(frames.reshape(-1, count, length), hop, count * hop)
    weight = _placed(window.square().expand(1, count, length), hop, count * hop)
    return (total / weight).reshape(*spectra.shape[:-2], count * hop)


def _placed(frames: Tensor, hop: int, samples: int) -> Tensor:
    """Return the sum [B, samples] of frames [B, M, W] that stand `hop` samples apart, the first around sample 0."""
    count, length = frames.shape[1:]
    size = (1, (count - 1) * hop + length)
    added = F.fold(frames.transpose(1, 2), size, kernel_size=(1, length), stride=(1, hop))
    return added[:, 0, 0, length // 2 : length // 2 + samples]
