"""Recordings that sound a little different in every epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lepton.audio import add_noise, resample
from lepton.errors import is_number, require

__all__ = ["AugmentAudio"]

MOST_CUT = 0.1
"""Share of a recording that is cut off at either end, at most: a short word must not lose its first sound."""


class AugmentAudio:
    """Random noise, ends and pace of recordings, for a whole batch at once, on the CPU.

    Every row has its own draws of noise and ends; the pace is one for the batch, a whole number of percent, since
    other rates than a few would make resampling dear. A changed pace changes the pitch with it, as a tape that runs
    faster does. The draws are the same whatever the options are: other noise leaves the ends as they were.

    Args:
        noise: least and greatest signal-to-noise ratio of white noise in dB; the draw is uniform between them. None for
            no noise. Silence gets none.
        shift: seconds of silence, at most, that are put before and behind the recording, or of it that are cut off
            there; never more than a tenth of it is cut off at one end.
        speed: largest change of the pace, as a part of it: 0.1 is from 0.9 to 1.1 times as fast.

    Raises:
        ConfigurationError: a value that is not allowed.

    Example:
        >>> import torch
        >>> augment = AugmentAudio(noise=None, shift=0.01, speed=0.0)
        >>> draws = torch.Generator().manual_seed(0)
        >>> [len(waveform) for waveform in augment.move([torch.ones(900), torch.ones(500)], 8000, generator=draws)]
        [877, 419]
    """

    def __init__(
        self, *, noise: Sequence[float] | None = (15.0, 40.0), shift: float = 0.05, speed: float = 0.1
    ) -> None:
        if noise is not None:
            right = isinstance(noise, Sequence) and len(noise) == 2 and all(map(is_number, noise))
            right = right and noise[0] <= noise[1]
            require(right, "AugmentAudio", "noise", noise, "the least and the greatest ratio in dB, or None")
        require(is_number(shift) and 0 <= shift <= 10, "AugmentAudio", "shift", shift, "in [0, 10] seconds")
        require(is_number(speed) and 0 <= speed < 1, "AugmentAudio", "speed", speed, "in [0, 1)")
        self.noise = None if noise is None else (float(noise[0]), float(noise[1]))
        self.shift = shift
        self.speed = speed

    def move(
        self, waveforms: Sequence[Tensor], sample_rate: int, *, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """Return recordings of another pace, with more or less at their ends.

        Args:
            waveforms: float32 [n] each, at least one sample.
            sample_rate: samples per second.
            generator: fixes the draws.
        """
        draws = torch.rand(1 + 2 * len(waveforms), generator=generator)
        percent = round(100 * self.speed * float(2 * draws[0] - 1))
        if percent:
            waveforms = _faster(waveforms, 100 + percent)
        ends = (2 * draws[1:] - 1).view(-1, 2) * self.shift * sample_rate
        return [_shifted(waveform, *end) for waveform, end in zip(waveforms, ends.round().long().tolist(), strict=True)]

    def disturb(self, waveform: Tensor, samples: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return recordings with noise.

        Args:
            waveform: [B, N], zero beyond the recording.
            samples: of each recording [B].
            generator: fixes the draws.
        """
        if self.noise is None:
            return waveform
        low, high = self.noise
        ratio = low + (high - low) * torch.rand(len(waveform), generator=generator)
        return add_noise(waveform, samples, ratio, generator)


def _faster(waveforms: Sequence[Tensor], percent: int) -> list[Tensor]:
    """Return recordings that run at `percent` of their pace, all in one."""
    resampled = resample(pad_sequence(list(waveforms), batch_first=True), percent, 100)
    return [row[: -(-100 * len(old) // percent)] for row, old in zip(resampled, waveforms, strict=True)]


def _shifted(waveform: Tensor, before: int, behind: int) -> Tensor:
    """Return a recording with silence at its ends, or, where a number is negative, without so many samples there."""
    least = -int(MOST_CUT * len(waveform))
    return F.pad(waveform, (max(before, least), max(behind, least)))
