"""Token ids to vectors: words, their characters, and two texts in one row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton.nn._ids import PAD, TARGET, UNKNOWN

__all__ = ["CharacterConvolution", "TokenEmbedding", "join", "part_of"]


class CharacterConvolution(nn.Module):
    """The characters of each word to a vector: a convolution over them, and its maximum over the word.

    Source: dos Santos and Zadrozny, "Learning Character-level Representations for Part-of-Speech Tagging", 2014.

    Args:
        characters: number of character ids, the padding 0 included.
        width: size of the vectors.
        size: size of a character's embedding.
        reach: characters that the convolution sees at once, an odd number.
    """

    def __init__(self, characters: int, width: int, size: int = 32, reach: int = 3) -> None:
        super().__init__()
        self.reach = reach
        self.table = nn.Embedding(characters, size, padding_idx=0)
        self.filters = nn.Linear(reach * size, width)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, characters: Tensor) -> Tensor:
        """Return the vectors [B, S, width] of ids [B, S, C]; zero where there is no character at all."""
        around = self.reach // 2
        # Beyond a word's last character there are zeros in any case: how far the batch is padded makes no difference.
        found = F.pad(self.table(characters), (0, 0, around, around))
        windows = found.unfold(2, self.reach, 1).transpose(-1, -2).flatten(-2)
        inside = (characters > 0)[..., None]
        # A position without a character counts as 0, which the relu makes the least that there can be. To take it after
        # the maximum is the same, and with `max`, whose derivative goes to one place, half the work of `amax`.
        highest = torch.where(inside, self.filters(windows), 0).max(2).values
        return self.output(F.relu(highest))  # type: ignore[no-any-return]


class TokenEmbedding(nn.Module):
    """Ids to vectors, with the word's characters added where there are any.

    Args:
        vocabulary: number of ids.
        characters: number of character ids; 0 without.
        width: size of the vectors.
        word_dropout: share of the ids that training replaces by UNKNOWN.
    """

    def __init__(self, vocabulary: int, characters: int, width: int, word_dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.characters = CharacterConvolution(characters, width) if characters else None
        self.word_dropout = word_dropout

    def forward(self, ids: Tensor, characters: Tensor | None = None) -> Tensor:
        """Return the vectors [B, L, width] of ids [B, L]; `characters` [B, S, C] are those of the first S ids."""
        found: Tensor = self.table(self._drop(ids))
        if self.characters is None or characters is None:
            return found
        spelled = self.characters(characters)
        return found + F.pad(spelled, (0, 0, 0, ids.shape[1] - spelled.shape[1]))

    def _drop(self, ids: Tensor) -> Tensor:
        if not (self.training and self.word_dropout > 0):
            return ids
        dropped = (torch.rand(ids.shape, device=ids.device) < self.word_dropout) & (ids > TARGET)
        return ids.masked_fill(dropped, UNKNOWN)


def join(tokens: Tensor, target: Tensor) -> Tensor:
    """Return the ids [B, S + T] of both texts in one row, the second right behind the first, then the padding.

    In each row that is a rotation of the columns from the first text's end on, so that nothing is lost and the shape
    does not depend on the lengths.

    Args:
        tokens: [B, S], padded on the right.
        target: [B, T], padded on the right.
    """
    first, second = tokens.shape[1], target.shape[1]
    place = torch.arange(first + second, device=tokens.device)
    length = (tokens != PAD).sum(1, keepdim=True)
    moved = torch.where(place < length + second, place - length + first, place - second)
    return torch.cat([tokens, target], 1).gather(1, torch.where(place < length, place, moved))


def part_of(states: Tensor, tokens: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the first text's states [B, S, D] from those of both, or the second's [B, T, D]; zero at the padding."""
    ids = tokens if target is None else target
    if target is None:
        found = states[:, : tokens.shape[1]]
    else:
        length = (tokens != PAD).sum(1, keepdim=True)
        place = length + torch.arange(target.shape[1], device=tokens.device)
        found = states.gather(1, place[..., None].expand(-1, -1, states.shape[-1]))
    return torch.where((ids != PAD)[..., None], found, 0)
