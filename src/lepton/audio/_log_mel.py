"""The log-mel front end of sound, and the way back to a waveform."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from lepton.audio._griffin_lim import griffin_lim
from lepton.audio._mel import mel_filters
from lepton.audio._nonnegative import least_squares
from lepton.audio._stft import spectrum
from lepton.audio._waveform import check_waveform
from lepton.errors import DataError, is_number, is_whole, require

__all__ = ["LogMel"]

FLOOR = 1e-5
"""Smallest value of a band that is told apart from silence; a sine at full scale gives 0.5 to 5."""

_FRAME_SECONDS = 0.032
_Count = TypeVar("_Count", int, Tensor)


class LogMel(nn.Module):
    """Waveforms to log-mel frames: ln(max(F |STFT|, 1e-5)), a fixed computation without parameters.

    Frame m is the Hann window of `fft` samples around sample m * hop; the signal counts as zero on both sides. So a
    recording of n samples has ceil(n / hop) frames, and they are the same however far a batch is padded with zeros.
    The filters F are triangles of area one, at equal distances on the mel scale of Slaney (1998), which is linear up
    to 1 kHz and logarithmic above. Nothing is read back from an accelerator. The tables are float32 and stay so when
    a model is converted to half precision; under autocast the frames are computed in float32 too.

    Args:
        sample_rate: samples to a second of the waveforms.
        mels: number of bands.
        fft: samples of a frame; by default the power of two nearest to 32 ms (8 kHz: 256, 16 kHz: 512).
        hop: samples from one frame to the next; by default fft // 4.
        low: lower end of the lowest band in hertz.
        high: upper end of the highest band in hertz; by default sample_rate / 2.

    Raises:
        ConfigurationError: a value that is not allowed, or bands too narrow for the frames.

    Example:
        >>> front = LogMel(8000)
        >>> second = torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / 8000)
        >>> frames = front(second)
        >>> list(frames.shape), front.frames(8000)
        ([125, 64], 125)
        >>> int(frames[60].argmax())  # the band around 1 kHz
        26
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        sample_rate: int,
        *,
        mels: int = 64,
        fft: int | None = None,
        hop: int | None = None,
        low: float = 20.0,
        high: float | None = None,
    ) -> None:
        super().__init__()
        require(is_whole(sample_rate, 100), "LogMel", "sample_rate", sample_rate, "a whole number of hertz from 100 up")
        require(is_whole(mels), "LogMel", "mels", mels, "a whole number of at least 1")
        fft = 2 ** round(math.log2(_FRAME_SECONDS * sample_rate)) if fft is None else fft
        require(is_whole(fft, 4), "LogMel", "fft", fft, "a whole number of at least 4")
        hop, most = fft // 4 if hop is None else hop, fft // 2
        # Beyond half a frame there are samples that next to nothing of any frame tells about.
        require(is_whole(hop) and hop <= most, "LogMel", "hop", hop, f"a whole number from 1 to fft // 2 = {most}")
        top = sample_rate / 2
        high = top if high is None else high
        allowed = f"a frequency from 0 to half the sample rate, {top:g} Hz"
        require(is_number(high) and 0 < high <= top, "LogMel", "high", high, allowed)
        require(is_number(low) and 0 <= low < high, "LogMel", "low", low, f"a frequency from 0 to below {high:g} Hz")
        self.sample_rate, self.mels, self.fft, self.hop, self.low, self.high = sample_rate, mels, fft, hop, low, high
        self.register_buffer("window", torch.hann_window(fft), persistent=False)
        filters = mel_filters(sample_rate, fft, mels, low, high)
        self.register_buffer("filters", filters.float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the log-mel frames of waveforms.

        Args:
            waveform: [..., N] floating point in [-1, 1], zero beyond the end of a recording.

        Returns:
            [..., ceil(N / hop), mels] float32.

        Raises:
            DataError: no floating-point tensor, or one without dimensions.
        """
        check_waveform(waveform, "LogMel")
        magnitude = spectrum(waveform.float(), self.window, self.hop).abs()
        if torch.is_autocast_enabled(waveform.device.type):
            with torch.autocast(waveform.device.type, enabled=False):
                energy = magnitude @ self.filters
        else:  # an exported graph has no need of the region
            energy = magnitude @ self.filters
        return energy.clamp_min(FLOOR).log()

    def frames(self, samples: _Count) -> _Count:
        """Return the number of frames of a recording: ceil(samples / hop).

        Args:
            samples: its length, or an int64 tensor of lengths.
        """
        return -(-samples // self.hop)

    @torch.no_grad()
    def magnitude(self, log_mel: Tensor) -> Tensor:
        """Return magnitudes of the short-time Fourier transform that explain log-mel frames best.

        They are a solution x >= 0 with the smallest |F x - exp(log_mel)| in every frame: of the many there mostly
        are, one near the smallest.

        Args:
            log_mel: [..., M, mels].

        Returns:
            [..., M, fft // 2 + 1], never negative.

        Raises:
            DataError: another number of bands.
        """
        if log_mel.ndim < 2 or log_mel.shape[-1] != self.mels:
            raise DataError(f"LogMel: log-mel must be [..., frames, {self.mels}], but it is {list(log_mel.shape)}.")
        with torch.autocast(log_mel.device.type, enabled=False):
            return least_squares(self.filters, log_mel.float().exp())

    @torch.no_grad()
    def waveform(self, log_mel: Tensor, *, iterations: int = 60) -> Tensor:
        """Return a waveform whose spectra have the magnitudes of log-mel frames, by the fast Griffin-Lim algorithm.

        It starts from phases that a fixed seed draws, so the same frames give the same sound.

        Args:
            log_mel: [..., M, mels].
            iterations: rounds of the algorithm; more of them make the sound less metallic.

        Returns:
            [..., M * hop], in the loudness of the frames; a louder sound than full scale is not cut.

        Raises:
            DataError: another number of bands.
            ConfigurationError: a number of iterations that is not allowed.

        Example:
            >>> front = LogMel(8000)
            >>> tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(4000) / 8000)
            >>> back = front.waveform(front(tone))
            >>> int(torch.fft.rfft(back, n=8000).abs().argmax())
            440
        """
        require(is_whole(iterations, 0), "LogMel", "iterations", iterations, "a whole number, 0 or more")
        magnitude = self.magnitude(log_mel)
        if magnitude.numel() == 0:  # which no Fourier transform takes
            return magnitude.new_zeros(*log_mel.shape[:-2], log_mel.shape[-2] * self.hop)
        return griffin_lim(magnitude, self.window, self.hop, iterations)

    def extra_repr(self) -> str:
        """Sample rate and sizes, and the band of frequencies."""
        sizes = f"{self.sample_rate}, mels={self.mels}, fft={self.fft}, hop={self.hop}"
        return f"{sizes}, low={self.low:g}, high={self.high:g}"
