"""`HuggingFaceTrunk`: a pre-trained model of the transformers library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lepton.errors import CheckpointError, ConfigurationError, DataError, is_whole, nearest, require
from lepton.linalg import readable
from lepton.nn.trunks._anatomy import Anatomy, hidden_states
from lepton.nn.trunks._pretrained import OWNER, encoder_of, load_model, read_model_config

__all__ = ["HuggingFaceTrunk"]

_POOLINGS = ("mean", "max", "first", "last")


class HuggingFaceTrunk(nn.Module):
    """Token ids [B, S] to features by a pre-trained model: an encoder, the encoder of an encoder-decoder, or a decoder.

    The model is what `transformers.AutoModel` makes of a folder that `save_pretrained` wrote. Only safetensors are
    read, and code that lies beside them is never run. Weights are float32, whatever they are stored as.

    With `layer="mix"` the states are gamma * sum_l softmax(s)_l h_l over all hidden states h_l, with s and gamma
    learned (Peters et al., "Deep Contextualized Word Representations", 2018).

    Args:
        folder: the folder; or `owner/name` of a model on the hub.
        config: what its config.json says, instead of reading it: the attribute `config` of another trunk. Without a
            folder the weights are random, to be loaded by `load_state_dict`.
        initialise: whether the weights are those of the folder; otherwise they are random.
        readers: task -> what it reads. `"full"`: states [B, S, D] that see the whole text; `"causal"`: states
            [B, S, D] that see what is to their left; `"pooled"`: [B, D]. Which of the first two there is, depends on
            the model. None gives the states.
        pooling: how pooled features are made of the states that are no padding: their `"mean"`, their `"max"`imum,
            the `"first"` or the `"last"` of them.
        layer: which hidden states are read: -1 the last ones, 0 the embeddings, n those after n layers; `"mix"` a
            learned mixture of all.
        frozen: whether the model does not learn. Its dropout is off then, also in training.
        freeze_layers: number of lowest layers that do not learn, nor the embeddings below them; 0 for none.
        vocabulary: number of ids that the data has, to be compared with what the model knows.
        padding: the id that stands for no token; by default the model's own. To a causal model only what is behind a
            text's last token is padding, so that the id may be that of its end, too.

    Attributes:
        out_features: D.
        config: the complete configuration of the model, as JSON holds it.
        causal: whether a state sees only what is to its left.
        limit: how many tokens a text may have; None if the model sets no limit.

    Raises:
        ConfigurationError: a folder or an option that is not allowed.
        CheckpointError: weights that are damaged, or lack some of the model's parameters.

    Example:
        >>> import torch
        >>> sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 2}
        >>> trunk = HuggingFaceTrunk(config={"model_type": "t5", **sizes}, readers={"tags": "full", "topic": "pooled"})
        >>> features = trunk(torch.tensor([[5, 6, 7, 1], [8, 1, 0, 0]]))
        >>> features["tags"].shape, features["topic"].shape
        (torch.Size([2, 4, 16]), torch.Size([2, 16]))
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        initialise: bool = True,
        readers: Mapping[str, str] | None = None,
        pooling: Literal["mean", "max", "first", "last"] = "mean",
        layer: int | Literal["mix"] = -1,
        frozen: bool = False,
        freeze_layers: int = 0,
        vocabulary: int | None = None,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        if folder is None and config is None:
            raise ConfigurationError(f"{OWNER}: give a folder that save_pretrained wrote, or a config.")
        require(pooling in _POOLINGS, OWNER, "pooling", pooling, f"one of {list(_POOLINGS)}")
        content = read_model_config(folder) if config is None and folder is not None else config or {}
        whole, self.config, missing = load_model(content, folder if initialise else None)
        self.model = encoder_of(whole).eval()
        self.vocabulary, self.limit = _vocabulary(self.model, vocabulary), _longest(self.model)
        self.padding = _padding(self.config.get("pad_token_id") if padding is None else padding, self.vocabulary)
        anatomy = Anatomy(self.model, self.padding)
        self.out_features, self.causal = anatomy.out_features, anatomy.causal
        self.depth = anatomy.depth
        self.layer = _layer(layer, self.depth)
        self.mix = nn.Parameter(torch.zeros(self.depth + 1)) if self.layer is None else None
        self.gamma = nn.Parameter(torch.ones(1)) if self.layer is None else None
        self.readers = None if readers is None else self._checked_readers(readers)
        self.pooling = self._checked_pooling(pooling)
        used = {id(each) for each in anatomy.used(self.layer)}
        _refuse_lacking(
            folder, [name for name, each in whole.named_parameters() if name in missing and id(each) in used]
        )
        _freeze(self.model, anatomy, used, frozen, freeze_layers)
        self.train()

    def forward(self, tokens: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the features: one tensor if all tasks read the same, otherwise task -> features.

        States are zero where there is no token. A text of no tokens at all gives zeros.

        Args:
            tokens: int64 [B, S], with the model's special tokens, padded right.

        Raises:
            DataError: tokens of another shape, more of them than the model can take, or an id that it does not
                know (looked for on the CPU only, since reading elsewhere waits for the device).
        """
        self._check_tokens(tokens)
        inside = self._inside(tokens)
        states = self._states(tokens, inside).masked_fill(~inside[..., None], 0)
        if self.readers is None:
            return states
        kinds = set(self.readers.values())
        found = {kind: self._pooled(states, inside) if kind == "pooled" else states for kind in kinds}
        return found.popitem()[1] if len(kinds) == 1 else {task: found[kind] for task, kind in self.readers.items()}

    def train(self, mode: bool = True) -> HuggingFaceTrunk:
        """Set the mode; the parts that do not learn stay in eval mode, without dropout."""
        super().train(mode)
        for module in self.model.modules():
            parameters = list(module.parameters())
            if parameters and not any(each.requires_grad for each in parameters):
                module.eval()
        return self

    def _inside(self, tokens: Tensor) -> Tensor:
        """Return where there are tokens [B, S]."""
        inside = tokens != self.padding
        # Decoders often pad with the id that begins and ends their texts: padding is what is behind the last token.
        return inside.flip(1).long().cumsum(1).flip(1) > 0 if self.causal else inside

    def _states(self, tokens: Tensor, inside: Tensor) -> Tensor:
        # Nothing to the left of a token is padding, so a causal model needs no mask. To others, a text of no tokens is
        # a softmax over nothing, NaN in some attention kernels: it reads its padding, and its states are put to zero.
        visible = torch.ones_like(inside) if self.causal else inside | ~inside.any(1, keepdim=True)
        found = hidden_states(self.model, tokens, visible, all_layers=self.layer != self.depth)
        if self.mix is None or self.gamma is None:
            return found[-1 if self.layer == self.depth else self.layer or 0]
        shares = self.gamma * self.mix.softmax(0)
        return sum((share * each for share, each in zip(shares, found, strict=True)), torch.zeros_like(found[0]))

    def _pooled(self, states: Tensor, inside: Tensor) -> Tensor:
        if self.pooling == "mean":
            return states.sum(1) / inside.sum(1, keepdim=True).clamp(min=1)
        if self.pooling == "max":
            highest = states.masked_fill(~inside[..., None], -torch.inf).amax(1)
            return highest.masked_fill(~inside.any(1, keepdim=True), 0)
        places = torch.arange(inside.shape[1], device=inside.device)
        place = (inside * (places.shape[0] - places if self.pooling == "first" else places + 1)).argmax(1)
        return states[torch.arange(states.shape[0], device=states.device), place]

    def _check_tokens(self, tokens: Tensor) -> None:
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise DataError(
                f"{OWNER}: tokens must be whole numbers [B, S], but they are {tokens.dtype} {list(tokens.shape)}."
            )
        if self.limit is not None and tokens.shape[1] > self.limit:
            raise DataError(
                f"{OWNER}: the texts have {tokens.shape[1]} tokens, but the model takes {self.limit} at most: cut them."
            )
        if tokens.numel() and readable(tokens) and not torch.compiler.is_compiling():
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.vocabulary:
                raise DataError(
                    f"{OWNER}: the ids must be in 0 to {self.vocabulary - 1}, what the model knows, but they are in "
                    f"{low} to {high}: take the tokenizer of the model's own folder."
                )

    def _checked_readers(self, readers: Mapping[str, str]) -> dict[str, str]:
        possible = ["causal" if self.causal else "full", "pooled"]
        for task, kind in readers.items():
            if kind not in possible:
                sees = "sees only what is to the left" if self.causal else "sees the whole text"
                raise ConfigurationError(
                    f"{OWNER}: {task!r} is to read {kind!r}, but this model, of which a state {sees}, gives {possible}."
                    f"{nearest(str(kind), possible)}"
                )
        return dict(readers)

    def _checked_pooling(self, pooling: str) -> str:
        pools = self.readers is not None and "pooled" in self.readers.values()
        if pools and self.causal and pooling == "first":
            raise ConfigurationError(
                f"{OWNER}: pooling is 'first', but the first state of this model sees only the first token: choose "
                "'last' or 'mean'."
            )
        return pooling


def _vocabulary(model: Any, given: int | None) -> int:
    known: int = model.get_input_embeddings().num_embeddings
    require(given is None or is_whole(given), OWNER, "vocabulary", given, "a whole number of at least 1, or None")
    if given is not None and given > known:
        raise ConfigurationError(
            f"{OWNER}: the data has {given} ids, but the model knows only {known}: take the tokenizer of the model's "
            "own folder."
        )
    return known


def _longest(model: Any) -> int | None:
    """Return how many tokens the model can take; None if the configuration sets no limit."""
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding's.
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return limit


def _padding(found: object, vocabulary: int) -> int:
    if not isinstance(found, int) or not 0 <= found < vocabulary:
        raise ConfigurationError(
            f"{OWNER}: padding must be an id of the model, in 0 to {vocabulary - 1}, but it is {found!r}: where the "
            "configuration names none, give the tokenizer's, padding=..."
        )
    return found


def _layer(layer: object, depth: int) -> int | None:
    """Return the number of layers after which the states are read, or None for a mixture of all."""
    if layer == "mix":
        return None
    whole = isinstance(layer, int) and not isinstance(layer, bool) and -depth - 1 <= layer <= depth
    require(whole, OWNER, "layer", layer, f"in {-depth - 1} to {depth}, as the model has {depth} layers, or 'mix'")
    assert isinstance(layer, int)
    return layer % (depth + 1)


def _refuse_lacking(folder: Path | str | None, names: list[str]) -> None:
    if names:
        raise CheckpointError(
            f"{OWNER}: the weights in {str(folder)!r} lack {len(names)} parameters of the model, which would be "
            f"random: {names[:6]}. They are of another architecture than the config.json says."
        )


def _freeze(model: nn.Module, anatomy: Anatomy, used: set[int], frozen: bool, freeze_layers: int) -> None:
    """Let learn only what is used, is not frozen, and lies above the lowest layers that are."""
    depth = anatomy.depth
    allowed = f"a whole number in 0 to {depth}, as the model has {depth} layers"
    whole = is_whole(freeze_layers, 0) and freeze_layers <= depth
    require(whole, OWNER, "freeze_layers", freeze_layers, allowed)
    if freeze_layers and not anatomy.layers:
        raise ConfigurationError(
            f"{OWNER}: freeze_layers is {freeze_layers}, but the layers of this model share their parameters: freeze "
            "all of it, frozen=True, or nothing."
        )
    still = {id(each) for each in anatomy.below(freeze_layers)} if freeze_layers else set()
    for each in model.parameters():
        each.requires_grad_(not frozen and id(each) in used and id(each) not in still)
