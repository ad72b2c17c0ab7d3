"""Waveforms at another sample rate."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lepton.audio._waveform import check_waveform
from lepton.errors import is_whole, require

__all__ = ["resample"]

_CROSSINGS = 32  # zeros of the sinc on either side
_BETA = 8.0  # Kaiser's: what must not pass is lowered by 80 dB, 16 % of the band are for the slope
_CUTOFF = 0.92  # middle of that slope, as a share of half the lower sample rate
_BLOCK = 64  # new samples that one product gives


def resample(waveform: Tensor, old: int, new: int) -> Tensor:
    """Return a waveform at another sample rate, by a windowed sinc.

    y(j) = sum_n x(n) h(j old / new - n) with h(t) = c sinc(c t) w(c t / 32), w Kaiser's window (beta 8) and
    c = 0.92 min(1, new / old). Frequencies up to 0.84 of half the lower rate pass unchanged, those above all of it are
    lowered by 80 dB. The signal counts as zero on both sides; sample 0 stays where it is (J. O. Smith, "Digital audio
    resampling", 1984). Any two whole rates will do.

    Args:
        waveform: [..., N] floating point.
        old: its sample rate in hertz.
        new: the sample rate asked for.

    Returns:
        [..., ceil(N * new / old)]; the waveform itself where the rates are the same.

    Raises:
        ConfigurationError: a sample rate that is not allowed.
        DataError: no floating-point tensor, or one without dimensions.

    Example:
        >>> import torch
        >>> tone = torch.sin(2 * torch.pi * 100 * torch.arange(4410) / 44100)
        >>> slower = resample(tone, 44100, 8000)
        >>> expected = torch.sin(2 * torch.pi * 100 * torch.arange(800) / 8000)
        >>> bool((slower - expected)[50:-50].abs().max() < 1e-3)
        True
    """
    for name, rate in (("old", old), ("new", new)):
        require(is_whole(rate), "resample", name, rate, "a sample rate: a whole number of hertz, 1 or more")
    check_waveform(waveform, "resample")
    if old == new:
        return waveform
    up, down = new // math.gcd(old, new), old // math.gcd(old, new)
    times = -(-_BLOCK // up)
    with torch.autocast(waveform.device.type, enabled=False):
        return _in_periods(waveform, up * times, down * times)


def _in_periods(waveform: Tensor, up: int, down: int) -> Tensor:
    """Return `up` new samples for every `down` old ones, after which the filters come again."""
    length = waveform.shape[-1]
    count = -(-length * up // down)
    periods = max(1, -(-count // up))
    filters, half = _filters(up, down)
    padded = F.pad(waveform, (half, periods * down - length + half))
    blocks = []
    for first, weights in filters:
        windows = padded[..., first:].unfold(-1, len(weights), down)[..., :periods, :]
        blocks.append(windows @ weights.to(waveform))
    return torch.cat(blocks, -1).flatten(-2)[..., :count]


@lru_cache(maxsize=4)  # a data set has few sample rates, and its recordings may be shorter than their filters
def _filters(up: int, down: int) -> tuple[list[tuple[int, Tensor]], int]:
    """Return blocks of new samples with their weights, and how far a filter reaches to either side in old samples.

    A block is the old sample next to its first new one, and float64 [old samples, new samples], of which the first old
    one is that far before.
    """
    cutoff = _CUTOFF * min(1.0, up / down)
    half = math.ceil(_CROSSINGS / cutoff)
    blocks = []
    for start in range(0, up, _BLOCK):
        end = min(start + _BLOCK, up)
        first, last = start * down // up, (end - 1) * down // up
        at = torch.arange(start, end, dtype=torch.float64) * down / up - first + half
        heard = torch.arange(last - first + 2 * half + 1, dtype=torch.float64)
        blocks.append((first, _kernel(at - heard[:, None], cutoff)))
    return blocks, half


def _kernel(time: Tensor, cutoff: float) -> Tensor:
    """Return h(t) in float64; `time` in old samples."""
    inside = (1 - (time * cutoff / _CROSSINGS).square()).clamp_min(0)
    window = torch.where(inside > 0, torch.i0(_BETA * inside.sqrt()), 0.0)
    return cutoff / torch.i0(torch.tensor(_BETA).double()) * torch.sinc(cutoff * time) * window
