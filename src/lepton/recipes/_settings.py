"""What a recipe on a public data set may be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lepton.errors import require

__all__ = ["RecipeConfig"]


@dataclass(frozen=True)
class RecipeConfig:
    """Settings of a recipe.

    Attributes:
        data: the folder of the data set.
        folder: where the runs are written; a number is added if it is taken.
        epochs: passes over the training rows; None for the recipe's own number.
        limit: rows that are read of each source, to try the recipe out; None for all.
        alone: whether each task is trained alone as well: in the language recipes for as long as all together, in the
            speech recipes for as many epochs.
        seeds: trainings of everything, from the seed of the configuration on.
        overrides: values of the configuration to change, as `trunk.width=64`.
    """

    data: Path
    folder: Path
    epochs: int | None = None
    limit: int | None = None
    alone: bool = True
    seeds: int = 1
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.seeds >= 1, "recipe", "seeds", self.seeds, "at least 1")
        require(self.epochs is None or self.epochs >= 1, "recipe", "epochs", self.epochs, "at least 1")
        require(self.limit is None or self.limit >= 20, "recipe", "limit", self.limit, "at least 20 rows")
