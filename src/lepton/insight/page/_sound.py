"""A recording as data: its wave, its spectrogram, the characters in it, and what a drawing of them needs."""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lepton.errors import DataError, require
from lepton.insight.page._svg import nice_ticks

__all__ = [
    "FLOOR",
    "SpeechExample",
    "band_ticks",
    "envelope",
    "frequency_ticks",
    "levels_of",
    "shown_character",
    "wav_of",
]

FLOOR = -60.0
"""Decibels below the loudest place of a recording at which its spectrogram is darkest."""

_ROUND = (50, 100, 200, 300, 500, 1000, 2000, 3000, 4000, 6000, 8000, 12000, 16000, 20000)
_WIDE_SECONDS, _WIDE_CHARACTERS = 2.5, 24


@dataclass(frozen=True, eq=False)
class SpeechExample:
    """A recording, or a piece of synthesised speech: on a page it is heard, seen and read.

    Wave, spectrogram and characters share one time axis, so that what is above each other happens at the same time.

    Args:
        title: what it is.
        waveform: samples [N] in [-1, 1]; those beyond are cut off in the sound.
        sample_rate: samples of a second.
        log_mel: natural logarithm of the mel spectrogram's magnitudes [M, mels], or None. It is shown in decibels below
            its loudest place.
        said: the text that was found, or that was to be spoken.
        truth: the true text; empty if none is known.
        characters: triples of a character and the seconds from and to which it reaches; may be empty.
        facts: name -> value, such as the speaker.
        hop: samples from one mel frame to the next: frame m stands around sample m * hop. None spreads the frames
            evenly over the recording.
        frequencies: centre of each mel band in Hz [mels]; empty if they are not known.
        until: end of the time axis in seconds, for recordings that are compared; by default that of the recording.

    Raises:
        DataError: the waveform or the spectrogram is empty, not finite or of the wrong shape, the bands do not fit, or
            a character ends before it begins.

    Example:
        >>> example = SpeechExample("A tone", np.sin(np.arange(800) * 0.3), 8000, None, "a", "a", [("a", 0.0, 0.1)])
        >>> example.seconds, example.wide
        (0.1, False)
    """

    title: str
    waveform: ArrayLike
    sample_rate: int
    log_mel: NDArray[Any] | None
    said: str
    truth: str
    characters: Sequence[tuple[str, float, float]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    hop: int | None = None
    frequencies: Sequence[float] = ()
    until: float | None = None

    def __post_init__(self) -> None:
        require(self.sample_rate >= 1, "SpeechExample", "sample_rate", self.sample_rate, "a whole number of at least 1")
        self._check("waveform", self.samples, 1)
        for name, start, stop in self.characters:
            if not start <= stop < math.inf:
                raise DataError(
                    f"SpeechExample {self.title!r}: character {name!r} reaches from {start} to {stop} s; it must end "
                    "where it begins, or later."
                )
        if self.log_mel is None:
            return
        self._check("log_mel", self.log_mel, 2)
        bands = self.log_mel.shape[1]
        if len(self.frequencies) not in (0, bands):
            raise DataError(
                f"SpeechExample {self.title!r}: there are {len(self.frequencies)} frequencies for {bands} mel bands; "
                "give the centre of each band, or none."
            )

    def _check(self, name: str, values: NDArray[Any], dimensions: int) -> None:
        if values.ndim != dimensions or not values.size:
            raise DataError(
                f"SpeechExample {self.title!r}: {name} must have {dimensions} dimension{'s' * (dimensions > 1)} and "
                f"hold something, but its shape is {values.shape}."
            )
        if not np.isfinite(values).all():
            raise DataError(f"SpeechExample {self.title!r}: {name} holds a number that is not finite.")

    @property
    def samples(self) -> NDArray[np.float64]:
        """The waveform [N]."""
        return np.asarray(self.waveform, dtype=np.float64)

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.samples) / self.sample_rate

    @property
    def end(self) -> float:
        """End of the time axis in seconds."""
        return max(self.seconds, self.until or 0.0)

    @property
    def frame_span(self) -> tuple[float, float]:
        """Seconds from and to which the spectrogram's frames reach."""
        if self.log_mel is None or self.hop is None:
            return 0.0, self.seconds
        step = self.hop / self.sample_rate
        return -step / 2, (len(self.log_mel) - 0.5) * step

    @property
    def wide(self) -> bool:
        """Whether it needs the whole width of a page."""
        return self.end > _WIDE_SECONDS or len(self.characters) > _WIDE_CHARACTERS


def wav_of(waveform: ArrayLike, sample_rate: int) -> bytes:
    """Return a sound as a WAV file: one channel, 16 bits, 44 bytes and two for each sample.

    Args:
        waveform: samples [N] in [-1, 1]; those beyond are cut off.
        sample_rate: samples of a second.

    Example:
        >>> len(wav_of([0.0, 0.5, -0.5], 8000))
        50
    """
    whole = np.round(np.clip(np.asarray(waveform, dtype=np.float64), -1.0, 1.0) * 32767).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(whole.tobytes())
    return stream.getvalue()


def envelope(samples: NDArray[np.float64], columns: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and the highest sample of each of at most so many equal stretches of a recording."""
    starts = np.unique(np.linspace(0, len(samples), columns, endpoint=False).astype(np.int64))
    return np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)


def levels_of(log_mel: NDArray[Any]) -> NDArray[np.float64]:
    """Return decibels below the loudest place, `FLOOR` to 0, from natural logarithms of magnitudes [M, mels].

    Where all places are equally loud, as in silence, all are at the floor.
    """
    values = np.asarray(log_mel, dtype=np.float64)
    if values.max() == values.min():
        return np.full(values.shape, FLOOR)
    decibels: NDArray[np.float64] = 20 / math.log(10) * (values - values.max())
    return np.maximum(decibels, FLOOR, out=decibels)


def band_ticks(example: SpeechExample) -> tuple[str, list[tuple[float, str]]]:
    """Return the unit of a spectrogram's axis, and labels with their places, counted from the centre of band 0.

    They are frequencies, or the bands' numbers from 1 where the frequencies are not known.
    """
    assert example.log_mel is not None
    if len(example.frequencies):
        return "Hz", frequency_ticks(example.frequencies)
    count = example.log_mel.shape[1]
    return "band", [(tick - 1, f"{tick:.0f}") for tick in nice_ticks(1.0, float(count), 4, whole=True)]


def frequency_ticks(frequencies: Sequence[float], most: int = 6) -> list[tuple[float, str]]:
    """Return round frequencies with their places among the bands, counted from the centre of band 0.

    Args:
        frequencies: centres of the bands in Hz, rising.
        most: how many there may be.

    Example:
        >>> frequency_ticks([500.0, 1000.0, 1500.0, 2500.0])
        [(0.0, '500'), (1.0, '1000'), (2.5, '2000')]
    """
    inside = [value for value in _ROUND if frequencies[0] <= value <= frequencies[-1]]
    places = [float(np.interp(value, frequencies, np.arange(len(frequencies)))) for value in inside]
    apart = (len(frequencies) - 1) / most
    found: list[tuple[float, str]] = []
    for value, place in reversed(list(zip(inside, places, strict=True))):
        if not found or found[-1][0] - place >= apart:
            found.append((place, str(value)))
    return found[::-1]


def shown_character(name: str) -> str:
    """Return a character as it is written: a space, which cannot be seen, as an open box."""
    return "␣" if name == " " else name
