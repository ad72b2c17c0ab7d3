"""How far two ways to compute the same outputs are apart."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lepton.errors import ExportError

__all__ = ["LABELS", "TOLERANCE", "Differences", "compared"]

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


def compared(batches: Sequence[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]) -> dict[str, Any]:
    """Return what `Manifest.checked` holds of two graphs that need not say the same.

    Args:
        batches: for each batch what the one gives, and what the other.

    Raises:
        ExportError: an output has another shape, or is not a number where the first one's is.
    """
    values = [name for name in batches[0][0] if name.endswith(".value")]
    differences = Differences({name: _deviations([wanted[name] for wanted, _ in batches]) for name in values})
    for wanted, found in batches:
        differences.add(wanted, found)
    for name, apart in differences.largest.items():
        if not math.isfinite(apart):
            raise ExportError(f"the new graph gives numbers for {name!r} that are not finite. Nothing was written.")
    labels = [name for name, tensor in batches[0][0].items() if not tensor.is_floating_point()]
    agreement = {name: 1 - differences.largest[name] for name in labels}
    return {"largest_difference": differences.largest, "agreement": agreement}


def _deviations(values: Sequence[Tensor]) -> Tensor:
    """Return the standard deviation of each column of values [N] or [N, C]; 1 where they are all alike."""
    found = torch.cat(list(values)).double().std(0, correction=0)
    return torch.where(found > 0, found, 1.0)


def _distance(expected: Tensor, got: Tensor, unit: float | Tensor, share: float) -> float:
    if not expected.numel():
        return 0.0
    one_is_nan = expected.isnan() != got.isnan()
    units = torch.maximum(share * expected.double().abs(), torch.as_tensor(unit, dtype=torch.float64))
    apart = (expected.double() - got.double()).abs() / units
    return float(apart.nan_to_num(nan=0.0).masked_fill(one_is_nan, torch.inf).max())  # equal infinities are not apart
