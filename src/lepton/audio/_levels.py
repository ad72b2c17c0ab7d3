"""How loud a recording is: its silent ends, and all of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lepton.audio._waveform import check_waveform
from lepton.errors import DataError, is_number, is_whole, require

__all__ = ["level", "trim"]

_WINDOW_SECONDS = 0.02


def trim(waveform: Tensor, sample_rate: int, *, threshold: float = 40.0) -> tuple[int, int]:
    """Return where a recording begins and ends to be loud.

    The loudness of a sample is the mean square of the 20 ms around it, the outside counting as zero. Loud is what is
    less than `threshold` decibels below the loudest sample. So up to 10 ms of quiet stay on either side of a sudden
    sound.

    Args:
        waveform: one recording [N], floating point.
        sample_rate: samples to a second.
        threshold: decibels.

    Returns:
        The first loud sample, and one past the last: `waveform[first:last]` is what to keep. All of a silent
        recording, and of an empty one.

    Raises:
        ConfigurationError: an option that is not allowed.
        DataError: more than one recording, or no floating-point tensor.

    Example:
        >>> import torch
        >>> sound = torch.cat([torch.zeros(4000), torch.ones(800), torch.zeros(2000)])
        >>> trim(sound, 8000)
        (3920, 4880)
    """
    require(is_whole(sample_rate), "trim", "sample_rate", sample_rate, "a whole number of hertz, 1 or more")
    allowed = "a number of decibels above 0"
    require(is_number(threshold) and 0 < threshold < float("inf"), "trim", "threshold", threshold, allowed)
    check_waveform(waveform, "trim")
    if waveform.ndim != 1:
        raise DataError(f"trim: one recording [samples] at a time, but the waveform is {list(waveform.shape)}.")
    half = round(_WINDOW_SECONDS * sample_rate / 2)
    sums = F.pad(waveform.double().square(), (half + 1, half)).cumsum(0)
    loudness = sums[2 * half + 1 :] - sums[: len(waveform)]
    loudest = loudness.max().item() if len(waveform) else 0.0
    if not loudest > 0:
        return 0, len(waveform)
    loud = (loudness > loudest * 10 ** (-threshold / 10)).nonzero()
    return int(loud[0]), int(loud[-1]) + 1


def level(waveform: Tensor, *, rms: float = 0.1) -> Tensor:
    """Return recordings brought to the same loudness: a factor for each, and nothing else.

    Args:
        waveform: [..., N] floating point; each row is one whole recording, for padding would count as quiet.
        rms: root of the mean square of the result. Where a peak would come out above 1, the factor is the one that
            makes it 1.

    Returns:
        [..., N]; silence stays silence.

    Raises:
        ConfigurationError: a loudness that is not allowed.
        DataError: no floating-point tensor, or one without dimensions.

    Example:
        >>> import torch
        >>> level(torch.tensor([[0.5, -0.5], [0.0, 0.0]]))
        tensor([[ 0.1000, -0.1000],
                [ 0.0000,  0.0000]])
    """
    require(is_number(rms) and 0 < rms <= 1, "level", "rms", rms, "in (0, 1]")
    check_waveform(waveform, "level")
    if waveform.shape[-1] == 0:
        return waveform
    exact = waveform.double()  # squares of very quiet sounds are zero in single precision
    found = exact.square().mean(-1, keepdim=True).sqrt()
    factor = torch.minimum(rms / found, 1 / exact.abs().amax(-1, keepdim=True))
    return torch.where(found > 0, exact * factor, 0.0).to(waveform.dtype)
