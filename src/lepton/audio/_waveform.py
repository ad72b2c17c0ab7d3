"""What a function of this room takes as a waveform."""

from __future__ import annotations

from torch import Tensor

from lepton.errors import DataError

__all__ = ["check_waveform"]


def check_waveform(waveform: Tensor, owner: str) -> None:
    """Raise a `DataError` in the name of `owner` unless `waveform` is floating point with a dimension of samples."""
    if waveform.ndim == 0 or not waveform.is_floating_point():
        raise DataError(
            f"{owner}: a waveform must be floating point [..., samples], but it is {waveform.dtype} "
            f"{list(waveform.shape)}. Divide 16-bit samples by 32768."
        )
