"""The blocks of a Transformer: rotary positions, attention, feed-forward, and the residual paths around them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton.errors import is_whole, require
from lepton.nn._prunable import Width, one_or_all

__all__ = ["Block", "Rotation", "block_sizes", "block_widths", "check_blocks", "initialise", "make_blocks"]

Extend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

BASE = 10_000.0
"""The slowest pair of features turns by 1 / BASE per position, as in the paper."""


class Rotation:
    """Rotary positions: features (x_i, x_(i + d/2)) of a head turn by the angle p * BASE^(-2 i / d) at position p.

    The product of a query and a key then depends on the distance of their positions alone. Source: Su et al.,
    "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.

    The angles are computed anew for every batch: a stored table would be rounded by `.bfloat16()` and would bound the
    length, and for some dozens of positions its making costs nothing that can be measured.

    Args:
        positions: [L] for all rows alike, or [B, L].
        size: features d of one head, an even number.
    """

    def __init__(self, positions: Tensor, size: int) -> None:
        turns = torch.arange(size // 2, device=positions.device, dtype=torch.float32)
        angles = positions[..., None].float() * torch.exp(turns * (-2 * math.log(BASE) / size))
        angles = angles.unsqueeze(-3) if positions.ndim > 1 else angles  # the heads
        cos, sin = angles.cos(), angles.sin()
        self.cos, self.sin = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the turned features of x [B, H, L, d]."""
        turned = x.roll(x.shape[-1] // 2, -1)  # each feature's partner in its place
        return torch.addcmul(x * self.cos.to(x.dtype), turned, self.sin.to(x.dtype))


class Attention(nn.Module):
    """Attention of several heads of `size` features: a linear layer each for queries, keys, values and the output.

    The number of heads is read off the layers.
    """

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.q = nn.Linear(width, heads * size, bias=False)
        self.k = nn.Linear(width, heads * size, bias=False)
        self.v = nn.Linear(width, heads * size, bias=False)
        self.output = nn.Linear(heads * size, width, bias=False)

    def keys_and_values(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, H, L, d] of x [B, L, D]."""
        return rotation(self._split(self.k(x))), self._split(self.v(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, rotation: Rotation, visible: Tensor | None) -> Tensor:
        """Return [B, L, D]; `visible` says which keys are read, None lets every position read itself and the left."""
        q = rotation(self._split(self.q(x)))
        mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=visible, is_causal=visible is None)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], x.shape[-1] // self.size, self.size).transpose(1, 2)


class FeedForward(nn.Module):
    """W_2 gelu(W_1 x), at every position alike."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, hidden, bias=False)
        self.output = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(F.gelu(self.enter(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)): the identity path keeps its scale, whatever the depth.

    Dropout stands where a branch joins the identity path, as in Vaswani et al., 2017, and not inside the attention:
    there it would rule out torch's fused kernel on the CPU.
    """

    def __init__(self, width: int, heads: int, size: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, size)
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, hidden)
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        visible: Tensor | None,
        extend: Extend | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the states [B, L, D], and the keys and values [B, H, L, d] that they were computed from.

        Args:
            x: states [B, L, D].
            rotation: of the positions of x.
            visible: bool, broadcasts to [B, H, L, keys]; None for the causal pass.
            extend: puts the keys and values of the positions before x ahead of those of x.
        """
        normed = self.attention_norm(x)
        kept = self.attention.keys_and_values(normed, rotation)
        if extend is not None:
            kept = extend(*kept)
        x = x + self._drop(self.attention(normed, *kept, rotation, visible))
        return x + self._drop(self.feedforward(self.feedforward_norm(x))), kept

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def initialise(blocks: nn.ModuleList) -> None:
    """Draw the blocks' weights so that a branch keeps the scale, its output layer smaller by sqrt(2 blocks).

    With that the states' scale does not grow with the depth: Radford et al., "Language Models are Unsupervised
    Multitask Learners", 2019.
    """
    for block in blocks:
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                if name.endswith("output"):
                    module.weight.data /= math.sqrt(2 * len(blocks))


# -- sizes ------------------------------------------------------------------------------------------------------------
def check_blocks(
    owner: str, *, width: int, depth: int, heads: int, head_size: int | None, feedforward: int | Sequence[int] | None
) -> None:
    """Refuse sizes that no blocks can have."""
    for name, value in (("width", width), ("depth", depth), ("heads", heads)):
        require(is_whole(value), owner, name, value, "an integer >= 1")
    if feedforward is None or not isinstance(feedforward, Sequence):
        require(feedforward is None or is_whole(feedforward), owner, "feedforward", feedforward, "an integer >= 1")
    else:
        fits = len(feedforward) == depth and all(is_whole(hidden) for hidden in feedforward)
        require(fits, owner, "feedforward", feedforward, f"an integer >= 1, or {depth} of them, one for each block")
    if head_size is None:
        even = f"a number that divides width = {width} into heads of even size, which rotary positions need"
        require(width % heads == 0 and width // heads % 2 == 0, owner, "heads", heads, even)
    else:
        require(
            is_whole(head_size) and head_size % 2 == 0,
            owner,
            "head_size",
            head_size,
            "an even number >= 2, which rotary positions need",
        )


def make_blocks(
    width: int, depth: int, heads: int, head_size: int, feedforward: int | Sequence[int], dropout: float
) -> nn.ModuleList:
    """Return the blocks; `feedforward` is one number, or one for each of them."""
    hidden = feedforward if isinstance(feedforward, Sequence) else [feedforward] * depth
    return nn.ModuleList(Block(width, heads, head_size, size, dropout) for size in hidden)


def block_widths(blocks: nn.ModuleList) -> list[Width]:
    """Return the inner widths that may shrink: as many heads in every block, since a `Cache` holds all of them."""
    found = _typed(blocks)
    return [
        Width("heads", tuple(block.attention.q for block in found), found[0].attention.size),
        *(Width(f"feedforward[{n}]", (block.feedforward.enter,)) for n, block in enumerate(found)),
    ]


def block_sizes(blocks: nn.ModuleList) -> dict[str, int | list[int]]:
    """Return the options that say the present inner widths of blocks."""
    found = _typed(blocks)
    attention = found[0].attention
    return {
        "heads": attention.q.out_features // attention.size,
        "head_size": attention.size,
        "feedforward": one_or_all([block.feedforward.enter.out_features for block in found]),
    }


def _typed(blocks: nn.ModuleList) -> list[Block]:
    return [block for block in blocks if isinstance(block, Block)]
