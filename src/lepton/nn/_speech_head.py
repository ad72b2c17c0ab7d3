"""`SpeechHead`: a text, spoken in the manner of a recording."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lepton.errors import DataError, is_number, is_whole, require
from lepton.linalg import readable
from lepton.nn._reading import ReadingHead
from lepton.nn.trunks import Encoder
from lepton.tasks import ctc_alignment

__all__ = ["SpeechHead"]

LONGEST = 1000
"""Frames of one character at most when it is spoken: what an untrained network asks for would fill the memory."""


class SpeechHead(ReadingHead):
    """Log-mel frames of a text, spoken in the manner of a reference recording, all at once.

        text -> embedding + manner -> blocks -> one state for each character -> repeated by its duration
             -> blocks -> [B, M, mels] standardised log-mel

    That is the non-autoregressive synthesis of Ren et al., "FastSpeech", 2019, and "FastSpeech 2", 2021. The durations
    of training come from no teacher, but from the recogniser beside it: the best alignment of its logits with the text
    (`lepton.tasks.ctc_alignment`); without a recogniser all characters last equally long. The manner is what a layer of
    `style` numbers lets through of the pooled states of the recording: enough for a voice, too little for the
    recording itself.

    The logarithms of the durations are predicted from the characters' states, which are detached there: predicting
    durations trains that layer alone. In what this head returns they stand beside the frames, as
    `lepton.tasks.SpeechSynthesis` takes them. Neither padded characters nor padded frames nor the other rows change a
    row; frames beyond a recording, and all of a row without text, are zero.

    Args:
        features: number of features D of the pooled states.
        characters: number of characters C; their ids are 1 to C, 0 is the padding.
        mels: number of bands of the log-mel.
        hop: samples from one mel frame to the next.
        transcript: name of the recognition task, before this one, whose logits [B, L, 1 + C] (one frame for two mel
            frames) give the durations; None: all characters of a text last equally long.
        width: features of a character's and of a frame's state.
        depth: blocks over the characters, and as many over the frames.
        heads: number of attention heads H; width / H is even.
        dropout: share of each branch's output that training sets to zero, in [0, 1).
        style: how many numbers of the reference are let through.

    Attributes:
        inputs: `("waveform", "text", "samples")`; of the waveform only the shape is read, which says how many frames
            the batch has.
        outputs: `(transcript,)`, or nothing.

    Raises:
        ConfigurationError: a size or a share that is not allowed.

    Example:
        >>> import torch
        >>> head = SpeechHead(16, characters=5, mels=20, hop=64, width=16, depth=1, heads=2)
        >>> text, reference = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.randn(2, 16)
        >>> samples = torch.tensor([640, 300])
        >>> head(reference, {"waveform": torch.zeros(2, 640), "text": text, "samples": samples}).shape
        torch.Size([2, 10, 22])
        >>> log_mel, frames, durations = head.speak(text, reference)
        >>> bool((durations.sum(1) == frames).all()), log_mel.shape[1] == frames.max()
        (True, tensor(True))
    """

    def __init__(
        self,
        features: int,
        characters: int,
        mels: int,
        hop: int,
        *,
        transcript: str | None = None,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        style: int = 16,
    ) -> None:
        super().__init__()
        sizes = {"features": features, "characters": characters, "mels": mels, "hop": hop, "style": style}
        _check_sizes(sizes | {"width": width, "depth": depth, "heads": heads})
        require(is_number(dropout) and 0 <= dropout < 1, "SpeechHead", "dropout", dropout, "in [0, 1)")
        named = transcript is None or isinstance(transcript, str)
        require(named, "SpeechHead", "transcript", transcript, "the name of a task, or None")
        self.inputs = ("waveform", "text", "samples")
        self.outputs = () if transcript is None else (transcript,)
        self.transcript = transcript
        self.characters = characters
        self.hop = hop
        self.reference = nn.Linear(features, style)
        self.manner = nn.Linear(style, width)
        self.embedding = nn.Embedding(characters + 1, width)
        self.reader = Encoder(width, depth, heads, 4 * width, dropout)
        self.duration = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.place = nn.Linear(3, width)
        self.writer = Encoder(width, depth, heads, 4 * width, dropout)
        self.output = nn.Linear(width, mels)

    def forward(self, features: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        """Return [B, M, mels + 2]: the standardised log-mel; then, of the character that each frame belongs to, the
        predicted logarithm of its duration in frames, and that of the aligned duration, which carries no gradient.

        Args:
            features: pooled states [B, D] of the recordings.
            context: `"waveform"` [B, N], M = ceil(N / hop); `"text"` int64 [B, U], 0 beyond a text; `"samples"` int64
                [B]; and the transcript task's logits [B, L, 1 + C], L = ceil(M / 2).

        Raises:
            DataError: a tensor of another shape or dtype, or an id of a character that there is not (looked for on the
                CPU only).
        """
        text, samples = context["text"], context["samples"]
        self._check(features, text)
        frames = (samples + self.hop - 1) // self.hop
        ends = self._ends(text, frames, context)
        states, log_durations = self._read(text, features)
        total = -(-context["waveform"].shape[1] // self.hop)
        log_mel, owner, filled = self._write(states, ends, total)
        aligned = _lengths(ends).clamp(min=1).log()
        durations = torch.stack([log_durations, aligned.to(log_durations.dtype)], -1)
        beside = durations.gather(1, owner[..., None].expand(-1, -1, 2)).masked_fill(~filled[..., None], 0)
        return torch.cat([log_mel, beside], -1)

    @torch.no_grad()
    def speak(self, text: Tensor, features: Tensor, *, pace: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Speak texts that nobody has spoken, with the predicted durations and without dropout.

        Args:
            text: int64 [B, U], 0 beyond a text.
            features: pooled states [B, D], of one recording or the mean over several, for each row.
            pace: how many times faster than predicted, > 0.

        Returns:
            Standardised log-mel [B, M, mels], zero beyond; the frames of each row, int64 [B]; the frames of each
            character, int64 [B, U].

        Raises:
            ConfigurationError: a pace that is no positive number.
            DataError: as in `forward`.
        """
        require(is_number(pace) and 0 < pace < float("inf"), "SpeechHead.speak", "pace", pace, "a number > 0")
        self._check(features, text)
        training = self.training
        self.eval()
        try:
            states, log_durations = self._read(text, features)
            wanted = (log_durations.float().exp() / pace).round().clamp(1, LONGEST).to(torch.int64)
            durations = wanted.masked_fill(text == 0, 0)
            ends = durations.cumsum(1)
            frames = ends[:, -1]
            return self._write(states, ends, int(frames.max()))[0], frames, durations
        finally:
            self.train(training)

    # -- the network ----------------------------------------------------------------------------------------------
    def _read(self, text: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the characters' states [B, U, width] and the predicted logarithms [B, U] of their durations."""
        manner = self.manner(self.reference(features))
        states = self.reader(self.embedding(text) + manner[:, None], text > 0)
        return states, self.duration(states.detach())[..., 0]

    def _write(self, states: Tensor, ends: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-mel [B, M, mels], the character [B, M] of each frame, and which frames are filled [B, M].

        Args:
            states: of the characters, [B, U, width].
            ends: the frame before which each character ends, [B, U].
            total: frames M of the batch.
        """
        frame = torch.arange(total, device=ends.device)
        owner = (ends[:, None] <= frame[:, None]).sum(-1).clamp(max=ends.shape[1] - 1)
        length = _lengths(ends).gather(1, owner).clamp(min=1)
        gone = (frame - ends.gather(1, owner) + length + 0.5) / length
        place = torch.stack([gone, 1 - gone, length.log()], -1).to(states.dtype)
        x = states.gather(1, owner[..., None].expand(-1, -1, states.shape[-1])) + self.place(place)
        filled = frame < ends[:, -1:]
        log_mel = self.output(self.writer(x, filled)).masked_fill(~filled[..., None], 0)
        return log_mel, owner, filled

    # -- durations ------------------------------------------------------------------------------------------------
    def _ends(self, text: Tensor, frames: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        """Return the mel frame before which each character ends, int64 [B, U]; the last one's is `frames`."""
        if self.transcript is None:
            count = (text > 0).sum(1, keepdim=True)
            place = torch.arange(1, text.shape[1] + 1, device=text.device).minimum(count)
            return frames[:, None] * place // count.clamp(min=1)
        logits = context[self.transcript]
        if logits.ndim != 3 or logits.shape[-1] != self.characters + 1:
            raise DataError(
                f"SpeechHead: the output of {self.transcript!r} is {list(logits.shape)}, but durations come from "
                f"logits [B, L, {self.characters + 1}], of the blank and the {self.characters} characters."
            )
        durations = ctc_alignment(logits, (frames + 1) // 2, text)
        return (2 * durations.cumsum(1)).minimum(frames[:, None])

    # -- what comes in --------------------------------------------------------------------------------------------
    def _check(self, features: Tensor, text: Tensor) -> None:
        size = self.reference.in_features
        if features.ndim != 2 or features.shape[1] != size:
            raise DataError(
                f"SpeechHead: its features must be pooled states [B, {size}], but they are {list(features.shape)}: the "
                "task reads 'pooled' of an AcousticTrunk."
            )
        whole = text.dtype in (torch.int64, torch.int32)
        if not whole or text.ndim != 2 or text.shape[1] == 0 or len(text) != len(features):
            raise DataError(
                f"SpeechHead: text must be character ids [B, U] in torch.int64 with U >= 1, for {len(features)} rows, "
                f"but it is {list(text.shape)} in {text.dtype}."
            )
        if text.numel() and readable(text) and not torch.compiler.is_compiling():
            low, high = int(text.min()), int(text.max())
            if low < 0 or high > self.characters:
                raise DataError(
                    f"SpeechHead: text holds the id {low if low < 0 else high}, but the head was built for the padding "
                    f"0 and the characters 1 to {self.characters}."
                )


def _lengths(ends: Tensor) -> Tensor:
    """Return the frames of each character [B, U] from where they end."""
    return ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1]))


def _check_sizes(sizes: Mapping[str, int]) -> None:
    for name, value in sizes.items():
        require(is_whole(value), "SpeechHead", name, value, "an integer >= 1")
    width, heads = sizes["width"], sizes["heads"]
    even = f"a number that divides width = {width} into heads of even size, which rotary positions need"
    require(width % heads == 0 and width // heads % 2 == 0, "SpeechHead", "heads", heads, even)
