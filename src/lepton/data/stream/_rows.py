"""`StreamRows`: rows of shards in the place of rows in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from lepton.data.stream._loader import StreamLoader
from lepton.data.stream._quarantine import Quarantine
from lepton.data.stream._reading import Choice, Encode
from lepton.data.stream._shards import Shards

__all__ = ["StreamRows"]


@dataclass(frozen=True)
class StreamRows:
    """Rows that are read when they are needed, and some of them in memory, for what only looks at rows.

    Attributes:
        shards: the source.
        encode: rows to inputs and targets.
        sample: rows of the same part in memory, such as a `TensorData`.
        choice: which rows are wanted; None for all.
        window: rows that are shuffled together.
        quarantine: where rows that cannot be used are kept.
    """

    shards: Shards
    encode: Encode
    sample: Any
    choice: Choice | None = None
    window: int = 1 << 16
    quarantine: Quarantine = field(default_factory=Quarantine)

    @cached_property
    def _size(self) -> int:
        return self.loader(1).n_rows

    def __len__(self) -> int:
        return self._size

    @property
    def targets(self) -> Mapping[str, Tensor]:
        """The labels of the sample."""
        found: Mapping[str, Tensor] = self.sample.targets
        return found

    def loader(self, batch_size: int, **options: Any) -> StreamLoader:
        """Return a loader of the rows.

        Args:
            batch_size: rows per batch.
            options: of `StreamLoader`: `shuffle`, `seed`, `drop_last`, `workers`, `rank`, `world_size`.
        """
        told: dict[str, Any] = {"window": self.window, "choice": self.choice, "quarantine": self.quarantine}
        return StreamLoader(self.shards, self.encode, batch_size, **told, **options)
