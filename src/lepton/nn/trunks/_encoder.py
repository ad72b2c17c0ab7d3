"""`Encoder`: blocks over rows of unlike length, in which every place sees the whole row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lepton.nn.trunks._attention import Rotation, initialise, make_blocks

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """Transformer blocks with rotary positions and a normalisation at the end, [B, L, D] to [B, L, D].

    What stands beyond a row's end is read by no place of it, and its states are zero.

    Args:
        width: features D.
        depth: number of blocks.
        heads: number of attention heads H; D / H is even.
        feedforward: hidden size of the feed-forward branches, one number or one for each block.
        dropout: share of each branch's output that training sets to zero.
        head_size: features of one head; D / H by default.

    Example:
        >>> import torch
        >>> encoder = Encoder(8, depth=1, heads=2, feedforward=16, dropout=0.0)
        >>> states = encoder(torch.ones(2, 3, 8), torch.tensor([[True, True, True], [True, False, False]]))
        >>> states.shape, bool(states[1, 1:].any())
        (torch.Size([2, 3, 8]), False)
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        feedforward: int | Sequence[int],
        dropout: float,
        *,
        head_size: int | None = None,
    ) -> None:
        super().__init__()
        self.head_size = width // heads if head_size is None else head_size
        self.blocks = make_blocks(width, depth, heads, self.head_size, feedforward, dropout)
        self.norm = nn.LayerNorm(width)
        initialise(self.blocks)

    def forward(self, x: Tensor, filled: Tensor) -> Tensor:
        """Return the states [B, L, D].

        Args:
            x: [B, L, D].
            filled: bool [B, L], False beyond a row's end.
        """
        place = torch.arange(x.shape[1], device=x.device)
        rotation = Rotation(place, self.head_size)
        # The first place is always visible: in a row without any, the softmax would be over nothing.
        visible = (filled | (place == 0))[:, None, None]
        for block in self.blocks:
            x, _ = block(x, rotation, visible)
        return self.norm(x).masked_fill(~filled[..., None], 0)  # type: ignore[no-any-return]
