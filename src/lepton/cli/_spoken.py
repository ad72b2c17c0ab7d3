"""What is written of a text that was spoken: the sound, and a picture of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lepton.errors import ConfigurationError

if TYPE_CHECKING:
    from lepton.cli._output import Output
    from lepton.run import Speech

__all__ = ["spoken"]


def spoken(speech: Speech, path: Path, output: Output) -> None:
    """Write a wav file and, beside it, a picture of its spectrum; nothing is overwritten.

    Raises:
        ConfigurationError: another ending than .wav, or a file of that name is there.
    """
    picture = path.with_suffix(".png")
    if path.suffix.lower() != ".wav":
        raise ConfigurationError(f"--output is {str(path)!r}, but must end in .wav.")
    for taken in (path, picture):
        if taken.exists():
            raise ConfigurationError(f"{str(taken)!r} is there already: name another file with --output.")
    path.parent.mkdir(parents=True, exist_ok=True)
    speech.save(path)
    speech.plot().savefig(picture, dpi=120)
    seconds = len(speech.waveform) / speech.sample_rate
    output.show(f"Wrote {path} ({seconds:.2f} s, {speech.text!r} by {speech.voice}) and {picture}.")
    output.result({"sound": str(path), "picture": str(picture), "seconds": seconds, "text": speech.text})
