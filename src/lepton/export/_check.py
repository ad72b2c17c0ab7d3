"""How far two ways to compute the same outputs are apart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lepton.errors import ExportError

__all__ = ["LABELS", "TOLERANCE", "Differences"]

TOLERANCE = 1e-4
"""Of numbers: probabilities as they are, values in standard deviations of their target, perplexities relative."""

LABELS = 1e-3
"""Of class numbers: the share that may differ, since two classes can be equally probable."""


class Differences:
    """The largest difference of each output over batches.

    Of floating-point outputs |a - b| / scale, infinite where one is NaN and the other is not; of whole numbers the
    share of the entries that differ.

    Args:
        scales: output -> its unit; 1 where none is told.

    Example:
        >>> import torch
        >>> found = Differences({"price.value": 100.0})
        >>> found.add({"price.value": torch.tensor([3.0, 5.0])}, {"price.value": torch.tensor([3.0, 6.0])})
        >>> found.largest
        {'price.value': 0.01}
    """

    def __init__(self, scales: Mapping[str, float] | None = None) -> None:
        self.scales = dict(scales or {})
        self._numbers: dict[str, float] = {}
        self._labels: dict[str, tuple[int, int]] = {}

    def add(self, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
        """Compare the outputs of one batch.

        Raises:
            ExportError: an output has another shape.
        """
        for name, expected in wanted.items():
            got = found[name]
            if got.shape != expected.shape:
                raise ExportError(
                    f"the exported model gives {list(got.shape)} for {name!r}, the run {list(expected.shape)}."
                )
            if expected.is_floating_point():
                unit = self.scales.get(name, 1.0)
                self._numbers[name] = max(self._numbers.get(name, 0.0), _distance(expected, got) / unit)
            else:
                wrong, all_ = self._labels.get(name, (0, 0))
                self._labels[name] = wrong + int((got != expected).sum()), all_ + expected.numel()

    @property
    def largest(self) -> dict[str, float]:
        """Output -> its largest difference."""
        return self._numbers | {name: wrong / max(1, all_) for name, (wrong, all_) in self._labels.items()}

    def refuse_large(self) -> None:
        """Refuse outputs that are further apart than `TOLERANCE`, or than `LABELS`.

        Raises:
            ExportError: naming the output that is furthest away.
        """
        allowed = dict.fromkeys(self._numbers, TOLERANCE) | dict.fromkeys(self._labels, LABELS)
        far = {name: value for name, value in self.largest.items() if not value <= allowed[name]}
        if far:
            worst = max(far, key=lambda name: far[name])
            what = "of its labels differ" if worst in self._labels else "is the largest difference"
            raise ExportError(
                f"the exported model does not say what the run says: for {worst!r} {far[worst]:.3g} {what}, but at "
                f"most {allowed[worst]:g} is allowed. Nothing was written."
            )


def _distance(expected: Tensor, got: Tensor) -> float:
    if not expected.numel():
        return 0.0
    one_is_nan = expected.isnan() != got.isnan()
    apart = (expected.double() - got.double()).abs().nan_to_num(nan=0.0)  # equal infinities too
    return float(apart.masked_fill(one_is_nan, torch.inf).max())
