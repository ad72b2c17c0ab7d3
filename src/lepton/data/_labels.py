"""Labels that go missing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lepton.errors import is_number, require
from lepton.tasks import Task

__all__ = ["hide_labels"]


def hide_labels(
    targets: Mapping[str, Tensor], tasks: Mapping[str, Task], fraction: float, *, seed: int
) -> dict[str, Tensor]:
    """Return the targets with a fraction of each task's rows replaced by the task's missing value, at random.

    Args:
        targets: name -> tensor [N, ...].
        tasks: name -> task, whose `missing` value is written.
        fraction: share of the rows that lose their label, drawn for each task on its own.
        seed: fixes the draw.

    Example:
        >>> import torch
        >>> from lepton.tasks import Regression
        >>> hidden = hide_labels({"a": torch.zeros(100)}, {"a": Regression("a")}, 0.3, seed=0)
        >>> int(hidden["a"].isnan().sum())
        30
    """
    shares = is_number(fraction) and 0 <= fraction < 1
    require(shares, "hide_labels", "fraction", fraction, "a number in [0, 1)")
    found = {}
    for place, (name, target) in enumerate(targets.items()):
        generator = torch.Generator().manual_seed(seed * 1009 + place)
        rows = torch.randperm(len(target), generator=generator)[: round(fraction * len(target))]
        found[name] = target.clone()
        found[name][rows] = tasks[name].missing
    return found
