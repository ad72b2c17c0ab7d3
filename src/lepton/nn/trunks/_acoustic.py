"""`AcousticTrunk`: recordings to states, one for each moment or one for the whole recording."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton.audio import LogMel, mask_spectrogram
from lepton.errors import ConfigurationError, DataError, is_number, is_whole, nearest, require
from lepton.linalg import readable
from lepton.nn._prunable import Width
from lepton.nn.trunks._attention import block_sizes, block_widths, check_blocks
from lepton.nn.trunks._encoder import Encoder

__all__ = ["AcousticTrunk"]

READERS = ("frames", "pooled")

SCALE = 2.0
"""By which the log-mel, less its mean, is divided: about the standard deviation of speech, in nepers (1.8 in FSDD)."""

FLAT = 1e-5
"""Added to a variance over frames before its root: the root of zero, in a recording of one frame, has no gradient."""


class AcousticTrunk(nn.Module):
    """Recordings [B, N] to states, by a log-mel spectrogram, convolutions and a Transformer that looks both ways.

        waveform -> log-mel [B, M, mels], less its mean -> convolutions, half the frames -> blocks -> states [B, L, D]

    A task reads one of two things:

    - `"frames"`: states [B, L, D], one for every second mel frame, as a recogniser needs them;
    - `"pooled"`: [B, D], a linear layer of the states' mean and standard deviation over the recording, as one needs it
      to tell who speaks (statistics pooling: Snyder et al., "X-Vectors: Robust DNN Embeddings for Speaker
      Recognition", 2018).

    From each recording's log-mel its own mean over frames and bands is subtracted, so that its loudness makes no
    difference, as long as nothing falls below the floor of `LogMel`. In training stretches of time and of bands are
    masked (Park et al., "SpecAugment", 2019). The blocks are those of `TransformerTrunk`: normalised before each
    branch (Xiong et al., 2020), rotary positions (Su et al., 2021). Neither the other recordings of a batch nor its
    padding change a recording's states; states of padded frames are exactly zero.

    Args:
        sample_rate: samples per second of all recordings, in Hz.
        readers: task -> what it reads. Where all tasks read the same, the trunk gives one tensor, otherwise a mapping
            task -> states. None: one tensor, `"frames"`.
        mels: number of mel bands.
        width: number of features D.
        depth: number of Transformer blocks.
        heads: number of attention heads H; without `head_size`, D / H is even.
        head_size: features of one head, an even number; D / H by default.
        feedforward: hidden size of the feed-forward branches, one number or one for each block; 4 D by default.
        dropout: share of each branch's output, and of what enters the blocks, that training sets to zero, in [0, 1).
        masks: how many stretches of time, and how many of bands, training masks; 0 for none.

    Attributes:
        front: the `LogMel`.
        readers: task -> what it reads, or None.
        out_features: `width`.

    Raises:
        ConfigurationError: a size, a share or a reader that is not allowed.

    Example:
        >>> import torch
        >>> readers = {"transcript": "frames", "speaker": "pooled"}
        >>> trunk = AcousticTrunk(8000, readers=readers, width=16, depth=1, heads=2)
        >>> states = trunk(torch.randn(2, 4000), torch.tensor([4000, 2500]))
        >>> {task: list(found.shape) for task, found in states.items()}
        {'transcript': [2, 32, 16], 'speaker': [2, 16]}
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        readers: Mapping[str, str] | None = None,
        mels: int = 64,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        head_size: int | None = None,
        feedforward: int | Sequence[int] | None = None,
        dropout: float = 0.1,
        masks: int = 2,
    ) -> None:
        super().__init__()
        told = {"width": width, "depth": depth, "heads": heads, "head_size": head_size, "feedforward": feedforward}
        check_blocks("AcousticTrunk", **told)  # type: ignore[arg-type]
        require(is_number(dropout) and 0 <= dropout < 1, "AcousticTrunk", "dropout", dropout, "in [0, 1)")
        require(is_whole(masks, 0), "AcousticTrunk", "masks", masks, "an integer >= 0")
        self.readers = None if readers is None else _checked_readers(readers)
        self.dropout = dropout
        self.masks = masks
        self.front = LogMel(sample_rate, mels=mels)
        self.stem = _Stem(mels, width)
        hidden = 4 * width if feedforward is None else feedforward
        self.encoder = Encoder(width, depth, heads, hidden, dropout, head_size=head_size)
        wanted = () if self.readers is None else self.readers.values()
        self.pool = _StatisticsPooling(width) if "pooled" in wanted else None

    @property
    def out_features(self) -> int:
        """`width`."""
        return self.encoder.norm.normalized_shape[0]

    def prunable(self) -> list[Width]:
        """Return the widths that may shrink: see `Prunable`."""
        pooled = () if self.pool is None else (self.pool.output,)
        return [Width("width", (self.stem.output, *pooled)), *block_widths(self.encoder.blocks)]

    def sizes(self) -> dict[str, Any]:
        """Return the options that say the present widths: see `Prunable`."""
        return {"width": self.out_features, **block_sizes(self.encoder.blocks)}

    def frames(self, samples: Tensor) -> Tensor:
        """Return the number of states of recordings with so many samples, int64 [B]."""
        halved: Tensor = (self.front.frames(samples) + 1) // 2
        return halved

    def forward(self, waveform: Tensor, samples: Tensor, text: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Return the states: one tensor if all tasks read the same, otherwise a mapping task -> tensor.

        Args:
            waveform: floating point [B, N] in [-1, 1].
            samples: int64 [B], length of each recording in samples; what stands beyond is not read.
            text: not read here: what a synthesiser's head reads may stand in the batch where there is no such head.

        Raises:
            DataError: a tensor of another shape or dtype, or a length that is not in 1 to N (looked for on the CPU
                only, since reading elsewhere waits for the device).
        """
        _check_recordings(waveform, samples)
        states, filled = self._states(waveform, samples)
        wanted = {"frames"} if self.readers is None else set(self.readers.values())
        found = {"frames": states}
        if self.pool is not None:
            found["pooled"] = self.pool(states, filled)
        if self.readers is None or len(wanted) == 1:
            return found[wanted.pop()]
        return {task: found[reader] for task, reader in self.readers.items()}

    def _states(self, waveform: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states [B, L, D], and which of their frames are filled, bool [B, L]."""
        x = self._spectrogram(waveform, samples).to(self.stem.output.weight.dtype)
        place = torch.arange((x.shape[1] - 1) // 2 + 1, device=x.device)  # as a convolution says it: see an export
        filled = place < self.frames(samples)[:, None]
        x = F.dropout(self.stem(x, filled), self.dropout, self.training)
        return self.encoder(x, filled), filled

    @torch.no_grad()
    def _spectrogram(self, waveform: Tensor, samples: Tensor) -> Tensor:
        """Return the log-mel [B, M, mels] as the network reads it, masked in training; zero beyond each recording."""
        inside = torch.arange(waveform.shape[1], device=waveform.device) < samples[:, None]
        log_mel: Tensor = self.front(waveform.masked_fill(~inside, 0))
        frames = self.front.frames(samples)
        filled = (torch.arange(log_mel.shape[1], device=log_mel.device) < frames[:, None])[..., None]
        total = log_mel.masked_fill(~filled, 0).sum((1, 2)) / log_mel.shape[2]
        mean = total / frames.clamp(min=1)
        x = ((log_mel - mean[:, None, None]) / SCALE).masked_fill(~filled, 0)
        if not (self.training and self.masks):
            return x
        return mask_spectrogram(x, frames, times=self.masks, bands=self.masks)


class _Stem(nn.Module):
    """Convolutions: two over time and bands, which leave half the frames and a quarter of the bands, and one over time.

    The last one reads five frames at once, 0.14 s of sound with the window of `LogMel`: as much as a short vowel. With
    a layer that reads one frame, CTC takes longer to find where the letters are.

    Args:
        mels: number of bands.
        width: number of features D.
    """

    CHANNELS = 32

    def __init__(self, mels: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, self.CHANNELS, 3, stride=2, padding=1)
        self.inner = nn.Conv2d(self.CHANNELS, self.CHANNELS, 3, stride=(1, 2), padding=1)
        self.output = nn.Conv1d(self.CHANNELS * math.ceil(mels / 4), width, 5, padding=2)

    def forward(self, x: Tensor, filled: Tensor) -> Tensor:
        """Return [B, L, D] of x [B, M, mels], which is zero beyond each recording; `filled` is bool [B, L]."""
        # Each convolution must find behind a recording's last frame what it finds at the batch's end: zeros.
        beyond = ~filled[:, None, :, None]
        x = F.gelu(self.enter(x[:, None])).masked_fill(beyond, 0)
        x = F.gelu(self.inner(x)).masked_fill(beyond, 0)
        return self.output(x.transpose(2, 3).flatten(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


class _StatisticsPooling(nn.Module):
    """W [mean; standard deviation] + b, over the filled frames of a recording."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.output = nn.Linear(2 * width, width)

    def forward(self, states: Tensor, filled: Tensor) -> Tensor:
        """Return [B, D] of states [B, L, D], zero at the padding; `filled` is bool [B, L]."""
        count = filled.sum(1, keepdim=True).clamp(min=1)
        mean = states.sum(1) / count
        apart = (states - mean[:, None]).masked_fill(~filled[..., None], 0)
        deviation = (apart.square().sum(1) / count + FLAT).sqrt()
        return self.output(torch.cat([mean, deviation], -1))  # type: ignore[no-any-return]


# -- what comes in ----------------------------------------------------------------------------------------------------
def _check_recordings(waveform: Tensor, samples: Tensor) -> None:
    if not isinstance(waveform, Tensor) or not waveform.is_floating_point() or waveform.ndim != 2:
        raise DataError(
            f"AcousticTrunk: waveform must be floating point [B, N] in -1 to 1, but it is {_said(waveform)}."
            + _way_out(waveform)
        )
    if not isinstance(samples, Tensor) or samples.dtype not in (torch.int64, torch.int32) or samples.ndim != 1:
        raise DataError(f"AcousticTrunk: samples must be lengths [B] in torch.int64, but it is {_said(samples)}.")
    rows, size = waveform.shape
    if samples.shape[0] != rows or size == 0:
        raise DataError(
            f"AcousticTrunk: waveform is {list(waveform.shape)} and samples {list(samples.shape)}: they must be [B, N] "
            "with N >= 1, and [B]."
        )
    if rows and readable(samples) and not torch.compiler.is_compiling():
        low, high = int(samples.min()), int(samples.max())
        if low < 1 or high > size:
            raise DataError(
                f"AcousticTrunk: samples holds {low if low < 1 else high}, but a recording of a waveform "
                f"{list(waveform.shape)} has 1 to {size} samples."
            )


def _said(value: object) -> str:
    return f"{list(value.shape)} in {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _way_out(waveform: object) -> str:
    if not isinstance(waveform, Tensor):
        return ""
    if waveform.dtype in (torch.int16, torch.int32):
        return f" Raw samples are scaled by waveform.float() / {-torch.iinfo(waveform.dtype).min}."
    if waveform.ndim == 1:
        return " One recording is waveform[None]."
    return " Channels are averaged by waveform.mean(1)." if waveform.ndim == 3 else ""


def _checked_readers(readers: Mapping[str, str]) -> dict[str, str]:
    require(isinstance(readers, Mapping) and len(readers) > 0, "AcousticTrunk", "readers", readers, "task -> reader")
    for task, reader in readers.items():
        if reader not in READERS:
            raise ConfigurationError(
                f"AcousticTrunk: what task {task!r} reads must be one of {list(READERS)}, but it is {reader!r}."
                f"{nearest(str(reader), READERS)}"
            )
    return dict(readers)
