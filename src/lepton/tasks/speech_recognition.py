"""What is said in a recording, character by character."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from lepton.errors import ConfigurationError, TargetError, is_whole, require
from lepton.tasks._categorical import label_shape, may_read
from lepton.tasks._ctc import ctc_beam, ctc_greedy, ctc_losses, frames_needed
from lepton.tasks.base import Task, at_least_float32

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["FrameHead", "SpeechRecognition"]

IMPOSSIBLE = -1e4
"""Logit of every character at a frame of padding: exp of it is 0, and float16 and bfloat16 hold it."""


class FrameHead(nn.Linear):
    """A linear layer from frames to symbols that says "certainly blank" at frames of padding.

    A frame whose features are all zero is padding. Its logits are 0 for the blank and -1e4 for every character, so
    that the probability of a text over the padded frames is that over the frames without the padding, and no gradient
    reaches the frame.

    Args:
        in_features: number of features D.
        out_features: number of symbols V, the blank included.
        bias: whether the logits have a bias.

    Example:
        >>> import torch
        >>> head = FrameHead(4, 3)
        >>> head(torch.zeros(1, 2, 4))[0, 0].tolist()
        [0.0, -10000.0, -10000.0]
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return logits [..., L, V] of features [..., L, D]."""
        logits = super().forward(features)
        blank = torch.full_like(logits[..., :1], 0.0)
        certain = torch.cat([blank, torch.full_like(logits[..., 1:], IMPOSSIBLE)], -1)
        return logits.where((features != 0).any(-1, keepdim=True), certain)


class SpeechRecognition(Task):
    """The text that is said in a recording: logits [B, L, V], texts [B, U], by the CTC loss.

    The frames of a recording are not aligned with the text. A path gives each of the L frames one of V = 1 + C
    symbols, number 0 the blank; its text is what is left when repeats are merged and blanks left out. The loss of a
    row is

        -ln p(y | x) = -ln sum_{paths with text y} prod_t softmax(x_t)[path_t]

    over all L frames, and its count is the number of characters, so that the mean loss is one per character.
    Character `characters[i]` has the number i + 1, and a text ends with -100. A row of -100 alone is missing. A row
    with `unseen`, -101, a character that training did not have, has no loss and no count, and neither has a row with
    fewer frames than its text needs: one for each character and one between two equal ones. Frames that `FrameHead`
    calls padding are none of the row's. Metrics count such rows as what they are: texts to be found.

    Only an output says how many frames a row has. `label_count`, which knows targets only, counts texts that turn out
    too long as well: over a window of micro-batches they make the mean loss smaller than it is without them, as if
    their loss were zero. `frames_needed` says beforehand which ones these are.
    Source: Graves et al., "Connectionist Temporal Classification: Labelling Unsegmented Sequence Data with Recurrent
    Neural Networks", 2006; search with prefixes: the same, and Hannun et al., "First-Pass Large Vocabulary Continuous
    Speech Recognition using Bi-Directional Recurrent DNNs", 2014.

    Args:
        name: name of the task, without `.`.
        characters: the C characters, or other units such as phones, by their numbers 1 to C.
        beam: texts that `predict` keeps at a time; 1 takes the best symbol of each frame.
        texts: the only texts there are, such as words of command: `predict` then gives the most probable of them.
        head: your own head, features [B, L, D] to logits [B, L, V]; None makes a `FrameHead`.
        loss_weight: factor of the loss before balancing; > 0.
        priority: factor of the task's weight after balancing; > 0.
        auxiliary: trained, but left out of model selection, comparison and export.

    Attributes:
        unseen: the label of a character that training did not have.

    Raises:
        ConfigurationError: for a hyperparameter that is not allowed.

    Example:
        >>> import torch
        >>> task = SpeechRecognition("said", characters=["a", "b"])
        >>> losses, counts = task.label_losses(torch.zeros(1, 2, 3), torch.tensor([[1, -100]]))
        >>> round((-losses).exp().item(), 4), counts.item()  # 3 of 9 paths have the text "a": aa, a-, -a
        (0.3333, 1.0)
        >>> task.text([2, 1])
        'ba'
    """

    unseen: ClassVar[int] = -101

    def __init__(
        self,
        name: str,
        characters: Sequence[str],
        *,
        beam: int = 1,
        texts: Sequence[str] | None = None,
        head: nn.Module | None = None,
        loss_weight: float = 1.0,
        priority: float = 1.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(name, head=head, missing=-100, loss_weight=loss_weight, priority=priority, auxiliary=auxiliary)
        self.characters = self._checked(characters)
        require(is_whole(beam), self.owner, "beam", beam, "a whole number of at least 1")
        self.beam = beam
        self.texts = None if texts is None else self._checked_texts(texts)
        self.primary_metric = "exact"
        self.higher_is_better = {"exact": True, "cer": False, "wer": False}

    def _checked(self, characters: Sequence[str]) -> tuple[str, ...]:
        names = tuple(characters) if isinstance(characters, Iterable) and not isinstance(characters, str) else ()
        good = all(isinstance(name, str) and name for name in names) and 0 < len(set(names)) == len(names)
        require(good, self.owner, "characters", characters, "a list of different names, one for each character")
        return names

    def _checked_texts(self, texts: Sequence[str]) -> tuple[str, ...]:
        names = tuple(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else ()
        known = set(self.characters)
        good = all(isinstance(text, str) and text and set(text) <= known for text in names)
        allowed = f"a list of different texts in the characters {''.join(self.characters)!r}"
        require(good and 0 < len(set(names)) == len(names), self.owner, "texts", texts, allowed)
        return names

    # -- head -------------------------------------------------------------------------------------------------
    @property
    def out_features(self) -> int:
        """The number of symbols V: the characters and the blank."""
        return len(self.characters) + 1

    def _new_head(self, features: int) -> nn.Module:
        return FrameHead(features, self.out_features)

    # -- labels -----------------------------------------------------------------------------------------------
    def mask(self, target: Tensor) -> Tensor:
        """Return a bool tensor [B, U]: True at the characters of texts that training has all characters of."""
        return super().mask(target) & ~(target == self.unseen).any(-1, keepdim=True)

    def frames_needed(self, target: Tensor) -> Tensor:
        """Return how many frames a row must have at least for its text to have a loss, int64 [B].

        Args:
            target: texts [B, U].

        Example:
            >>> import torch
            >>> SpeechRecognition("said", ["a", "b"]).frames_needed(torch.tensor([[1, 1, 2, -100]])).tolist()
            [4]
        """
        return frames_needed(target, super().mask(target).sum(-1))

    def check_target(self, output: Tensor, target: Tensor) -> Tensor:
        """Return `target` as int64, after checking its shape, its dtype and, on the CPU, its values."""
        label_shape(self.owner, output, -1, self.out_features)
        if output.ndim != 3:
            raise ConfigurationError(
                f"{self.owner}: its head returned {list(output.shape)} where [B, L, {self.out_features}] is expected: "
                "it needs a trunk that gives it one state per frame."
            )
        if target.ndim != 2 or target.shape[0] != output.shape[0]:
            raise TargetError(
                f"{self.owner}: target {list(target.shape)}: [{output.shape[0]}, U] is expected, the characters of "
                f"each row's text, padded with {int(self.missing)}."
            )
        if target.is_floating_point() or target.is_complex():
            raise TargetError(
                f"{self.owner}: target is {target.dtype} where numbers of characters (int64) are expected: cast it "
                "with .long()."
            )
        target = target.long()
        if may_read(target):
            self._check_values(target)
        return target

    def _check_values(self, target: Tensor) -> None:
        present = super().mask(target)
        wrong = present & (target != self.unseen) & ((target < 1) | (target >= self.out_features))
        if wrong.any():
            raise TargetError(
                f"{self.owner}: target holds the value {int(target[wrong][0])}; allowed are the characters 1 to "
                f"{len(self.characters)}, {int(self.missing)} after the end of a text, and {self.unseen} for a "
                "character that training did not have."
            )
        holes = present[:, 1:] & ~present[:, :-1]
        if holes.any():
            raise TargetError(
                f"{self.owner}: the text of row {int(holes.any(1).nonzero()[0])} goes on after "
                f"{int(self.missing)}, which ends a text."
            )

    # -- loss -------------------------------------------------------------------------------------------------
    def unmasked_losses(self, output: Tensor, target: Tensor, parameter: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return -ln p(text) and the number of its characters, [B] each; both 0 where the row has too few frames.

        Args:
            output: logits [B, L, V].
            target: texts [B, U], 0 beyond.
            parameter: none.
        """
        lengths = (target > 0).sum(1)
        frames = (~is_padding(output)).sum(1)
        lengths = lengths.where(frames_needed(target, lengths) <= frames, 0)
        # Before the loss, not after it: the derivative of a NaN is NaN even where its value is not selected.
        logits = output.where((lengths > 0)[:, None, None], 0.0)
        losses = ctc_losses(logits, target.clamp(min=1), lengths)
        return losses.where(lengths > 0, 0.0), lengths.to(losses.dtype)

    def _per_label(self, losses: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        return losses, present.any(1)  # a text has one loss

    # -- outputs ----------------------------------------------------------------------------------------------
    def text(self, ids: Sequence[int] | Tensor) -> str:
        """Return the text of numbers of characters, up to the first -100 or 0; unseen ones are shown as U+FFFD.

        Args:
            ids: numbers of characters, [U].
        """
        numbers = ids.tolist() if isinstance(ids, Tensor) else ids
        written = itertools.takewhile(lambda number: number not in (0, -100), numbers)
        return "".join("\ufffd" if number == self.unseen else self.characters[number - 1] for number in written)

    @torch.no_grad()
    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Return `label` [B, U'], the texts found, -100 beyond, and `probability` [B] of these texts.

        U' is the length of the longest of them, 0 if all are empty. A text's probability is the sum over its paths.
        """
        if self.texts is not None:
            return self._most_probable(output, self.texts)
        found = ctc_greedy(output) if self.beam == 1 else ctc_beam(output, self.beam)
        lengths = torch.tensor([len(text) for text in found], dtype=torch.int64, device=output.device)
        longest = max(map(len, found), default=0)
        padded = [[*text, *[-100] * (longest - len(text))] for text in found]
        label = torch.tensor(padded, dtype=torch.int64, device=output.device).view(len(found), longest)
        losses = ctc_losses(at_least_float32(output), label.clamp(min=1), lengths)
        return {"label": label, "probability": (-losses).exp()}

    def _most_probable(self, output: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        numbers = {character: number for number, character in enumerate(self.characters, 1)}
        longest = max(map(len, texts))
        ids = [[numbers[character] for character in text] + [-100] * (longest - len(text)) for text in texts]
        label = torch.tensor(ids, dtype=torch.int64, device=output.device)  # [K, U]
        lengths = torch.tensor([len(text) for text in texts], device=output.device)
        rows, count = len(output), len(texts)
        losses = ctc_losses(
            at_least_float32(output).repeat_interleave(count, 0),
            label.clamp(min=1).repeat(rows, 1),
            lengths.repeat(rows),
        ).view(rows, count)
        least, best = losses.min(1)
        return {"label": label[best], "probability": (-least).exp()}

    # -- metrics ----------------------------------------------------------------------------------------------
    def metrics(self) -> dict[str, Metric]:
        """Return `exact`, the share of texts that are found as they are, and the error rates `cer` and `wer`.

        An error rate is the number of insertions, deletions and substitutions of characters, or words, that turn the
        texts into those found, over the number of characters, or words, of all texts (Levenshtein, 1966). Characters
        that are white space part words.
        """
        from lepton.tasks._metrics import ErrorMean, LabelMean

        return {"exact": LabelMean(), "cer": ErrorMean(), "wer": ErrorMean()}

    @torch.no_grad()
    def update_metrics(self, metrics: Mapping[str, Metric], output: Tensor, target: Tensor) -> None:
        """Add a batch of logits and texts, found by `ctc_greedy`; missing texts do not count.

        That is so whatever `beam` and `texts` are. An unseen character counts as one that was not found.
        """
        from lepton.tasks._metrics import edit_distance

        target = self.check_target(output, target)
        lengths = super().mask(target).sum(1).tolist()
        rows = zip(ctc_greedy(output), target.tolist(), lengths, strict=True)
        pairs = [(found, text[:length]) for found, text, length in rows if length > 0]
        metrics["exact"].update(torch.tensor([found == said for found, said in pairs]))
        words = [(self._words(found), self._words(said)) for found, said in pairs]
        for name, parts in (("cer", pairs), ("wer", words)):
            edits = torch.tensor([edit_distance(found, said) for found, said in parts])
            metrics[name].update(edits, sum(len(said) for _, said in parts))

    def _words(self, ids: Sequence[int]) -> list[tuple[int, ...]]:
        words: list[list[int]] = [[]]
        for number in ids:
            if number != self.unseen and self.characters[number - 1].isspace():
                words.append([])
            else:
                words[-1].append(number)
        return [tuple(word) for word in words if word]


def is_padding(logits: Tensor) -> Tensor:
    """Return which frames [B, L] are padding as `FrameHead` writes it; the smaller dtypes round the logit a little."""
    return ((logits[..., 1:] - IMPOSSIBLE).abs() < 100).all(-1)
