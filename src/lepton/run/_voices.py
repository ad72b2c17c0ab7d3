"""What a run with a synthesiser can say: its voices, and texts spoken by them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lepton.data import AudioEncoder, LabelRule
from lepton.errors import CheckpointError, ConfigurationError, DataError, import_extra, is_number, nearest, require
from lepton.insight import SpeechExample, plot_speech
from lepton.nn import LeptonModel, SpeechHead
from lepton.run._prepare import Prepared
from lepton.run._rows import in_memory, make_loader
from lepton.run._speech import VOICE_OF_ALL, mean_voices
from lepton.train import write_atomically

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

__all__ = ["Speech", "read_voices", "speak", "write_voices"]

VOICES = "voices.safetensors"
SLOWEST, FASTEST = 0.25, 4.0


@dataclass(frozen=True)
class Speech:
    """A text that was spoken.

    Attributes:
        text: the text, as the synthesiser read it.
        voice: whose voice it is.
        waveform: the sound, float32 [N] in [-1, 1].
        sample_rate: samples a second.
        log_mel: the spectrum that the sound was made from, [M, mels].
        characters: each character with its begin and its end, in seconds.
        hop: samples from one frame of the spectrum to the next.
        frequencies: the centre of each band, in Hz.
    """

    text: str
    voice: str
    waveform: npt.NDArray[np.float32]
    sample_rate: int
    log_mel: npt.NDArray[np.float32]
    characters: tuple[tuple[str, float, float], ...]
    hop: int
    frequencies: tuple[float, ...]

    def plot(self) -> Figure:
        """Return a figure of the sound, its spectrum, and where each character is spoken.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        return plot_speech(self.example(f"{self.text!r}, {self.voice}"))

    def example(self, title: str) -> SpeechExample:
        """Return what a page plays and shows of it, under a title."""
        return SpeechExample(
            title,
            self.waveform,
            self.sample_rate,
            self.log_mel,
            self.text,
            "",
            self.characters,
            {"voice": self.voice},
            hop=self.hop,
            frequencies=self.frequencies,
        )

    def save(self, path: Path | str) -> Path:
        """Write the sound as a wav file of 16 bits, and return its path.

        Raises:
            MissingExtraError: soundfile is not installed.
        """
        import io

        soundfile = import_extra("soundfile", "audio", "writing a wav file")
        stream = io.BytesIO()
        soundfile.write(stream, self.waveform, self.sample_rate, format="WAV", subtype="PCM_16")
        write_atomically(Path(path), stream.getvalue())
        return Path(path)


def write_voices(folder: Path, model: LeptonModel, prepared: Prepared) -> None:
    """Write what a synthesiser reads of each voice's training recordings on average; nothing without a synthesiser."""
    from safetensors.torch import save

    rule = _synthesiser(prepared.rules)
    if rule is None or rule.task not in model.task_names:
        return
    train = prepared.tables["train"]
    column = prepared.config.tasks[rule.task].voice
    names = [VOICE_OF_ALL] * train.num_rows if column is None else map(_name, train.column(column).to_pylist())
    loader = make_loader(in_memory(prepared.data["train"]), prepared.config)
    found = mean_voices(model.eval(), rule.task, list(names), loader)
    write_atomically(folder / VOICES, save({name: state.contiguous() for name, state in found.items()}))


def _name(value: Any) -> str | None:
    return None if value is None else str(value)


def _synthesiser(rules: Any) -> LabelRule | None:
    return next((rule for rule in rules if rule.kind == "speech_synthesis"), None)


def read_voices(folder: Path) -> dict[str, Tensor]:
    """Return what `write_voices` wrote.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / VOICES)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / VOICES} cannot be read: {error}.") from error


@torch.no_grad()
def speak(
    model: LeptonModel,
    encoder: AudioEncoder,
    rules: Any,
    voices: Mapping[str, Tensor],
    text: str,
    voice: str | None = None,
    *,
    pace: float = 1.0,
) -> Speech:
    """Return a text spoken in a voice.

    Args:
        model: the model, in eval mode.
        encoder: fitted rules of the recordings.
        rules: the run's tasks.
        voices: voice -> what the synthesiser reads of it, [D].
        text: what is said.
        voice: whose voice; may be left out if there is one only.
        pace: how fast, 1 as in training, 2 twice as fast; 0.25 to 4.

    Raises:
        ConfigurationError: the run has no synthesiser, or an unknown voice.
        DataError: an empty text, or a character that training has not.
    """
    import pyarrow as pa

    rule = _synthesiser(rules)
    if rule is None:
        raise ConfigurationError(f"this run has no task of the kind speech_synthesis: {[r.task for r in rules]}.")
    fits = is_number(pace) and SLOWEST <= pace <= FASTEST
    require(fits, "say", "pace", pace, f"a number from {SLOWEST:g} to {FASTEST:g}")
    chosen = _chosen(voice, voices)
    said = _sayable(text, encoder)
    ids = encoder.text_ids(pa.table({"text": [said]}), "text").long()
    head = model.heads[rule.task]
    assert isinstance(head, SpeechHead)
    device = model.device
    spoken, _, durations = head.speak(ids.to(device), voices[chosen][None].to(device), pace=pace)
    task: Any = model.task(rule.task)
    front: Any = model.trunk.front
    log_mel = task.finish(torch.nn.functional.pad(spoken, (0, 2)))[0, :, : front.mels]
    ends = [0.0, *itertools.accumulate((durations[0] * front.hop / front.sample_rate).tolist())]
    return Speech(
        said,
        chosen,
        front.waveform(log_mel).clamp(-1, 1).cpu().numpy(),
        front.sample_rate,
        log_mel.cpu().numpy(),
        tuple(zip(said, ends[:-1], ends[1:], strict=True)),
        front.hop,
        tuple(front.centres.tolist()),
    )


def _sayable(text: str, encoder: AudioEncoder) -> str:
    """Return the text as the synthesiser reads it."""
    said = encoder.normalise(text)
    if not said:
        raise DataError(f"the text {text!r} is empty: there is nothing to say.")
    unknown = sorted(set(said) - set(encoder.characters))
    if unknown:
        raise DataError(
            f"the text {text!r} holds {unknown}, which no training text had; known are {encoder.characters}: write it "
            "in these, such as numbers as words."
        )
    return said


def _chosen(voice: str | None, voices: Mapping[str, Tensor]) -> str:
    if voice is None and len(voices) == 1:
        return next(iter(voices))
    if voice is None or voice not in voices:
        wrong = "which voice is meant?" if voice is None else f"there is no voice {voice!r}."
        raise ConfigurationError(f"{wrong} The voices are {sorted(voices)}.{nearest(voice or '', voices)}")
    return voice
