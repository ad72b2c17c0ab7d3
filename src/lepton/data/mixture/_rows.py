"""`StreamSets`: rows of several streams in the place of rows in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lepton.data.mixture._mixture import Mixture
from lepton.data.stream import StreamRows

__all__ = ["StreamSets"]


@dataclass(frozen=True)
class StreamSets:
    """Rows of several sources that are read when they are needed, and some of them in memory.

    Attributes:
        sets: name of the source -> its rows.
        tasks: name of the source -> tasks that it has labels of.
        sample: rows of all sources in memory, such as a `TensorData`.
        missing: task -> value of a label that is not there, where it is not the usual one.
        pads: input -> what fills the places beyond its end; by default 0.
    """

    sets: Mapping[str, StreamRows]
    tasks: Mapping[str, list[str]]
    sample: Any
    missing: Mapping[str, float] = field(default_factory=dict)
    pads: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.sets.values()))

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The labels of the sample."""
        found: Mapping[str, Tensor] = self.sample.targets
        return found

    def loader(self, batch_size: int, *, drop_last: bool = False, **options: Any) -> Mixture:
        """Return a loader of the rows of one source after the other.

        Args:
            batch_size: rows per batch.
            drop_last: leave out a last batch that is not full.
            options: of `StreamLoader`: `shuffle`, `seed`, `workers`, `rank`, `world_size`.
        """
        loaders = {name: rows.loader(batch_size, **options) for name, rows in self.sets.items()}
        told: dict[str, Any] = {"drop_last": drop_last, "tasks": self.tasks, "missing": self.missing, "pads": self.pads}
        return Mixture(loaders, batch_size, strategy="sequential", **told)
