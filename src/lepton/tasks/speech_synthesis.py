"""How a text sounds, frame by frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton.errors import ConfigurationError, TargetError, is_number, is_whole, require
from lepton.tasks._categorical import label_shape
from lepton.tasks._standardised import Standardised
from lepton.tasks.base import at_least_float32

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["SpeechSynthesis", "mel_distortion"]

CEPSTRUM = 13
"""Coefficients that a distortion compares, after the level."""


class SpeechSynthesis(Standardised):
    """The sound of a text: log-mel frames [B, M, mels], and how long each character lasts.

    The head returns [B, M, mels + 2]: of each frame the standardised log-mel, the predicted ln d and the aligned ln d'
    of the duration of the character that the frame belongs to, in frames. The alignment is no prediction: it carries
    no gradient. `finish` maps the log-mel to original units, value * std + mean band by band, and leaves the durations
    as they are. With output x, target y [B, M, mels] and mels = K the loss of a frame is

        1/K sum_k |x_k - y_k| / std_k + duration_weight (ln d - ln d')^2 .

    A frame of the target is missing if one of its bands is not finite. A target may have one frame more than the
    output, or any number less: both are cut to the shorter one. One more is what rounding to whole frames can make.
    Source: absolute differences of mel frames and squared ones of log durations as in Ren et al., "FastSpeech 2: Fast
    and High-Quality End-to-End Text to Speech", 2021.

    Args:
        name: name of the task, without `.`.
        mels: number of bands K.
        duration_weight: factor of the durations' part of the loss; >= 0.
        head: what turns texts into frames, features to [B, M, mels + 2]. There is no linear one.
        loss_weight: factor of the loss before balancing; > 0.
        priority: factor of the task's weight after balancing; > 0.
        auxiliary: trained, but left out of model selection, comparison and export.

    Raises:
        ConfigurationError: for a hyperparameter that is not allowed.

    Example:
        >>> import torch
        >>> task = SpeechSynthesis("voice", mels=2).fit_statistics(torch.tensor([[1.0, -3.0], [3.0, -7.0]]))
        >>> output = task.finish(torch.tensor([[[0.0, 0.0, 1.0, 3.0]]]))
        >>> output.tolist()
        [[[2.0, -5.0, 1.0, 3.0]]]
        >>> losses, counts = task.label_losses(output, torch.tensor([[[3.0, -5.0]]]))
        >>> round(losses.item(), 4), counts.item()  # (1 / 1 + 0 / 2) / 2 + 0.1 * 4
        (0.9, 1.0)
    """

    column = "band"

    def __init__(
        self,
        name: str,
        mels: int,
        *,
        duration_weight: float = 0.1,
        head: nn.Module | None = None,
        loss_weight: float = 1.0,
        priority: float = 1.0,
        auxiliary: bool = False,
    ) -> None:
        super().__init__(name, head=head, loss_weight=loss_weight, priority=priority, auxiliary=auxiliary)
        require(is_whole(mels, 2), self.owner, "mels", mels, "the number of bands, an integer >= 2")
        weighed = is_number(duration_weight) and 0 <= duration_weight < math.inf
        require(weighed, self.owner, "duration_weight", duration_weight, "a finite number >= 0")
        self.mels = mels
        self.duration_weight = float(duration_weight)
        self._set_statistics(mels, None, None)
        self._label_dims = 2  # a frame is one label, whatever its bands
        self.primary_metric = "distortion"
        self.higher_is_better = {"distortion": False, "duration_error": False}

    # -- head -------------------------------------------------------------------------------------------------
    @property
    def out_features(self) -> int:
        """The bands and the two durations."""
        return self.mels + 2

    def _new_head(self, features: int) -> nn.Module:
        raise ConfigurationError(
            f"{self.owner}: a linear layer cannot turn a text into frames: pass head=, such as a SpeechHead of "
            "lepton.nn."
        )

    def finish(self, raw: Tensor) -> Tensor:
        """Return the log-mel in original units, and the two durations, [B, M, mels + 2]."""
        label_shape(self.owner, raw, -1, self.out_features)
        raw = at_least_float32(raw)
        return torch.cat([raw[..., : self.mels] * self.std + self.mean, raw[..., self.mels :]], -1)

    # -- labels -----------------------------------------------------------------------------------------------
    def mask(self, target: Tensor) -> Tensor:
        """Return a bool tensor of the target's shape: True in the frames whose bands are all finite."""
        return super().mask(target).all(-1, keepdim=True).expand(target.shape)

    def check_target(self, output: Tensor, target: Tensor) -> Tensor:
        """Return `target` as floats with as many frames as `output`, after checking its shape and dtype.

        Frames that it has less are missing; one more is cut off.
        """
        label_shape(self.owner, output, -1, self.out_features)
        if output.ndim != 3:
            expected = f"[B, M, {self.out_features}]"
            raise ConfigurationError(
                f"{self.owner}: its head returned {list(output.shape)} where {expected} is expected."
            )
        rows, frames = output.shape[:2]
        if target.ndim != 3 or (target.shape[0], target.shape[2]) != (rows, self.mels) or target.shape[1] > frames + 1:
            raise TargetError(
                f"{self.owner}: target {list(target.shape)}: [{rows}, {frames}, {self.mels}] is expected, log-mel "
                "frames with NaN where a recording has ended; one frame more is cut off."
            )
        if target.is_complex() or target.dtype == torch.bool:
            raise TargetError(f"{self.owner}: target is {target.dtype} where float32 is expected: cast with .float().")
        target = target.to(at_least_float32(output).dtype)[:, :frames]
        return F.pad(target, (0, 0, 0, frames - target.shape[1]), value=math.nan)

    # -- loss -------------------------------------------------------------------------------------------------
    def unmasked_losses(self, output: Tensor, target: Tensor, parameter: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of each frame [B, M], and ones."""
        assert parameter is not None
        sound = ((output[..., : self.mels] - target).abs() / parameter).mean(-1)
        duration, aligned = output[..., self.mels], output[..., self.mels + 1].detach()
        losses = sound + self.duration_weight * (duration - aligned).square()
        return losses, torch.ones_like(losses)

    def _outputs_of(self, present: Tensor, output: Tensor) -> Tensor:
        return present[..., :1]

    # -- outputs ----------------------------------------------------------------------------------------------
    def predict(self, output: Tensor) -> dict[str, Tensor]:
        """Return `value`, the log-mel [B, M, mels]."""
        return {"value": output[..., : self.mels]}

    def metrics(self) -> dict[str, Metric]:
        """Return `distortion` in dB and `duration_error`, the mean |ln d - ln d'|, both over all frames.

        The mel-cepstral distortion of a frame is

            10 / ln 10 sqrt(2 sum_{i=1}^{13} (c_i - c'_i)^2),   c_i = 2/K sum_{k=0}^{K-1} x_k cos(pi i (k + 1/2) / K)

        with the natural logarithms x of the magnitudes in K bands. With all coefficients it would be the root mean
        square over the bands of the difference in dB, the level taken out; 13 leave fine detail out, too. Frames are
        compared as they stand, without warping: the durations were aligned with the target.
        Source: Kubichek, "Mel-Cepstral Distance Measure for Objective Speech Quality Assessment", 1993.
        """
        from lepton.tasks._metrics import ErrorMean

        return {"distortion": ErrorMean(), "duration_error": ErrorMean()}

    @torch.no_grad()
    def update_metrics(self, metrics: Mapping[str, Metric], output: Tensor, target: Tensor) -> None:
        """Add a batch in original units; missing frames do not count."""
        target = self.check_target(output, target)
        present = self.mask(target)[..., 0]
        output, target = at_least_float32(output)[present], target[present]
        metrics["distortion"].update(mel_distortion(output[..., : self.mels], target))
        metrics["duration_error"].update((output[..., self.mels] - output[..., self.mels + 1]).abs())


def mel_distortion(log_mel: Tensor, reference: Tensor) -> Tensor:
    """Return how far frames are from others, in dB: their mel-cepstral distortion.

        10 / ln 10 sqrt(2 sum_i (c_i - c'_i)^2),   i = 1 to 13

    with c the cosine transform of ln mel magnitudes, 2 / K sum_k x_k cos(pi i (k + 1/2) / K): a root mean square
    over the bands of what is left of the difference without its mean and its finest detail. Source: Kubichek,
    "Mel-Cepstral Distance Measure for Objective Speech Quality Assessment", 1993.

    Args:
        log_mel: natural logarithms of mel magnitudes [..., K].
        reference: the same of what it is compared with, [..., K].

    Returns:
        The distortion of each frame [...].

    Example:
        >>> import torch
        >>> frame = torch.zeros(64)
        >>> mel_distortion(frame + 1, frame).item() < 1e-3  # loudness alone is no distortion
        True
    """
    cepstrum = (log_mel - reference) @ _cosines(log_mel.shape[-1]).to(log_mel)
    return 10 / math.log(10) * (2 * cepstrum.square().sum(-1)).sqrt()


def _cosines(bands: int) -> Tensor:
    """Return the matrix [K, 13] from K bands to cepstral coefficients 1 to 13."""
    order = torch.arange(1, min(CEPSTRUM, bands - 1) + 1, dtype=torch.float64)
    place = torch.arange(bands, dtype=torch.float64) + 0.5
    return 2 / bands * (math.pi / bands * place[:, None] * order).cos()
