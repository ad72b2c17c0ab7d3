"""What the trunks of tables end in: a residual network on vectors."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lepton.errors import is_whole, require
from lepton.nn._prunable import Width

__all__ = ["ResidualMLP", "check_mlp"]


def check_mlp(owner: str, width: int, depth: int, dropout: float) -> None:
    """Refuse a size or a dropout that no network can have."""
    require(is_whole(width), owner, "width", width, "an integer >= 1")
    require(is_whole(depth, 0), owner, "depth", depth, "an integer >= 0")
    require(0 <= dropout < 1, owner, "dropout", dropout, "in [0, 1)")


class ResidualBlock(nn.Module):
    """x + dropout(relu(W norm(x))): the identity path keeps its scale, whatever the depth.

    A second matrix after the ReLU found nothing more on tables, for twice the work.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return x + F.dropout(F.relu(self.linear(self.norm(x))), self.dropout, self.training)


class ResidualMLP(nn.Module):
    """Vectors [B, inputs] to normalised features [B, width].

    Args:
        inputs: size of the vectors.
        width: number of features.
        depth: number of residual blocks.
        dropout: share of a block's hidden features that training sets to zero.
    """

    def __init__(self, inputs: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    @property
    def width(self) -> int:
        """Number of features."""
        return self.norm.normalized_shape[0]

    def prunable(self) -> list[Width]:
        """Return the width that may shrink: the identity path is one width from the first layer to the last."""
        return [Width("width", (self.enter,))]

    def forward(self, x: Tensor) -> Tensor:
        """Return the features [B, width]."""
        return self.norm(self.blocks(self.enter(x)))  # type: ignore[no-any-return]
