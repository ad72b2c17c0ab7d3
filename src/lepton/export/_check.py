"""How far two ways to compute the same outputs are apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from lepton.errors import ExportError

__all__ = ["LABELS", "TOLERANCE", "Differences"]

TOLERANCE = 1e-4
"""Of numbers: probabilities as they are, values in standard deviations of their target, perplexities relative."""

ROUNDING = 0.01
"""Share of a number that is its unit where that is more: float32 has seven digits, however small the deviation is."""

LABELS = 1e-3
"""Of class numbers: the share that may differ, since two classes can be equally probable."""


class Differences:
    """The largest difference of each output over batches.

    Of floating-point outputs |a - b| / max(u, r |a|) with the unit u and r = 0.01, or 1 where differences are relative,
    infinite where one of them is NaN and the other is not; of whole numbers the share of the entries that differ.

    Args:
        scales: output -> its unit u, a number or one for each column; 1 where none is told.
        relative: outputs whose differences are relative.

    Example:
        >>> import torch
        >>> found = Differences({"price.value": 100.0})
        >>> found.add({"price.value": torch.tensor([3.0, 5.0])}, {"price.value": torch.tensor([3.0, 6.0])})
        >>> found.largest
        {'price.value': 0.01}
    """

    def __init__(self, scales: Mapping[str, float | Tensor] | None = None, relative: Collection[str] = ()) -> None:
        self.scales = dict(scales or {})
        self.relative = frozenset(relative)
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
                share = 1.0 if name in self.relative else ROUNDING
                apart = _distance(expected, got, self.scales.get(name, 1.0), share)
                self._numbers[name] = max(self._numbers.get(name, 0.0), apart)
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


def _distance(expected: Tensor, got: Tensor, unit: float | Tensor, share: float) -> float:
    if not expected.numel():
        return 0.0
    one_is_nan = expected.isnan() != got.isnan()
    units = torch.maximum(share * expected.double().abs(), torch.as_tensor(unit, dtype=torch.float64))
    apart = (expected.double() - got.double()).abs() / units
    return float(apart.nan_to_num(nan=0.0).masked_fill(one_is_nan, torch.inf).max())  # equal infinities are not apart
