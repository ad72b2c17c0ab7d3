"""What a decoder remembers of the tokens that it has read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Cache"]


@dataclass
class Cache:
    """Keys and values of every layer, so that one more token costs one position.

    Attributes:
        layers: for each block the keys and the values, [B, H, L, d] each.
        filled: [B, L] bool, which places hold a token: prefixes of unlike length leave places empty.
        lengths: [B] tokens read so far, which is the position of the next one.
    """

    layers: list[tuple[Tensor, Tensor]]
    filled: Tensor
    lengths: Tensor

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in their order; a row may be given several times, or not at all."""
        self.layers = [(keys.index_select(0, rows), values.index_select(0, rows)) for keys, values in self.layers]
        self.filled, self.lengths = self.filled[rows], self.lengths[rows]

    def add(self) -> None:
        """Make room for one more token in every row."""
        self.filled = torch.cat([self.filled, torch.ones_like(self.filled[:, :1])], 1)
        self.lengths = self.lengths + 1
