"""The next token of a text, and of its translation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from lepton.errors import is_whole, require
from lepton.tasks._positions import PositionLabels
from lepton.tasks.base import at_least_float32

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["LanguageModeling", "Translation"]


class NextToken(PositionLabels):
    """One of V tokens per position: logits [B, L, V], labels [B, L], many of them missing.

    Tasks of this kind have no `group_key`: to stack two outputs of a whole vocabulary takes longer than the one call
    that it saves.
    """

    def __init__(
        self,
        name: str,
        vocabulary: int,
        *,
        label_smoothing: float = 0.0,
        missing: int = -100,
        head: nn.Module | None = None,
        loss_weight: float = 1.0,
        priority: float = 1.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(
            name,
            vocabulary,
            label_smoothing=label_smoothing,
            class_weights=None,
            missing=missing,
            head=head,
            loss_weight=loss_weight,
            priority=priority,
            auxiliary=auxiliary,
        )
        self.primary_metric = "perplexity"
        self.higher_is_better = {"perplexity": False, "token_accuracy": True}

    def _names_of(self, classes: int | Sequence[str]) -> tuple[str, ...]:
        require(is_whole(classes, 2), self.owner, "vocabulary", classes, "the number of tokens, an integer >= 2")
        return super()._names_of(classes)

    # -- labels -----------------------------------------------------------------------------------------------
    def _places(self, target: Tensor) -> Tensor:
        """Return where `target`, flattened, has labels."""
        return self.mask(target).flatten().nonzero().squeeze(1)

    def _labelled(self, output: Tensor, target: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits [N, V] and labels [N] of those places.

        What a vocabulary costs is to read and write its logits, and most positions of padded texts have no label. By
        `index_select`, because the derivative of an index takes twice as long.
        """
        logits = output.reshape(-1, self.classes).index_select(0, places)
        return at_least_float32(logits), target.flatten()[places]

    # -- outputs ----------------------------------------------------------------------------------------------
    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Return `label` [B, L], the most probable token after each position."""
        return {"label": output.argmax(-1)}

    def metrics(self) -> dict[str, Metric]:
        """Return `perplexity` and `token_accuracy`, both over all labels.

        The perplexity is exp of the mean cross-entropy, without label smoothing.
        """
        from lepton.tasks._metrics import LabelMean, Perplexity

        return {"perplexity": Perplexity(), "token_accuracy": LabelMean()}

    @torch.no_grad()
    def update_metrics(self, metrics: Mapping[str, Metric], output: Tensor, target: Tensor) -> None:
        """Add a batch of logits and tokens to `metrics`; missing labels do not count."""
        target = self.check_target(output, target)
        logits, target = self._labelled(output, target, self._places(target))
        metrics["perplexity"].update(nn.functional.cross_entropy(logits, target, reduction="none"))
        metrics["token_accuracy"].update(is_first_choice(logits, target))


def is_first_choice(logits: Tensor, label: Tensor) -> Tensor:
    """Return `logits.argmax(-1) == label` for logits [N, V] and labels [N].

    The highest value is found several times faster than its place, which matters only where the label has that value.
    """
    right = logits.gather(1, label[:, None]).squeeze(1) == logits.amax(1)
    places = right.nonzero().squeeze(1)
    return right.index_copy(0, places, logits[places].argmax(1) == label[places])


class LanguageModeling(NextToken):
    """The next token of a text, by cross-entropy: logits [B, L, V], labels [B, L].

    The label of a position is the token after it. With logits x, token y and smoothing e, its loss is

        (1 - e) (-log p_y) + e / V sum_v (-log p_v),   p = softmax(x).

    Perplexity is exp(sum_i -log p_i / n) over the n labels i of the whole data set, whatever the smoothing.
    Source: Shannon, "Prediction and Entropy of Printed English", 1951, for the entropy per token; Jelinek et al.,
    "Perplexity: a Measure of the Difficulty of Speech Recognition Tasks", 1977; label smoothing from Szegedy et al.,
    "Rethinking the Inception Architecture", 2016.

    Args:
        name: name of the task, without `.`.
        vocabulary: number of tokens V >= 2.
        label_smoothing: e, the share of every label that is spread over all tokens, in [0, 1).
        missing: the label of a position without one.
        head: your own head, features to logits; None makes a linear layer.
        loss_weight: factor of the loss before balancing; > 0.
        priority: factor of the task's weight after balancing; > 0.
        auxiliary: trained, but left out of model selection, comparison and export.

    Raises:
        ConfigurationError: for a hyperparameter that is not allowed.

    Example:
        >>> import torch
        >>> task = LanguageModeling("text", vocabulary=8)
        >>> loss, count = task.total_loss(torch.zeros(1, 3, 8), torch.tensor([[5, 3, -100]]))
        >>> round((loss / count).exp().item(), 4), count.item()
        (8.0, 2.0)
    """

    def perplexities(self, output: Tensor, target: Tensor) -> Tensor:
        """Return for each row exp of the mean negative log-probability of its tokens, [B]; NaN without any.

        Args:
            output: logits [B, L, V].
            target: labels [B, L].
        """
        present = self.mask(target)
        log_p = at_least_float32(output).log_softmax(-1)
        chosen = log_p.gather(-1, target.where(present, 0).unsqueeze(-1)).squeeze(-1).where(present, 0.0)
        return (-chosen.sum(1) / present.sum(1)).exp()


class Translation(NextToken):
    """The next token of a text's translation, by cross-entropy: logits [B, L, V], labels [B, L].

    Loss and metrics are those of `LanguageModeling`; what differs is what the trunk lets each position see: the whole
    text and the translation up to there.
    Source: label smoothing in translation from Vaswani et al., "Attention Is All You Need", 2017 (there e = 0.1).

    Args:
        name: name of the task, without `.`.
        vocabulary: number of tokens V >= 2.
        label_smoothing: e, the share of every label that is spread over all tokens, in [0, 1).
        beam: texts that the search for a translation keeps at a time; 1 takes the most probable token each time.
        missing: the label of a position without one.
        head: your own head, features to logits; None makes a linear layer.
        loss_weight: factor of the loss before balancing; > 0.
        priority: factor of the task's weight after balancing; > 0.
        auxiliary: trained, but left out of model selection, comparison and export.

    Raises:
        ConfigurationError: for a hyperparameter that is not allowed.

    Example:
        >>> import torch
        >>> task = Translation("german", vocabulary=8, label_smoothing=0.1)
        >>> task.make_head(16)(torch.zeros(2, 5, 16)).shape
        torch.Size([2, 5, 8])
    """

    search_metrics: ClassVar[Mapping[str, bool]] = {"bleu": True, "chrf": True}

    def __init__(
        self,
        name: str,
        vocabulary: int,
        *,
        label_smoothing: float = 0.0,
        beam: int = 5,
        missing: int = -100,
        head: nn.Module | None = None,
        loss_weight: float = 1.0,
        priority: float = 1.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(
            name,
            vocabulary,
            label_smoothing=label_smoothing,
            missing=missing,
            head=head,
            loss_weight=loss_weight,
            priority=priority,
            auxiliary=auxiliary,
        )
        require(is_whole(beam), self.owner, "beam", beam, "a whole number of at least 1")
        self.beam = beam
