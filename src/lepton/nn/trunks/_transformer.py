"""`TransformerTrunk`: texts to states, by a causal pass, a pass in both directions, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lepton.errors import ConfigurationError, DataError, is_number, is_whole, nearest, require
from lepton.linalg import readable
from lepton.nn._ids import PAD, TARGET
from lepton.nn._prunable import Width
from lepton.nn.trunks._attention import Rotation, block_sizes, block_widths, check_blocks, initialise, make_blocks
from lepton.nn.trunks._cache import Cache
from lepton.nn.trunks._tokens import TokenEmbedding, join, part_of

__all__ = ["READERS", "TransformerTrunk"]

READERS = ("causal", "target", "full", "pooled")
"""What a task may read: see `TransformerTrunk`."""


class TransformerTrunk(nn.Module):
    """Texts [B, S] to states: an encoder and a causal decoder with the same weights.

    Every sequence is `[START a b c END]`, padded on the right with 0; a second text `[TARGET x y z]` is joined to it
    without a gap. What a task reads decides which passes are run:

    - `"causal"`: states [B, S, D] of the first text, each of which sees itself and what is to its left;
    - `"target"`: states [B, T, D] of the second text, in the same pass: a decoder-only translation;
    - `"full"`: states [B, S, D] of the first text, each of which sees all of it;
    - `"pooled"`: the mean [B, D] of the full states over the tokens that are no padding.

    So one network learns from tasks that must not look ahead and from tasks that must (Dong et al., "Unified Language
    Model Pre-training for Natural Language Understanding and Generation", 2019). States at the padding are zero.

    The blocks are residual with the normalisation before each branch (Xiong et al., 2020) and one at the end; the
    positions are rotary (Su et al., 2021); the output layers of the branches begin smaller by sqrt(2 depth), so that
    the states' scale does not grow with the depth (Radford et al., 2019).

    Args:
        vocabulary: number of ids, the five special ones (padding 0, unknown 1, START 2, END 3, TARGET 4) included.
        characters: number of character ids, the padding 0 included, of which words are spelled; 0 without.
        readers: task -> what it reads. Where all tasks read the same, the trunk gives one tensor, otherwise a mapping
            task -> states. None: one tensor, `"full"`.
        width: number of features D.
        depth: number of blocks.
        heads: number of attention heads H; without `head_size`, D / H is even.
        head_size: features of one head, an even number; D / H by default.
        feedforward: hidden size of the feed-forward branches, one number or one for each block; 4 D by default.
        dropout: share of each branch's output, and of the embeddings, that training sets to zero, in [0, 1).
        word_dropout: share of the ids that training replaces by the unknown one, so that words which the training
            rows do not have are met by a trained embedding, and the characters learn to tell words; in [0, 1).

    Attributes:
        out_features: `width`.

    Raises:
        ConfigurationError: a size, a share or a reader that is not allowed.

    Example:
        >>> import torch
        >>> trunk = TransformerTrunk(50, readers={"next": "causal", "german": "target"}, width=16, depth=1, heads=2)
        >>> tokens, target = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]), torch.tensor([[4, 20], [4, 21]])
        >>> {task: list(states.shape) for task, states in trunk(tokens, target).items()}
        {'next': [2, 4, 16], 'german': [2, 2, 16]}
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        characters: int = 0,
        readers: Mapping[str, str] | None = None,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        head_size: int | None = None,
        feedforward: int | Sequence[int] | None = None,
        dropout: float = 0.1,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_ids_known(vocabulary, characters)
        told = {"width": width, "depth": depth, "heads": heads, "head_size": head_size, "feedforward": feedforward}
        check_blocks("TransformerTrunk", **told)  # type: ignore[arg-type]
        hidden = 4 * width if feedforward is None else feedforward
        for name, share in (("dropout", dropout), ("word_dropout", word_dropout)):
            require(is_number(share) and 0 <= share < 1, "TransformerTrunk", name, share, "in [0, 1)")
        self.readers = None if readers is None else _checked_readers(readers)
        self.vocabulary = vocabulary
        self.characters = characters
        self.head_size = width // heads if head_size is None else head_size
        self.dropout = dropout
        self.embedding = TokenEmbedding(vocabulary, characters, width, word_dropout)
        self.blocks = make_blocks(width, depth, heads, self.head_size, hidden, dropout)
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embedding.table.weight, std=0.1)
        initialise(self.blocks)

    @property
    def out_features(self) -> int:
        """`width`."""
        return self.norm.normalized_shape[0]

    def prunable(self) -> list[Width]:
        """Return the widths that may shrink: see `Prunable`."""
        spelled = () if self.embedding.characters is None else (self.embedding.characters.filters,)
        return [Width("width", (self.embedding.table, *spelled)), *block_widths(self.blocks)]

    def sizes(self) -> dict[str, Any]:
        """Return the options that say the present widths: see `Prunable`."""
        return {"width": self.out_features, **block_sizes(self.blocks)}

    def forward(
        self, tokens: Tensor, target: Tensor | None = None, characters: Tensor | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Return the states: one tensor if all tasks read the same, otherwise a mapping task -> tensor.

        Args:
            tokens: int64 [B, S], padded on the right with 0.
            target: int64 [B, T], the second text, padded on the right with 0; left out where no task reads it.
            characters: int64 [B, S, C], the characters of each token, padded with 0.

        Raises:
            DataError: a tensor that is needed is not given, has another shape or dtype, or holds an id that there is
                not (looked for on the CPU only, since reading elsewhere waits for the device).
        """
        wanted = ["full"] if self.readers is None else list(dict.fromkeys(self.readers.values()))
        self._check(tokens, target, characters, needs_target="target" in wanted)
        found: dict[str, Tensor] = {}
        if "causal" in wanted or "target" in wanted:
            found |= self._causal(tokens, target if "target" in wanted else None, characters)
        if "full" in wanted or "pooled" in wanted:
            found["full"] = self._full(tokens, characters)
        if "pooled" in wanted:
            found["pooled"] = found["full"].sum(1) / (tokens != PAD).sum(1, keepdim=True).clamp(min=1)
        if self.readers is None or len(wanted) == 1:
            return found[wanted[0]]
        return {task: found[reader] for task, reader in self.readers.items()}

    def _causal(self, tokens: Tensor, target: Tensor | None, characters: Tensor | None) -> dict[str, Tensor]:
        """Return the states of the first text and, if it is given, of the second, from one causal pass."""
        ids = tokens if target is None else join(tokens, target)
        # Padding stands on the right only, where no token looks: the causal kernel needs no mask.
        states, _ = self._pass(ids, characters, None)
        found = {"causal": part_of(states, tokens)}
        return found if target is None else found | {"target": part_of(states, tokens, target)}

    def _full(self, tokens: Tensor, characters: Tensor | None) -> Tensor:
        # The first place is always visible: in a row without any token, the softmax would be over nothing.
        visible = (tokens != PAD) | (torch.arange(tokens.shape[1], device=tokens.device) == 0)
        states, _ = self._pass(tokens, characters, visible[:, None, None])
        return part_of(states, tokens)

    def _pass(
        self, ids: Tensor, characters: Tensor | None, visible: Tensor | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the states [B, L, D] of ids [B, L], and the keys and values of every block."""
        rotation = Rotation(torch.arange(ids.shape[1], device=ids.device), self.head_size)
        x = F.dropout(self.embedding(ids, characters), self.dropout, self.training)
        layers = []
        for block in self.blocks:
            x, kept = block(x, rotation, visible)
            layers.append(kept)
        return self.norm(x), layers

    # -- one token at a time --------------------------------------------------------------------------------------
    @torch.no_grad()
    def start(self, tokens: Tensor, characters: Tensor | None = None) -> Cache:
        """Read the first texts, and return what one needs to go on behind them.

        Args:
            tokens: int64 [B, S], padded on the right with 0.
            characters: as in `forward`.

        Raises:
            DataError: as in `forward`.
        """
        self._check(tokens, None, characters, needs_target=False)
        _, layers = self._pass(tokens, characters, None)
        return Cache(layers, tokens != PAD)

    @torch.no_grad()
    def step(self, ids: Tensor, cache: Cache) -> Tensor:
        """Append one token to every row, and return its state [B, D]: the one that `forward` gives for the whole row.

        Args:
            ids: int64 [B].
            cache: what `start` gave; the tokens are added to it.
        """
        rotation = Rotation(cache.lengths[:, None], self.head_size)
        cache.add()
        visible = cache.filled[:, None, None]
        x = F.dropout(self.embedding(ids[:, None]), self.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            x, _ = block(x, rotation, visible, partial(cache.extend, layer))
        return self.norm(x)[:, 0]  # type: ignore[no-any-return]

    # -- what comes in --------------------------------------------------------------------------------------------
    def _check(self, tokens: Tensor, target: Tensor | None, characters: Tensor | None, *, needs_target: bool) -> None:
        _check_ids("tokens", tokens, "[B, S]", 2, self.vocabulary)
        if needs_target:
            if target is None:
                readers = [task for task, reader in (self.readers or {}).items() if reader == "target"]
                raise DataError(
                    f"TransformerTrunk: target is not given, but {readers} read the states of the second text: give "
                    "the trunk target=[B, T], which begins with TARGET."
                )
            _check_ids("target", target, "[B, T]", 2, self.vocabulary)
            _check_rows("target", target, tokens.shape[:1])
        if self.characters:
            if characters is None:
                raise DataError("TransformerTrunk: characters is not given, but the trunk was built for them.")
            _check_ids("characters", characters, "[B, S, C]", 3, self.characters)
            _check_rows("characters", characters, tokens.shape)


def _check_ids(name: str, ids: Tensor, shape: str, ndim: int, count: int) -> None:
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int64, torch.int32) or ids.ndim != ndim:
        got = f"{list(ids.shape)} in {ids.dtype}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        raise DataError(f"TransformerTrunk: {name} must be ids {shape} in torch.int64, but it is {got}.")
    if ids.numel() and readable(ids) and not torch.compiler.is_compiling():
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= count:
            raise DataError(
                f"TransformerTrunk: {name} holds the id {low if low < 0 else high}, but the trunk was built for the "
                f"ids 0 to {count - 1}: the data were encoded with another vocabulary."
            )


def _check_rows(name: str, tensor: Tensor, expected: torch.Size) -> None:
    if tensor.shape[: len(expected)] != expected:
        raise DataError(
            f"TransformerTrunk: {name} is {list(tensor.shape)}, where the tokens make it begin with {list(expected)}."
        )


def _check_ids_known(vocabulary: int, characters: int) -> None:
    owner = "TransformerTrunk"
    least = TARGET + 1
    require(is_whole(vocabulary, least), owner, "vocabulary", vocabulary, f"an integer >= {least}, the special ids")
    whole = is_whole(characters, 0) and characters != 1
    require(whole, owner, "characters", characters, "0, or an integer >= 2, the padding included")


def _checked_readers(readers: Mapping[str, str]) -> dict[str, str]:
    require(isinstance(readers, Mapping) and len(readers) > 0, "TransformerTrunk", "readers", readers, "task -> reader")
    for task, reader in readers.items():
        if reader not in READERS:
            raise ConfigurationError(
                f"TransformerTrunk: what task {task!r} reads must be one of {list(READERS)}, but it is {reader!r}."
                f"{nearest(str(reader), READERS)}"
            )
    return dict(readers)
