"""Files of sound: what their headers say, and their samples as one channel of numbers."""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lepton.errors import DataError, import_extra

__all__ = ["Header", "read_audio", "read_header", "read_start", "resampled_length"]

SoundPath = str | PathLike[str]

_UNKNOWN = 1 << 40
"""From so many samples on, a year of them, a header says that the length is not known."""


class Header(NamedTuple):
    """What a file of sound says of itself.

    Attributes:
        samples: how many there are in each channel.
        sample_rate: how many there are in a second.
    """

    samples: int
    sample_rate: int


def read_audio(path: SoundPath) -> tuple[Tensor, int]:
    """Return the samples of a file of sound, the mean of its channels, and their rate.

    Args:
        path: a WAV, FLAC or Ogg file of any width of samples, or of another format that libsndfile reads.

    Returns:
        float32 [N], whole numbers as parts of the largest one, so that they lie in [-1, 1]; and samples per second.

    Raises:
        DataError: there is no such file, it is no sound, it is empty, or it holds numbers that are not finite; the
            message names it.
        MissingExtraError: the package soundfile is not installed.

    Example:
        >>> import numpy, soundfile
        >>> soundfile.write("tone.wav", numpy.full((400, 2), 0.25), 8000)
        >>> waveform, sample_rate = read_audio("tone.wav")
        >>> waveform.shape, sample_rate, float(waveform[0])
        (torch.Size([400]), 8000, 0.25)
    """
    return read_start(path, math.inf)


def read_start(path: SoundPath, seconds: float) -> tuple[Tensor, int]:
    """Return what `read_audio` does of at least the first `seconds` of a file, rounded up to whole samples."""
    with _opened(path) as file:
        rate = int(file.samplerate)
        most = -1 if math.isinf(seconds) else math.ceil(seconds * rate)
        try:
            found = file.read(most, dtype="float32", always_2d=True)
        except RuntimeError as error:  # what soundfile raises for everything that libsndfile says
            raise DataError(f"{path}: the recording is broken: {error}") from error
    if not len(found):
        raise DataError(f"{path}: the recording breaks off before its first sample.")
    waveform = torch.from_numpy(found).mean(1)
    if not bool(torch.isfinite(waveform).all()):
        raise DataError(f"{path}: the recording holds samples that are not finite: write it anew, or leave it out.")
    return waveform, rate


def read_header(path: SoundPath) -> Header:
    """Return how long a file of sound is, without reading its samples.

    Raises:
        DataError: there is no such file, it is no sound, or it is empty.
    """
    with _opened(path) as file:
        return Header(int(file.frames), int(file.samplerate))


def resampled_length(header: Header, sample_rate: int, max_seconds: float) -> int:
    """Return how many samples a recording has at another rate and cut to `max_seconds`; at least one."""
    whole = -(-header.samples * sample_rate // header.sample_rate)
    return max(1, min(whole, round(max_seconds * sample_rate)))


def _opened(path: SoundPath) -> Any:
    """Return the open file, whose header says that there are samples."""
    soundfile = import_extra("soundfile", "audio", "reading recordings")
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file.")
    if not Path(path).stat().st_size:
        raise DataError(f"{path}: the file is empty.")
    try:
        file = soundfile.SoundFile(path)
    except (RuntimeError, TypeError) as error:  # TypeError: a name that ends in .raw would need more to be said
        raise DataError(f"{path}: no recording that can be read, such as a WAV, FLAC or Ogg file: {error}") from error
    samples = file.frames
    if 0 < samples < _UNKNOWN:
        return file
    file.close()
    if samples:
        raise DataError(f"{path}: the file does not say how long the recording is: write it anew.")
    raise DataError(f"{path}: the recording has no samples.")
